--[[
reservation v1: units that are reserved under an id, and settled once, however often a caller asks

KEYS[n]              each subject's hash, and the policies' own lists, in any order
KEYS[last]           the record, a string; its name has the id, and no other call has it

ARGV[1] now_us       the time to use; 0: the server's clock
ARGV[2] mode         reserve: charge every policy its cost, or none, as a hit of several does, and
                     write the record; settle: refund what was reserved beyond the true cost, or
                     charge what was not, up to a debt of limit, and mark the record as settled
ARGV[3] life_ms      how long the record is kept, or the mark; for settle also 0: delete the
                     record; if a later reserve has found it, change nothing
then for each policy, in the same order in both modes:
        algorithm    the name of its script in this folder; any but concurrency
        key          the index in KEYS of the key that the script takes as KEYS[1]
        shadow       1: shadow mode, the policy counts but never denies; 0: it decides
        cost, and the rest of what the script takes up to at_least: field, limit, period_us ...
                     The cost of settle is the true one, and may exceed the limit

Returns for each policy the first five integers of its script's reply, then state, and now_us at the end.
        A state is 0: nothing is recorded, since reserve was denied, or settle found no record, or
        one that it must not refund;
        1: this call has reserved, or settled; 2: it was reserved before, and reserve has charged
        nothing (granted is what the record says), or settle has moved 4,000 units of a log, and
        must be called again for the rest; 3: it was settled before, and nothing is changed.

Writes  As the scripts of the single policies do. The record has the units that each policy was granted,
        in decimal, with a blank between two; - is a policy in shadow mode that had no room, which
        settle does not change. The first reserve that finds the record adds a blank and +, and its
        expiry stays. -1 is the mark. settle writes it also where there was no record, so that a
        call to reserve which comes later charges nothing.
]]

local ARGV, KEYS, call = ARGV, KEYS, redis.call
local now_us = ARGV[1] + 0
local life_ms = ARGV[3] + 0
local last, record_at = #ARGV, #KEYS

-- 1. Check the arguments. (No record is kept longer than a lease, 366 days.)
local reserves = ARGV[2] == "reserve"
if not ((reserves or ARGV[2] == "settle") and now_us >= 0 and now_us < 2^53 and now_us % 1 == 0 and last > 3
  and life_ms >= (reserves and 1 or 0) and life_ms <= 31622400000 and life_ms % 1 == 0) then
  return redis.error_reply("LIMITER an argument of reservation v1 is out of range")
end

{{clock}}

-- 3. Read the record: what each policy was granted, false for a policy that had no room. A caller that found
-- the record may rely on it, so a life of 0 no longer refunds it.
local record
local status, recorded, found = 0, nil, false
do
  local key = KEYS[record_at]
  record = call("GET", key)
end
if record == "-1" then
  status = 3
elseif record then
  status, recorded, found = 2, {}, string.sub(record, -2) == " +"
  for word in string.gmatch(found and string.sub(record, 1, -3) or record, "[^ ]+") do
    local units = tonumber(word)
    if word == "-" then
      units = false
    elseif not (units and units >= 0 and units < 2^53 and units % 1 == 0) then
      recorded = {}
      break
    end
    recorded[#recorded + 1] = units
  end
end
if found and not reserves and life_ms == 0 then
  status, recorded = 0, nil
end

-- 4. Check every policy, and compute its state after the charge, or after the settlement. Repeat without a
-- charge if the call is denied, but repairs a state.
local reply, before, units = {}, {}, {}
local charges = reserves and status == 0
local writes, lives, tails, fits, said, kept, again, heals, remains
repeat
  local at, number = 3, 0
  writes, lives, tails, fits, said, kept, again, heals, remains = {}, {}, nil, true, 0, 0, false, false, false
  while at < last do
    local algorithm, index, shadow, cost = ARGV[at + 1], ARGV[at + 2] + 0, ARGV[at + 3], ARGV[at + 4] + 0
    local field, limit, key = ARGV[at + 5], ARGV[at + 6] + 0, KEYS[index]
    local granted, room, retry_us, reset_us, delay_us = 0, 0, 0, 0, 0
    local heal, later, short, partly = false, false, false, false
    if not (key ~= KEYS[record_at] and (shadow == "0" or shadow == "1")
      and cost >= 0 and cost < 2^53 and cost % 1 == 0 and (cost <= limit or not reserves)) then
      return redis.error_reply("LIMITER an argument of reservation v1 is out of range")
    end
    number = number + 1
    local mode, at_least, true_cost, had = "hit", cost, cost, recorded and recorded[number]
    local lowest = -limit
    if not reserves then
      -- A policy without recorded units gets and returns none.
      mode, cost = "settle", had and cost - had or 0
      if cost < 0 then
        mode, cost = "refund", -cost
      end
    end
    {{branches}}
    else
      return redis.error_reply("LIMITER reservation v1 knows no such algorithm")
    end
    if reserves then
      units[number] = short and "-" or string.format("%.0f", granted)
      if had then
        granted, retry_us, delay_us = had, 0, 0
      end
    elseif not had then
      units[number] = "-"
    else
      -- Fewer than 4,000 were moved if the debt is full, or nothing is left to refund.
      partly = partly and granted == 4000
      remains = remains or partly
      if partly then
        true_cost = mode == "refund" and had - granted or had + granted
      end
      units[number] = string.format("%.0f", true_cost)
    end
    fits = fits and not (short and shadow == "0")
    {{note}}
    said, kept = said + 5, kept + 2
  end
  if recorded and #recorded ~= number then
    return redis.error_reply("LIMITER reservation v1 has a record of other policies")
  end
  if charges and heals and not fits then
    charges, again = false, true
  end
until not again

-- 5. If a policy has no room, take nothing.
local saves = status == 0 or not reserves
if reserves and status == 0 and not fits then
  for first = 0, said - 1, 5 do
    local place = first / 5 * 2
    reply[first + 4], reply[first + 2], reply[first + 1] = before[place + 1], before[place + 2], 0
  end
  saves = not charges
end

-- 6. Save the changes. The record comes first, so that a user without the right to write it charges nothing. A call
-- that moves the end of a state to later sets the key's expiry.
do
  local key = KEYS[record_at]
  if reserves then
    if charges and fits then
      status = 1
      call("SET", key, table.concat(units, " "), "PX", life_ms + slack_ms)
    elseif status == 2 and not found then
      units = {record, "+"}
      call("SET", key, table.concat(units, " "), "KEEPTTL")
    end
  elseif remains then
    if found then
      units[#units + 1] = "+"
    end
    call("SET", key, table.concat(units, " "), "KEEPTTL")
  elseif status ~= 3 then
    if life_ms > 0 then
      call("SET", key, "-1", "PX", life_ms + slack_ms)
    elseif status == 2 then
      call("DEL", key)
    end
    if status == 2 then
      status = 1
    end
  end
end
for index = 1, record_at - 1 do
  local key = KEYS[index]
  if saves then
    {{write_fields}}
    local tail = tails and tails[index]
    if tail then
      {{tails}}
      end
    end
    {{prolong}}
  end
end

-- 7. Reply.
reply[said + 1], reply[said + 2] = status, now_us
return reply

--[[
several v1: any list of policies, for one subject or several in one slot, all or none

KEYS[n]              each subject's hash, and the policies' own lists and sets, in any order

ARGV[1] now_us       the time to use; 0: the server's clock
ARGV[2] mode         hit: charge; peek: report what hit would; reset: report it, then delete the keys;
                     refund: return units; settle: charge without a check; for leases also
                     acquire: as hit, and take the leases; renew, release: for leases only
ARGV[3] at_least     0, or the fewest units to take, if less than a policy's cost is free
ARGV[4] step         1, or a divisor of costs and at_least: each policy takes a multiple of it
then for each policy:
        algorithm    the name of its script in this folder
        key          the index in KEYS of the key that the script takes as KEYS[1]
        shadow       1: shadow mode, the policy counts but never denies; 0: it decides
        cost, and the rest of what the script takes up to at_least: field, limit, period_us ...

Returns for each policy the first five integers of its script's reply, and now_us once, at the end.
        Nothing is taken unless every policy that decides has room. With at_least, all policies
        grant the same number: the most that fits into each. If every lease is held already,
        acquire reports that, and charges no rate again.

Writes  As the scripts of the single policies do.
]]

local ARGV, KEYS, call = ARGV, KEYS, redis.call
local now_us = ARGV[1] + 0
local mode = ARGV[2]
local enough = ARGV[3] + 0
local step = ARGV[4] + 0

-- 1. Check the arguments.
local takes = mode == "hit" or mode == "acquire"
local asks = takes or mode == "peek" or mode == "reset"
local changes = mode ~= "peek" and mode ~= "reset"
local only_rates, only_leases = mode == "hit", false
if not asks then
  only_rates = mode == "refund" or mode == "settle"
  only_leases = mode == "renew" or mode == "release"
end
if not (asks or only_rates or only_leases)
  or not (now_us >= 0 and now_us < 2^53 and enough >= 0 and step >= 1
  and now_us % 1 + step % 1 + enough % step == 0) then
  return redis.error_reply("LIMITER an argument of several v1 is out of range")
end

{{clock}}

-- 3. Check every policy, and compute its state after the charge. Repeat if less than the cost fits
-- into all, with the number that does; and if the call is denied, but repairs a state, without a charge.
-- (Both tables begin with places for three policies, since growing a table takes longer than filling it.)
local reply = {nil, nil, nil, nil, nil, nil, nil, nil, nil, nil, nil, nil, nil, nil, nil, nil}
local before = {nil, nil, nil, nil, nil, nil, nil, nil, nil}
local last, take, charges = #ARGV, 2^53, takes
local writes, lives, tails, fits, said, again, heals, same
repeat
  local at, common, kept, leases, holding = 4, 2^53, 0, 0, 0
  writes, lives, tails, fits, said, again, heals = {nil}, {nil}, nil, true, 0, false, false
  while at < last do
    local algorithm, index, shadow, cost = ARGV[at + 1], ARGV[at + 2] + 0, ARGV[at + 3], ARGV[at + 4] + 0
    local field, limit, key = ARGV[at + 5], ARGV[at + 6] + 0, KEYS[index]
    local granted, room, retry_us, reset_us, delay_us = 0, 0, 0, 0, 0
    local heal, later, short, mine = false, false, false, false
    local at_least, wanted = cost, cost
    if enough > 0 and enough < cost then
      at_least = enough
      if take < cost then
        wanted = take
      end
    end
    if not (cost >= 0 and cost <= limit and cost % step == 0 and (shadow == "0" or shadow == "1")) then
      return redis.error_reply("LIMITER an argument of several v1 is out of range")
    end
    if algorithm == "concurrency" then
      local lease_us = ARGV[at + 7] + 0
      local id = ARGV[at + 8]
      if only_rates then
        return redis.error_reply("LIMITER several v1 knows no such mode here")
      end
      if not ({{concurrency_check}}) then
        return redis.error_reply("LIMITER an argument of several v1 is out of range")
      end
      {{concurrency_ask}}
      if asks then
        if room < 0 then
          room = 0
        end
        before[kept + 1], before[kept + 2], before[kept + 3] = reset_us, room, held
        if takes then
          leases = leases + 1
        end
        if room < at_least and held == 0 then
          delay_us, short = 0, true
          {{concurrency_retry}}
        elseif takes and held > 0 then
          granted, holding, mine = held, holding + 1, true
        elseif charges and cost > 0 then
          granted = wanted
          if room < granted then
            granted = room - room % step
          end
          {{concurrency_charge}}
          room = room - granted
        end
      else
        {{concurrency_renew_or_release}}
        delay_us, room = 0, math.max(0, math.min(room, limit))
      end
      if granted > 0 then
        tails = tails or {}
        tails[index] = {"concurrency", granted, cost, held, ends_us, far_us, id}
      end
      at = at + 8
    {{branches}}
    else
      return redis.error_reply("LIMITER several v1 knows no such algorithm")
    end
    if short then
      fits = fits and shadow == "1"
    elseif asks and shadow == "0" and not mine and before[kept + 2] < wanted and before[kept + 2] < common then
      common, again = before[kept + 2], enough > 0
    end
    {{note}}
    said, kept = said + 5, kept + 3
  end
  same = holding > 0 and holding == leases
  take, again = common - common % step, again and fits
  if charges and heals and (same or not fits) then
    charges, again = false, true
  end
until not again

-- 4. If a policy has no room, or every lease is held already, take nothing.
local saves = changes
if same or not fits then
  for first = 0, said - 1, 5 do
    local kept = first / 5 * 3
    reply[first + 4], reply[first + 2], reply[first + 1] = before[kept + 1], before[kept + 2], 0
    if same then
      reply[first + 1], reply[first + 3], reply[first + 5] = before[kept + 3], 0, 0
    end
  end
  saves = takes and not charges
end

-- 5. Save the changes. A call that moves the end of a state to later sets the key's expiry.
for index = 1, #KEYS do
  local key = KEYS[index]
  if mode == "reset" then
    call("DEL", key)
  elseif saves then
    {{write_fields}}
    local tail = tails and tails[index]
    if tail then
      if tail[1] == "concurrency" then
        local _, granted, cost, held, ends_us, far_us, id = (unpack or table.unpack)(tail)
        {{concurrency_save}}
      {{tails}}
      end
    end
    {{prolong}}
  end
end

-- 6. Reply.
reply[said + 1] = now_us
return reply

--[[
token_bucket v1: a unit is refilled every interval_us / parts microseconds; up to limit are saved

KEYS[1] key          hash, shared with the subject's other policies; field -> (full_us, reach_s), a double
                     and four bytes: the time at which the bucket is full if no call takes more, and the
                     seconds, rounded up, in which the largest bucket that may have this debt is refilled;
                     then (part, parts), two doubles, if a fraction is left: full at full_us + part / parts

As text, whole numbers in decimal:
ARGV[1] now_us       the time to use; 0: the server's clock
ARGV[2] mode         hit: charge; peek: report what hit would; reset: report it, then delete the key;
                     refund: return units; settle: charge without a check, up to a debt of limit
ARGV[3] cost         units to charge or refund; 0 takes nothing
ARGV[4] field        the policy's field in the hash
ARGV[5] limit        units that the bucket holds (its burst)
ARGV[6] interval_us  parts units are refilled in this many microseconds: period_us / gcd(n, period_us)
                     for n units in each period_us
ARGV[7] parts        n / gcd(n, period_us)
ARGV[8] at_least     optional: the fewest units to take, if less than cost is free
ARGV[9] step         optional: take a multiple of step units; divides cost and at_least

Packed, little-endian doubles:
ARGV[1] numbers      now_us, cost, at_least, limit, interval_us, parts, step
ARGV[2] field        as above
ARGV[3] mode         optional: hit if it is missing

Returns {granted, remaining, retry_after_us, reset_after_us, delay_us, now_us}, all integers; to a
        packed call, a string of the same six as doubles:
        units taken or refunded;
        whole units that would pass right now; time until this same call would pass, 0 if it
        passes; time until the subject counts as unused; time in which a bucket regains the units taken
        before this call, 0 for a call that does not pass; the time of the decision.

Writes  Only a hit that passes, a refund or settle that changes something, and reset. (A denied
        hit repairs a stored time too far ahead to be true.)
]]

local ARGV, key, call = ARGV, KEYS[1], redis.call
local now_us, mode, cost, field, limit, interval_us, parts, at_least, step
local packed = #ARGV[1] > 20
if packed then
  now_us, cost, at_least, limit, interval_us, parts, step = struct.unpack("<ddddddd", ARGV[1])
  field, mode = ARGV[2], ARGV[3] or "hit"
else
  now_us, mode, cost = ARGV[1] + 0, ARGV[2], ARGV[3] + 0
  field, limit = ARGV[4], ARGV[5] + 0
  interval_us = ARGV[6] + 0
  parts = ARGV[7] + 0
  at_least, step = (ARGV[8] or cost) + 0, (ARGV[9] or 1) + 0
end

-- 1. Check the arguments.
local takes = mode == "hit"
if not (takes or mode == "peek" or mode == "reset" or mode == "refund" or mode == "settle")
  or not (now_us >= 0 and now_us < 2^53 and at_least >= 0 and at_least <= cost and cost <= limit
  and limit >= 1 and interval_us >= 1 and interval_us < 2^53 and parts >= 1 and (limit + 1) * parts < 2^53
  and limit * interval_us / parts < 315360000000001
  and limit % 1 + interval_us % 1 + parts % 1 == 0
  and step >= 1 and now_us % 1 + step % 1 + cost % step + at_least % step == 0) then
  return redis.error_reply("LIMITER an argument of token_bucket v1 is out of range")
end

-- 2. Read the clock. (A key written at a given time must live longer by the real clock.)
local slack_ms = 0
if now_us == 0 then
  local time = call("TIME")
  now_us = time[1] * 1000000 + time[2]
else
  slack_ms = 3600000
end

-- 3. Read the state, and compute the room that it leaves.
local granted, room, retry_us, reset_us, delay_us, heal, later = 0, 0, 0, 0, 0, false, false
local state = nil
if mode ~= "reset" or call("TYPE", key).ok == "hash" then
  state = call("HGET", key, field)
end
-- A unit takes t_us + t_part / parts. The debt is the time at which the bucket is full.
local full_us, part, t_part = now_us, 0, interval_us % parts
local t_us = (interval_us - t_part) / parts
local empty_us, empty_part = limit * t_us, limit * t_part
if t_part > 0 then
  empty_us, empty_part = empty_us + (empty_part - empty_part % parts) / parts, empty_part % parts
end
local own_s = empty_us + 999999
own_s = (own_s - own_s % 1000000) / 1000000
local reach_s = own_s
if state and (#state == 12 or #state == 28) then
  local stored_us, stored_s = struct.unpack("<dI4", state)
  local stored_part, stored_parts = 0, parts
  if #state == 28 then
    stored_part, stored_parts = struct.unpack("<dd", state, 13)
  end
  if stored_part ~= 0 and stored_parts ~= parts then
    stored_us, stored_part = stored_us + 1, 0
  end
  -- (No bucket takes more than 3,650 days to fill.)
  if stored_us >= now_us and stored_us < 2^53 and stored_us % 1 == 0 and stored_s <= 315360000
    and stored_part >= 0 and stored_part < parts and stored_part % 1 == 0 then
    -- A bucket of other numbers may have written a larger debt than this one could.
    if stored_s > reach_s then
      reach_s = stored_s
    end
    local most_us = 2 * (reach_s * 1000000 + 1000000)
    if stored_us - now_us > most_us then
      stored_us, stored_part, heal = now_us + most_us, 0, true
    end
    full_us, part = stored_us, stored_part
    reset_us = full_us - now_us
    if part > 0 then
      reset_us = reset_us + 1
    end
    delay_us = reset_us
  end
end
room = limit
if reset_us > 0 then
  -- A division in doubles may round up, so begin one unit higher and correct in integers.
  local gap_us, gap_part = now_us + empty_us - full_us, empty_part - part
  if t_part == 0 then
    if gap_part < 0 then
      gap_us = gap_us - 1
    end
    room = (gap_us - gap_us % t_us) / t_us
  else
    if gap_part < 0 then
      gap_us, gap_part = gap_us - 1, gap_part + parts
    end
    room = (gap_us * parts + gap_part) / (t_us * parts + t_part)
    room = room - room % 1 + 1
    while room > -limit do
      local rest = room * t_part
      local over_us = room * t_us + (rest - rest % parts) / parts - gap_us
      if over_us < 0 or (over_us == 0 and rest % parts <= gap_part) then
        break
      end
      room = room - 1
    end
  end
  -- Beyond a debt of one limit, no decision depends on how large the debt is.
  if room < -limit then
    room = -limit
  end
end
local in_use = reset_us > 0

-- 4. Charge the cost, if it fits.
if takes or mode == "peek" or mode == "reset" then
  if room < 0 then
    room = 0
  end
  if room < at_least then
    delay_us = 0
    local rest = part + at_least * t_part
    retry_us = full_us + at_least * t_us + (rest - rest % parts) / parts - now_us - empty_us
    if rest % parts > empty_part then
      retry_us = retry_us + 1
    end
  elseif takes and cost > 0 then
    granted = cost
    if room < cost then
      granted = room - room % step
    end
    if granted > 0 then
      local before_us = full_us
      full_us, part = full_us + granted * t_us, part + granted * t_part
      if part >= parts then
        full_us, part = full_us + (part - part % parts) / parts, part % parts
      end
      later = reset_us == 0 or before_us % 500000 + full_us - before_us >= 500000
      reset_us = full_us - now_us
      if part > 0 then
        reset_us = reset_us + 1
      end
      room = room - granted
    end
  end
else
  if mode == "refund" then
    granted = limit - room
    if cost < granted then
      granted = cost
      local rest = part - granted * t_part
      full_us, part = full_us - granted * t_us + (rest - rest % parts) / parts, rest % parts
    else
      full_us, part = now_us, 0
    end
    reset_us = full_us - now_us
    if part > 0 then
      reset_us = reset_us + 1
    end
    room = room + granted
  else
    granted = math.max(0, math.min(cost, room + limit))
    if granted > 0 then
      local before_us = full_us
      full_us, part = full_us + granted * t_us, part + granted * t_part
      if part >= parts then
        full_us, part = full_us + (part - part % parts) / parts, part % parts
      end
      later = reset_us == 0 or before_us % 500000 + full_us - before_us >= 500000
      reset_us = full_us - now_us
      if part > 0 then
        reset_us = reset_us + 1
      end
    end
    room = room - granted
  end
  delay_us, room = 0, math.max(0, math.min(room, limit))
end

-- 5. Save the changes. A call that moves the end of the state to later sets the key's expiry.
if granted > 0 or (heal and cost > 0 and mode ~= "peek" and mode ~= "reset") then
  call("HSET", key, field, struct.pack(part == 0 and "<dI4" or "<dI4dd", full_us,
    full_us - now_us > empty_us and reach_s or own_s, part, parts))
  if later or heal then
    -- Never earlier than another policy's. GT sets no expiry where there is none, and NX only there. (Rounded
    -- down: no key lives longer than a second beyond its state.)
    local ttl_ms = math.floor(reset_us / 1000) + slack_ms + 1000
    local first, second = "NX", "GT"
    if in_use then
      first, second = "GT", "NX"
    end
    if call("PEXPIRE", key, ttl_ms, first) == 0 then
      call("PEXPIRE", key, ttl_ms, second)
    end
  end
elseif mode == "reset" then
  call("DEL", key)
end

-- 6. Reply.
if packed then
  return struct.pack("<dddddd", granted, room, retry_us, reset_us, delay_us, now_us)
end
return {granted, room, retry_us, reset_us, delay_us, now_us}

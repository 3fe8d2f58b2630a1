--[[
token_bucket v1: a unit is refilled every t_us + t_part / parts microseconds; up to limit are saved

KEYS[1] key         hash, shared with the subject's other policies; field -> (full_us, reach_s), a double
                    and four bytes: the time at which the bucket is full if no call takes more, and the
                    seconds, rounded up, in which the largest bucket that may have this debt is refilled;
                    then (part, parts), two doubles, if a fraction is left: full at full_us + part / parts

ARGV[1] now_us      the time to use; 0: the server's clock
ARGV[2] mode        hit: charge; peek: report what hit would; reset: report it, then delete the key;
                    refund: return units; settle: charge without a check, up to a debt of limit
ARGV[3] cost        units to charge or refund; 0 takes nothing
ARGV[4] field       the policy's field in the hash
ARGV[5] limit       units that the bucket holds (its burst)
ARGV[6] period_us   the period of the rate; only bounds how far ahead a stored time can be true
ARGV[7] t_us        whole microseconds in which one unit is refilled
ARGV[8] t_part      the fraction of a microsecond beyond t_us, in parts: 0 <= t_part < parts
ARGV[9] parts       parts in a microsecond: rate / gcd(rate, period_us)
ARGV[10] at_least    optional: the fewest units to take, if less than cost is free

Returns {granted, remaining, retry_after_us, reset_after_us, delay_us, now_us}, all integers:
        units taken or refunded;
        whole units that would pass right now; time until this same call would pass, 0 if it
        passes; time until the subject counts as unused; time in which a bucket regains the units taken
        before this call, 0 for a call that does not pass; the time of the decision.

Writes  Only a hit that passes, a refund or settle that changes something, and reset. (A denied
        hit repairs a key without expiry, and a stored time too far ahead to be true.)
]]

local ARGV, key = ARGV, KEYS[1]
local now_us = ARGV[1] + 0
local mode = ARGV[2]
local cost = ARGV[3] + 0
local field = ARGV[4]
local limit = ARGV[5] + 0
local period_us = ARGV[6] + 0
local t_us = ARGV[7] + 0
local t_part = ARGV[8] + 0
local parts = ARGV[9] + 0
local at_least = ARGV[10] and ARGV[10] + 0 or cost

-- 1. Check the arguments.
local takes = mode == "hit"
if not (takes or mode == "peek" or mode == "reset" or mode == "refund" or mode == "settle")
  or not (now_us >= 0 and now_us < 2^53 and at_least >= 0 and at_least <= cost and cost <= limit
  and limit >= 1 and period_us >= 1 and t_us >= 0 and t_part >= 0 and t_part < parts
  and t_us + t_part > 0 and (limit + 1) * parts < 2^53 and limit * (t_us + 1) + period_us < 2^53
  and limit % 1 + period_us % 1 + t_us % 1 + t_part % 1 + parts % 1 == 0
  and now_us % 1 + cost % 1 + at_least % 1 == 0) then
  return redis.error_reply("LIMITER an argument of token_bucket v1 is out of range")
end

-- 2. Read the clock. (A key written at a given time must live longer by the real clock.)
local slack_ms = 0
if now_us == 0 then
  local time = redis.call("TIME")
  now_us = time[1] * 1000000 + time[2]
else
  slack_ms = 3600000
end

-- 3. Read the state, and compute the room that it leaves.
local granted, room, retry_us, reset_us, delay_us, heal = 0, 0, 0, 0, 0, false
local state = nil
if mode ~= "reset" or redis.call("TYPE", key).ok == "hash" then
  state = redis.call("HGET", key, field)
end
-- The debt as the time at which the bucket is full, and the debt of an empty bucket.
local full_us, part = now_us, 0
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
    local most_us = 2 * (reach_s * 1000000 + period_us)
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
      granted = room
    end
    full_us, part = full_us + granted * t_us, part + granted * t_part
    if part >= parts then
      full_us, part = full_us + (part - part % parts) / parts, part % parts
    end
    reset_us = full_us - now_us
    if part > 0 then
      reset_us = reset_us + 1
    end
    room = room - granted

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
      full_us, part = full_us + granted * t_us, part + granted * t_part
      if part >= parts then
        full_us, part = full_us + (part - part % parts) / parts, part % parts
      end
      reset_us = full_us - now_us
      if part > 0 then
        reset_us = reset_us + 1
      end
    end
    room = room - granted
  end
  delay_us, room = 0, math.max(0, math.min(room, limit))
end

-- 5. Save the changes, and set an expiry at which the state no longer counts.
if cost > 0 and mode ~= "peek" and mode ~= "reset" then
  local ttl_ms = redis.call("PTTL", key)
  if granted > 0 or heal then
    local saved = struct.pack(part == 0 and "<dI4" or "<dI4dd", full_us,
      full_us - now_us > empty_us and reach_s or own_s, part, parts)
    redis.call("HSET", key, field, saved)
  end
  if ttl_ms == -1 or (granted > 0 and ttl_ms * 1000 <= reset_us + slack_ms * 1000) then
    redis.call("PEXPIRE", key, math.ceil(reset_us / 1000) + slack_ms + 1000)
  end
elseif mode == "reset" then
  redis.call("DEL", key)
end

-- 6. Reply.
return {granted, room, retry_us, reset_us, delay_us, now_us}

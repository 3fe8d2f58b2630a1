--[[
sliding_window v1: about limit in any window, estimated from two counters: the open window's, and a share of the
previous one's

KEYS[1] key         hash, shared with the subject's other policies; field -> (start_us, current, previous),
                    three doubles

ARGV[1] now_us      the time to use; 0: the server's clock
ARGV[2] mode        hit: charge; peek: report what hit would; reset: report it, then delete the key;
                    refund: return units; settle: charge without a check, up to a debt of limit
ARGV[3] cost        units to charge or refund; 0 takes nothing
ARGV[4] field       the policy's field in the hash
ARGV[5] limit       units that one window admits
ARGV[6] period_us   length of a window
ARGV[7] unit_us     the unit in which time is read: ceil(limit * period_us / 2^52) keeps products exact
ARGV[8] at_least    optional: the fewest units to take, if less than cost is free

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
local unit_us = ARGV[7] + 0
local at_least = ARGV[8] and ARGV[8] + 0 or cost

-- 1. Check the arguments.
local takes = mode == "hit"
if not (takes or mode == "peek" or mode == "reset" or mode == "refund" or mode == "settle")
  or not (now_us >= 0 and now_us < 2^53 and at_least >= 0 and at_least <= cost and cost <= limit
  and limit >= 1 and limit < 2^53 and period_us >= 1 and period_us < 2^52
  and unit_us >= 1 and unit_us < 2^53 and unit_us * 2^52 >= limit * period_us
  and limit % 1 + period_us % 1 + unit_us % 1 == 0
  and now_us % 1 + cost % 1 + at_least % 1 == 0) then
  return redis.error_reply("LIMITER an argument of sliding_window v1 is out of range")
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
-- The start and the count of the open window, and the count of the previous one.
local start_us, current, previous, given = now_us, 0, 0, 0
if state and #state == 24 then
  local stored_us, newer, older = struct.unpack("<ddd", state)
  if stored_us >= 0 and stored_us < 2^53 and newer >= 0 and newer < 2^53 and older >= 0 and older < 2^53
    and stored_us % 1 + newer % 1 + older % 1 == 0 then
    if stored_us - now_us > period_us then
      -- No clock steps back that far: keep the counts, in a window that begins now.
      stored_us, heal = now_us, true
    end
    if now_us - stored_us >= period_us then
      stored_us, newer, older = stored_us + period_us, 0, newer
    end
    if now_us - stored_us < period_us and newer + older > 0 then
      start_us, current, previous = stored_us, newer, older
    end
  end
end
if mode == "refund" then
  given = current + previous
  if cost < given then
    given = cost
  end
  current = current - given
  if current < 0 then
    current, previous = 0, previous + current
  end
end
-- The last period covers `covered` of the `width` time units of the previous window.
local unit = unit_us
if previous > limit then
  unit = unit_us * math.ceil(previous / limit)
end
local width = math.ceil(period_us / unit)
local elapsed_us = now_us - start_us
if elapsed_us < 0 then
  elapsed_us = 0
end
local covered = width - (elapsed_us - elapsed_us % unit) / unit
local weight = previous * covered + width - 1
room = limit - current - (weight - weight % width) / width
if current > 0 then
  reset_us = start_us + 2 * period_us - now_us
elseif previous > 0 then
  reset_us = start_us + period_us - now_us
end

-- 4. Charge the cost, if it fits.
if takes or mode == "peek" or mode == "reset" then
  if room < 0 then
    room = 0
  end
  if room < at_least then
    delay_us = 0
    -- In this window, when the previous count's share leaves room for this call;
    local fitting, spare = 0, limit - current - at_least
    if spare > 0 and previous > 0 then
      fitting = (spare * width - spare * width % previous) / previous
    end
    if fitting > 0 then
      retry_us = start_us + (width - fitting) * unit - now_us
    else
      -- or in the next window, in which this count is the previous one; or after that window.
      retry_us = start_us + period_us - now_us
      if current > 0 then
        unit = unit_us
        if current > limit then
          unit = unit_us * math.ceil(current / limit)
        end
        width, spare = math.ceil(period_us / unit), limit - at_least
        fitting = (spare * width - spare * width % current) / current
        if fitting == 0 then
          retry_us = retry_us + period_us
        elseif fitting < width then
          retry_us = retry_us + (width - fitting) * unit
        end
      end
    end
  elseif takes and cost > 0 then
    granted = cost
    if room < cost then
      granted = room
    end
    current, reset_us = current + granted, start_us + 2 * period_us - now_us
    room = room - granted

  end
else
  if mode == "refund" then
    granted, room = given, room - given
    room = room + granted
  else
    granted = math.max(0, math.min(cost, room + limit))
    if granted > 0 then
      current, reset_us = current + granted, start_us + 2 * period_us - now_us
    end
    room = room - granted
  end
  delay_us, room = 0, math.max(0, math.min(room, limit))
end

-- 5. Save the changes, and set an expiry at which the state no longer counts.
if cost > 0 and mode ~= "peek" and mode ~= "reset" then
  local ttl_ms = redis.call("PTTL", key)
  if granted > 0 or heal then
    local saved = struct.pack("<ddd", start_us, current, previous)
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

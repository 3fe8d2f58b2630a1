--[[
sliding_log v1: at most limit in any window of one period, to the microsecond

KEYS[1] key         list of integer microseconds, one for each unit of cost, the oldest first,
                    never decreasing

ARGV[1] now_us      the time to use; 0: the server's clock
ARGV[2] mode        hit: charge; peek: report what hit would; reset: report it, then delete the key;
                    refund: return units; settle: charge without a check, up to a debt of limit
ARGV[3] cost        units to charge or refund; 0 takes nothing
ARGV[4] field       the policy's name; not used, since the list's own key ends in it
ARGV[5] limit       units that any window admits; a call's own cost is at most 4000
ARGV[6] period_us   length of the window
ARGV[7] at_least    optional: the fewest units to take, if less than cost is free

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
local at_least = ARGV[7] and ARGV[7] + 0 or cost

-- 1. Check the arguments.
local takes = mode == "hit"
if not (takes or mode == "peek" or mode == "reset" or mode == "refund" or mode == "settle")
  or not (now_us >= 0 and now_us < 2^53 and at_least >= 0 and at_least <= cost and cost <= limit
  and limit >= 1 and limit < 2^53 and period_us >= 1 and period_us < 2^53
  and limit % 1 + period_us % 1 == 0 and cost <= 4000
  and now_us % 1 + cost % 1 + at_least % 1 == 0) then
  return redis.error_reply("LIMITER an argument of sliding_log v1 is out of range")
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
local size = 0
if mode ~= "reset" or redis.call("TYPE", key).ok == "list" then
  size = redis.call("LLEN", key)
end
-- The log holds `size` entries; the first `dead` of them have left the window.
local dead, last_us, oldest_us = 0, now_us, nil
if size > 0 then
  last_us = tonumber(redis.call("LINDEX", key, -1)) or 0
  if not (last_us - now_us <= period_us and last_us + period_us > now_us and last_us % 1 == 0) then
    heal = last_us > now_us
    dead, last_us = size, now_us
  else
    reset_us = last_us + period_us - now_us
    oldest_us = last_us
    if last_us < now_us then
      last_us = now_us
    end
    -- Few entries leave between two calls: search in growing steps from the oldest, then bisect.
    local live, probe = size - 1, 0
    while dead < live do
      local entry_us = tonumber(redis.call("LINDEX", key, probe)) or 0
      if entry_us + period_us > last_us and entry_us <= last_us then
        live, oldest_us = probe, entry_us
        probe = math.floor((dead + live) / 2)
      else
        dead = probe + 1
        probe = probe + dead
        if probe >= live then
          probe = math.floor((dead + live) / 2)
        end
      end
    end
  end
end
room = limit - size + dead

-- 4. Charge the cost, if it fits.
if takes or mode == "peek" or mode == "reset" then
  if room < 0 then
    room = 0
  end
  if room < at_least then
    delay_us = 0
    -- The entry whose end makes room: most often the oldest in the window, which was just read.
    local freeing = size - limit + at_least - 1
    if freeing > dead then
      oldest_us = tonumber(redis.call("LINDEX", key, freeing)) or 0
      if not (oldest_us + period_us > last_us and oldest_us <= last_us) then
        oldest_us = last_us
      end
    end
    retry_us = oldest_us + period_us - now_us
  elseif takes and cost > 0 then
    granted = cost
    if room < cost then
      granted = room
    end
    reset_us = last_us + period_us - now_us
    room = room - granted

  end
else
  if mode == "refund" then
    -- Remove the oldest entries: without the newest, a later window would admit too much.
    granted = size - dead
    if cost < granted then
      granted = cost
    end
    dead = dead + granted
    if dead == size then
      reset_us = 0
    end
    room = room + granted
  else
    granted = math.max(0, math.min(cost, room + limit))
    if granted > 0 then
      reset_us = last_us + period_us - now_us
    end
    room = room - granted
  end
  delay_us, room = 0, math.max(0, math.min(room, limit))
end

-- 5. Save the changes, and set an expiry at which the state no longer counts.
if cost > 0 and mode ~= "peek" and mode ~= "reset" then
  local ttl_ms = redis.call("PTTL", key)
  if granted > 0 or heal then
    -- Append first: if all old entries have left, LTRIM would delete the key, and its expiry.
    if mode == "refund" then
      redis.call("LTRIM", key, dead, -1)
    elseif granted == 1 then
      redis.call("RPUSH", key, last_us)
    else
      local entries = {}
      for entry = 1, granted do
        entries[entry] = last_us
      end
      redis.call("RPUSH", key, (unpack or table.unpack)(entries))
    end
    if dead > 0 and mode ~= "refund" then
      redis.call("LTRIM", key, dead, -1)
    end
  end
  if ttl_ms == -1 or (granted > 0 and ttl_ms * 1000 <= reset_us + slack_ms * 1000) then
    redis.call("PEXPIRE", key, math.ceil(reset_us / 1000) + slack_ms + 1000)
  end
elseif mode == "reset" then
  redis.call("DEL", key)
end

-- 6. Reply.
return {granted, room, retry_us, reset_us, delay_us, now_us}

--[[
{name} v1: {summary}

KEYS[1] key         {key}

ARGV[1] now_us      the time to use; 0: the server's clock
ARGV[2] mode        hit: take; peek: only say what hit would; reset: say it, then forget the subject
ARGV[3] cost        units wanted; 0 looks without taking
{arguments}
ARGV[{last}] at_least    may be left out: units that would do, where fewer than cost will

Returns {granted, remaining, retry_after_us, reset_after_us, delay_us, now_us}, all integers:
        units taken; whole units that would pass right now; time until this same call would pass, 0
        where it passes; time until all is as if unused; time that the units taken before this call
        need to drip away, 0 for a call that does not pass; the time of the decision.

Writes  Only a hit that passes, and reset. (And a hit that does not, where it finds a key without
        expiry, or a time too far ahead to be true: it mends that.)
]]

local ARGV, key = ARGV, KEYS[1]
local now_us = ARGV[1] + 0
local mode = ARGV[2]
local cost = ARGV[3] + 0
{bind}
local at_least = ARGV[{last}] and ARGV[{last}] + 0 or cost

-- 1. Can this be meant?
local hit = mode == "hit"
if not (hit or mode == "peek" or mode == "reset")
  or not (now_us >= 0 and now_us < 2^53 and at_least >= 0 and at_least <= cost and cost <= limit
  {check}
  and now_us % 1 + cost % 1 + at_least % 1 == 0) then
  return redis.error_reply("LIMITER an argument of {name} v1 is out of range")
end

-- 2. What time is it? (A key used under a given time must outlive the real clock.)
local slack_ms = 0
if now_us == 0 then
  local time = redis.call("TIME")
  now_us = time[1] * 1000000 + time[2]
else
  slack_ms = 3600000
end

-- 3. What stands there, and how much room does it leave?
local granted, room, retry_us, reset_us, delay_us, heal = 0, 0, 0, 0, 0, false
{load}
{ask}
if room < 0 then
  room = 0
end

-- 4. Take it, if it fits.
if room < at_least then
  delay_us = 0
  {retry}
elseif hit and cost > 0 then
  granted = cost
  if room < cost then
    granted = room
  end
  {charge}
end

-- 5. Save what changed, and let it live for as long as it counts.
if hit and cost > 0 then
  local ttl_ms = redis.call("PTTL", key)
  {save}
  if ttl_ms == -1 or (granted > 0 and ttl_ms * 1000 <= reset_us + slack_ms * 1000) then
    redis.call("PEXPIRE", key, math.ceil(reset_us / 1000) + slack_ms + 1000)
  end
elseif mode == "reset" then
  redis.call("DEL", key)
end

-- 6. Answer.
return {granted, room - granted, retry_us, reset_us, delay_us, now_us}

--[[
{{name}} v1: {{summary}}

KEYS[1] key         {{key}}

ARGV[1] now_us      the time to use; 0: the server's clock
ARGV[2] mode        hit: charge; peek: report what hit would; reset: report it, then delete the key;
                    refund: return units; settle: charge without a check, up to a debt of limit
ARGV[3] cost        units to charge or refund; 0 takes nothing
{{arguments}}
ARGV[{{last}}] at_least    optional: the fewest units to take, if less than cost is free

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
{{numbers}}
local at_least = ARGV[{{last}}] and ARGV[{{last}}] + 0 or cost

-- 1. Check the arguments.
local takes = mode == "hit"
if not (takes or mode == "peek" or mode == "reset" or mode == "refund" or mode == "settle")
  or not (now_us >= 0 and now_us < 2^53 and at_least >= 0 and at_least <= cost and cost <= limit
  {{checked}}
  and now_us % 1 + cost % 1 + at_least % 1 == 0) then
  return redis.error_reply("LIMITER an argument of {{name}} v1 is out of range")
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
{{load}}
{{ask}}

-- 4. Charge the cost, if it fits.
if takes or mode == "peek" or mode == "reset" then
  if room < 0 then
    room = 0
  end
  if room < at_least then
    delay_us = 0
    {{retry}}
  elseif takes and cost > 0 then
    granted = cost
    if room < cost then
      granted = room
    end
    {{charge}}
    room = room - granted

  end
else
  {{refund_or_settle}}
  delay_us, room = 0, math.max(0, math.min(room, limit))
end

-- 5. Save the changes, and set an expiry at which the state no longer counts.
if cost > 0 and mode ~= "peek" and mode ~= "reset" then
  local ttl_ms = redis.call("PTTL", key)
  if granted > 0 or heal then
    {{write}}
  end
  if ttl_ms == -1 or (granted > 0 and ttl_ms * 1000 <= reset_us + slack_ms * 1000) then
    redis.call("PEXPIRE", key, math.ceil(reset_us / 1000) + slack_ms + 1000)
  end
elseif mode == "reset" then
  redis.call("DEL", key)
end

-- 6. Reply.
return {granted, room, retry_us, reset_us, delay_us, now_us}

--[[
{{name}} v1: {{summary}}

KEYS[1] key          {{key}}

As text, whole numbers in decimal:
ARGV[1] now_us       the time to use; 0: the server's clock
ARGV[2] mode         hit: charge; peek: report what hit would; reset: report it, then delete the key;
                     refund: return units; settle: charge without a check, up to a debt of limit
ARGV[3] cost         units to charge or refund; 0 takes nothing
{{arguments}}
ARGV[{{last}}] at_least     optional: the fewest units to take, if less than cost is free
ARGV[{{step_place}}] step         optional: take a multiple of step units; divides cost and at_least

Packed, little-endian doubles:
ARGV[1] numbers      {{packed}}
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
local now_us, mode, cost, field, limit, {{names}}, at_least, step
local packed = #ARGV[1] > 20
if packed then
  now_us, cost, at_least, limit, {{names}}, step = struct.unpack("<{{doubles}}", ARGV[1])
  field, mode = ARGV[2], ARGV[3] or "hit"
else
  now_us, mode, cost = ARGV[1] + 0, ARGV[2], ARGV[3] + 0
  field, limit = ARGV[4], ARGV[5] + 0
  {{numbers}}
  at_least, step = (ARGV[{{last}}] or cost) + 0, (ARGV[{{step_place}}] or 1) + 0
end

-- 1. Check the arguments.
local takes = mode == "hit"
if not (takes or mode == "peek" or mode == "reset" or mode == "refund" or mode == "settle")
  or not (now_us >= 0 and now_us < 2^53 and at_least >= 0 and at_least <= cost and cost <= limit
  {{checked}}
  and step >= 1 and now_us % 1 + step % 1 + cost % step + at_least % step == 0) then
  return redis.error_reply("LIMITER an argument of {{name}} v1 is out of range")
end

{{clock}}

-- 3. Read the state, and compute the room that it leaves.
local granted, room, retry_us, reset_us, delay_us, heal, later = 0, 0, 0, 0, 0, false, false
{{load}}
{{ask}}
local in_use = reset_us > 0

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
      granted = room - room % step
    end
    if granted > 0 then
      {{charge}}
      room = room - granted
    end
  end
else
  {{refund_or_settle}}
  delay_us, room = 0, math.max(0, math.min(room, limit))
end

-- 5. Save the changes. A call that moves the end of the state to later sets the key's expiry.
if granted > 0 or (heal and cost > 0 and mode ~= "peek" and mode ~= "reset") then
  {{write}}
  if later or heal then
    {{live}}
  end
elseif mode == "reset" then
  call("DEL", key)
end

-- 6. Reply.
if packed then
  return struct.pack("<dddddd", granted, room, retry_us, reset_us, delay_us, now_us)
end
return {granted, room, retry_us, reset_us, delay_us, now_us}

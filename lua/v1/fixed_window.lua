--[[
fixed_window v1: at most limit in each window; a window opens at the first admitted hit

KEYS[1] key          hash, shared with the subject's other policies; field -> (start_us, used),
                     two doubles

As text, whole numbers in decimal:
ARGV[1] now_us       the time to use; 0: the server's clock
ARGV[2] mode         hit: charge; peek: report what hit would; reset: report it, then delete the key;
                     refund: return units; settle: charge without a check, up to a debt of limit
ARGV[3] cost         units to charge or refund; 0 takes nothing
ARGV[4] field        the policy's field in the hash
ARGV[5] limit        units that one window admits
ARGV[6] period_us    length of a window
ARGV[7] aligned      1: windows end at multiples of the period since 1970; 0: as above
ARGV[8] at_least     optional: the fewest units to take, if less than cost is free
ARGV[9] step         optional: take a multiple of step units; divides cost and at_least

Packed, little-endian doubles:
ARGV[1] numbers      now_us, cost, at_least, limit, period_us, aligned, step
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
local now_us, mode, cost, field, limit, period_us, aligned, at_least, step
local packed = #ARGV[1] > 20
if packed then
  now_us, cost, at_least, limit, period_us, aligned, step = struct.unpack("<ddddddd", ARGV[1])
  field, mode = ARGV[2], ARGV[3] or "hit"
else
  now_us, mode, cost = ARGV[1] + 0, ARGV[2], ARGV[3] + 0
  field, limit = ARGV[4], ARGV[5] + 0
  period_us = ARGV[6] + 0
  aligned = ARGV[7] + 0
  at_least, step = (ARGV[8] or cost) + 0, (ARGV[9] or 1) + 0
end

-- 1. Check the arguments.
local takes = mode == "hit"
if not (takes or mode == "peek" or mode == "reset" or mode == "refund" or mode == "settle")
  or not (now_us >= 0 and now_us < 2^53 and at_least >= 0 and at_least <= cost and cost <= limit
  and (aligned == 0 or aligned == 1) and limit >= 1 and limit < 2^53 and period_us >= 1 and period_us < 2^53
  and limit % 1 + period_us % 1 == 0
  and step >= 1 and now_us % 1 + step % 1 + cost % step + at_least % step == 0) then
  return redis.error_reply("LIMITER an argument of fixed_window v1 is out of range")
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
local start_us, used = now_us, 0
if aligned == 1 then
  start_us = now_us - now_us % period_us
end
if state and #state == 16 then
  local stored_us, count = struct.unpack("<dd", state)
  if stored_us - now_us > period_us and stored_us < 2^53 then
    -- No clock steps back that far: keep the count, in a window that begins now.
    stored_us, heal = now_us, true
  end
  if stored_us + period_us > now_us and stored_us < 2^53 and stored_us % 1 == 0
    and count >= 0 and count % 1 == 0 then
    start_us, used, reset_us = stored_us, count, stored_us + period_us - now_us
  end
end
room = limit - used
local in_use = reset_us > 0

-- 4. Charge the cost, if it fits.
if takes or mode == "peek" or mode == "reset" then
  if room < 0 then
    room = 0
  end
  if room < at_least then
    delay_us = 0
    retry_us = start_us + period_us - now_us
  elseif takes and cost > 0 then
    granted = cost
    if room < cost then
      granted = room - room % step
    end
    if granted > 0 then
      later = reset_us == 0
      used, reset_us = used + granted, start_us + period_us - now_us
      room = room - granted
    end
  end
else
  if mode == "refund" then
    granted = used
    if cost < granted then
      granted = cost
    end
    used = used - granted
    room = room + granted
  else
    granted = math.max(0, math.min(cost, room + limit))
    if granted > 0 then
      later = reset_us == 0
      used, reset_us = used + granted, start_us + period_us - now_us
    end
    room = room - granted
  end
  delay_us, room = 0, math.max(0, math.min(room, limit))
end

-- 5. Save the changes. A call that moves the end of the state to later sets the key's expiry.
if granted > 0 or (heal and cost > 0 and mode ~= "peek" and mode ~= "reset") then
  call("HSET", key, field, struct.pack("<dd", start_us, used))
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

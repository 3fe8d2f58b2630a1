--[[
sliding_log v1: at most limit in any window of one period, to the microsecond

KEYS[1] key          list of integer microseconds, one for each unit of cost, the oldest first,
                     never decreasing

As text, whole numbers in decimal:
ARGV[1] now_us       the time to use; 0: the server's clock
ARGV[2] mode         hit: charge; peek: report what hit would; reset: report it, then delete the key;
                     refund: return units; settle: charge without a check, up to a debt of limit
ARGV[3] cost         units to charge or refund; 0 takes nothing
ARGV[4] field        the policy's name; not used, since the list's own key ends in it
ARGV[5] limit        units that any window admits; a call's own cost is at most 4000
ARGV[6] period_us    length of the window
ARGV[7] hold_us      0, or the time within which a caller that takes units in advance uses them: the
                     entries have the time now_us + hold_us; less than period_us
ARGV[8] at_least     optional: the fewest units to take, if less than cost is free
ARGV[9] step         optional: take a multiple of step units; divides cost and at_least

Packed, little-endian doubles:
ARGV[1] numbers      now_us, cost, at_least, limit, period_us, hold_us, step
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
local now_us, mode, cost, field, limit, period_us, hold_us, at_least, step
local packed = #ARGV[1] > 20
if packed then
  now_us, cost, at_least, limit, period_us, hold_us, step = struct.unpack("<ddddddd", ARGV[1])
  field, mode = ARGV[2], ARGV[3] or "hit"
else
  now_us, mode, cost = ARGV[1] + 0, ARGV[2], ARGV[3] + 0
  field, limit = ARGV[4], ARGV[5] + 0
  period_us = ARGV[6] + 0
  hold_us = ARGV[7] + 0
  at_least, step = (ARGV[8] or cost) + 0, (ARGV[9] or 1) + 0
end

-- 1. Check the arguments.
local takes = mode == "hit"
if not (takes or mode == "peek" or mode == "reset" or mode == "refund" or mode == "settle")
  or not (now_us >= 0 and now_us < 2^53 and at_least >= 0 and at_least <= cost and cost <= limit
  and limit >= 1 and limit < 2^53 and period_us >= 1 and period_us < 2^53
  and hold_us >= 0 and hold_us < period_us and limit % 1 + period_us % 1 + hold_us % 1 == 0 and cost <= 4000
  and step >= 1 and now_us % 1 + step % 1 + cost % step + at_least % step == 0) then
  return redis.error_reply("LIMITER an argument of sliding_log v1 is out of range")
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
local size = 0
if mode ~= "reset" or call("TYPE", key).ok == "list" then
  size = call("LLEN", key)
end
-- The log holds `size` entries; the first `dead` of them have left the window.
local dead, newest_us, oldest_us = 0, now_us, nil
if size > 0 then
  newest_us = tonumber(call("LINDEX", key, -1)) or 0
  if not (newest_us + period_us > now_us and newest_us < 2^53 and newest_us % 1 == 0) then
    dead, newest_us = size, now_us
  elseif newest_us - now_us > period_us then
    -- No clock steps back that far: keep the count, as if all units had been taken now.
    newest_us, oldest_us, reset_us, heal = now_us, now_us, period_us, true
  else
    reset_us, oldest_us = newest_us + period_us - now_us, newest_us
    -- Few entries leave between two calls: search in growing steps from the oldest, then bisect.
    local live, probe = size - 1, 0
    while dead < live do
      local entry_us = tonumber(call("LINDEX", key, probe)) or 0
      if entry_us + period_us > now_us and entry_us <= newest_us then
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
local in_use = reset_us > 0

-- 4. Charge the cost, if it fits.
if takes or mode == "peek" or mode == "reset" then
  if room < 0 then
    room = 0
  end
  if room < at_least then
    delay_us = 0
    -- The entry whose end makes room: most often the oldest in the window, which was just read.
    local freeing = size - limit + at_least - 1
    if freeing > dead and not heal then
      oldest_us = tonumber(call("LINDEX", key, freeing)) or 0
      if not (oldest_us + period_us > now_us and oldest_us <= newest_us) then
        oldest_us = newest_us
      end
    end
    retry_us = oldest_us + period_us - now_us
  elseif takes and cost > 0 then
    granted = cost
    if room < cost then
      granted = room - room % step
    end
    if granted > 0 then
      local before_us = newest_us
      if newest_us < now_us + hold_us then
        newest_us = now_us + hold_us
      end
      later = reset_us == 0 or before_us % 500000 + newest_us - before_us >= 500000
      reset_us = newest_us + period_us - now_us
      room = room - granted
    end
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
      local before_us = newest_us
      if newest_us < now_us + hold_us then
        newest_us = now_us + hold_us
      end
      later = reset_us == 0 or before_us % 500000 + newest_us - before_us >= 500000
      reset_us = newest_us + period_us - now_us
    end
    room = room - granted
  end
  delay_us, room = 0, math.max(0, math.min(room, limit))
end

-- 5. Save the changes. A call that moves the end of the state to later sets the key's expiry.
if granted > 0 or (heal and cost > 0 and mode ~= "peek" and mode ~= "reset") then
  local entries, old = granted, 0
  if mode == "refund" then
    entries = 0
  end
  if heal then
    -- The units that the log had come first.
    entries, old, dead = entries + size - dead, size - dead, 0
    call("DEL", key)
  end
  -- Append first: if all old entries have left, LTRIM would delete the key, and its expiry.
  if entries == 1 then
    call("RPUSH", key, newest_us)
  else
    while entries > 0 do
      local added = {}
      for entry = 1, math.min(entries, 4000) do
        added[entry] = entry > old and newest_us or now_us
      end
      call("RPUSH", key, (unpack or table.unpack)(added))
      entries, old = entries - #added, old - #added
    end
  end
  if dead > 0 then
    call("LTRIM", key, dead, -1)
  end
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

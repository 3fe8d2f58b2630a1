--[[
concurrency v1: at most limit units held at any instant; a lease that is not renewed expires

KEYS[1] key          zset with a member "id:unit" for each unit that a lease holds; the score is the
                     time at which it expires, in whole microseconds

As text, whole numbers in decimal:
ARGV[1] now_us       the time to use; 0: the server's clock
ARGV[2] mode         acquire: take a lease, or report that it is held already; renew: extend it from
                     now; release: return it; peek: report what acquire would; reset: report it, then
                     delete the key
ARGV[3] cost         units that the lease holds; 0 takes nothing
ARGV[4] field        the policy's name; not used, since the set's own key ends in it
ARGV[5] limit        units that may be held at once; a call's own cost is at most 4000
ARGV[6] lease_us     time after which a lease expires if it is not renewed
ARGV[7] id           the lease's name, chosen at random by its holder; peek and reset ignore it
ARGV[8] at_least     optional: the fewest units to take, if less than cost is free

Packed, little-endian doubles:
ARGV[1] numbers      now_us, cost, at_least, limit, lease_us
ARGV[2] field        as above
ARGV[3] id           as above
ARGV[4] mode         optional: acquire if it is missing

Returns {granted, remaining, retry_after_us, reset_after_us, delay_us, now_us}, all integers; to a
        packed call, a string of the same six as doubles:
        units of this lease that were taken, renewed (all or 0), or released;
        whole units that would pass right now; time until this same call would pass, 0 if it
        passes; time until the subject counts as unused; 0; the time of the decision.

Writes  Only an acquire that passes, renew and release of a lease that is held, and reset.
]]

local ARGV, key, call = ARGV, KEYS[1], redis.call
local now_us, mode, cost, field, limit, lease_us, id, at_least
local packed = #ARGV[1] > 20
if packed then
  now_us, cost, at_least, limit, lease_us = struct.unpack("<ddddd", ARGV[1])
  field, id, mode = ARGV[2], ARGV[3], ARGV[4] or "acquire"
else
  now_us, mode, cost = ARGV[1] + 0, ARGV[2], ARGV[3] + 0
  field, limit = ARGV[4], ARGV[5] + 0
  lease_us = ARGV[6] + 0
  id = ARGV[7]
  at_least = (ARGV[8] or cost) + 0
end

-- 1. Check the arguments.
local takes = mode == "acquire"
if not (takes or mode == "peek" or mode == "reset" or mode == "renew" or mode == "release")
  or not (now_us >= 0 and now_us < 2^53 and at_least >= 0 and at_least <= cost and cost <= limit
  and
  limit >= 1 and limit < 2^53 and lease_us >= 1 and lease_us <= 31622400000000 and cost <= 4000
  and limit % 1 + lease_us % 1 == 0 and (mode == "peek" or mode == "reset"
  or (id ~= "" and not string.find(id, "\0", 1, true)))
  and now_us % 1 + cost % 1 + at_least % 1 == 0) then
  return redis.error_reply("LIMITER an argument of concurrency v1 is out of range")
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
local granted, room, retry_us, reset_us, delay_us, later = 0, 0, 0, 0, 0, false
local size = 0
if mode ~= "reset" or call("TYPE", key).ok == "zset" then
  size = call("ZCARD", key)
end
-- No lease lasts longer than 366 days: a later end cannot be true, and counts as expired.
local live, held, far_us, ends_us = 0, 0, now_us + 31622400000000, now_us + lease_us
if size > 0 then
  live = call("ZCOUNT", key, now_us + 1, far_us)
  if live > 0 then
    local latest = call("ZRANGE", key, far_us, now_us + 1, "BYSCORE", "REV",
      "LIMIT", 0, 1, "WITHSCORES")
    reset_us = math.floor(latest[2]) - now_us
    if mode ~= "peek" and mode ~= "reset" then
      for unit = 1, cost do
        local end_us = call("ZSCORE", key, string.format("%s:%d", id, unit))
        if end_us and end_us + 0 >= now_us + 1 and end_us + 0 <= far_us then
          held = held + 1
        end
      end
    end
  end
end
room = limit - live
local in_use = live > 0

-- 4. Take the lease, if it fits.
if takes or mode == "peek" or mode == "reset" then
  if room < 0 then
    room = 0
  end
  if room < at_least and held == 0 then
    delay_us = 0
    -- The unit whose expiry makes room, if all units before it expire too.
    local dead = call("ZCOUNT", key, "-inf", now_us) + live + at_least - limit - 1
    local freeing = call("ZRANGE", key, dead, dead, "WITHSCORES")
    retry_us = math.floor(freeing[2]) - now_us
  elseif takes and cost > 0 and held == 0 then
    granted = cost
    if room < cost then
      granted = room
    end
    if granted > 0 then
      later = true
      if ends_us - now_us > reset_us then
        reset_us = ends_us - now_us
      end
      room = room - granted
    end
  elseif takes then
    granted = held
  end
else
  if mode == "renew" then
    if held > 0 and held == cost then
      granted, later = cost, true
      if ends_us - now_us > reset_us then
        reset_us = ends_us - now_us
      end
    end
  else
    granted, room = held, room + held
    if held > 0 then
      -- If other leases remain, the latest end of one is among the last `held` + 1 members.
      local own, latest = {}, call("ZRANGE", key, far_us, now_us + 1, "BYSCORE", "REV",
        "LIMIT", 0, held + 1, "WITHSCORES")
      for unit = 1, cost do
        own[string.format("%s:%d", id, unit)] = true
      end
      reset_us = 0
      for place = 1, #latest, 2 do
        if reset_us == 0 and not own[latest[place]] then
          reset_us = math.floor(latest[place + 1]) - now_us
        end
      end
    end
  end
  delay_us, room = 0, math.max(0, math.min(room, limit))
end

-- 5. Save the changes. A call that moves the end of the state to later sets the key's expiry.
if granted > 0 and mode ~= "reset" then
  if mode == "release" then
    for unit = 1, cost do
      call("ZREM", key, string.format("%s:%d", id, unit))
    end
  elseif mode == "renew" or held == 0 then
    -- Add first: if all old members have expired, removing them would delete the key, and its expiry.
    for unit = 1, granted do
      local member = string.format("%s:%d", id, unit)
      if mode == "renew" then
        call("ZADD", key, "GT", ends_us, member)
      else
        call("ZADD", key, ends_us, member)
      end
    end
    call("ZREMRANGEBYSCORE", key, "-inf", now_us)
    call("ZREMRANGEBYSCORE", key, far_us + 1, "+inf")
  end
  if later then
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

--[[
several v1: any list of policies, of one subject or of several in one slot, all or none

KEYS[n]             each subject's hash, and the lists of those policies that have one, in any order

ARGV[1] now_us      the time to use; 0: the server's clock
ARGV[2] mode        hit: take; peek: only say what hit would; reset: say it, then forget
ARGV[3] at_least    0, or units that would do where fewer than a policy's cost will
then for each policy:
        algorithm   the name of its script in this folder
        key         the number, in KEYS, of the key that the script would have as KEYS[1]
        shadow      1: it counts what passes, and never denies; 0: it decides
        cost, and the rest of what the script takes up to at_least: field, limit, period_us ...

Returns for each policy the first five integers of its script's reply, and now_us once, at the end.
        Nothing is taken unless every policy that decides has room. Where fewer than cost will do,
        all policies grant the same: as much as fits into each.

Writes  As the scripts for one policy do.
]]

local ARGV, KEYS = ARGV, KEYS
local now_us = ARGV[1] + 0
local mode = ARGV[2]
local enough = ARGV[3] + 0

-- 1. Can this be meant?
local hit = mode == "hit"
if not (hit or mode == "peek" or mode == "reset")
  or not (now_us >= 0 and now_us < 2^53 and enough >= 0 and now_us % 1 + enough % 1 == 0) then
  return redis.error_reply("LIMITER an argument of several v1 is out of range")
end

-- 2. What time is it? (A key used under a given time must outlive the real clock.)
local slack_ms = 0
if now_us == 0 then
  local time = redis.call("TIME")
  now_us = time[1] * 1000000 + time[2]
else
  slack_ms = 3600000
end

-- 3. Ask every policy, and work out what taking the cost from it would leave. Where less than the
-- cost would do and less fits, ask again for as much as fits into all. (Both tables begin with room
-- for three policies, since growing one costs more than all that is put into it.)
local reply = {nil, nil, nil, nil, nil, nil, nil, nil, nil, nil, nil, nil, nil, nil, nil, nil}
local before = {nil, nil, nil, nil}
local last, take = #ARGV, 2^53
local writes, lives, heals, logs, fits, said, again
repeat
  local at, common = 3, 2^53
  writes, lives, heals, logs, fits, said, again = {nil}, {nil}, nil, nil, true, 0, false
  while at < last do
    local algorithm, index, shadow, cost = ARGV[at + 1], ARGV[at + 2] + 0, ARGV[at + 3], ARGV[at + 4] + 0
    local field, limit, key = ARGV[at + 5], ARGV[at + 6] + 0, KEYS[index]
    local granted, room, retry_us, reset_us, delay_us, heal = 0, 0, 0, 0, 0, false
    local at_least, wanted = cost, cost
    if enough > 0 and enough < cost then
      at_least = enough
      if take < cost then
        wanted = take
      end
    end
    if not (cost >= 0 and cost <= limit and cost % 1 == 0 and (shadow == "0" or shadow == "1")) then
      return redis.error_reply("LIMITER an argument of several v1 is out of range")
    end
    {branches}
    else
      return redis.error_reply("LIMITER several v1 knows no such algorithm")
    end
    if room < at_least then
      fits = fits and shadow == "1"
    elseif room < wanted and shadow == "0" and room < common then
      common, again = room, true
    end
    if hit and cost > 0 and (lives[index] or -1) < reset_us then
      lives[index] = reset_us
    end
    reply[said + 1], reply[said + 2], reply[said + 3] = granted, room - granted, retry_us
    reply[said + 4], reply[said + 5] = reset_us, delay_us
    said = said + 5
  end
  take, again = common, again and fits
until not again

-- 4. Where one of them has no room, nothing is taken from any.
if not fits then
  for first = 0, said - 1, 5 do
    reply[first + 2] = reply[first + 2] + reply[first + 1]
    reply[first + 1], reply[first + 4] = 0, before[first / 5 + 1]
  end
  for mending = 1, heals and #heals or 0 do
    redis.call((unpack or table.unpack)(heals[mending]))
  end
end

-- 5. Save what changed, and let it live for as long as it counts.
for index = 1, #KEYS do
  local key, life_us = KEYS[index], lives[index]
  if life_us then
    local ttl_ms = redis.call("PTTL", key)
    if fits and writes[index] then
      redis.call("HSET", key, (unpack or table.unpack)(writes[index]))
    end
    if fits and logs and logs[index] then
      local granted, {carried} = (unpack or table.unpack)(logs[index])
      {save_log}
    end
    if ttl_ms == -1 or (fits and ttl_ms * 1000 <= life_us + slack_ms * 1000) then
      redis.call("PEXPIRE", key, math.ceil(life_us / 1000) + slack_ms + 1000)
    end
  elseif mode == "reset" then
    redis.call("DEL", key)
  end
end

-- 6. Answer.
reply[said + 1] = now_us
return reply

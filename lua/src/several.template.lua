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
  or not (now_us >= 0 and enough >= 0 and (now_us + enough) % 1 == 0) then
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

-- 3. Ask every policy. `plan` keeps what charging it will take, {width} places for each.
local reply, plan = {}, {}
local at, last, said, planned = 3, #ARGV, 0, 0
local fits, common = true, 2^53
while at < last do
  local algorithm, index, shadow, cost = ARGV[at + 1], ARGV[at + 2] + 0, ARGV[at + 3], ARGV[at + 4] + 0
  local field, limit, key = ARGV[at + 5], ARGV[at + 6] + 0, KEYS[index]
  local room, retry_us, reset_us, delay_us, heal = 0, 0, 0, 0, false
  local at_least, in_range = cost, false
  if enough > 0 and enough < cost then
    at_least = enough
  end
  {ask_branches}
  end
  if not (in_range and key and cost >= 0 and cost <= limit and cost % 1 == 0
    and (shadow == "0" or shadow == "1")) then
    return redis.error_reply("LIMITER an argument of several v1 is out of range")
  end
  if room < at_least then
    if shadow == "0" then
      fits = false
    end
    delay_us = 0
  elseif at_least < cost and shadow == "0" and room < common then
    common = room
  end
  plan[planned + 1], plan[planned + 2], plan[planned + 3] = algorithm, index, field
  plan[planned + 4], plan[planned + 5], plan[planned + 6] = cost, at_least, heal
  planned = planned + {width}
  reply[said + 1], reply[said + 2], reply[said + 3], reply[said + 4], reply[said + 5] =
    0, room, retry_us, reset_us, delay_us
  said = said + 5
end

-- 4. Take from all of them, or from none; `writes` and `lives` gather what each key needs.
local writes, lives = {}, {}
if hit then
  said = 0
  for base = 0, planned - 1, {width} do
    local algorithm, index, field = plan[base + 1], plan[base + 2], plan[base + 3]
    local cost, at_least, heal = plan[base + 4], plan[base + 5], plan[base + 6]
    local key, room, reset_us, granted = KEYS[index], reply[said + 2], reply[said + 4], 0
    if fits and room >= at_least then
      granted = cost
      if at_least < cost and common < cost then
        granted = common
      end
      if room < granted then
        granted = room
      end
    end
    if granted > 0 or heal then
      local state
      {charge_branches}
      end
      if state then
        local write = writes[index]
        if not write then
          write = {}
          writes[index] = write
        end
        write[#write + 1] = field
        write[#write + 1] = state
      end
      reply[said + 1], reply[said + 2], reply[said + 4] = granted, room - granted, reset_us
    end
    if cost > 0 then
      local life_us = lives[index] or 0
      if granted > 0 and reset_us > life_us then
        life_us = reset_us
      end
      lives[index] = life_us
    end
    said = said + 5
  end
end

-- 5. Save what changed, and let it live for as long as it counts.
for index = 1, #KEYS do
  local key, life_us = KEYS[index], lives[index]
  if life_us then
    local ttl_ms = redis.call("PTTL", key)
    if writes[index] then
      redis.call("HSET", key, (unpack or table.unpack)(writes[index]))
    end
    if ttl_ms == -1 or (life_us > 0 and ttl_ms * 1000 <= life_us + slack_ms * 1000) then
      redis.call("PEXPIRE", key, math.ceil(life_us / 1000) + slack_ms + 1000)
    end
  elseif mode == "reset" then
    redis.call("DEL", key)
  end
end

-- 6. Answer.
reply[#reply + 1] = now_us
return reply

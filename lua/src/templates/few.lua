--[[
few v1: a hit of two or three policies of one subject whose states are fields of its hash, all or none

KEYS[1] key          the subject's hash

ARGV[1] numbers      little-endian doubles: now_us, cost, at_least, step, as the scripts of the single
                     policies take them; then for each policy its algorithm
                     ({{algorithms}}),
                     its limit, and the two numbers that its script takes after that
ARGV[2] field1       the first policy's field
ARGV[3] field2       the second one's
ARGV[4] field3       the third one's, if there is one

Returns a string of doubles: for each policy the first five numbers of its script's reply, and now_us once,
        at the end. Nothing is taken unless every policy has room. With at_least, all grant the
        same number: the most that fits into each.

Writes  As the scripts of the single policies do.
]]

local ARGV, key, call = ARGV, KEYS[1], redis.call
local numbers = ARGV[1]
local field1 = ARGV[2]
local field2 = ARGV[3]
local field3 = ARGV[4]
local three = #numbers == 128
local now_us, cost, at_least, step, algorithm1, limit1, first1, second1, algorithm2, limit2, first2, second2,
  algorithm3, limit3, first3, second3 = struct.unpack(three and "<dddddddddddddddd" or "<dddddddddddd", numbers)

-- 1. Check the arguments.
if not ((three or #numbers == 96) and now_us >= 0 and now_us < 2^53 and at_least >= 0 and at_least <= cost
  and step >= 1 and now_us % 1 + step % 1 + cost % step + at_least % step == 0) then
  return redis.error_reply("LIMITER an argument of few v1 is out of range")
end

{{clock}}

-- 3. Compute the state of each policy after the charge. Repeat if less than the cost fits into all, with
-- the number that does; and if the call is denied, but repairs a state, without a charge.
local mode, take, again, fits, states = "hit", cost, false
if three then
  states = call("HMGET", key, field1, field2, field3)
else
  states = call("HMGET", key, field1, field2)
end
local room1, retry1, before1, reset1, delay1, saved1, heal1, later1
local room2, retry2, before2, reset2, delay2, saved2, heal2, later2
local room3, retry3, before3, reset3, delay3, saved3, heal3, later3 = cost, 0, 0, 0, 0, nil, false, false
repeat
  fits = true
  {{policy1}}
  {{policy2}}
  if three then
    {{policy3}}
  end
  if again then
    again = false
  elseif not fits then
    take, again = 0, heal1 or heal2 or heal3
  elseif room1 < cost or room2 < cost or room3 < cost then
    take = math.min(room1, room2, room3)
    take, again = take - take % step, true
  end
until not again
local granted = take

-- 4. Save the changes. A call that moves the end of a state to later sets the key's expiry.
local in_use = before1 > 0 or before2 > 0 or before3 > 0
if granted > 0 then
  if three then
    call("HSET", key, field1, saved1, field2, saved2, field3, saved3)
  else
    call("HSET", key, field1, saved1, field2, saved2)
  end
  room1, room2, room3 = room1 - granted, room2 - granted, room3 - granted
else
  reset1, reset2, reset3, later1, later2, later3 = before1, before2, before3, false, false, false
  heal1, heal2, heal3 = heal1 and cost > 0, heal2 and cost > 0, heal3 and cost > 0
  if heal1 then
    call("HSET", key, field1, saved1)
  end
  if heal2 then
    call("HSET", key, field2, saved2)
  end
  if heal3 then
    call("HSET", key, field3, saved3)
  end
end
if later1 or later2 or later3 or heal1 or heal2 or heal3 then
  local reset_us = math.max(reset1, reset2, reset3)
  {{live}}
end

-- 5. Reply.
if three then
  return struct.pack("<dddddddddddddddd", granted, room1, retry1, reset1, delay1,
    granted, room2, retry2, reset2, delay2, granted, room3, retry3, reset3, delay3, now_us)
end
return struct.pack("<ddddddddddd", granted, room1, retry1, reset1, delay1,
  granted, room2, retry2, reset2, delay2, now_us)

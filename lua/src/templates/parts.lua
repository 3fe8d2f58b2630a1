--@ number
{{argument}} = ARGV[{{place}}] + 0
--@ number_in_several
local {{argument}} = ARGV[{{place}}] + 0
--@ checked
and {{check}}
--@ checked_in_list
if not ({{check}}) then
  return redis.error_reply("LIMITER an argument of {{list}} v1 is out of range")
end
--@ lowest
-limit
--@ clock
-- 2. Read the clock. (A key written at a given time must live longer by the real clock.)
local slack_ms = 0
if now_us == 0 then
  local time = call("TIME")
  now_us = time[1] * 1000000 + time[2]
else
  slack_ms = 3600000
end
--@ live
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
--@ refund_or_settle
if mode == "refund" then
  {{refund}}
  room = room + granted
else
  granted = math.max(0, math.min(cost, room + limit))
  if granted > 0 then
    {{charge}}
  end
  room = room - granted
end
--@ note
heals = heals or (heal and cost > 0)
-- The latest end of the key's states, negative unless one of them is new.
local life_us = lives[index] or 0
local moves = later or (heal and cost > 0) or life_us > 0
if life_us < 0 then
  life_us = -life_us
end
if reset_us > life_us then
  life_us = reset_us
end
lives[index] = moves and life_us or -life_us
reply[said + 1], reply[said + 2], reply[said + 3] = granted, room, retry_us
reply[said + 4], reply[said + 5] = reset_us, delay_us
--@ write_fields
if writes[index] then
  call("HSET", key, (unpack or table.unpack)(writes[index]))
end
--@ prolong
local reset_us, in_use = lives[index] or 0, true
if reset_us > 0 then
  {{live}}
end

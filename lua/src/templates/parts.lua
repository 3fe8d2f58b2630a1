--@ number
local {{argument}} = ARGV[{{place}}] + 0
--@ checked
and {{check}}
--@ checked_in_several
if not ({{check}}) then
  return redis.error_reply("LIMITER an argument of several v1 is out of range")
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

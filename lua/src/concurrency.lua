--@ summary
at most limit leases at any instant; a lease that is not renewed ends by itself
--@ key
zset of "id:unit" for each unit that a lease holds, by the time at which it ends, in
whole microseconds
--@ arguments
field text       the policy's name; not used, since the set's own key ends in it
limit            units that may be held at once; a call's own cost is at most 4000
lease_us         how long a lease lasts if nobody renews it
id text          the lease's name, drawn by its holder; not used to peek and reset
--@ check
limit >= 1 and limit < 2^53 and lease_us >= 1 and lease_us < 2^53 and cost <= 4000
and limit % 1 + lease_us % 1 == 0 and (id ~= "" or mode == "peek" or mode == "reset")
--@ carry
held, ends_us, far_us, id
--@ ask
-- No lease lasts for more than 366 days: what ends later cannot be true, and counts as ended.
local live, held, far_us, ends_us = 0, 0, now_us + 31622400000000, now_us + lease_us
if size > 0 then
  live = redis.call("ZCOUNT", key, now_us + 1, far_us)
  if live > 0 then
    local latest = redis.call("ZRANGE", key, far_us, now_us + 1, "BYSCORE", "REV",
      "LIMIT", 0, 1, "WITHSCORES")
    reset_us = math.floor(latest[2]) - now_us
    if mode ~= "peek" and mode ~= "reset" then
      for unit = 1, cost do
        local end_us = redis.call("ZSCORE", key, string.format("%s:%d", id, unit))
        if end_us and end_us + 0 >= now_us + 1 and end_us + 0 <= far_us then
          held = held + 1
        end
      end
    end
  end
end
room = limit - live
--@ retry
-- The lease whose end makes room, if all before it end as well.
local dead = redis.call("ZCOUNT", key, "-inf", now_us) + live + at_least - limit - 1
local freeing = redis.call("ZRANGE", key, dead, dead, "WITHSCORES")
retry_us = math.floor(freeing[2]) - now_us
--@ charge
if ends_us - now_us > reset_us then
  reset_us = ends_us - now_us
end
--@ renew
if held == cost then
  granted = cost
  if ends_us - now_us > reset_us then
    reset_us = ends_us - now_us
  end
end
--@ release
granted, room = held, room + held
if granted > 0 then
  for unit = 1, cost do
    redis.call("ZREM", key, string.format("%s:%d", id, unit))
  end
  reset_us = 0
  if live > held then
    local latest = redis.call("ZRANGE", key, far_us, now_us + 1, "BYSCORE", "REV",
      "LIMIT", 0, 1, "WITHSCORES")
    reset_us = math.floor(latest[2]) - now_us
  end
end
--@ save
if mode == "renew" or (mode == "acquire" and held == 0) then
  redis.call("ZREMRANGEBYSCORE", key, "-inf", now_us)
  redis.call("ZREMRANGEBYSCORE", key, far_us + 1, "+inf")
  for unit = 1, granted do
    redis.call("ZADD", key, "GT", ends_us, string.format("%s:%d", id, unit))
  end
end

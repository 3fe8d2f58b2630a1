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
limit >= 1 and limit < 2^53 and lease_us >= 1 and lease_us <= 31622400000000 and cost <= 4000
and limit % 1 + lease_us % 1 == 0 and (mode == "peek" or mode == "reset"
or (id ~= "" and not string.find(id, "\0", 1, true)))
--@ carry
cost, held, ends_us, far_us, id
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
if held > 0 and held == cost then
  granted = cost
  if ends_us - now_us > reset_us then
    reset_us = ends_us - now_us
  end
end
--@ release
granted, room = held, room + held
if held > 0 then
  -- Of as many as it had, and one more, the last to end that is not its own.
  local own, latest = {}, redis.call("ZRANGE", key, far_us, now_us + 1, "BYSCORE", "REV",
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
--@ save
if mode == "release" then
  for unit = 1, cost do
    redis.call("ZREM", key, string.format("%s:%d", id, unit))
  end
elseif mode == "renew" or held == 0 then
  -- The new ones first: removing all that there was would take the key's expiry along.
  for unit = 1, granted do
    local member = string.format("%s:%d", id, unit)
    if mode == "renew" then
      redis.call("ZADD", key, "GT", ends_us, member)
    else
      redis.call("ZADD", key, ends_us, member)
    end
  end
  redis.call("ZREMRANGEBYSCORE", key, "-inf", now_us)
  redis.call("ZREMRANGEBYSCORE", key, far_us + 1, "+inf")
end

--@ summary
at most limit in any window of one period, to the microsecond
--@ key
list of integer microseconds, one for each unit of cost, the oldest first,
never decreasing
--@ arguments
field            the policy's name; not used, since the list's own key ends in it
limit            units that any window admits; a call's own cost is at most 4000
period_us        length of the window
--@ check
limit >= 1 and limit < 2^53 and period_us >= 1 and period_us < 2^53
and limit % 1 + period_us % 1 == 0 and cost <= 4000
--@ carry
dead, last_us
--@ ask
-- The log holds `size` entries; the first `dead` of them have left the window.
local dead, last_us, oldest_us = 0, now_us, nil
if size > 0 then
  last_us = tonumber(redis.call("LINDEX", key, -1)) or 0
  if not (last_us - now_us <= period_us and last_us + period_us > now_us and last_us % 1 == 0) then
    heal = last_us > now_us
    dead, last_us = size, now_us
  else
    reset_us = last_us + period_us - now_us
    oldest_us = last_us
    if last_us < now_us then
      last_us = now_us
    end
    -- Few entries leave between two calls: search in growing steps from the oldest, then bisect.
    local live, probe = size - 1, 0
    while dead < live do
      local entry_us = tonumber(redis.call("LINDEX", key, probe)) or 0
      if entry_us + period_us > last_us and entry_us <= last_us then
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
--@ retry
-- The entry whose end makes room: most often the oldest in the window, which was just read.
local freeing = size - limit + at_least - 1
if freeing > dead then
  oldest_us = tonumber(redis.call("LINDEX", key, freeing)) or 0
  if not (oldest_us + period_us > last_us and oldest_us <= last_us) then
    oldest_us = last_us
  end
end
retry_us = oldest_us + period_us - now_us
--@ charge
reset_us = last_us + period_us - now_us
--@ refund
-- Remove the oldest entries: without the newest, a later window would admit too much.
granted = size - dead
if cost < granted then
  granted = cost
end
dead = dead + granted
if dead == size then
  reset_us = 0
end
--@ save
-- Append first: if all old entries have left, LTRIM would delete the key, and its expiry.
if mode == "refund" then
  redis.call("LTRIM", key, dead, -1)
elseif granted == 1 then
  redis.call("RPUSH", key, last_us)
else
  local entries = {}
  for entry = 1, granted do
    entries[entry] = last_us
  end
  redis.call("RPUSH", key, (unpack or table.unpack)(entries))
end
if dead > 0 and mode ~= "refund" then
  redis.call("LTRIM", key, dead, -1)
end

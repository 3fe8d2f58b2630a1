--@ summary
at most limit in any window of one period, to the microsecond
--@ key
list of integer microseconds, one for each unit of cost, the oldest first,
never decreasing
--@ arguments
field            the policy's name; not used, since the list's own key ends in it
limit            units that any window admits; a call's own cost is at most 4000
period_us        length of the window
hold_us          0, or the time within which a caller that takes units in advance uses them: the
                 entries have the time now_us + hold_us; less than period_us
--@ check
limit >= 1 and limit < 2^53 and period_us >= 1 and period_us < 2^53
and hold_us >= 0 and hold_us < period_us and limit % 1 + period_us % 1 + hold_us % 1 == 0 and cost <= 4000
--@ carry
dead, newest_us, heal
--@ ask
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
--@ retry
-- The entry whose end makes room: most often the oldest in the window, which was just read.
local freeing = size - limit + at_least - 1
if freeing > dead and not heal then
  oldest_us = tonumber(call("LINDEX", key, freeing)) or 0
  if not (oldest_us + period_us > now_us and oldest_us <= newest_us) then
    oldest_us = newest_us
  end
end
retry_us = oldest_us + period_us - now_us
--@ charge
local before_us = newest_us
if newest_us < now_us + hold_us then
  newest_us = now_us + hold_us
end
later = reset_us == 0 or before_us % 500000 + newest_us - before_us >= 500000
reset_us = newest_us + period_us - now_us
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

--@ summary
about limit in any window, estimated from two counters: the open window's, and a share of the
previous one's
--@ key
hash, shared with the subject's other policies; field -> (start_us, current, previous),
three doubles
--@ arguments
field            the policy's field in the hash
limit            units that one window admits
period_us        length of a window
unit_us          the unit in which time is read: ceil(limit * period_us / 2^52) keeps products exact
--@ check
limit >= 1 and limit < 2^53 and period_us >= 1 and period_us < 2^52
and unit_us >= 1 and unit_us < 2^53 and unit_us * 2^52 >= limit * period_us
and limit % 1 + period_us % 1 + unit_us % 1 == 0
--@ ask
-- The start and the count of the open window, and the count of the previous one.
local start_us, current, previous, given = now_us, 0, 0, 0
if state and #state == 24 then
  local stored_us, newer, older = struct.unpack("<ddd", state)
  if stored_us >= 0 and stored_us < 2^53 and newer >= 0 and newer < 2^53 and older >= 0 and older < 2^53
    and stored_us % 1 + newer % 1 + older % 1 == 0 then
    if stored_us - now_us > period_us then
      -- No clock steps back that far: keep the counts, in a window that begins now.
      stored_us, heal = now_us, true
    end
    if now_us - stored_us >= period_us then
      stored_us, newer, older = stored_us + period_us, 0, newer
    end
    if now_us - stored_us < period_us and newer + older > 0 then
      start_us, current, previous = stored_us, newer, older
    end
  end
end
if mode == "refund" then
  given = current + previous
  if cost < given then
    given = cost
  end
  current = current - given
  if current < 0 then
    current, previous = 0, previous + current
  end
end
-- The last period covers `covered` of the `width` time units of the previous window.
local unit = unit_us
if previous > limit then
  unit = unit_us * math.ceil(previous / limit)
end
local width = math.ceil(period_us / unit)
local elapsed_us = now_us - start_us
if elapsed_us < 0 then
  elapsed_us = 0
end
local covered = width - (elapsed_us - elapsed_us % unit) / unit
local weight = previous * covered + width - 1
room = limit - current - (weight - weight % width) / width
if current > 0 then
  reset_us = start_us + 2 * period_us - now_us
elseif previous > 0 then
  reset_us = start_us + period_us - now_us
end
--@ retry
-- In this window, when the previous count's share leaves room for this call;
local fitting, spare = 0, limit - current - at_least
if spare > 0 and previous > 0 then
  fitting = (spare * width - spare * width % previous) / previous
end
if fitting > 0 then
  retry_us = start_us + (width - fitting) * unit - now_us
else
  -- or in the next window, in which this count is the previous one; or after that window.
  retry_us = start_us + period_us - now_us
  if current > 0 then
    unit = unit_us
    if current > limit then
      unit = unit_us * math.ceil(current / limit)
    end
    width, spare = math.ceil(period_us / unit), limit - at_least
    fitting = (spare * width - spare * width % current) / current
    if fitting == 0 then
      retry_us = retry_us + period_us
    elseif fitting < width then
      retry_us = retry_us + (width - fitting) * unit
    end
  end
end
--@ charge
later = current == 0
current, reset_us = current + granted, start_us + 2 * period_us - now_us
--@ refund
granted, room = given, room - given
--@ save
struct.pack("<ddd", start_us, current, previous)

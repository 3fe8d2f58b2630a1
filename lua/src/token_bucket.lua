--@ summary
a unit is refilled every interval_us / parts microseconds; up to limit are saved
--@ key
hash, shared with the subject's other policies; field -> (full_us, reach_s), a double
and four bytes: the time at which the bucket is full if no call takes more, and the
seconds, rounded up, in which the largest bucket that may have this debt is refilled;
then (part, parts), two doubles, if a fraction is left: full at full_us + part / parts
--@ arguments
field            the policy's field in the hash
limit            units that the bucket holds (its burst)
interval_us      parts units are refilled in this many microseconds: period_us / gcd(n, period_us)
                 for n units in each period_us
parts            n / gcd(n, period_us)
--@ check
limit >= 1 and interval_us >= 1 and interval_us < 2^53 and parts >= 1 and (limit + 1) * parts < 2^53
and limit * interval_us / parts < 315360000000001
and limit % 1 + interval_us % 1 + parts % 1 == 0
--@ before
-- If the limit was lowered meanwhile, the debt and its refund may be larger; both must be counted exactly.
if mode == "refund" and cost > limit then
  cost = math.min(cost, math.floor(2^53 / parts) - 2)
  lowest = -math.max(limit, cost)
end
--@ ask
-- A unit takes t_us + t_part / parts. The debt is the time at which the bucket is full.
local full_us, part, t_part = now_us, 0, interval_us % parts
local t_us = (interval_us - t_part) / parts
local empty_us, empty_part = limit * t_us, limit * t_part
if t_part > 0 then
  empty_us, empty_part = empty_us + (empty_part - empty_part % parts) / parts, empty_part % parts
end
local own_s = empty_us + 999999
own_s = (own_s - own_s % 1000000) / 1000000
local reach_s = own_s
if state and (#state == 12 or #state == 28) then
  local stored_us, stored_s = struct.unpack("<dI4", state)
  local stored_part, stored_parts = 0, parts
  if #state == 28 then
    stored_part, stored_parts = struct.unpack("<dd", state, 13)
  end
  if stored_part ~= 0 and stored_parts ~= parts then
    stored_us, stored_part = stored_us + 1, 0
  end
  -- (No bucket takes more than 3,650 days to fill.)
  if stored_us >= now_us and stored_us < 2^53 and stored_us % 1 == 0 and stored_s <= 315360000
    and stored_part >= 0 and stored_part < parts and stored_part % 1 == 0 then
    -- A bucket of other numbers may have written a larger debt than this one could.
    if stored_s > reach_s then
      reach_s = stored_s
    end
    local most_us = 2 * (reach_s * 1000000 + 1000000)
    if stored_us - now_us > most_us then
      stored_us, stored_part, heal = now_us + most_us, 0, true
    end
    full_us, part = stored_us, stored_part
    reset_us = full_us - now_us
    if part > 0 then
      reset_us = reset_us + 1
    end
    delay_us = reset_us
  end
end
room = limit
if reset_us > 0 then
  -- A division in doubles may round up, so begin one unit higher and correct in integers.
  local gap_us, gap_part = now_us + empty_us - full_us, empty_part - part
  if t_part == 0 then
    if gap_part < 0 then
      gap_us = gap_us - 1
    end
    room = (gap_us - gap_us % t_us) / t_us
  else
    if gap_part < 0 then
      gap_us, gap_part = gap_us - 1, gap_part + parts
    end
    room = (gap_us * parts + gap_part) / (t_us * parts + t_part)
    room = room - room % 1 + 1
    while room > {{lowest}} do
      local rest = room * t_part
      local over_us = room * t_us + (rest - rest % parts) / parts - gap_us
      if over_us < 0 or (over_us == 0 and rest % parts <= gap_part) then
        break
      end
      room = room - 1
    end
  end
  -- Beyond a debt of one limit, no decision depends on how large the debt is.
  if room < {{lowest}} then
    room = {{lowest}}
  end
end
--@ retry
local rest = part + at_least * t_part
retry_us = full_us + at_least * t_us + (rest - rest % parts) / parts - now_us - empty_us
if rest % parts > empty_part then
  retry_us = retry_us + 1
end
--@ charge
local before_us = full_us
full_us, part = full_us + granted * t_us, part + granted * t_part
if part >= parts then
  full_us, part = full_us + (part - part % parts) / parts, part % parts
end
later = reset_us == 0 or before_us % 500000 + full_us - before_us >= 500000
reset_us = full_us - now_us
if part > 0 then
  reset_us = reset_us + 1
end
--@ refund
granted = limit - room
if cost < granted then
  granted = cost
  local rest = part - granted * t_part
  full_us, part = full_us - granted * t_us + (rest - rest % parts) / parts, rest % parts
else
  full_us, part = now_us, 0
end
reset_us = full_us - now_us
if part > 0 then
  reset_us = reset_us + 1
end
--@ save
struct.pack(part == 0 and "<dI4" or "<dI4dd", full_us,
  full_us - now_us > empty_us and reach_s or own_s, part, parts)

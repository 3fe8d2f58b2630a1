--@ summary
at most limit in each window; a window opens at the first admitted hit
--@ key
hash, shared with the subject's other policies; field -> (start_us, used),
two doubles
--@ arguments
field            the policy's field in the hash
limit            units that one window admits
period_us        length of a window
aligned          1: windows end at multiples of the period since 1970; 0: as above
--@ check
(aligned == 0 or aligned == 1) and limit >= 1 and limit < 2^53 and period_us >= 1 and period_us < 2^53
and limit % 1 + period_us % 1 == 0
--@ ask
local start_us, used = now_us, 0
if aligned == 1 then
  start_us = now_us - now_us % period_us
end
if state and #state == 16 then
  local stored_us, count = struct.unpack("<dd", state)
  if stored_us - now_us > period_us and stored_us < 2^53 then
    -- No clock steps back that far: keep the count, in a window that begins now.
    stored_us, heal = now_us, true
  end
  if stored_us + period_us > now_us and stored_us < 2^53 and stored_us % 1 == 0
    and count >= 0 and count % 1 == 0 then
    start_us, used, reset_us = stored_us, count, stored_us + period_us - now_us
  end
end
room = limit - used
--@ retry
retry_us = start_us + period_us - now_us
--@ charge
later = reset_us == 0
used, reset_us = used + granted, start_us + period_us - now_us
--@ refund
granted = used
if cost < granted then
  granted = cost
end
used = used - granted
--@ save
struct.pack("<dd", start_us, used)

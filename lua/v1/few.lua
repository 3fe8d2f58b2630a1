--[[
few v1: a hit of two or three policies of one subject whose states are fields of its hash, all or none

KEYS[1] key          the subject's hash

ARGV[1] numbers      little-endian doubles: now_us, cost, at_least, step, as the scripts of the single
                     policies take them; then for each policy its algorithm
                     (1 fixed_window, 2 sliding_window, 3 token_bucket),
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

-- 2. Read the clock. (A key written at a given time must live longer by the real clock.)
local slack_ms = 0
if now_us == 0 then
  local time = call("TIME")
  now_us = time[1] * 1000000 + time[2]
else
  slack_ms = 3600000
end

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
  do
    local granted, limit, state = take, limit1, states[1]
    local room, retry_us, reset_us, delay_us, saved, heal, later = 0, 0, 0, 0, nil, false, false
    if cost > limit then
      return redis.error_reply("LIMITER an argument of few v1 is out of range")
    elseif algorithm1 == 1 then -- fixed_window
      local period_us, aligned = first1, second1
      if not ((aligned == 0 or aligned == 1) and limit >= 1 and limit < 2^53 and period_us >= 1 and period_us < 2^53
    and limit % 1 + period_us % 1 == 0) then
        return redis.error_reply("LIMITER an argument of few v1 is out of range")
      end
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
      before1 = reset_us
      if room < 0 then
        room = 0
      end
      if room < at_least then
        delay_us, fits = 0, false
        retry_us = start_us + period_us - now_us
      elseif fits or again then
        later = reset_us == 0
        used, reset_us = used + granted, start_us + period_us - now_us
        saved = struct.pack("<dd", start_us, used)
      end
      if heal and not saved then
        saved = struct.pack("<dd", start_us, used)
      end
    elseif algorithm1 == 2 then -- sliding_window
      local period_us, unit_us = first1, second1
      if not (limit >= 1 and limit < 2^53 and period_us >= 1 and period_us < 2^52
    and unit_us >= 1 and unit_us < 2^53 and unit_us * 2^52 >= limit * period_us
    and limit % 1 + period_us % 1 + unit_us % 1 == 0) then
        return redis.error_reply("LIMITER an argument of few v1 is out of range")
      end
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
      before1 = reset_us
      if room < 0 then
        room = 0
      end
      if room < at_least then
        delay_us, fits = 0, false
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
      elseif fits or again then
        later = current == 0
        current, reset_us = current + granted, start_us + 2 * period_us - now_us
        saved = struct.pack("<ddd", start_us, current, previous)
      end
      if heal and not saved then
        saved = struct.pack("<ddd", start_us, current, previous)
      end
    elseif algorithm1 == 3 then -- token_bucket
      local interval_us, parts = first1, second1
      if not (limit >= 1 and interval_us >= 1 and interval_us < 2^53 and parts >= 1 and (limit + 1) * parts < 2^53
    and limit * interval_us / parts < 315360000000001
    and limit % 1 + interval_us % 1 + parts % 1 == 0) then
        return redis.error_reply("LIMITER an argument of few v1 is out of range")
      end
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
          while room > -limit do
            local rest = room * t_part
            local over_us = room * t_us + (rest - rest % parts) / parts - gap_us
            if over_us < 0 or (over_us == 0 and rest % parts <= gap_part) then
              break
            end
            room = room - 1
          end
        end
        -- Beyond a debt of one limit, no decision depends on how large the debt is.
        if room < -limit then
          room = -limit
        end
      end
      before1 = reset_us
      if room < 0 then
        room = 0
      end
      if room < at_least then
        delay_us, fits = 0, false
        local rest = part + at_least * t_part
        retry_us = full_us + at_least * t_us + (rest - rest % parts) / parts - now_us - empty_us
        if rest % parts > empty_part then
          retry_us = retry_us + 1
        end
      elseif fits or again then
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
        saved = struct.pack(part == 0 and "<dI4" or "<dI4dd", full_us,
      full_us - now_us > empty_us and reach_s or own_s, part, parts)
      end
      if heal and not saved then
        saved = struct.pack(part == 0 and "<dI4" or "<dI4dd", full_us,
      full_us - now_us > empty_us and reach_s or own_s, part, parts)
      end
    else
      return redis.error_reply("LIMITER an argument of few v1 is out of range")
    end
    room1, retry1, reset1, delay1 = room, retry_us, reset_us, delay_us
    saved1, heal1, later1 = saved, heal, later
  end
  do
    local granted, limit, state = take, limit2, states[2]
    local room, retry_us, reset_us, delay_us, saved, heal, later = 0, 0, 0, 0, nil, false, false
    if cost > limit then
      return redis.error_reply("LIMITER an argument of few v1 is out of range")
    elseif algorithm2 == 1 then -- fixed_window
      local period_us, aligned = first2, second2
      if not ((aligned == 0 or aligned == 1) and limit >= 1 and limit < 2^53 and period_us >= 1 and period_us < 2^53
    and limit % 1 + period_us % 1 == 0) then
        return redis.error_reply("LIMITER an argument of few v1 is out of range")
      end
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
      before2 = reset_us
      if room < 0 then
        room = 0
      end
      if room < at_least then
        delay_us, fits = 0, false
        retry_us = start_us + period_us - now_us
      elseif fits or again then
        later = reset_us == 0
        used, reset_us = used + granted, start_us + period_us - now_us
        saved = struct.pack("<dd", start_us, used)
      end
      if heal and not saved then
        saved = struct.pack("<dd", start_us, used)
      end
    elseif algorithm2 == 2 then -- sliding_window
      local period_us, unit_us = first2, second2
      if not (limit >= 1 and limit < 2^53 and period_us >= 1 and period_us < 2^52
    and unit_us >= 1 and unit_us < 2^53 and unit_us * 2^52 >= limit * period_us
    and limit % 1 + period_us % 1 + unit_us % 1 == 0) then
        return redis.error_reply("LIMITER an argument of few v1 is out of range")
      end
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
      before2 = reset_us
      if room < 0 then
        room = 0
      end
      if room < at_least then
        delay_us, fits = 0, false
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
      elseif fits or again then
        later = current == 0
        current, reset_us = current + granted, start_us + 2 * period_us - now_us
        saved = struct.pack("<ddd", start_us, current, previous)
      end
      if heal and not saved then
        saved = struct.pack("<ddd", start_us, current, previous)
      end
    elseif algorithm2 == 3 then -- token_bucket
      local interval_us, parts = first2, second2
      if not (limit >= 1 and interval_us >= 1 and interval_us < 2^53 and parts >= 1 and (limit + 1) * parts < 2^53
    and limit * interval_us / parts < 315360000000001
    and limit % 1 + interval_us % 1 + parts % 1 == 0) then
        return redis.error_reply("LIMITER an argument of few v1 is out of range")
      end
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
          while room > -limit do
            local rest = room * t_part
            local over_us = room * t_us + (rest - rest % parts) / parts - gap_us
            if over_us < 0 or (over_us == 0 and rest % parts <= gap_part) then
              break
            end
            room = room - 1
          end
        end
        -- Beyond a debt of one limit, no decision depends on how large the debt is.
        if room < -limit then
          room = -limit
        end
      end
      before2 = reset_us
      if room < 0 then
        room = 0
      end
      if room < at_least then
        delay_us, fits = 0, false
        local rest = part + at_least * t_part
        retry_us = full_us + at_least * t_us + (rest - rest % parts) / parts - now_us - empty_us
        if rest % parts > empty_part then
          retry_us = retry_us + 1
        end
      elseif fits or again then
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
        saved = struct.pack(part == 0 and "<dI4" or "<dI4dd", full_us,
      full_us - now_us > empty_us and reach_s or own_s, part, parts)
      end
      if heal and not saved then
        saved = struct.pack(part == 0 and "<dI4" or "<dI4dd", full_us,
      full_us - now_us > empty_us and reach_s or own_s, part, parts)
      end
    else
      return redis.error_reply("LIMITER an argument of few v1 is out of range")
    end
    room2, retry2, reset2, delay2 = room, retry_us, reset_us, delay_us
    saved2, heal2, later2 = saved, heal, later
  end
  if three then
    do
      local granted, limit, state = take, limit3, states[3]
      local room, retry_us, reset_us, delay_us, saved, heal, later = 0, 0, 0, 0, nil, false, false
      if cost > limit then
        return redis.error_reply("LIMITER an argument of few v1 is out of range")
      elseif algorithm3 == 1 then -- fixed_window
        local period_us, aligned = first3, second3
        if not ((aligned == 0 or aligned == 1) and limit >= 1 and limit < 2^53 and period_us >= 1 and period_us < 2^53
      and limit % 1 + period_us % 1 == 0) then
          return redis.error_reply("LIMITER an argument of few v1 is out of range")
        end
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
        before3 = reset_us
        if room < 0 then
          room = 0
        end
        if room < at_least then
          delay_us, fits = 0, false
          retry_us = start_us + period_us - now_us
        elseif fits or again then
          later = reset_us == 0
          used, reset_us = used + granted, start_us + period_us - now_us
          saved = struct.pack("<dd", start_us, used)
        end
        if heal and not saved then
          saved = struct.pack("<dd", start_us, used)
        end
      elseif algorithm3 == 2 then -- sliding_window
        local period_us, unit_us = first3, second3
        if not (limit >= 1 and limit < 2^53 and period_us >= 1 and period_us < 2^52
      and unit_us >= 1 and unit_us < 2^53 and unit_us * 2^52 >= limit * period_us
      and limit % 1 + period_us % 1 + unit_us % 1 == 0) then
          return redis.error_reply("LIMITER an argument of few v1 is out of range")
        end
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
        before3 = reset_us
        if room < 0 then
          room = 0
        end
        if room < at_least then
          delay_us, fits = 0, false
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
        elseif fits or again then
          later = current == 0
          current, reset_us = current + granted, start_us + 2 * period_us - now_us
          saved = struct.pack("<ddd", start_us, current, previous)
        end
        if heal and not saved then
          saved = struct.pack("<ddd", start_us, current, previous)
        end
      elseif algorithm3 == 3 then -- token_bucket
        local interval_us, parts = first3, second3
        if not (limit >= 1 and interval_us >= 1 and interval_us < 2^53 and parts >= 1 and (limit + 1) * parts < 2^53
      and limit * interval_us / parts < 315360000000001
      and limit % 1 + interval_us % 1 + parts % 1 == 0) then
          return redis.error_reply("LIMITER an argument of few v1 is out of range")
        end
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
            while room > -limit do
              local rest = room * t_part
              local over_us = room * t_us + (rest - rest % parts) / parts - gap_us
              if over_us < 0 or (over_us == 0 and rest % parts <= gap_part) then
                break
              end
              room = room - 1
            end
          end
          -- Beyond a debt of one limit, no decision depends on how large the debt is.
          if room < -limit then
            room = -limit
          end
        end
        before3 = reset_us
        if room < 0 then
          room = 0
        end
        if room < at_least then
          delay_us, fits = 0, false
          local rest = part + at_least * t_part
          retry_us = full_us + at_least * t_us + (rest - rest % parts) / parts - now_us - empty_us
          if rest % parts > empty_part then
            retry_us = retry_us + 1
          end
        elseif fits or again then
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
          saved = struct.pack(part == 0 and "<dI4" or "<dI4dd", full_us,
        full_us - now_us > empty_us and reach_s or own_s, part, parts)
        end
        if heal and not saved then
          saved = struct.pack(part == 0 and "<dI4" or "<dI4dd", full_us,
        full_us - now_us > empty_us and reach_s or own_s, part, parts)
        end
      else
        return redis.error_reply("LIMITER an argument of few v1 is out of range")
      end
      room3, retry3, reset3, delay3 = room, retry_us, reset_us, delay_us
      saved3, heal3, later3 = saved, heal, later
    end
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
end

-- 5. Reply.
if three then
  return struct.pack("<dddddddddddddddd", granted, room1, retry1, reset1, delay1,
    granted, room2, retry2, reset2, delay2, granted, room3, retry3, reset3, delay3, now_us)
end
return struct.pack("<ddddddddddd", granted, room1, retry1, reset1, delay1,
  granted, room2, retry2, reset2, delay2, now_us)

--[[
reservation v1: units that are reserved under an id, and settled once, however often a caller asks

KEYS[n]              each subject's hash, and the policies' own lists, in any order
KEYS[last]           the record, a string; its name has the id, and no other call has it

ARGV[1] now_us       the time to use; 0: the server's clock
ARGV[2] mode         reserve: charge every policy its cost, or none, as a hit of several does, and
                     write the record; settle: refund what was reserved beyond the true cost, or
                     charge what was not, up to a debt of limit, and mark the record as settled
ARGV[3] life_ms      how long the record is kept, or the mark; for settle also 0: delete the
                     record; if a later reserve has found it, change nothing
then for each policy, in the same order in both modes:
        algorithm    the name of its script in this folder; any but concurrency
        key          the index in KEYS of the key that the script takes as KEYS[1]
        shadow       1: shadow mode, the policy counts but never denies; 0: it decides
        cost, and the rest of what the script takes up to at_least: field, limit, period_us ...
                     The cost of settle is the true one, and may exceed the limit

Returns for each policy the first five integers of its script's reply, then state, and now_us at the end.
        A state is 0: nothing is recorded, since reserve was denied, or settle found no record, or
        one that it must not refund;
        1: this call has reserved, or settled; 2: it was reserved before, and reserve has charged
        nothing (granted is what the record says), or settle has moved 4,000 units of a log, and
        must be called again for the rest; 3: it was settled before, and nothing is changed.

Writes  As the scripts of the single policies do. The record has the units that each policy was granted,
        in decimal, with a blank between two; - is a policy in shadow mode that had no room, which
        settle does not change. The first reserve that finds the record adds a blank and +, and its
        expiry stays. -1 is the mark. settle writes it also where there was no record, so that a
        call to reserve which comes later charges nothing.
]]

local ARGV, KEYS, call = ARGV, KEYS, redis.call
local now_us = ARGV[1] + 0
local life_ms = ARGV[3] + 0
local last, record_at = #ARGV, #KEYS

-- 1. Check the arguments. (No record is kept longer than a lease, 366 days.)
local reserves = ARGV[2] == "reserve"
if not ((reserves or ARGV[2] == "settle") and now_us >= 0 and now_us < 2^53 and now_us % 1 == 0 and last > 3
  and life_ms >= (reserves and 1 or 0) and life_ms <= 31622400000 and life_ms % 1 == 0) then
  return redis.error_reply("LIMITER an argument of reservation v1 is out of range")
end

-- 2. Read the clock. (A key written at a given time must live longer by the real clock.)
local slack_ms = 0
if now_us == 0 then
  local time = call("TIME")
  now_us = time[1] * 1000000 + time[2]
else
  slack_ms = 3600000
end

-- 3. Read the record: what each policy was granted, false for a policy that had no room. A caller that found
-- the record may rely on it, so a life of 0 no longer refunds it.
local record
local status, recorded, found = 0, nil, false
do
  local key = KEYS[record_at]
  record = call("GET", key)
end
if record == "-1" then
  status = 3
elseif record then
  status, recorded, found = 2, {}, string.sub(record, -2) == " +"
  for word in string.gmatch(found and string.sub(record, 1, -3) or record, "[^ ]+") do
    local units = tonumber(word)
    if word == "-" then
      units = false
    elseif not (units and units >= 0 and units < 2^53 and units % 1 == 0) then
      recorded = {}
      break
    end
    recorded[#recorded + 1] = units
  end
end
if found and not reserves and life_ms == 0 then
  status, recorded = 0, nil
end

-- 4. Check every policy, and compute its state after the charge, or after the settlement. Repeat without a
-- charge if the call is denied, but repairs a state.
local reply, before, units = {}, {}, {}
local charges = reserves and status == 0
local writes, lives, tails, fits, said, kept, again, heals, remains
repeat
  local at, number = 3, 0
  writes, lives, tails, fits, said, kept, again, heals, remains = {}, {}, nil, true, 0, 0, false, false, false
  while at < last do
    local algorithm, index, shadow, cost = ARGV[at + 1], ARGV[at + 2] + 0, ARGV[at + 3], ARGV[at + 4] + 0
    local field, limit, key = ARGV[at + 5], ARGV[at + 6] + 0, KEYS[index]
    local granted, room, retry_us, reset_us, delay_us = 0, 0, 0, 0, 0
    local heal, later, short, partly = false, false, false, false
    if not (key ~= KEYS[record_at] and (shadow == "0" or shadow == "1")
      and cost >= 0 and cost < 2^53 and cost % 1 == 0 and (cost <= limit or not reserves)) then
      return redis.error_reply("LIMITER an argument of reservation v1 is out of range")
    end
    number = number + 1
    local mode, at_least, true_cost, had = "hit", cost, cost, recorded and recorded[number]
    local lowest = -limit
    if not reserves then
      -- A policy without recorded units gets and returns none.
      mode, cost = "settle", had and cost - had or 0
      if cost < 0 then
        mode, cost = "refund", -cost
      end
    end
    if algorithm == "fixed_window" then
      local period_us = ARGV[at + 7] + 0
      local aligned = ARGV[at + 8] + 0
      local state = call("HGET", key, field)
      if not ((aligned == 0 or aligned == 1) and limit >= 1 and limit < 2^53 and period_us >= 1 and period_us < 2^53
      and limit % 1 + period_us % 1 == 0) then
        return redis.error_reply("LIMITER an argument of reservation v1 is out of range")
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
      if reserves then
        if room < 0 then
          room = 0
        end
        before[kept + 1], before[kept + 2] = reset_us, room
        if room < at_least then
          delay_us, short = 0, true
          retry_us = start_us + period_us - now_us
        elseif charges and cost > 0 then
          granted = cost
          later = reset_us == 0
          used, reset_us = used + granted, start_us + period_us - now_us
          room = room - granted
        end
      else
        if mode == "refund" then
          granted = used
          if cost < granted then
            granted = cost
          end
          used = used - granted
          room = room + granted
        else
          granted = math.max(0, math.min(cost, room + limit))
          if granted > 0 then
            later = reset_us == 0
            used, reset_us = used + granted, start_us + period_us - now_us
          end
          room = room - granted
        end
        delay_us, room = 0, math.max(0, math.min(room, limit))
      end
      if granted > 0 or (heal and cost > 0) then
        local saved = struct.pack("<dd", start_us, used)
        local write = writes[index]
        if not write then
          writes[index] = {field, saved, nil, nil, nil, nil}
        else
          write[#write + 1], write[#write + 2] = field, saved
        end
      end
      at = at + 8
    elseif algorithm == "sliding_log" then
      local period_us = ARGV[at + 7] + 0
      local hold_us = ARGV[at + 8] + 0
      if cost > 4000 and not reserves then
        -- A settlement moves no more entries at once than a hit may take; the record keeps the rest.
        cost, partly = 4000, true
      end
      local size = call("LLEN", key)
      if not (limit >= 1 and limit < 2^53 and period_us >= 1 and period_us < 2^53
      and hold_us >= 0 and hold_us < period_us and limit % 1 + period_us % 1 + hold_us % 1 == 0 and cost <= 4000) then
        return redis.error_reply("LIMITER an argument of reservation v1 is out of range")
      end
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
      if reserves then
        if room < 0 then
          room = 0
        end
        before[kept + 1], before[kept + 2] = reset_us, room
        if room < at_least then
          delay_us, short = 0, true
          -- The entry whose end makes room: most often the oldest in the window, which was just read.
          local freeing = size - limit + at_least - 1
          if freeing > dead and not heal then
            oldest_us = tonumber(call("LINDEX", key, freeing)) or 0
            if not (oldest_us + period_us > now_us and oldest_us <= newest_us) then
              oldest_us = newest_us
            end
          end
          retry_us = oldest_us + period_us - now_us
        elseif charges and cost > 0 then
          granted = cost
          local before_us = newest_us
          if newest_us < now_us + hold_us then
            newest_us = now_us + hold_us
          end
          later = reset_us == 0 or before_us % 500000 + newest_us - before_us >= 500000
          reset_us = newest_us + period_us - now_us
          room = room - granted
        end
      else
        if mode == "refund" then
          -- Remove the oldest entries: without the newest, a later window would admit too much.
          granted = size - dead
          if cost < granted then
            granted = cost
          end
          dead = dead + granted
          if dead == size then
            reset_us = 0
          end
          room = room + granted
        else
          granted = math.max(0, math.min(cost, room + limit))
          if granted > 0 then
            local before_us = newest_us
            if newest_us < now_us + hold_us then
              newest_us = now_us + hold_us
            end
            later = reset_us == 0 or before_us % 500000 + newest_us - before_us >= 500000
            reset_us = newest_us + period_us - now_us
          end
          room = room - granted
        end
        delay_us, room = 0, math.max(0, math.min(room, limit))
      end
      if granted > 0 or (heal and cost > 0) then
        tails = tails or {}
        tails[index] = {"sliding_log", granted, size, dead, newest_us, heal, mode}
      end
      at = at + 8
    elseif algorithm == "sliding_window" then
      local period_us = ARGV[at + 7] + 0
      local unit_us = ARGV[at + 8] + 0
      local state = call("HGET", key, field)
      if not (limit >= 1 and limit < 2^53 and period_us >= 1 and period_us < 2^52
      and unit_us >= 1 and unit_us < 2^53 and unit_us * 2^52 >= limit * period_us
      and limit % 1 + period_us % 1 + unit_us % 1 == 0) then
        return redis.error_reply("LIMITER an argument of reservation v1 is out of range")
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
      if reserves then
        if room < 0 then
          room = 0
        end
        before[kept + 1], before[kept + 2] = reset_us, room
        if room < at_least then
          delay_us, short = 0, true
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
        elseif charges and cost > 0 then
          granted = cost
          later = current == 0
          current, reset_us = current + granted, start_us + 2 * period_us - now_us
          room = room - granted
        end
      else
        if mode == "refund" then
          granted, room = given, room - given
          room = room + granted
        else
          granted = math.max(0, math.min(cost, room + limit))
          if granted > 0 then
            later = current == 0
            current, reset_us = current + granted, start_us + 2 * period_us - now_us
          end
          room = room - granted
        end
        delay_us, room = 0, math.max(0, math.min(room, limit))
      end
      if granted > 0 or (heal and cost > 0) then
        local saved = struct.pack("<ddd", start_us, current, previous)
        local write = writes[index]
        if not write then
          writes[index] = {field, saved, nil, nil, nil, nil}
        else
          write[#write + 1], write[#write + 2] = field, saved
        end
      end
      at = at + 8
    elseif algorithm == "token_bucket" then
      local interval_us = ARGV[at + 7] + 0
      local parts = ARGV[at + 8] + 0
      -- If the limit was lowered meanwhile, the debt and its refund may be larger; both must be counted exactly.
      if mode == "refund" and cost > limit then
        cost = math.min(cost, math.floor(2^53 / parts) - 2)
        lowest = -math.max(limit, cost)
      end
      local state = call("HGET", key, field)
      if not (limit >= 1 and interval_us >= 1 and interval_us < 2^53 and parts >= 1 and (limit + 1) * parts < 2^53
      and limit * interval_us / parts < 315360000000001
      and limit % 1 + interval_us % 1 + parts % 1 == 0) then
        return redis.error_reply("LIMITER an argument of reservation v1 is out of range")
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
          while room > lowest do
            local rest = room * t_part
            local over_us = room * t_us + (rest - rest % parts) / parts - gap_us
            if over_us < 0 or (over_us == 0 and rest % parts <= gap_part) then
              break
            end
            room = room - 1
          end
        end
        -- Beyond a debt of one limit, no decision depends on how large the debt is.
        if room < lowest then
          room = lowest
        end
      end
      if reserves then
        if room < 0 then
          room = 0
        end
        before[kept + 1], before[kept + 2] = reset_us, room
        if room < at_least then
          delay_us, short = 0, true
          local rest = part + at_least * t_part
          retry_us = full_us + at_least * t_us + (rest - rest % parts) / parts - now_us - empty_us
          if rest % parts > empty_part then
            retry_us = retry_us + 1
          end
        elseif charges and cost > 0 then
          granted = cost
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
          room = room - granted
        end
      else
        if mode == "refund" then
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
          room = room + granted
        else
          granted = math.max(0, math.min(cost, room + limit))
          if granted > 0 then
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
          end
          room = room - granted
        end
        delay_us, room = 0, math.max(0, math.min(room, limit))
      end
      if granted > 0 or (heal and cost > 0) then
        local saved = struct.pack(part == 0 and "<dI4" or "<dI4dd", full_us,
        full_us - now_us > empty_us and reach_s or own_s, part, parts)
        local write = writes[index]
        if not write then
          writes[index] = {field, saved, nil, nil, nil, nil}
        else
          write[#write + 1], write[#write + 2] = field, saved
        end
      end
      at = at + 8
    else
      return redis.error_reply("LIMITER reservation v1 knows no such algorithm")
    end
    if reserves then
      units[number] = short and "-" or string.format("%.0f", granted)
      if had then
        granted, retry_us, delay_us = had, 0, 0
      end
    elseif not had then
      units[number] = "-"
    else
      -- Fewer than 4,000 were moved if the debt is full, or nothing is left to refund.
      partly = partly and granted == 4000
      remains = remains or partly
      if partly then
        true_cost = mode == "refund" and had - granted or had + granted
      end
      units[number] = string.format("%.0f", true_cost)
    end
    fits = fits and not (short and shadow == "0")
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
    said, kept = said + 5, kept + 2
  end
  if recorded and #recorded ~= number then
    return redis.error_reply("LIMITER reservation v1 has a record of other policies")
  end
  if charges and heals and not fits then
    charges, again = false, true
  end
until not again

-- 5. If a policy has no room, take nothing.
local saves = status == 0 or not reserves
if reserves and status == 0 and not fits then
  for first = 0, said - 1, 5 do
    local place = first / 5 * 2
    reply[first + 4], reply[first + 2], reply[first + 1] = before[place + 1], before[place + 2], 0
  end
  saves = not charges
end

-- 6. Save the changes. The record comes first, so that a user without the right to write it charges nothing. A call
-- that moves the end of a state to later sets the key's expiry.
do
  local key = KEYS[record_at]
  if reserves then
    if charges and fits then
      status = 1
      call("SET", key, table.concat(units, " "), "PX", life_ms + slack_ms)
    elseif status == 2 and not found then
      units = {record, "+"}
      call("SET", key, table.concat(units, " "), "KEEPTTL")
    end
  elseif remains then
    if found then
      units[#units + 1] = "+"
    end
    call("SET", key, table.concat(units, " "), "KEEPTTL")
  elseif status ~= 3 then
    if life_ms > 0 then
      call("SET", key, "-1", "PX", life_ms + slack_ms)
    elseif status == 2 then
      call("DEL", key)
    end
    if status == 2 then
      status = 1
    end
  end
end
for index = 1, record_at - 1 do
  local key = KEYS[index]
  if saves then
    if writes[index] then
      call("HSET", key, (unpack or table.unpack)(writes[index]))
    end
    local tail = tails and tails[index]
    if tail then
      if tail[1] == "sliding_log" then
        local _, granted, size, dead, newest_us, heal, mode = (unpack or table.unpack)(tail)
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
      end
    end
    local reset_us, in_use = lives[index] or 0, true
    if reset_us > 0 then
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
  end
end

-- 7. Reply.
reply[said + 1], reply[said + 2] = status, now_us
return reply

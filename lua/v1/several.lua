--[[
several v1: any list of policies, for one subject or several in one slot, all or none

KEYS[n]              each subject's hash, and the policies' own lists and sets, in any order

ARGV[1] now_us       the time to use; 0: the server's clock
ARGV[2] mode         hit: charge; peek: report what hit would; reset: report it, then delete the keys;
                     refund: return units; settle: charge without a check; for leases also
                     acquire: as hit, and take the leases; renew, release: for leases only
ARGV[3] at_least     0, or the fewest units to take, if less than a policy's cost is free
ARGV[4] step         1, or a divisor of costs and at_least: each policy takes a multiple of it
then for each policy:
        algorithm    the name of its script in this folder
        key          the index in KEYS of the key that the script takes as KEYS[1]
        shadow       1: shadow mode, the policy counts but never denies; 0: it decides
        cost, and the rest of what the script takes up to at_least: field, limit, period_us ...

Returns for each policy the first five integers of its script's reply, and now_us once, at the end.
        Nothing is taken unless every policy that decides has room. With at_least, all policies
        grant the same number: the most that fits into each. If every lease is held already,
        acquire reports that, and charges no rate again.

Writes  As the scripts of the single policies do.
]]

local ARGV, KEYS, call = ARGV, KEYS, redis.call
local now_us = ARGV[1] + 0
local mode = ARGV[2]
local enough = ARGV[3] + 0
local step = ARGV[4] + 0

-- 1. Check the arguments.
local takes = mode == "hit" or mode == "acquire"
local asks = takes or mode == "peek" or mode == "reset"
local changes = mode ~= "peek" and mode ~= "reset"
local only_rates, only_leases = mode == "hit", false
if not asks then
  only_rates = mode == "refund" or mode == "settle"
  only_leases = mode == "renew" or mode == "release"
end
if not (asks or only_rates or only_leases)
  or not (now_us >= 0 and now_us < 2^53 and enough >= 0 and step >= 1
  and now_us % 1 + step % 1 + enough % step == 0) then
  return redis.error_reply("LIMITER an argument of several v1 is out of range")
end

-- 2. Read the clock. (A key written at a given time must live longer by the real clock.)
local slack_ms = 0
if now_us == 0 then
  local time = call("TIME")
  now_us = time[1] * 1000000 + time[2]
else
  slack_ms = 3600000
end

-- 3. Check every policy, and compute its state after the charge. Repeat if less than the cost fits
-- into all, with the number that does; and if the call is denied, but repairs a state, without a charge.
-- (Both tables begin with places for three policies, since growing a table takes longer than filling it.)
local reply = {nil, nil, nil, nil, nil, nil, nil, nil, nil, nil, nil, nil, nil, nil, nil, nil}
local before = {nil, nil, nil, nil, nil, nil, nil, nil, nil}
local last, take, charges = #ARGV, 2^53, takes
local writes, lives, tails, fits, said, again, heals, same
repeat
  local at, common, kept, leases, holding = 4, 2^53, 0, 0, 0
  writes, lives, tails, fits, said, again, heals = {nil}, {nil}, nil, true, 0, false, false
  while at < last do
    local algorithm, index, shadow, cost = ARGV[at + 1], ARGV[at + 2] + 0, ARGV[at + 3], ARGV[at + 4] + 0
    local field, limit, key = ARGV[at + 5], ARGV[at + 6] + 0, KEYS[index]
    local granted, room, retry_us, reset_us, delay_us = 0, 0, 0, 0, 0
    local heal, later, short, mine = false, false, false, false
    local at_least, wanted = cost, cost
    if enough > 0 and enough < cost then
      at_least = enough
      if take < cost then
        wanted = take
      end
    end
    if not (cost >= 0 and cost <= limit and cost % step == 0 and (shadow == "0" or shadow == "1")) then
      return redis.error_reply("LIMITER an argument of several v1 is out of range")
    end
    if algorithm == "concurrency" then
      local lease_us = ARGV[at + 7] + 0
      local id = ARGV[at + 8]
      if only_rates then
        return redis.error_reply("LIMITER several v1 knows no such mode here")
      end
      if not (limit >= 1 and limit < 2^53 and lease_us >= 1 and lease_us <= 31622400000000 and cost <= 4000
and limit % 1 + lease_us % 1 == 0 and (mode == "peek" or mode == "reset"
or (id ~= "" and not string.find(id, "\0", 1, true)))) then
        return redis.error_reply("LIMITER an argument of several v1 is out of range")
      end
      local size = 0
      if mode ~= "reset" or call("TYPE", key).ok == "zset" then
        size = call("ZCARD", key)
      end
      -- No lease lasts longer than 366 days: a later end cannot be true, and counts as expired.
      local live, held, far_us, ends_us = 0, 0, now_us + 31622400000000, now_us + lease_us
      if size > 0 then
        live = call("ZCOUNT", key, now_us + 1, far_us)
        if live > 0 then
          local latest = call("ZRANGE", key, far_us, now_us + 1, "BYSCORE", "REV",
            "LIMIT", 0, 1, "WITHSCORES")
          reset_us = math.floor(latest[2]) - now_us
          if mode ~= "peek" and mode ~= "reset" then
            for unit = 1, cost do
              local end_us = call("ZSCORE", key, string.format("%s:%d", id, unit))
              if end_us and end_us + 0 >= now_us + 1 and end_us + 0 <= far_us then
                held = held + 1
              end
            end
          end
        end
      end
      room = limit - live
      if asks then
        if room < 0 then
          room = 0
        end
        before[kept + 1], before[kept + 2], before[kept + 3] = reset_us, room, held
        if takes then
          leases = leases + 1
        end
        if room < at_least and held == 0 then
          delay_us, short = 0, true
          -- The unit whose expiry makes room, if all units before it expire too.
          local dead = call("ZCOUNT", key, "-inf", now_us) + live + at_least - limit - 1
          local freeing = call("ZRANGE", key, dead, dead, "WITHSCORES")
          retry_us = math.floor(freeing[2]) - now_us
        elseif takes and held > 0 then
          granted, holding, mine = held, holding + 1, true
        elseif charges and cost > 0 then
          granted = wanted
          if room < granted then
            granted = room - room % step
          end
          later = true
          if ends_us - now_us > reset_us then
            reset_us = ends_us - now_us
          end
          room = room - granted
        end
      else
        if mode == "renew" then
          if held > 0 and held == cost then
            granted, later = cost, true
            if ends_us - now_us > reset_us then
              reset_us = ends_us - now_us
            end
          end
        else
          granted, room = held, room + held
          if held > 0 then
            -- If other leases remain, the latest end of one is among the last `held` + 1 members.
            local own, latest = {}, call("ZRANGE", key, far_us, now_us + 1, "BYSCORE", "REV",
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
        end
        delay_us, room = 0, math.max(0, math.min(room, limit))
      end
      if granted > 0 then
        tails = tails or {}
        tails[index] = {"concurrency", granted, cost, held, ends_us, far_us, id}
      end
      at = at + 8
    elseif algorithm == "fixed_window" then
      local period_us = ARGV[at + 7] + 0
      local aligned = ARGV[at + 8] + 0
      if only_leases then
        return redis.error_reply("LIMITER several v1 knows no such mode here")
      end
      if not ((aligned == 0 or aligned == 1) and limit >= 1 and limit < 2^53 and period_us >= 1 and period_us < 2^53
      and limit % 1 + period_us % 1 == 0) then
        return redis.error_reply("LIMITER an argument of several v1 is out of range")
      end
      local state = nil
      if mode ~= "reset" or call("TYPE", key).ok == "hash" then
        state = call("HGET", key, field)
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
      if asks then
        if room < 0 then
          room = 0
        end
        before[kept + 1], before[kept + 2], before[kept + 3] = reset_us, room, cost
        if room < at_least then
          delay_us, short = 0, true
          retry_us = start_us + period_us - now_us
        elseif charges and cost > 0 then
          granted = wanted
          if room < granted then
            granted = room - room % step
          end
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
      if granted > 0 or (heal and changes and cost > 0) then
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
      if only_leases then
        return redis.error_reply("LIMITER several v1 knows no such mode here")
      end
      if not (limit >= 1 and limit < 2^53 and period_us >= 1 and period_us < 2^53
      and hold_us >= 0 and hold_us < period_us and limit % 1 + period_us % 1 + hold_us % 1 == 0 and cost <= 4000) then
        return redis.error_reply("LIMITER an argument of several v1 is out of range")
      end
      local size = 0
      if mode ~= "reset" or call("TYPE", key).ok == "list" then
        size = call("LLEN", key)
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
      if asks then
        if room < 0 then
          room = 0
        end
        before[kept + 1], before[kept + 2], before[kept + 3] = reset_us, room, cost
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
          granted = wanted
          if room < granted then
            granted = room - room % step
          end
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
      if granted > 0 or (heal and changes and cost > 0) then
        tails = tails or {}
        tails[index] = {"sliding_log", granted, size, dead, newest_us, heal}
      end
      at = at + 8
    elseif algorithm == "sliding_window" then
      local period_us = ARGV[at + 7] + 0
      local unit_us = ARGV[at + 8] + 0
      if only_leases then
        return redis.error_reply("LIMITER several v1 knows no such mode here")
      end
      if not (limit >= 1 and limit < 2^53 and period_us >= 1 and period_us < 2^52
      and unit_us >= 1 and unit_us < 2^53 and unit_us * 2^52 >= limit * period_us
      and limit % 1 + period_us % 1 + unit_us % 1 == 0) then
        return redis.error_reply("LIMITER an argument of several v1 is out of range")
      end
      local state = nil
      if mode ~= "reset" or call("TYPE", key).ok == "hash" then
        state = call("HGET", key, field)
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
      if asks then
        if room < 0 then
          room = 0
        end
        before[kept + 1], before[kept + 2], before[kept + 3] = reset_us, room, cost
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
          granted = wanted
          if room < granted then
            granted = room - room % step
          end
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
      if granted > 0 or (heal and changes and cost > 0) then
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
      if only_leases then
        return redis.error_reply("LIMITER several v1 knows no such mode here")
      end
      if not (limit >= 1 and interval_us >= 1 and interval_us < 2^53 and parts >= 1 and (limit + 1) * parts < 2^53
      and limit * interval_us / parts < 315360000000001
      and limit % 1 + interval_us % 1 + parts % 1 == 0) then
        return redis.error_reply("LIMITER an argument of several v1 is out of range")
      end
      local state = nil
      if mode ~= "reset" or call("TYPE", key).ok == "hash" then
        state = call("HGET", key, field)
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
      if asks then
        if room < 0 then
          room = 0
        end
        before[kept + 1], before[kept + 2], before[kept + 3] = reset_us, room, cost
        if room < at_least then
          delay_us, short = 0, true
          local rest = part + at_least * t_part
          retry_us = full_us + at_least * t_us + (rest - rest % parts) / parts - now_us - empty_us
          if rest % parts > empty_part then
            retry_us = retry_us + 1
          end
        elseif charges and cost > 0 then
          granted = wanted
          if room < granted then
            granted = room - room % step
          end
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
      if granted > 0 or (heal and changes and cost > 0) then
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
      return redis.error_reply("LIMITER several v1 knows no such algorithm")
    end
    if short then
      fits = fits and shadow == "1"
    elseif asks and shadow == "0" and not mine and before[kept + 2] < wanted and before[kept + 2] < common then
      common, again = before[kept + 2], enough > 0
    end
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
    said, kept = said + 5, kept + 3
  end
  same = holding > 0 and holding == leases
  take, again = common - common % step, again and fits
  if charges and heals and (same or not fits) then
    charges, again = false, true
  end
until not again

-- 4. If a policy has no room, or every lease is held already, take nothing.
local saves = changes
if same or not fits then
  for first = 0, said - 1, 5 do
    local kept = first / 5 * 3
    reply[first + 4], reply[first + 2], reply[first + 1] = before[kept + 1], before[kept + 2], 0
    if same then
      reply[first + 1], reply[first + 3], reply[first + 5] = before[kept + 3], 0, 0
    end
  end
  saves = takes and not charges
end

-- 5. Save the changes. A call that moves the end of a state to later sets the key's expiry.
for index = 1, #KEYS do
  local key = KEYS[index]
  if mode == "reset" then
    call("DEL", key)
  elseif saves then
    if writes[index] then
      call("HSET", key, (unpack or table.unpack)(writes[index]))
    end
    local tail = tails and tails[index]
    if tail then
      if tail[1] == "concurrency" then
        local _, granted, cost, held, ends_us, far_us, id = (unpack or table.unpack)(tail)
        if mode == "release" then
          for unit = 1, cost do
            call("ZREM", key, string.format("%s:%d", id, unit))
          end
        elseif mode == "renew" or held == 0 then
          -- Add first: if all old members have expired, removing them would delete the key, and its expiry.
          for unit = 1, granted do
            local member = string.format("%s:%d", id, unit)
            if mode == "renew" then
              call("ZADD", key, "GT", ends_us, member)
            else
              call("ZADD", key, ends_us, member)
            end
          end
          call("ZREMRANGEBYSCORE", key, "-inf", now_us)
          call("ZREMRANGEBYSCORE", key, far_us + 1, "+inf")
        end
      elseif tail[1] == "sliding_log" then
        local _, granted, size, dead, newest_us, heal = (unpack or table.unpack)(tail)
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

-- 6. Reply.
reply[said + 1] = now_us
return reply

elseif algorithm == "{{name}}" then
  {{numbers_in_several}}
  if only_leases then
    return redis.error_reply("LIMITER several v1 knows no such mode here")
  end
  {{checked_in_list}}
  {{load}}
  {{ask}}
  if asks then
    if room < 0 then
      room = 0
    end
    before[kept + 1], before[kept + 2], before[kept + 3] = reset_us, room, cost
    if room < at_least then
      delay_us, short = 0, true
      {{retry}}
    elseif charges and cost > 0 then
      granted = wanted
      if room < granted then
        granted = room - room % step
      end
      {{charge}}
      room = room - granted
    end
  else
    {{refund_or_settle}}
    delay_us, room = 0, math.max(0, math.min(room, limit))
  end
  if granted > 0 or (heal and changes and cost > 0) then
    {{keep}}
  end
  at = at + {{words_in_several}}

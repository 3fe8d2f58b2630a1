elseif algorithm == "{{name}}" then
  {{numbers_in_several}}
  {{read}}
  {{checked_in_list}}
  {{ask}}
  if reserves then
    if room < 0 then
      room = 0
    end
    before[kept + 1], before[kept + 2] = reset_us, room
    if room < at_least then
      delay_us, short = 0, true
      {{retry}}
    elseif charges and cost > 0 then
      granted = cost
      {{charge}}
      room = room - granted
    end
  else
    {{refund_or_settle}}
    delay_us, room = 0, math.max(0, math.min(room, limit))
  end
  if granted > 0 or (heal and cost > 0) then
    {{keep}}
  end
  at = at + {{words_in_several}}

elseif algorithm{{n}} == {{number}} then -- {{name}}
  local {{names}} = first{{n}}, second{{n}}
  if not ({{check}}) then
    return redis.error_reply("LIMITER an argument of few v1 is out of range")
  end
  {{ask}}
  before{{n}} = reset_us
  if room < 0 then
    room = 0
  end
  if room < at_least then
    delay_us, fits = 0, false
    {{retry}}
  elseif fits or again then
    {{charge}}
    saved = {{save}}
  end
  if heal and not saved then
    saved = {{save}}
  end

do
  local granted, limit, state = take, limit{{n}}, states[{{n}}]
  local room, retry_us, reset_us, delay_us, saved, heal, later = 0, 0, 0, 0, nil, false, false
  if cost > limit then
    return redis.error_reply("LIMITER an argument of few v1 is out of range")
  {{branches}}
  else
    return redis.error_reply("LIMITER an argument of few v1 is out of range")
  end
  room{{n}}, retry{{n}}, reset{{n}}, delay{{n}} = room, retry_us, reset_us, delay_us
  saved{{n}}, heal{{n}}, later{{n}} = saved, heal, later
end

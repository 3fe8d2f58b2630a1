--@ load
local state = nil
if mode ~= "reset" or redis.call("TYPE", key).ok == "hash" then
  state = redis.call("HGET", key, field)
end
--@ write
local saved = {{save}}
redis.call("HSET", key, field, saved)
--@ repair
if heal and takes and cost > 0 then
  heals = heals or {}
  local saved = {{flat_save}}
  heals[#heals + 1] = {"HSET", key, field, saved}
end
--@ keep
local saved = {{flat_save}}
local write = writes[index]
if not write then
  writes[index] = {field, saved, nil, nil, nil, nil}
else
  write[#write + 1], write[#write + 2] = field, saved
end

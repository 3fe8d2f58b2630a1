--@ load
local size = 0
if mode ~= "reset" or redis.call("TYPE", key).ok == "list" then
  size = redis.call("LLEN", key)
end
--@ write
{{save}}
--@ repair
if heal and takes and cost > 0 then
  heals = heals or {}
  heals[#heals + 1] = {"DEL", key}
end
--@ keep
tails = tails or {}
tails[index] = {"{{name}}", granted, {{carry}}}
--@ tail
elseif tail[1] == "{{name}}" then
  local _, granted, {{carry}} = (unpack or table.unpack)(tail)
  {{save}}

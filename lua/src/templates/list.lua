--@ load
local size = 0
if mode ~= "reset" or call("TYPE", key).ok == "list" then
  size = call("LLEN", key)
end
--@ write
{{save}}
--@ keep
tails = tails or {}
tails[index] = {"{{name}}", granted, size, {{carry}}}
--@ tail
elseif tail[1] == "{{name}}" then
  local _, granted, size, {{carry}} = (unpack or table.unpack)(tail)
  {{save}}

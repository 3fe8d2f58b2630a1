--@ load
local size = 0
if mode ~= "reset" or call("TYPE", key).ok == "list" then
  size = call("LLEN", key)
end
--@ read
if cost > 4000 and not reserves then
  -- A settlement moves no more entries at once than a hit may take; the record keeps the rest.
  cost, partly = 4000, true
end
local size = call("LLEN", key)
--@ write
{{save}}
--@ keep
tails = tails or {}
tails[index] = {"{{name}}", granted, size, {{carry}}{{and_mode}}}
--@ tail
elseif tail[1] == "{{name}}" then
  local _, granted, size, {{carry}}{{and_mode}} = (unpack or table.unpack)(tail)
  {{save}}

--@ load
local state = nil
if mode ~= "reset" or call("TYPE", key).ok == "hash" then
  state = call("HGET", key, field)
end
--@ read
local state = call("HGET", key, field)
--@ write
call("HSET", key, field, {{save}})
--@ keep
local saved = {{flat_save}}
local write = writes[index]
if not write then
  writes[index] = {field, saved, nil, nil, nil, nil}
else
  write[#write + 1], write[#write + 2] = field, saved
end

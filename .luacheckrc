-- The scripts run inside Redis: Lua 5.1, and what Redis adds. Fragments are checked as joined.
std = "lua51"
read_globals = {"redis", "struct", "KEYS", "ARGV"}
max_line_length = 120
ignore = {
  "143/table",  -- table.unpack: for engines with a later Lua
  "211/field", "231/field",  -- a list is named by its key alone; the argument keeps its place all the same
  "211/heal", "231/heal",  -- the frame offers it to every algorithm; not all need it
  "311/given",  -- only a refund uses it, which `few` does not know
  "311/room",   -- the frame's zero, before the algorithm says
}

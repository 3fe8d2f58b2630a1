-- A script of wrk: sends the requests of a file in turn, and prints a run's counts as JSON.
-- The file, which bench/wrk.py writes, has the length of each request, a line feed, and the request.

local requests, sent = {}, 0

-- Tests need no high rate: for them, each connection waits before each request.
local pause = tonumber(os.getenv("WRK_PAUSE_MS"))
if pause then
  function delay()
    return pause
  end
end

function init(args)
  local file = assert(io.open(args[1], "rb"))
  local length = file:read("*n")
  while length do
    file:read(1)
    requests[#requests + 1] = file:read(length)
    length = file:read("*n")
  end
  file:close()
end

function request()
  sent = sent % #requests + 1
  return requests[sent]
end

function done(summary, latency, _)
  local errors = summary.errors
  io.write(string.format(
    '{"requests": %d, "seconds": %.6f, "refused": %d, "failed": %d, "p50": %.1f, "p99": %.1f}\n',
    summary.requests,
    summary.duration / 1e6,
    errors.status,
    errors.connect + errors.read + errors.write + errors.timeout,
    latency:percentile(50),
    latency:percentile(99)
  ))
end

-- What wrk runs: `wrk … -s load.lua URL -- [post BODY_BYTES | vary]`.
-- Without a `request` function wrk sends the same bytes again and again; "vary" gives it one that
-- goes round requests made beforehand, each with a session cookie of its own.
-- The result is printed on one line, as numbers, for load.py to read.

local VARIETY = 4096

function init(args)
  if args[1] == "post" then
    wrk.method = "POST"
    wrk.body = string.rep("x", tonumber(args[2]))
  elseif args[1] == "vary" then
    local requests, at = {}, 0
    for number = 1, VARIETY do
      wrk.headers["Cookie"] = string.format("session=6f2c1b9e8d7a4053b1c2d3e4%08x", number)
      requests[number] = wrk.format()
    end
    request = function()
      at = at % VARIETY + 1
      return requests[at]
    end
  end
end

function done(summary, latency)
  local e = summary.errors
  io.write(string.format("RESULT %d %d %d %d %d %d %d %d\n",
    summary.requests, summary.duration, latency:percentile(50), latency:percentile(99),
    e.connect, e.read + e.write, e.status, e.timeout))
end

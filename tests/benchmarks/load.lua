-- What wrk runs: `wrk … -s load.lua URL -- [METHOD BODY_BYTES]`.
-- The request is made once (wrk caches it as long as no `request` function is defined);
-- the result is printed on one line, as numbers, for cases.py to read.

function init(args)
  if args[1] then
    wrk.method = args[1]
    wrk.body = string.rep("x", tonumber(args[2]))
  end
  -- Normally wrk's own init does this, before it calls ours.
end

function done(summary, latency)
  local e = summary.errors
  io.write(string.format("RESULT %d %d %d %d %d %d %d %d\n",
    summary.requests, summary.duration, latency:percentile(50), latency:percentile(99),
    e.connect, e.read + e.write, e.status, e.timeout))
end

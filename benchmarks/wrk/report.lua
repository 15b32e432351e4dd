-- report.lua: one line of figures at the end of a run, for the harness to read.
-- Its law: it adds nothing to the path of a request. wrk's own printed report
-- has no 99.9th percentile and rounds what it shows. Times are microseconds.

function done(summary, latency, requests)
   local errors = summary.errors
   io.write(string.format(
      'figures {"duration_us": %d, "requests": %d, "received_bytes": %d,'
         .. ' "p50_us": %d, "p99_us": %d, "p999_us": %d,'
         .. ' "connect_errors": %d, "read_errors": %d, "write_errors": %d,'
         .. ' "status_errors": %d, "timeout_errors": %d}\n',
      summary.duration, summary.requests, summary.bytes,
      latency:percentile(50), latency:percentile(99), latency:percentile(99.9),
      errors.connect, errors.read, errors.write, errors.status, errors.timeout))
end

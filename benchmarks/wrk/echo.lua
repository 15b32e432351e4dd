-- echo.lua: a POST of as many bytes as the workload says (the first argument
-- after "--").

require "report"

function init(arguments)
   wrk.method = "POST"
   wrk.headers["Content-Type"] = "application/octet-stream"
   wrk.body = string.rep("x", tonumber(arguments[1]))
end

-- pipeline.lua: sixteen GETs in one write, the next sixteen when all are
-- answered. The batch stands in for the one request that wrk formats at its
-- start, so no Lua runs while it measures.

require "report"

local DEPTH = 16
local format_one = wrk.format

function wrk.format()
   return string.rep(format_one(), DEPTH)
end

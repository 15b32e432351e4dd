-- get.lua: a GET with the fields that the command line gives.

require "report"

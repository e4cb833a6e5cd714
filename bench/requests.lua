-- SPDX-License-Identifier: Apache-2.0
-- For wrk: ask for the small files in turn. Argument: their number. Paths as in stage.py, small_path.
local requests, at = {}, 0

function init(args)
   for i = 0, tonumber(args[1]) - 1 do
      requests[i + 1] = wrk.format("GET", string.format("/small/%03d.bin", i))
   end
end

function request()
   at = at % #requests + 1
   return requests[at]
end

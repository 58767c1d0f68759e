-- The time, and what the server says of its memory. A login that may not ask for that gets the time alone.

local memory = redis.pcall('INFO', 'memory')
return {time[1], time[2], type(memory) == 'string' and memory or ''}

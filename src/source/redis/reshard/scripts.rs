//! What is done in Redis in one piece.

/// Cuts a stream (`KEYS[1]`) for the next slice and keeps that beside it (`KEYS[2]`), if this is the run (`ARGV[1]`) that is
/// under way, or none is. `ARGV`: run, streams, slices, slice, field, value. Answers the cut's ID, or nothing.
pub(super) const CUT: &str = "local run = redis.call('HGET', KEYS[2], 'run')
local done = redis.call('HGET', KEYS[2], 'done')
if ARGV[4] == '0' and (not run or done) then
  local before = redis.call('HGET', KEYS[2], 'streams') or '[]'
  redis.call('DEL', KEYS[2])
  redis.call('HSET', KEYS[2], 'run', ARGV[1], 'streams', ARGV[2], 'before', before, 'slices', ARGV[3], 'count', '0', 'cuts', '')
elseif run ~= ARGV[1] or redis.call('HGET', KEYS[2], 'count') ~= ARGV[4] then
  return false
end
local id = redis.call('XADD', KEYS[1], '*', ARGV[5], ARGV[6])
redis.call('HSET', KEYS[2], 'count', tonumber(ARGV[4]) + 1, 'cuts', redis.call('HGET', KEYS[2], 'cuts') .. ',' .. id)
return id";

/// Ends it: what is appended to the stream after this is not handed on. `ARGV`: run, field, value. Answers the entry's ID.
pub(super) const END: &str = "if redis.call('HGET', KEYS[2], 'run') ~= ARGV[1] then return false end
local known = redis.call('HGET', KEYS[2], 'end')
if known then return known end
local id = redis.call('XADD', KEYS[1], '*', ARGV[2], ARGV[3])
redis.call('HSET', KEYS[2], 'end', id)
return id";

/// Everything was handed on. It stays known what has left: nodes refuse what comes of it later. `ARGV`: run.
pub(super) const DONE: &str = "if redis.call('HGET', KEYS[2], 'run') ~= ARGV[1] then return 0 end
redis.call('HSET', KEYS[2], 'done', '1')
return 1";

/// Topics belong in a stream from now on by another list, whatever earlier runs said, and none leaves it. `ARGV`: run, streams,
/// field, value.
pub(super) const SETTLE: &str = "if redis.call('HGET', KEYS[2], 'run') == ARGV[1] then return 0 end
local before = redis.call('HGET', KEYS[2], 'streams') or '[]'
local id = redis.call('XADD', KEYS[1], '*', ARGV[3], ARGV[4])
redis.call('DEL', KEYS[2])
redis.call('HSET', KEYS[2], 'run', ARGV[1], 'streams', ARGV[2], 'before', before)
redis.call('HSET', KEYS[2], 'slices', '1', 'count', '0', 'cuts', '', 'end', id, 'done', '1')
return 1";

/// Appends entries to a stream (`KEYS[1]`), and writes how far that was (`KEYS[2]`), if it was so far as is believed (`ARGV[1]`).
/// `ARGV`: that, how far it is in the end, the stream's length, the ms that IDs come after (or 0); then for each entry how far it
/// is with it, how many fields and values follow, and these. Where an entry cannot be appended, it is as far as the one before.
/// Answers how far it was, if that was not believed.
pub(super) const HAND_ON: &str = "local known = redis.call('GET', KEYS[2]) or ''
if known ~= ARGV[1] then return {0, known} end
local least = tonumber(ARGV[4])
local at, done = 5, ARGV[1]
while at <= #ARGV do
  local count = tonumber(ARGV[at + 1])
  local fields = {}
  for i = 1, count do fields[i] = ARGV[at + 1 + i] end
  local added
  if least > 0 then
    local now = redis.call('TIME')
    if now[1] * 1000 + math.floor(now[2] / 1000) <= least then
      local id = string.format('%.0f', least + 1) .. '-*'
      added = redis.pcall('XADD', KEYS[1], 'MAXLEN', '~', ARGV[3], id, unpack(fields))
      if type(added) == 'table' and added.err then added = nil end
    end
  end
  if not added then
    added = redis.pcall('XADD', KEYS[1], 'MAXLEN', '~', ARGV[3], '*', unpack(fields))
  end
  if type(added) == 'table' and added.err then
    if done ~= ARGV[1] then redis.call('SET', KEYS[2], done) end
    return added
  end
  done = ARGV[at]
  at = at + 2 + count
end
redis.call('SET', KEYS[2], ARGV[2])
return {1, ''}";

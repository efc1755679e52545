//! What a saver changes in Redis, each in one step.

/// A script that changes how many fields a hash has, with two functions for it: `counted` says how many fields it had when a script
/// last left it, if that is known, how many it has now, and the text that says so; `count` notes by how many that has changed since.
/// A field that was deleted by anything else stays missing in this account.
macro_rules! counting {
    ($script:literal) => {
        concat!(
            "local function counted(hash)
  local text = redis.call('HGET', hash, '')
  local left = text and string.match(text, '\"fields\":(%d+)')
  return left and tonumber(left), redis.call('HLEN', hash), text
end
local function count(hash, left, before, text)
  if not left then return end
  local now = string.format('\"fields\":%d', left + redis.call('HLEN', hash) - before)
  redis.call('HSET', hash, '', (string.gsub(text, '\"fields\":%d+', now)))
end
",
            $script
        )
    };
}

/// Makes this round (`ARGV[1]`) the one that saves, for `ARGV[2]` ms, if none is but an earlier one of this node (`ARGV[5]`), and
/// the position is what it found (`ARGV[3]`): otherwise another has saved meanwhile what this one may not have read. What an
/// earlier round sent and is still on its way writes nothing then. Topics end at no offset past the newest (`ARGV[4]`).
pub(super) const TAKE: &str = "if (redis.call('GET', KEYS[2]) or '') ~= ARGV[3] then return 0 end
local holder = redis.call('GET', KEYS[1])
if holder and holder ~= ARGV[5] then return 0 end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
local ended = redis.call('GET', KEYS[3])
if ended and tonumber(ended) > tonumber(ARGV[4]) then redis.call('DEL', KEYS[3]) end
return 1";

/// Writes states (`ARGV[5]` and on: name, text) if this node (`ARGV[1]`) still is the one that saves, in this epoch
/// (`ARGV[2]`), and had read (up to `ARGV[4]`) of every topic that ended and was removed: a node that was held up for long must
/// not write over what another saved meanwhile, nor bring back what is gone. It stays the one that saves for `ARGV[3]` ms more.
pub(super) const WRITE: &str = counting!(
    "if redis.call('GET', KEYS[2]) ~= ARGV[1] or redis.call('GET', KEYS[3]) ~= ARGV[2] then return 0 end
local ended = redis.call('GET', KEYS[4])
if ended and tonumber(ended) > tonumber(ARGV[4]) then return 2 end
redis.call('PEXPIRE', KEYS[2], ARGV[3])
local left, before, text = counted(KEYS[1])
for i = 5, #ARGV, 2 do redis.call('HSET', KEYS[1], ARGV[i], ARGV[i + 1]) end
count(KEYS[1], left, before, text)
return 1"
);

/// Keeps the lease for `ARGV[2]` ms more, if this round (`ARGV[1]`) has it.
pub(super) const RENEW: &str = "if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
redis.call('PEXPIRE', KEYS[1], ARGV[2])
return 1";

/// Removes all saved states and what goes with them, under the first two conditions.
pub(super) const CLEAR: &str =
    "if redis.call('GET', KEYS[2]) ~= ARGV[1] or redis.call('GET', KEYS[3]) ~= ARGV[2] then return 0 end
redis.call('DEL', KEYS[1], KEYS[4], KEYS[5], KEYS[6], KEYS[7], KEYS[8])
return 1";

/// Writes the position and the count that go with states, under the same conditions, and the position (`ARGV[6]`, as `ARGV[5]`)
/// into each hash that is saved, with how many fields that has.
pub(super) const FINISH: &str = counting!(
    "if redis.call('GET', KEYS[2]) ~= ARGV[1] or redis.call('GET', KEYS[3]) ~= ARGV[2] then return 0 end
redis.call('SET', KEYS[1], ARGV[3])
redis.call('SET', KEYS[4], ARGV[4])
for i = 5, #KEYS do
  local left, before = counted(KEYS[i])
  redis.call('HSET', KEYS[i], ARGV[5], ARGV[6])
  count(KEYS[i], left or before, before, ARGV[6])
end
return 1"
);

/// Removes saved states (`ARGV[2]` and on: name, offset) that are not of a later offset, and notes the highest of these
/// offsets, and up to when (`ARGV[1]`, Unix ms) topics ended for want of deltas.
pub(super) const REMOVE: &str = counting!(
    "local left, before, kept = counted(KEYS[1])
local highest = redis.call('GET', KEYS[2]) or '0'
local expired = redis.call('GET', KEYS[3])
if not expired or tonumber(expired) < tonumber(ARGV[1]) then redis.call('SET', KEYS[3], ARGV[1]) end
for i = 2, #ARGV, 2 do
  local text = redis.call('HGET', KEYS[1], ARGV[i])
  local offset = text and string.match(text, '^{\"offset\":(%d+)')
  if offset and tonumber(offset) <= tonumber(ARGV[i + 1]) then redis.call('HDEL', KEYS[1], ARGV[i]) end
  if tonumber(ARGV[i + 1]) > tonumber(highest) then highest = ARGV[i + 1] end
end
redis.call('SET', KEYS[2], highest)
count(KEYS[1], left, before, kept)
return 1"
);

/// Marks saved states (`ARGV`: name, offset) from before these offsets as incomplete, whatever position is saved with them: of
/// the members that tell the data, the first is the state's own.
pub(super) const OUTDATE: &str = "for i = 1, #ARGV, 2 do
  local text = redis.call('HGET', KEYS[1], ARGV[i])
  local offset = text and string.match(text, '^{\"offset\":(%d+)')
  if offset and tonumber(offset) < tonumber(ARGV[i + 1]) then
    local at, name
    for _, one in ipairs({ 'data', 'b64data', 'partial', 'b64partial' }) do
      local found = string.find(text, '\"' .. one .. '\":', 1, true)
      if found and (not at or found < at) then at, name = found, one end
    end
    local partial = name and ({ data = 'partial', b64data = 'b64partial' })[name]
    if partial then
      text = string.sub(text, 1, at) .. partial .. string.sub(text, at + 1 + #name)
      redis.call('HSET', KEYS[1], ARGV[i], text)
    end
  end
end
return 1";

/// Removes marks (`ARGV`: name, offset) that are not of a later offset.
pub(super) const UNMARK: &str = counting!(
    "local left, before, kept = counted(KEYS[1])
for i = 1, #ARGV, 2 do
  local text = redis.call('HGET', KEYS[1], ARGV[i])
  local offset = text and string.match(text, '^{\"offset\":(%d+)')
  if offset and tonumber(offset) <= tonumber(ARGV[i + 1]) then redis.call('HDEL', KEYS[1], ARGV[i]) end
end
count(KEYS[1], left, before, kept)
return 1"
);

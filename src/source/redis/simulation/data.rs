//! What a simulated Redis holds, and what its commands do. Scripts are run as they are, by Lua 5.1.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::ops::Bound;
use std::str::FromStr;
use std::sync::Arc;

use ::redis::Value;
use mlua::{Function, Lua, MultiValue, Variadic};

use super::super::id::EntryId;

/// Fields and values of an entry, one after the other.
pub(super) type Fields = Arc<Vec<Vec<u8>>>;

/// Entries in their order, those too that are gone.
pub(super) type Log = Vec<(EntryId, Fields)>;

/// A stream.
#[derive(Debug, Clone, Default)]
pub(super) struct Stream {
    pub(super) entries: BTreeMap<EntryId, Fields>,
    pub(super) last: EntryId,
    /// Entries that were ever added.
    pub(super) added: u64,
    /// The newest that was deleted one by one.
    pub(super) deleted: EntryId,
    /// All of them.
    pub(super) log: Log,
}

/// A string, and until when it is kept, Unix ms.
type Text = (Vec<u8>, Option<u64>);

/// All keys.
#[derive(Debug, Clone, Default)]
pub(super) struct Data {
    pub(super) streams: BTreeMap<String, Stream>,
    pub(super) texts: BTreeMap<String, Text>,
    pub(super) hashes: BTreeMap<String, BTreeMap<Vec<u8>, Vec<u8>>>,
}

/// What this Redis cannot do.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Lacks {
    /// `XINFO`.
    pub(super) info: bool,
    /// `TIME`.
    pub(super) time: bool,
    /// `INFO`.
    pub(super) run: bool,
    /// Room for writes.
    pub(super) memory: bool,
}

/// What a command sees of the server beside its keys.
#[derive(Debug, Clone)]
pub(super) struct Around {
    pub(super) now_ms: u64,
    pub(super) lacks: Lacks,
    pub(super) run: u64,
}

/// Commands that need room.
const WRITES: [&str; 9] = ["SET", "HSET", "XADD", "EVAL", "XSETID", "PEXPIRE", "DEL", "HDEL", "EXPIRE"];

pub(super) fn bulk(text: impl AsRef<[u8]>) -> Value {
    Value::BulkString(text.as_ref().to_vec())
}

fn error(text: &str) -> Value {
    ::redis::parse_redis_value(format!("-{text}\r\n").as_bytes()).expect("an error as Redis writes it")
}

fn number<T: FromStr>(text: &[u8]) -> T {
    string(text).parse().unwrap_or_else(|_| panic!("{} is no number", string(text)))
}

fn string(text: &[u8]) -> String {
    String::from_utf8_lossy(text).into_owned()
}

fn entry((id, fields): (&EntryId, &Fields)) -> Value {
    Value::Array(vec![bulk(id.to_string()), Value::Array(fields.iter().map(bulk).collect())])
}

fn bound(text: &[u8], is_first: bool) -> Bound<EntryId> {
    match text {
        b"-" | b"+" => Bound::Unbounded,
        [b'(', rest @ ..] => Bound::Excluded(string(rest).parse().expect("an ID")),
        text if text.contains(&b'-') => Bound::Included(string(text).parse().expect("an ID")),
        text => Bound::Included(EntryId { ms: number(text), seq: if is_first { 0 } else { u64::MAX } }),
    }
}

impl Data {
    /// Does a command. `XREAD` answers nothing where it would wait.
    pub(super) fn run(&mut self, args: &[Vec<u8>], around: &Around) -> Value {
        self.texts.retain(|_, (_, until)| until.is_none_or(|until| until > around.now_ms));
        let name = string(&args[0]).to_uppercase();
        if around.lacks.memory && WRITES.contains(&name.as_str()) {
            return error("OOM command not allowed when used memory > 'maxmemory'.");
        }
        let key = args.get(1).map(|key| string(key)).unwrap_or_default();
        match name.as_str() {
            "INFO" | "XINFO" | "TIME"
                if match name.as_str() {
                    "INFO" => around.lacks.run,
                    "XINFO" => around.lacks.info,
                    _ => around.lacks.time,
                } =>
            {
                error(&format!("ERR unknown command '{name}'"))
            }
            "ROLE" => Value::Array(vec![bulk("master"), Value::Int(0), Value::Array(Vec::new())]),
            "INFO" => bulk(format!("# Server\r\nrun_id:{:x}\r\n", around.run)),
            "TIME" => Value::Array(vec![
                bulk((around.now_ms / 1_000).to_string()),
                bulk((around.now_ms % 1_000 * 1_000).to_string()),
            ]),
            "GET" => self.texts.get(&key).map_or(Value::Nil, |(text, _)| bulk(text)),
            "SET" => self.set(key, args, around.now_ms),
            "DEL" => {
                let keys = args[1..].iter().map(|key| string(key));
                Value::Int(keys.filter(|key| self.delete(key)).count() as i64)
            }
            "EXISTS" => Value::Int(i64::from(self.texts.contains_key(&key) || self.streams.contains_key(&key))),
            "HLEN" => Value::Int(self.hashes.get(&key).map_or(0, |hash| hash.len() as i64)),
            "PEXPIRE" => {
                let until = around.now_ms + number::<u64>(&args[2]);
                if let Some(text) = self.texts.get_mut(&key) {
                    text.1 = Some(until);
                }
                Value::Int(1)
            }
            "HSET" => {
                let hash = self.hashes.entry(key).or_default();
                hash.extend(args[2..].chunks(2).map(|pair| (pair[0].clone(), pair[1].clone())));
                Value::Int(1)
            }
            "HGET" => self.hashes.get(&key).and_then(|hash| hash.get(&args[2])).map_or(Value::Nil, bulk),
            "HDEL" => {
                if let Some(hash) = self.hashes.get_mut(&key) {
                    args[2..].iter().for_each(|field| drop(hash.remove(field)));
                }
                Value::Int(1)
            }
            "HGETALL" => Value::Array(self.pairs(&key)),
            // All at once, as Redis does with small hashes.
            "HSCAN" => Value::Array(vec![bulk("0"), Value::Array(self.pairs(&key))]),
            "XADD" => self.add(&key, args, around.now_ms),
            "XRANGE" => self.range(&key, &args[2], &args[3], args.get(5), false),
            "XREVRANGE" => self.range(&key, &args[3], &args[2], args.get(5), true),
            "XREAD" => self.read(args),
            "XINFO" => self.info(&string(&args[2])),
            "XSETID" => {
                let Some(stream) = self.streams.get_mut(&key) else { return error("ERR no such key") };
                let id: EntryId = string(&args[2]).parse().expect("an ID");
                if stream.entries.last_key_value().is_some_and(|(last, _)| id < *last) {
                    return error("ERR The ID specified in XSETID is smaller than the target stream top item");
                }
                stream.last = id;
                Value::Okay
            }
            "EVAL" => self.eval(args, around),
            _ => panic!("the simulation does not know {name}"),
        }
    }

    fn set(&mut self, key: String, args: &[Vec<u8>], now_ms: u64) -> Value {
        let option = |name: &str| args[3..].iter().position(|arg| string(arg).eq_ignore_ascii_case(name));
        if option("NX").is_some() && self.texts.contains_key(&key) {
            return Value::Nil;
        }
        let until = option("PX").map(|at| now_ms + number::<u64>(&args[3 + at + 1]));
        self.texts.insert(key, (args[2].clone(), until));
        Value::Okay
    }

    pub(super) fn delete(&mut self, key: &str) -> bool {
        let texts = self.texts.remove(key).is_some();
        self.hashes.remove(key).is_some() | self.streams.remove(key).is_some() | texts
    }

    /// Deletes a field of a hash.
    pub(super) fn delete_field(&mut self, key: &str, at: usize) -> Option<String> {
        let hash = self.hashes.get_mut(key)?;
        let field = hash.keys().nth(at)?.clone();
        hash.remove(&field);
        Some(string(&field))
    }

    fn pairs(&self, key: &str) -> Vec<Value> {
        self.hashes.get(key).into_iter().flatten().flat_map(|(field, value)| [bulk(field), bulk(value)]).collect()
    }

    fn add(&mut self, key: &str, args: &[Vec<u8>], now_ms: u64) -> Value {
        let (mut at, mut keep) = (2, None);
        if string(&args[at]).eq_ignore_ascii_case("MAXLEN") {
            let is_about = args[at + 1] == b"~";
            at += 2 + usize::from(is_about);
            keep = Some(number(&args[at - 1]));
        }
        let stream = self.streams.entry(key.to_owned()).or_default();
        let next = |ms: u64, last: EntryId| match ms > last.ms {
            true => EntryId { ms, seq: 0 },
            false => EntryId { ms: last.ms, seq: last.seq + 1 },
        };
        let id = match string(&args[at]).as_str() {
            "*" => next(now_ms, stream.last),
            text => match text.strip_suffix("-*") {
                Some(ms) => {
                    let ms = number::<u64>(ms.as_bytes());
                    if ms < stream.last.ms { stream.last } else { next(ms, stream.last) }
                }
                None => text.parse().expect("an ID"),
            },
        };
        if id <= stream.last {
            return error("ERR The ID specified in XADD is equal or smaller than the target stream top item");
        }
        (stream.last, stream.added) = (id, stream.added + 1);
        let fields = Arc::new(args[at + 1..].to_vec());
        stream.log.push((id, fields.clone()));
        stream.entries.insert(id, fields);
        if let Some(keep) = keep {
            stream.trim(keep);
        }
        bulk(id.to_string())
    }

    fn range(&self, key: &str, from: &[u8], to: &[u8], count: Option<&Vec<u8>>, is_reverse: bool) -> Value {
        let Some(stream) = self.streams.get(key) else { return Value::Array(Vec::new()) };
        let (from, to) = (bound(from, true), bound(to, false));
        let is_none = match (from, to) {
            (Bound::Included(from) | Bound::Excluded(from), Bound::Included(to) | Bound::Excluded(to)) => from > to,
            _ => false,
        };
        if is_none {
            return Value::Array(Vec::new());
        }
        let count = count.map_or(usize::MAX, |count| number(count));
        let found = stream.entries.range((from, to));
        Value::Array(match is_reverse {
            true => found.rev().take(count).map(entry).collect(),
            false => found.take(count).map(entry).collect(),
        })
    }

    fn read(&self, args: &[Vec<u8>]) -> Value {
        let word = |name: &str| args.iter().position(|arg| string(arg) == name).expect(name);
        let count: usize = number(&args[word("COUNT") + 1]);
        let at = word("STREAMS");
        let (key, after) = (string(&args[at + 1]), string(&args[at + 2]).parse::<EntryId>().expect("an ID"));
        let Some(stream) = self.streams.get(&key) else { return Value::Nil };
        let found = stream.entries.range((Bound::Excluded(after), Bound::Unbounded)).take(count);
        let found: Vec<Value> = found.map(entry).collect();
        if found.is_empty() {
            return Value::Nil;
        }
        Value::Array(vec![Value::Array(vec![bulk(key), Value::Array(found)])])
    }

    fn info(&self, key: &str) -> Value {
        let Some(stream) = self.streams.get(key) else { return error("ERR no such key") };
        let first = stream.entries.first_key_value().map_or(Value::Nil, entry);
        Value::Array(vec![
            bulk("length"),
            Value::Int(stream.entries.len() as i64),
            bulk("last-generated-id"),
            bulk(stream.last.to_string()),
            bulk("entries-added"),
            Value::Int(stream.added as i64),
            bulk("max-deleted-entry-id"),
            bulk(stream.deleted.to_string()),
            bulk("first-entry"),
            first,
        ])
    }

    fn eval(&mut self, args: &[Vec<u8>], around: &Around) -> Value {
        thread_local! {
            static LUA: Lua = Lua::new();
            /// Scripts, compiled.
            static SCRIPTS: RefCell<HashMap<Vec<u8>, Function>> = RefCell::default();
        }
        let keys: usize = number(&args[2]);
        let done = LUA.with(|lua| {
            let data = RefCell::new(self);
            lua.scope(|scope| {
                let strings = |list: &[Vec<u8>]| {
                    lua.create_sequence_from(
                        list.iter().map(|text| lua.create_string(text)).collect::<Result<Vec<_>, _>>()?,
                    )
                };
                lua.globals().set("KEYS", strings(&args[3..3 + keys])?)?;
                lua.globals().set("ARGV", strings(&args[3 + keys..])?)?;
                let call = |raises: bool| {
                    let data = &data;
                    scope.create_function(move |lua, args: Variadic<mlua::Value>| {
                        let args: Vec<Vec<u8>> = args.iter().map(argument).collect();
                        match data.borrow_mut().run(&args, around) {
                            Value::ServerError(error) if raises => Err(mlua::Error::runtime(message(&error))),
                            value => to_lua(lua, value),
                        }
                    })
                };
                let redis = lua.create_table()?;
                redis.set("call", call(true)?)?;
                redis.set("pcall", call(false)?)?;
                lua.globals().set("redis", redis)?;
                let known = SCRIPTS.with_borrow(|scripts| scripts.get(&args[1]).cloned());
                let script = match known {
                    Some(script) => script,
                    None => {
                        let script = lua.load(&args[1][..]).into_function()?;
                        SCRIPTS.with_borrow_mut(|scripts| scripts.insert(args[1].clone(), script.clone()));
                        script
                    }
                };
                let values: MultiValue = script.call(())?;
                values.into_iter().next().map_or(Ok(Value::Nil), from_lua)
            })
        });
        done.unwrap_or_else(|failed| error(&format!("ERR {}", failed.to_string().replace(['\r', '\n'], " "))))
    }
}

impl Stream {
    /// Deletes one of them.
    pub(super) fn delete(&mut self, id: EntryId) {
        if self.entries.remove(&id).is_some() {
            self.deleted = self.deleted.max(id);
        }
    }

    /// Keeps the newest of them.
    pub(super) fn trim(&mut self, keep: usize) {
        while self.entries.len() > keep {
            self.entries.pop_first();
        }
    }
}

fn message(error: &::redis::ServerError) -> String {
    format!("{} {}", error.code(), error.details().unwrap_or_default())
}

fn argument(value: &mlua::Value) -> Vec<u8> {
    match value {
        mlua::Value::String(text) => text.as_bytes().to_vec(),
        mlua::Value::Integer(number) => number.to_string().into_bytes(),
        mlua::Value::Number(number) => format!("{number:.0}").into_bytes(),
        other => panic!("{other:?} is no argument of a command"),
    }
}

fn to_lua(lua: &Lua, value: Value) -> mlua::Result<mlua::Value> {
    Ok(match value {
        Value::Nil => mlua::Value::Boolean(false),
        Value::Int(number) => mlua::Value::Number(number as f64),
        Value::BulkString(text) => mlua::Value::String(lua.create_string(text)?),
        Value::Okay => {
            let table = lua.create_table()?;
            table.set("ok", "OK")?;
            mlua::Value::Table(table)
        }
        Value::Array(list) => {
            let list = list.into_iter().map(|value| to_lua(lua, value)).collect::<mlua::Result<Vec<_>>>()?;
            mlua::Value::Table(lua.create_sequence_from(list)?)
        }
        Value::ServerError(error) => {
            let table = lua.create_table()?;
            table.set("err", message(&error))?;
            mlua::Value::Table(table)
        }
        other => panic!("{other:?} is no answer of the simulation"),
    })
}

fn from_lua(value: mlua::Value) -> mlua::Result<Value> {
    Ok(match value {
        mlua::Value::Boolean(true) => Value::Int(1),
        mlua::Value::Integer(number) => Value::Int(number),
        #[allow(clippy::cast_possible_truncation, reason = "as Redis does")]
        mlua::Value::Number(number) => Value::Int(number as i64),
        mlua::Value::String(text) => bulk(text.as_bytes()),
        mlua::Value::Table(table) => {
            if let Some(text) = table.get::<Option<String>>("err")? {
                return Ok(error(&text));
            }
            Value::Array(table.sequence_values().map(|value| from_lua(value?)).collect::<mlua::Result<_>>()?)
        }
        _ => Value::Nil,
    })
}

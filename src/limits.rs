//! Every bound of the server in one place: its default, its unit and what happens past it.
//!
//! The configuration can change those under `[limits]`; the others are fixed because a protocol or a
//! data structure fixes them. `docs/limits.md` is the same page for operators.

use std::time::Duration;

/// Largest offset: JavaScript clients read offsets as doubles, which are exact up to here.
pub const OFFSET_MAX: u64 = (1 << 53) - 1;

/// Longest topic name, in bytes. Past it: the subscribe or publish is refused.
pub const TOPIC_NAME_BYTES_MAX: usize = 255;

/// Largest delta, in bytes of JSON. Past it: refused at the source with a reason, and counted.
pub const DELTA_BYTES_MAX: usize = 256 * 1024;

/// Deepest nesting of a delta. Past it: refused at the source. Keeps every client's parser safe too.
pub const JSON_DEPTH_MAX: usize = 64;

/// Earliest time of an event that a publisher may give (`ts`), Unix ms: 2000-01-01. Before it: the delta is taken without.
pub const TS_MIN_MS: u64 = 946_684_800_000;

/// Latest one, in ms after the time at which the source took the entry in: a day. After it: the delta is taken without.
pub const TS_AHEAD_MAX_MS: u64 = 24 * 3_600 * 1_000;

/// Characters of a topic, a value or a name that a log line about a refused entry repeats. Past it: cut.
pub const REFUSAL_CHARS_SHOWN: usize = 64;

/// Lines logged a minute about entries of one source that were refused for one reason, whatever their topics. Past it: they
/// are counted, and the next line says how many.
pub const REFUSAL_LINES_PER_MINUTE: u64 = 32;

/// Topics of a source of which it is remembered that a line about them was logged within the last minute, each with a
/// reason. Past it: refusals of others are counted, and the next line says how many.
pub const REFUSAL_TOPICS_REMEMBERED: usize = 1_024;

/// Namespaces that are not configured of which it is remembered whether they look like one that is. Past it: others are
/// not looked at.
pub const NAMESPACES_JUDGED: usize = 1_024;

/// Copies of refused entries that wait to be written (`source.redis.refused`). Past it: dropped and counted.
pub const REFUSED_COPIES_WAITING: usize = 1_024;

/// Bytes of a refused entry's names and values that its copy has. Past it: cut.
pub const REFUSED_COPY_BYTES: usize = 8 * 1024;

/// Largest message from a client, in bytes, all fragments together. Past it: close 1009.
pub const MESSAGE_BYTES_MAX: usize = 64 * 1024;

/// Largest compressed message from a client once it is inflated, in bytes, where messages may be larger than this; a
/// message is held to the same limit whether it was compressed or not. Past it: close 1009, as soon as it is over.
pub const INFLATED_BYTES_MAX: usize = 1024 * 1024;

/// Bytes of message for each subscription that a Centrifuge session may hold: its message may have as many times so
/// many, if that is more than a message of `plain`.
pub const CENTRIFUGE_SUBSCRIBE_BYTES: usize = 256;

/// Largest message of a `plain` session that needs a token and has none, in bytes. Past it: close 1009. A Centrifuge client
/// sends its subscribes with its connect: its message is bounded as any, and [`Limits::incoming_total_bytes`] holds.
///
/// [`Limits::incoming_total_bytes`]: crate::config::Limits::incoming_total_bytes
pub const MESSAGE_BYTES_BEFORE_AUTH_MAX: usize = 8 * 1024;

/// Topics that nobody has published and that exist for their subscribers alone, where no ceiling on memory makes it less.
/// Past it: the subscribe is refused.
pub const UNPUBLISHED_TOPICS_MAX: usize = 262_144;

/// Bytes that one of them is taken to have, of all that the server holds for it, to find their number from
/// `limits.memory`.
pub const UNPUBLISHED_TOPIC_BYTES: usize = 1024;

/// Share of them that one user, or one address or session without a user, may have made: one in so many.
pub const UNPUBLISHED_SHARE: usize = 8;

/// Deleted topics of a source that are remembered after some of its deltas were missed.
pub const DELETED_TOPICS_MAX: usize = 65_536;

/// Memory of states of topics that are being saved at once, of a partition, in bytes.
pub const SAVED_BYTES_AT_ONCE: usize = 512 * 1024;

/// Size from which on an HTTP answer is refused while all answers together are over their ceiling, in bytes.
pub const ANSWER_BYTES_SMALL: usize = 64 * 1024;

/// Bytes of an answer that are handed to a connection at once: what its client does not take stays shared.
pub const ANSWER_CHUNK_BYTES: usize = 16 * 1024;

/// Subscriptions a session may hold. Past it: that subscribe is refused. Also the longest list of topics that one command
/// may have: a longer one is refused as a whole.
pub const SUBSCRIPTIONS_MAX: usize = 512;

/// Bytes of topic names that the reply to one command names as refused. Past it: they are counted.
pub const REFUSED_NAME_BYTES_MAX: usize = 1_024;

/// Reasons for which the reply to one command says topics were refused. Past it: those topics are counted.
pub const REFUSED_REASONS_MAX: usize = 8;

/// Bytes of one reason in an error that repeats something of the command. Past it: cut.
pub const REASON_BYTES_MAX: usize = 256;

/// Positions (`subs`) that a Centrifuge connect may bring: as many as the topics that its token may name, and some that
/// an earlier token did. Past it: close 3501.
pub const CONNECT_SUBS_MAX: usize = 4 * SERVER_SUBSCRIPTIONS_MAX;

/// Bytes that compressed messages of one session may inflate to, a second, sustained. Past the burst: the session is not
/// read until that is paid back.
pub const INFLATED_BYTES_PER_SECOND: u32 = 1024 * 1024;

/// The same at once.
pub const INFLATED_BYTES_BURST: u64 = 2 * 1024 * 1024;

/// Bytes of one read from a socket: what a session that has had its turn makes the server keep for it.
pub const READ_BYTES: usize = 32 * 1024;

/// Topics that the commands of one session name in one tick. Past it: its next command waits for the next tick.
pub const TURN_TOPICS: usize = 512;

/// Bytes of commands, inflated, that one session is heard in one tick. Past it: likewise.
pub const TURN_BYTES: usize = 256 * 1024;

/// Bytes that one session may be sent in answer in one tick. Past it: likewise.
pub const TURN_REPLY_BYTES: u32 = 64 * 1024;

/// Topics that the commands of all sessions of a shard name in one tick. Past it: the other sessions have their turn in the
/// next tick, after the deltas of this one.
pub const TICK_TOPICS: usize = 16_384;

/// Bytes of commands, inflated, that a shard hears in one tick. Past it: likewise.
pub const TICK_BYTES: usize = 4 * 1024 * 1024;

/// Commands a session may send each second, sustained. Past the burst: close 3013.
pub const COMMANDS_PER_SECOND: u32 = 50;

/// Commands a session may send at once before the sustained rate applies.
pub const COMMANDS_BURST: u32 = 200;

/// Bytes that may wait in user space for one session. Past it: close 3008 (slow; reconnect and recover).
pub const BACKLOG_BYTES_MAX: usize = 1024 * 1024;

/// Topics one server holds. Past it: new ones are refused, and counted.
pub const TOPICS_MAX: usize = 1_000_000;

/// Deltas kept for recovery, each topic.
pub const HISTORY_DELTAS: usize = 128;

/// Age past which a kept delta goes.
pub const HISTORY_TTL: Duration = Duration::from_secs(300);

/// Time without a delta after which a topic ends: longer than any holiday of a market.
pub const EXPIRE_AFTER: Duration = Duration::from_secs(30 * 24 * 3600);

/// Bytes of payload kept for recovery, each topic; the newest delta is always kept.
pub const HISTORY_BYTES: usize = 1024 * 1024;

/// Time for an HTTP request head: of the first request from accept, of the next from its first byte. Past it: closed.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);

/// Time that an HTTP connection stays open between two requests. Past it: closed, so that a request that is on its way is
/// not answered by a reset. Answers announce a second less (`Keep-Alive`).
pub const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(75);

/// HTTP connections of one address (of IPv6, one /64) that are served while others wait. Past it: they are the first to be
/// closed, and wait for one another alone.
pub const CONNECTIONS_PER_ADDRESS: usize = 64;

/// Largest HTTP request head, in bytes; it has at most 100 headers. Past it: 431.
pub const HEAD_BYTES_MAX: usize = 16 * 1024;

/// Time for the whole body of an HTTP request to come, and for a client to take an answer that does not fit its socket.
/// Past it: 408 for a body, closed for an answer.
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);

/// Time from upgrade to a first valid command. Past it: close 3502. Also the longest that one message may
/// take from its first byte to its last.
pub const FIRST_COMMAND_TIMEOUT: Duration = Duration::from_secs(10);

/// Time from upgrade to a valid token, where no topic can be had without one. Past it: close 3502.
pub const TOKEN_TIMEOUT: Duration = Duration::from_secs(10);

/// Share of all sessions that may be without a token, where no topic can be had without one. Past it: upgrades without a
/// token are answered 503.
pub const TOKENLESS_SHARE: f64 = 0.25;

/// Bytes that a session, or all sessions of one user, may make the server send each second (states and missed deltas of
/// subscribes, snapshots, history, presence, calls), sustained. Past the burst: subscribes get their states and missed
/// deltas later, everything else is refused until that is paid back.
pub const REPLY_BYTES_PER_SECOND: u32 = 1024 * 1024;

/// The same at once.
pub const REPLY_BYTES_BURST: u32 = 16 * 1024 * 1024;

/// Bytes of state that a lagging or throttled subscription gets for each delta that it missed without being charged for them,
/// or as much as the deltas were.
pub const STATE_BYTES_PER_MISSED: usize = 1_024;

/// Bytes that a delayed session is given room for at least, where it waits for as many: small states go out together.
pub const DELAYED_BYTES: usize = 16 * 1024;

/// Bytes that a call, or a question for presence, counts for until it is answered. So many of them may be under way as the
/// allowance has room for. Past it: the next is refused.
pub const ANSWER_RESERVED_BYTES: usize = 64 * 1024;

/// Bytes of such answers that all sessions of one address that name no user may ask for each second, sustained.
pub const REPLY_BYTES_PER_ADDRESS: u32 = 4 * 1024 * 1024;

/// So many seconds' worth of them at once.
pub const REPLY_BYTES_PER_ADDRESS_BURST_S: u64 = 16;

/// Subscriptions of one session that others are told of (join, leave), a second, sustained; as many at once as it may hold.
/// Past it: others are not told of a subscription, neither when it begins nor when it ends. Presence has it all the same.
pub const ANNOUNCED_PER_SECOND: u64 = 5;

/// Time between two deliveries of joins and leaves of one topic, in ms. What comes between is told together; who came and
/// went in between is not.
pub const MEMBERSHIP_EVERY_MS: u64 = 200;

/// Bytes of joins and leaves of one topic that a node sends to all who watch, a second, sustained; a shard has its part. Past
/// the burst: told later, and what comes meanwhile is told together.
pub const MEMBERSHIP_BYTES_PER_SECOND: u32 = 1024 * 1024;

/// Seconds' worth of them at once.
pub const MEMBERSHIP_BURST_S: u64 = 4;

/// Part of that which is told of one user, or session without a user, in all topics: one in so many. Past it: likewise.
pub const MEMBERSHIP_USER_PART: u64 = 4;

/// Largest `info` of a token, in bytes of JSON, that joins and leaves show. Past it: left out of them, and counted. Presence
/// has it all the same.
pub const MEMBER_INFO_BYTES_MAX: usize = 1_024;

/// Joins and leaves of one topic that wait to be told. Past it: dropped, and counted.
pub const MEMBERSHIP_WAITING_MAX: usize = 16_384;

/// Bytes of memory of all joins and leaves that wait in one shard. Past it: likewise.
pub const MEMBERSHIP_WAITING_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Clients that wait at once for this node to read as far as they have. Past it: they are answered as after the wait.
pub const CATCHING_UP_MAX: usize = 16_384;

/// Part of the free places of those that one user, or one session without a user, may hold: one in so many.
pub const CATCHING_UP_PART: usize = 16;

/// The same once three quarters are taken, in places; of the last sixteenth it is one.
pub const CATCHING_UP_FEW: usize = 8;

/// Silence after which the server sends a ping.
pub const PING_INTERVAL: Duration = Duration::from_secs(25);

/// Time that a client has to show a sign of life after a ping. Past it: close 3012.
pub const PONG_TIMEOUT: Duration = Duration::from_secs(10);

/// Time that a full socket may stay without taking one byte. Past it: close 3008.
pub const STALL_TIMEOUT: Duration = Duration::from_secs(30);

/// Time that a peer has to answer our close frame before the socket is dropped.
pub const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// Descriptors kept back from sessions for Redis, files, listeners and plain HTTP requests.
pub const FD_RESERVE: usize = 512;

/// Longest header of the PROXY protocol. Past it: closed, and counted. Addresses take 232 bytes at most, what a proxy may tell
/// beyond (of the client's certificate, mostly) the rest.
pub const PROXY_HEADER_BYTES_MAX: usize = 2 * 1024;

/// Addresses of one `X-Forwarded-For` or `Forwarded` that are looked at, from the right. Past it: the last one counts.
pub const FORWARDED_HOPS_MAX: usize = 32;

/// Connections of the operators' own listener that are served at once, and as many that wait to be. Past it: 503.
pub const OPERATOR_CONNECTIONS_MAX: usize = 32;

/// HTTP connections of a listener (not upgraded at once, or never) served at once. Past it: they wait.
pub const HTTP_CONNECTIONS_MAX: usize = 384;

/// HTTP connections of a listener that wait to be served, half of them at most of addresses that are past their share. Past
/// it: 503; over TLS they are left in the kernel for a while, or closed if their address is past its share.
pub const HTTP_WAITING_MAX: usize = 64;

/// HTTP connections of a listener that found no place and are read only to see whether they ask for `/healthz` or `/readyz`.
/// Past it, and where they ask for something else: 503.
pub const HTTP_OVERFLOW_MAX: usize = 32;

/// The same of one address (of IPv6, one /64).
pub const HTTP_OVERFLOW_PER_ADDRESS: usize = 8;

/// Time that such a connection has for its request head. Past it: 503.
pub const HTTP_OVERFLOW_TIME: Duration = Duration::from_millis(500);

/// Connections of `server.health_listen` that are served at once, and as many that wait to be. Past it: 503.
pub const HEALTH_CONNECTIONS_MAX: usize = 16;

/// Requests that wait for a key set to be fetched. Past it: 503 with Retry-After.
pub const KEY_WAITERS_MAX: usize = 32;

/// Longest time that an HTTP connection waits for a place to be served. Past it: 503, over TLS closed.
pub const HTTP_WAIT: Duration = Duration::from_secs(2);

/// Time that a client may be waited for (each of its turns in a TLS handshake, its PROXY header, its first head, its next
/// request) even while others wait to be served. Past it: closed, the longest waited for first, one for each who waits.
pub const HTTP_PATIENCE: Duration = Duration::from_secs(1);

/// Age from which on an answer is a connection's last, if others wait to be served then.
pub const HTTP_TENURE: Duration = Duration::from_secs(10);

/// Topics in one answer of `GET /api/topics`. Past it: the answer says where to go on.
pub const LISTED_TOPICS_MAX: usize = 10_000;

/// Topics that one client address is listed per second, sustained. Past it: 429 with `Retry-After`.
pub const LISTED_TOPICS_PER_SECOND: u32 = 20_000;

/// Seconds' worth of them that may be listed at once. A listing is charged the most that it may answer with before it
/// is made, and given back the rest.
pub const LISTED_TOPICS_BURST_S: u64 = 2;

/// Topics that a listing counts for at least.
pub const LISTED_TOPICS_LEAST: usize = 100;

/// Largest body of a publish request.
pub const PUBLISH_BODY_BYTES_MAX: usize = 8 * 1024 * 1024;

/// Commands in one request to the API, and deltas that it publishes: a broadcast counts for each of its channels. Past it:
/// refused before any of it is done.
pub const BATCH_COMMANDS_MAX: usize = 10_000;

/// Bytes of deltas that one request to the API publishes: a broadcast's count for each of its channels. Past it: refused.
pub const BROADCAST_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Bytes of answers after which no more of a request's commands that read something are carried out. Past it: refused, each.
pub const ANSWER_BYTES_MAX: usize = 8 * 1024 * 1024;

/// Longest idempotency key, in bytes. Past it: refused.
pub const IDEMPOTENCY_KEY_BYTES_MAX: usize = 255;

/// Time for which a publish with an idempotency key is answered with the first one's result.
pub const IDEMPOTENCY_TTL: Duration = Duration::from_secs(300);

/// Results of publishes with idempotency keys that this process remembers where it has no stream. Past it: the oldest go.
pub const IDEMPOTENCY_RESULTS_MAX: usize = 65_536;

/// Deletions of topics that are remembered until every other partition has been read up to them, and, in half of it, while
/// another partition holds older entries of the topic. Past it: new ones are not, and an older delta in another partition
/// brings the topic back.
pub const DELETIONS_MAX: usize = 100_000;

/// Topics of a source that ended and are remembered until their saved states are removed. Past it: states are not saved any
/// more until the node is started again, so that none of these counts again.
pub const ENDED_TOPICS_MAX: usize = if cfg!(test) { 100 } else { 1_000_000 };

/// Topics of a partition that are remembered because their deltas wait in another for `nexus-push reshard` to move them. Past it:
/// all topics that may wait are told as incomplete when the time is over.
pub const MOVES_WAITING_MAX: usize = 100_000;

/// Deltas that are sent to Redis or NATS before their answers are awaited.
pub const APPEND_DELTAS_MAX: usize = 512;

/// Bytes of them.
pub const APPEND_BYTES_MAX: usize = 1024 * 1024;

/// Events that may wait in one shard's queue. Publishing waits at [`QUEUE_HIGH_WATER`], so the queue itself
/// is never full in practice; if it is, the publisher blocks until the shard has taken some.
pub const QUEUE_EVENTS_MAX: usize = 65_536;

/// Queue length at which sources and publishers wait for the shard.
pub const QUEUE_HIGH_WATER: usize = 16_384;

/// Events one tick takes at most, so that a tick's length stays bounded.
pub const TICK_EVENTS_MAX: usize = 8_192;

/// Deltas of one conflatable topic that a shard keeps while somebody is behind on it. Who is further behind
/// gets the snapshot.
pub const CONFLATE_WINDOW: usize = 512;

/// Bytes of them. As no patch that is longer than the state is ever sent, more than a state may have is of no use.
pub const CONFLATE_WINDOW_BYTES: usize = STATE_BYTES_MAX;

/// Deltas of one topic that a shard keeps while a subscribe of it is under way. Past it: the subscriber gets the topic's
/// state as it is by then, or a replay of a stream.
pub const ATTACH_WINDOW: usize = 16_384;

/// Requests of one shard that may wait for the control plane. Past it: subscribes are refused with 503.
pub const SHARD_REQUESTS_MAX: usize = 131_072;

/// Bytes that requests of sessions under way may take together where `limits.memory` is off.
pub const ASKED_BYTES_MAX: usize = 64 * 1024 * 1024;

/// The least that they may where it is not: some 4,000 subscribes.
pub const ASKED_BYTES_MIN: usize = 1024 * 1024;

/// Size up to which a request may take the second half of that, in bytes. Large ones (long tokens, publishes, calls) leave it
/// to the others.
pub const ASKED_BYTES_SMALL: usize = 2 * 1024;

/// Part of that which the requests of all shards may have that the control plane has not looked at yet: one in so many. Past
/// it: clients are not heard until it has looked at some.
pub const UNSEEN_PART: usize = 8;

/// The most of them for one shard, in bytes.
pub const UNSEEN_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Time that a client's publish waits for those that it sent before. Past it: refused with 503, and not stored.
pub const PUBLISH_WAIT: Duration = Duration::from_secs(15);

/// Time that anything behind the control plane may take to answer, above the time-outs of its own. Past it: 503.
pub const ANSWER_TIMEOUT: Duration = Duration::from_secs(45);

/// Time that a session's commands wait for the answer to an earlier one. Past it: close 4408.
pub const DEFERRED_MAX: Duration = Duration::from_secs(60);

/// Bytes of the read buffer that all sessions of a shard share.
pub const READ_BUFFER_BYTES: usize = 128 * 1024;

/// `TCP_NOTSENT_LOWAT`: unsent bytes the kernel holds for one socket before we are told that it is full.
pub const NOTSENT_LOWAT_BYTES: u32 = 64 * 1024;

/// Bytes of snapshots and missed deltas that a subscribe sends at once. What is more follows as the socket takes it,
/// so that no history, however long, is too much for a client that reads.
pub const RECOVERY_BYTES: usize = 256 * 1024;

/// Bytes gathered for one write while a backlog drains.
pub const DRAIN_CHUNK_BYTES: usize = 64 * 1024;

/// Largest message that several replies to a Centrifuge client are put into. What is more goes out one by one: a full
/// socket is then owed state again, not bytes.
pub const JOINED_BYTES_MAX: usize = 16 * 1024;

/// Longest flush interval.
pub const FLUSH_INTERVAL_MAX: Duration = Duration::from_secs(5);

/// Longest time that a busy shard lets a session that was just visited wait for more, in ms.
pub const STRETCH_MS_MAX: u32 = 21;

/// Share of its time that a shard is busy, in 1/1,000, from which on sessions wait.
pub const STRETCH_FROM: u64 = 50;

/// Share from which on that time is at its longest. Between the two it grows evenly.
pub const STRETCH_FULL: u64 = 235;

/// Longest time that a busy shard lets deltas wait in its queue for more, in ms: a quarter of the former, at most this.
pub const NAP_MS_MAX: u64 = 4;

/// Lowest ceiling on its bytes/s that a session may ask for: a snapshot must get through before it is old.
pub const BYTES_PER_SECOND_MIN: u32 = 1_024;

/// Rates a subscriber may ask for, a second; a request is rounded down to one of them so that the number of
/// lanes of a topic stays bounded.
pub const RATE_STEPS: [f64; 12] = [0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 25.0, 50.0, 100.0, 200.0];

/// Time that a Centrifuge session goes on after its token has ended. Past it: close 3005.
pub const EXPIRED_CLOSE_DELAY: Duration = Duration::from_secs(25);

/// Age at which a fetched key set is fetched again.
pub const JWKS_MAX_AGE: Duration = Duration::from_secs(600);

/// Least time between two fetches of a key set.
pub const JWKS_MIN_INTERVAL: Duration = Duration::from_secs(10);

/// Time that a fetch of a key set may take.
pub const JWKS_TIMEOUT: Duration = Duration::from_secs(5);

/// Time that a token of an unknown key waits for the key set, counted from when its fetch began. Past it: answered with the
/// keys that are known.
pub const JWKS_WAIT: Duration = Duration::from_secs(1);

/// Longest token, in bytes. Past it: not valid.
pub const TOKEN_BYTES_MAX: usize = 16 * 1024;

/// Tokens of a session that may fail; one more each minute. Past it: close 3500, and what waits is answered without a look.
pub const TOKEN_FAILURES: u32 = 10;

/// Time after which one failed token more of a session is forgotten.
pub const TOKEN_FAILURE_FORGOTTEN: Duration = Duration::from_secs(60);

/// Tokens of HTTP requests and upgrades of one address that may fail each second. Past it: 429, but for tokens that were
/// verified before.
pub const TOKEN_FAILURES_PER_ADDRESS: u32 = 20;

/// Seconds of that rate that may come at once after a time of rest.
pub const TOKEN_FAILURES_BURST: u64 = 5;

/// Addresses whose failures are counted at once. Past it: those of further ones are not.
pub const TOKEN_ADDRESSES_MAX: usize = 65_536;

/// Tokens of one address that wait to be verified. Past it: 503.
pub const TOKENS_WAITING_OF_ADDRESS: usize = 256;

/// Bytes of tokens of one session or address that wait to be verified. Past it: try again.
pub const TOKENS_WAITING_BYTES: usize = 1024 * 1024;

/// Bytes of all tokens that wait to be verified; the first of a session or address always may. Past it: try again.
pub const TOKENS_WAITING_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Tokens of sessions that wait for the key set at once. Past it: try again.
pub const SESSION_KEY_WAITERS_MAX: usize = 1_024;

/// Tokens that were good and are not verified again. Past it: some of them are.
pub const VERIFIED_TOKENS_MAX: usize = 1_024;

/// Longest of these, in bytes.
pub const VERIFIED_TOKEN_BYTES_MAX: usize = 4 * 1024;

/// Largest key set, in bytes.
pub const JWKS_BYTES_MAX: usize = 256 * 1024;

/// Time that the endpoint of calls has to answer. Past it: the client is told to try again.
pub const RPC_TIMEOUT: Duration = Duration::from_secs(3);

/// Largest answer to a call, in bytes.
pub const RPC_BYTES_MAX: usize = 256 * 1024;

/// Publishes, history, presence and calls of one session that may be under way. Past it: the next is refused.
pub const PENDING_COMMANDS_MAX: u16 = 64;

/// Members of a topic that one presence answer names. Past it: the command is refused; the statistics have no bound.
pub const PRESENCE_MEMBERS_MAX: usize = 2_000;

/// Topics that a token may subscribe its session to.
pub const SERVER_SUBSCRIPTIONS_MAX: usize = 128;

/// Longest time over which sessions are sent to other nodes by `POST /admin/drain`. Past it: refused.
pub const SHED_WINDOW_MAX: Duration = Duration::from_secs(600);

/// The same where the request does not say.
pub const SHED_WINDOW: Duration = Duration::from_secs(5);

/// Time after the window in which those who were sent away come to stand elsewhere and the other nodes report it. Until
/// then nobody knows the mean.
pub const SHED_SETTLE: Duration = Duration::from_secs(3);

/// Longest time, in ms, that a session which is sent to another node is asked to stay away. Waves spread them already.
pub const SHED_RETRY_MS_MAX: u64 = 1_000;

/// `debug.echo`: largest message, in bytes, as it came and inflated. Past it: close 1009.
pub const ECHO_MESSAGE_BYTES_MAX: usize = 16 * 1024 * 1024;

/// `debug.echo`: sessions at once. Past it: upgrade answered 503.
pub const ECHO_SESSIONS_MAX: usize = 64;

/// `debug.echo`: time in which a session neither sends nor takes anything. Past it: closed.
pub const ECHO_IDLE_TIMEOUT: Duration = Duration::from_secs(60);

const _: () = assert!(QUEUE_HIGH_WATER * 2 <= QUEUE_EVENTS_MAX);
const _: () = assert!(MESSAGE_BYTES_MAX + 14 <= READ_BUFFER_BYTES);
const _: () = assert!(MESSAGE_BYTES_MAX <= INFLATED_BYTES_MAX, "compressing must not forbid what is allowed without");
const _: () = assert!(BACKLOG_BYTES_MAX > DELTA_BYTES_MAX, "one delta must fit a backlog");
const _: () = assert!(HISTORY_BYTES >= DELTA_BYTES_MAX, "one delta must fit a history");
const _: () = assert!(CONFLATE_WINDOW <= ATTACH_WINDOW);
const _: () = assert!(RECOVERY_BYTES < BACKLOG_BYTES_MAX, "recovering must not look like being slow");

/// Bytes of one `merge` topic's state. Past it: the delta is refused at the source.
pub const STATE_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Time for which browsers are told to reach the host of the TLS port by TLS alone.
pub const HSTS: Duration = Duration::from_secs(365 * 86_400);

/// Time between two looks at the files of certificates.
pub const TLS_RELOAD_INTERVAL: Duration = Duration::from_secs(60);

/// Least `limits.memory`, in bytes.
pub const MEMORY_BYTES_MIN: u64 = 16 * 1024 * 1024;

/// Least part of it, in bytes: `limits.backlog_total_bytes`, `limits.history_total_bytes`, and the others like them.
pub const MEMORY_PART_BYTES_MIN: usize = 64 * 1024;

/// Time that connections to a socket that a service manager handed over wait in the kernel while the sources are loaded. Past
/// it: they are accepted, and upgrades are answered 503 until the sources are.
pub const HANDED_WAIT: Duration = Duration::from_secs(10);

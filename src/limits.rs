//! Every bound of the server in one place: its default, its unit, and the effect of reaching it.
//!
//! The configuration can change those under `[limits]`; the others are fixed because a protocol or
//! a data structure fixes them. `docs/limits.md` is the same page for operators.

use std::time::Duration;

/// Largest offset: JavaScript clients read offsets as doubles, which are exact up to here.
pub const OFFSET_MAX: u64 = (1 << 53) - 1;

/// Longest topic name, in bytes. Past it: the subscribe or publish is refused.
pub const TOPIC_NAME_BYTES_MAX: usize = 255;

/// Largest delta, in bytes of JSON. Past it: refused at the source with a reason, and counted.
pub const DELTA_BYTES_MAX: usize = 256 * 1024;

/// Deepest nesting of a delta. Past it: refused at the source. Keeps every client's parser safe
/// too.
pub const JSON_DEPTH_MAX: usize = 64;

/// Earliest event time (`ts`) that a publisher may give, Unix ms: 2000-01-01. Before it: the delta
/// is accepted without a time.
pub const TS_MIN_MS: u64 = 946_684_800_000;

/// Latest event time, in ms after the source received the entry: a day. After it: the delta is
/// accepted without a time.
pub const TS_AHEAD_MAX_MS: u64 = 24 * 3_600 * 1_000;

/// Characters of a topic, a value or a name that a log line about a refused entry repeats. Past it:
/// cut.
pub const REFUSAL_CHARS_SHOWN: usize = 64;

/// Log lines per minute about refused entries of one source and one reason, whatever their topics.
/// Past it: they are counted, and the next line gives the count.
pub const REFUSAL_LINES_PER_MINUTE: u64 = 32;

/// Topics of a source, each with a reason, for which the last minute's log lines are remembered.
/// Past it: refusals of others are counted, and the next line gives the count.
pub const REFUSAL_TOPICS_REMEMBERED: usize = 1_024;

/// Namespaces that are not configured and were checked for a misspelling. Past it: others are not
/// checked.
pub const NAMESPACES_JUDGED: usize = 1_024;

/// Copies of refused entries that wait to be written (`source.redis.refused`). Past it: dropped and
/// counted.
pub const REFUSED_COPIES_WAITING: usize = 1_024;

/// Bytes of a refused entry's names and values in its copy. Past it: cut.
pub const REFUSED_COPY_BYTES: usize = 8 * 1024;

/// Largest message from a client, in bytes, all fragments together. Past it: close 1009.
pub const MESSAGE_BYTES_MAX: usize = 64 * 1024;

/// Largest compressed message from a client after inflation, in bytes, if messages may be larger
/// than this. The same limit holds for uncompressed messages. Past it: close 1009, as soon as it is
/// exceeded.
pub const INFLATED_BYTES_MAX: usize = 1024 * 1024;

/// Bytes of message per subscription that a Centrifuge session may have: its message may have this many times its
/// subscriptions, if that is more than a `plain` message may have.
pub const CENTRIFUGE_SUBSCRIBE_BYTES: usize = 256;

/// Largest message of a `plain` session that needs a token and has none, in bytes. Past it: close
/// 1009. A Centrifuge client sends its subscribes with its connect, so its message has the usual
/// limits, [`Limits::incoming_total_bytes`] among them.
///
/// [`Limits::incoming_total_bytes`]: crate::config::Limits::incoming_total_bytes
pub const MESSAGE_BYTES_BEFORE_AUTH_MAX: usize = 8 * 1024;

/// Topics that were never published and exist for their subscribers alone, unless a memory ceiling
/// makes it less. Past it: the subscribe is refused.
pub const UNPUBLISHED_TOPICS_MAX: usize = 262_144;

/// Assumed memory of one such topic, in bytes; it derives their number from `limits.memory`.
pub const UNPUBLISHED_TOPIC_BYTES: usize = 1024;

/// Share of such topics that one user, or one address or session without a user, may create: one in
/// so many.
pub const UNPUBLISHED_SHARE: usize = 8;

/// Deleted topics of a source that are remembered after some of its deltas were missed.
pub const DELETED_TOPICS_MAX: usize = 65_536;

/// Memory of the topic states of a partition that are saved at once, in bytes.
pub const SAVED_BYTES_AT_ONCE: usize = 512 * 1024;

/// HTTP answers of at least this many bytes are refused while all answers together exceed their
/// ceiling.
pub const ANSWER_BYTES_SMALL: usize = 64 * 1024;

/// Bytes of an answer that are passed to a connection at once: the untaken rest stays shared.
pub const ANSWER_CHUNK_BYTES: usize = 16 * 1024;

/// Subscriptions per session. Past it: that subscribe is refused. Also the longest list of topics
/// in one command: a longer one is refused as a whole.
pub const SUBSCRIPTIONS_MAX: usize = 512;

/// Bytes of refused topic names in the reply to one command. Past it: they are counted.
pub const REFUSED_NAME_BYTES_MAX: usize = 1_024;

/// Reasons of refused topics in the reply to one command. Past it: those topics are counted.
pub const REFUSED_REASONS_MAX: usize = 8;

/// Bytes of one reason in an error that repeats a part of the command. Past it: cut.
pub const REASON_BYTES_MAX: usize = 256;

/// Positions (`subs`) in a Centrifuge connect: as many as the topics that its token may name, and
/// some of an earlier token. Past it: close 3501.
pub const CONNECT_SUBS_MAX: usize = 4 * SERVER_SUBSCRIPTIONS_MAX;

/// Bytes per second that the compressed messages of one session may inflate to, sustained. Past the
/// burst: the session is not read until that is paid back.
pub const INFLATED_BYTES_PER_SECOND: u32 = 1024 * 1024;

/// The burst of it.
pub const INFLATED_BYTES_BURST: u64 = 2 * 1024 * 1024;

/// Bytes of one read from a socket: the most that the server stores for a session whose turn is
/// over.
pub const READ_BYTES: usize = 32 * 1024;

/// Topics that the commands of one session name in one tick. Past it: its next command waits for
/// the next tick.
pub const TURN_TOPICS: usize = 512;

/// Bytes of commands, inflated, of one session in one tick. Past it: likewise.
pub const TURN_BYTES: usize = 256 * 1024;

/// Bytes of answers to one session in one tick. Past it: likewise.
pub const TURN_REPLY_BYTES: u32 = 64 * 1024;

/// Topics that the commands of all sessions of a shard name in one tick. Past it: the other
/// sessions have their turn in the next tick, after the deltas of this one.
pub const TICK_TOPICS: usize = 16_384;

/// Bytes of commands, inflated, of all sessions of a shard in one tick. Past it: likewise.
pub const TICK_BYTES: usize = 4 * 1024 * 1024;

/// Commands per second and session, sustained. Past the burst: close 3013.
pub const COMMANDS_PER_SECOND: u32 = 50;

/// Commands that a session may send at once before the sustained rate applies.
pub const COMMANDS_BURST: u32 = 200;

/// Bytes that may wait in user space for one session. Past it: close 3008 (slow; reconnect and
/// recover).
pub const BACKLOG_BYTES_MAX: usize = 1024 * 1024;

/// Topics per server. Past it: new ones are refused and counted.
pub const TOPICS_MAX: usize = 1_000_000;

/// Deltas per topic kept for recovery.
pub const HISTORY_DELTAS: usize = 128;

/// Age after which a kept delta is removed.
pub const HISTORY_TTL: Duration = Duration::from_secs(300);

/// Time without a delta after which a topic expires: longer than any holiday of a market.
pub const EXPIRE_AFTER: Duration = Duration::from_secs(30 * 24 * 3600);

/// Bytes of payload per topic kept for recovery; the newest delta is always kept.
pub const HISTORY_BYTES: usize = 1024 * 1024;

/// Time for an HTTP request head: for the first request from accept, for the next from its first
/// byte. Past it: closed.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);

/// Time that an HTTP connection stays open between two requests. Past it: closed in a way that does
/// not reset a request on its way. Answers announce a second less (`Keep-Alive`).
pub const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(75);

/// HTTP connections of one address (for IPv6, one /64) that are served while others wait. Past it:
/// its connections are evicted first, and its waiting connections get only its own slots.
pub const CONNECTIONS_PER_ADDRESS: usize = 64;

/// Largest HTTP request head, in bytes; it has at most 100 headers. Past it: 431.
pub const HEAD_BYTES_MAX: usize = 16 * 1024;

/// Time for the whole body of an HTTP request to arrive, and for a client to take an answer that
/// does not fit its socket. Past it: 408 for a body, closed for an answer.
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);

/// Time from upgrade to a first valid command. Past it: close 3502. Also the longest time from the
/// first byte of a message to its last.
pub const FIRST_COMMAND_TIMEOUT: Duration = Duration::from_secs(10);

/// Time from upgrade to a valid token, if no topic is available without one. Past it: close 3502.
pub const TOKEN_TIMEOUT: Duration = Duration::from_secs(10);

/// Share of all sessions that may be without a token, if no topic is available without one. Past
/// it: upgrades without a token are answered 503.
pub const TOKENLESS_SHARE: f64 = 0.25;

/// Bytes per second that a session, or all sessions of one user, may request (states and missed
/// deltas of subscribes, snapshots, history, presence, calls), sustained. Past the burst:
/// subscribes get their states and missed deltas later; everything else is refused until that is
/// paid back.
pub const REPLY_BYTES_PER_SECOND: u32 = 1024 * 1024;

/// The burst of it.
pub const REPLY_BYTES_BURST: u32 = 16 * 1024 * 1024;

/// Free bytes of state per missed delta of a lagging or throttled subscription; or the size of
/// those deltas, if that is more.
pub const STATE_BYTES_PER_MISSED: usize = 1_024;

/// Least room that a waiting session is given, in bytes, if it waits for as many: small states are
/// sent together.
pub const DELAYED_BYTES: usize = 16 * 1024;

/// Bytes that a call or a presence query counts for until it is answered. As many may run as the
/// allowance has room for. Past it: the next is refused.
pub const ANSWER_RESERVED_BYTES: usize = 64 * 1024;

/// Bytes of such answers per second and address, for sessions that name no user, sustained.
pub const REPLY_BYTES_PER_ADDRESS: u32 = 4 * 1024 * 1024;

/// The burst of it, in seconds.
pub const REPLY_BYTES_PER_ADDRESS_BURST_S: u64 = 16;

/// Announced subscriptions (join, leave) of one session per second, sustained; as many at once as its limit on
/// subscriptions. Past it: neither the join nor the leave of a subscription is announced. Presence still has it.
pub const ANNOUNCED_PER_SECOND: u64 = 5;

/// Time between two deliveries of joins and leaves of one topic, in ms. Those in between are sent
/// together; a client that joined and left in between is not announced.
pub const MEMBERSHIP_EVERY_MS: u64 = 200;

/// Bytes per second of joins and leaves of one topic that a node sends to all subscribers,
/// sustained; each shard has its part. Past the burst: sent later, and together with those that
/// follow.
pub const MEMBERSHIP_BYTES_PER_SECOND: u32 = 1024 * 1024;

/// The burst of it, in seconds.
pub const MEMBERSHIP_BURST_S: u64 = 4;

/// Part of it for one user, or session without a user, over all topics: one in so many. Past it:
/// likewise.
pub const MEMBERSHIP_USER_PART: u64 = 4;

/// Largest `info` of a token, in bytes of JSON, shown in joins and leaves. Past it: left out of
/// them and counted. Presence still has it.
pub const MEMBER_INFO_BYTES_MAX: usize = 1_024;

/// Joins and leaves of one topic that wait to be sent. Past it: dropped and counted.
pub const MEMBERSHIP_WAITING_MAX: usize = 16_384;

/// Memory of all waiting joins and leaves of one shard, in bytes. Past it: likewise.
pub const MEMBERSHIP_WAITING_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Clients that wait at once for this node to read up to their offsets. Past it: they are answered
/// as after the wait.
pub const CATCHING_UP_MAX: usize = 16_384;

/// Share of the free places of those for one user, or one session without a user: one in so many.
pub const CATCHING_UP_PART: usize = 16;

/// The same once three quarters are taken, in places; for the last sixteenth it is one.
pub const CATCHING_UP_FEW: usize = 8;

/// Silence after which the server sends a ping.
pub const PING_INTERVAL: Duration = Duration::from_secs(25);

/// Time for a client's sign of life after a ping. Past it: close 3012.
pub const PONG_TIMEOUT: Duration = Duration::from_secs(10);

/// Time that a full socket may take no byte. Past it: close 3008.
pub const STALL_TIMEOUT: Duration = Duration::from_secs(30);

/// Time for a peer to answer the server's close frame before the socket is dropped.
pub const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// Descriptors reserved for Redis, files, listeners and plain HTTP requests.
pub const FD_RESERVE: usize = 512;

/// Longest header of the PROXY protocol. Past it: closed and counted. Addresses take at most 232
/// bytes; the rest is for further fields (usually of the client's certificate).
pub const PROXY_HEADER_BYTES_MAX: usize = 2 * 1024;

/// Addresses of one `X-Forwarded-For` or `Forwarded` that are read, from the right. Past it: the
/// last one counts.
pub const FORWARDED_HOPS_MAX: usize = 32;

/// Connections of the operators' own listener that are served at once, and as many that wait. Past
/// it: 503.
pub const OPERATOR_CONNECTIONS_MAX: usize = 32;

/// HTTP connections of a listener (not upgraded at once, or never) served at once. Past it: they
/// wait.
pub const HTTP_CONNECTIONS_MAX: usize = 384;

/// HTTP connections of a listener that wait to be served; at most half of them of addresses above
/// their share. Past it: 503. Over TLS they stay in the kernel for a while, or are closed if their
/// address is above its share.
pub const HTTP_WAITING_MAX: usize = 64;

/// HTTP connections of a listener without a slot or a place to wait, read only to see whether they
/// ask for `/healthz` or `/readyz`. Past it, and for other requests: 503.
pub const HTTP_OVERFLOW_MAX: usize = 32;

/// The same per address (for IPv6, one /64).
pub const HTTP_OVERFLOW_PER_ADDRESS: usize = 8;

/// Time that such a connection has for its request head. Past it: 503.
pub const HTTP_OVERFLOW_TIME: Duration = Duration::from_millis(500);

/// Connections of `server.health_listen` that are served at once, and as many that wait. Past it:
/// 503.
pub const HEALTH_CONNECTIONS_MAX: usize = 16;

/// Requests that wait for a key set to be fetched. Past it: 503 with Retry-After.
pub const KEY_WAITERS_MAX: usize = 32;

/// Longest time that an HTTP connection waits for a slot. Past it: 503, over TLS closed.
pub const HTTP_WAIT: Duration = Duration::from_secs(2);

/// Longest time to wait for a client (each of its turns in a TLS handshake, its PROXY header, its
/// first head, its next request) while others wait to be served. Past it: closed, the longest wait
/// first, one per waiting connection.
pub const HTTP_PATIENCE: Duration = Duration::from_secs(1);

/// Age after which an answer is a connection's last, if others wait to be served.
pub const HTTP_CONTENDED_KEEP_ALIVE: Duration = Duration::from_secs(10);

/// Topics in one answer of `GET /api/topics`. Past it: the answer says how to continue.
pub const LISTED_TOPICS_MAX: usize = 10_000;

/// Listed topics per second and client address, sustained. Past it: 429 with `Retry-After`.
pub const LISTED_TOPICS_PER_SECOND: u32 = 20_000;

/// The burst of it, in seconds. A listing is charged in advance for the longest answer, and the
/// unused part is given back.
pub const LISTED_TOPICS_BURST_S: u64 = 2;

/// Topics that a listing counts for at least.
pub const LISTED_TOPICS_LEAST: usize = 100;

/// Largest body of a publish request.
pub const PUBLISH_BODY_BYTES_MAX: usize = 8 * 1024 * 1024;

/// Commands in one request to the API, and deltas that it publishes: a broadcast counts once per
/// channel. Past it: refused before any is executed.
pub const BATCH_COMMANDS_MAX: usize = 10_000;

/// Bytes of deltas that one request to the API publishes: a broadcast counts once per channel. Past
/// it: refused.
pub const BROADCAST_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Bytes of answers after which no further reading commands of a request are executed. Past it:
/// each is refused.
pub const ANSWER_BYTES_MAX: usize = 8 * 1024 * 1024;

/// Longest idempotency key, in bytes. Past it: refused.
pub const IDEMPOTENCY_KEY_BYTES_MAX: usize = 255;

/// Time for which a repeated publish with an idempotency key is answered with the first result.
pub const IDEMPOTENCY_TTL: Duration = Duration::from_secs(300);

/// Results of publishes with idempotency keys remembered by a process without a stream. Past it:
/// the oldest are removed.
pub const IDEMPOTENCY_RESULTS_MAX: usize = 65_536;

/// Deletions of topics that are remembered until every other partition has been read up to them.
/// Half of the room is for deletions of topics of which another partition holds older entries. Past
/// it: new ones are not remembered, and an older delta in another partition brings the topic back.
pub const DELETIONS_MAX: usize = 100_000;

/// Ended topics of a source that are remembered until their saved states are removed. Past it: no
/// states are saved until the node restarts, so that none of these becomes valid again. The same
/// number of topics without room, whose older saved states are out of date. Past it: all states are
/// saved again.
pub const ENDED_TOPICS_MAX: usize = if cfg!(test) { 100 } else { 1_000_000 };

/// Topics of a partition that are remembered because their deltas wait in another for `nexus-push
/// reshard`. Past it: when the time is over, all topics that may wait are reported as incomplete.
pub const MOVES_WAITING_MAX: usize = 100_000;

/// Deltas that are sent to Redis or NATS before their answers are awaited.
pub const APPEND_DELTAS_MAX: usize = 512;

/// The same in bytes.
pub const APPEND_BYTES_MAX: usize = 1024 * 1024;

/// Events in one shard's queue. Publishing waits at [`QUEUE_HIGH_WATER`], so in practice the queue
/// is never full; if it is, the publisher blocks until the shard has taken some.
pub const QUEUE_EVENTS_MAX: usize = 65_536;

/// Queue length at which sources and publishers wait for the shard.
pub const QUEUE_HIGH_WATER: usize = 16_384;

/// Most events per tick, so that its length stays bounded.
pub const TICK_EVENTS_MAX: usize = 8_192;

/// Deltas of one conflatable topic that a shard keeps for lagging subscriptions. A subscription
/// further behind gets the snapshot.
pub const CONFLATE_WINDOW: usize = 512;

/// Bytes of them. A patch longer than the state is never sent, so more than the size of a state is
/// useless.
pub const CONFLATE_WINDOW_BYTES: usize = STATE_BYTES_MAX;

/// Deltas of one topic that a shard keeps while a subscribe to it is in progress. Past it: the
/// subscriber gets the topic's current state, or a replay of a stream.
pub const ATTACH_WINDOW: usize = 16_384;

/// Requests of one shard that may wait for the control plane. Past it: subscribes are refused with
/// 503.
pub const SHARD_REQUESTS_MAX: usize = 131_072;

/// Bytes of all sessions' requests in progress, if `limits.memory` is off.
pub const ASKED_BYTES_MAX: usize = 64 * 1024 * 1024;

/// The least of it otherwise: some 4,000 subscribes.
pub const ASKED_BYTES_MIN: usize = 1024 * 1024;

/// Largest request, in bytes, that may use the second half of it. Larger ones (long tokens,
/// publishes, calls) leave that half to others.
pub const ASKED_BYTES_SMALL: usize = 2 * 1024;

/// Part of it for requests of all shards that the control plane has not read yet: one in so many.
/// Past it: sockets are not read until it has read some.
pub const UNSEEN_PART: usize = 8;

/// Most of them per shard, in bytes.
pub const UNSEEN_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Time that a client's publish waits for its earlier ones. Past it: refused with 503 and not
/// stored.
pub const PUBLISH_WAIT: Duration = Duration::from_secs(15);

/// Time for an answer from behind the control plane, above the time-outs there. Past it: 503.
pub const ANSWER_TIMEOUT: Duration = Duration::from_secs(45);

/// Time that a session's commands wait for the answer to an earlier one. Past it: close 4408.
pub const DEFERRED_MAX: Duration = Duration::from_secs(60);

/// Bytes of the read buffer that all sessions of a shard share.
pub const READ_BUFFER_BYTES: usize = 128 * 1024;

/// `TCP_NOTSENT_LOWAT`: unsent bytes that the kernel holds for one socket before it reports the
/// socket as full.
pub const NOTSENT_LOWAT_BYTES: u32 = 64 * 1024;

/// Bytes of snapshots and missed deltas that a subscribe sends at once. The rest follows as the
/// socket takes it, so that no history is too long for a client that reads.
pub const RECOVERY_BYTES: usize = 256 * 1024;

/// Bytes gathered for one write while a backlog is sent.
pub const DRAIN_CHUNK_BYTES: usize = 64 * 1024;

/// Largest message that joins several replies to a Centrifuge client. The rest is sent one by one,
/// so that a full socket leads to a state later, not to bytes kept.
pub const JOINED_BYTES_MAX: usize = 16 * 1024;

/// Longest flush interval.
pub const FLUSH_INTERVAL_MAX: Duration = Duration::from_secs(5);

/// Longest adaptive flush delay of a busy shard, in ms.
pub const FLUSH_DELAY_MS_MAX: u32 = 21;

/// Share of busy time, in 1/1,000, from which on a shard delays flushes.
pub const FLUSH_DELAY_FROM: u64 = 50;

/// Share at which the delay is longest. Between the two it grows linearly.
pub const FLUSH_DELAY_FULL: u64 = 235;

/// Longest time that a busy shard leaves deltas in its queue, in ms: a quarter of that delay, at
/// most this.
pub const PARK_MS_MAX: u64 = 4;

/// Lowest byte rate per second that a session may ask for: a snapshot must get through before it is
/// old.
pub const BYTES_PER_SECOND_MIN: u32 = 1_024;

/// Rates per second that a subscriber may ask for. A request is rounded down to one of them, so
/// that the number of groups per topic stays bounded.
pub const RATE_STEPS: [f64; 12] = [0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 25.0, 50.0, 100.0, 200.0];

/// Time that a Centrifuge session continues after its token has expired. Past it: close 3005.
pub const EXPIRED_CLOSE_DELAY: Duration = Duration::from_secs(25);

/// Age at which a key set is fetched again.
pub const JWKS_MAX_AGE: Duration = Duration::from_secs(600);

/// Least time between two fetches of a key set.
pub const JWKS_MIN_INTERVAL: Duration = Duration::from_secs(10);

/// Time-out of a fetch of a key set.
pub const JWKS_TIMEOUT: Duration = Duration::from_secs(5);

/// Time that a token of an unknown key waits for the key set, from the start of the fetch. Past it:
/// answered with the known keys.
pub const JWKS_WAIT: Duration = Duration::from_secs(1);

/// Longest token, in bytes. Past it: not valid.
pub const TOKEN_BYTES_MAX: usize = 16 * 1024;

/// Failed tokens per session, plus one per minute. Past it: close 3500, and waiting tokens are
/// answered unchecked.
pub const TOKEN_FAILURES: u32 = 10;

/// Time after which one failed token of a session is forgotten.
pub const TOKEN_FAILURE_FORGOTTEN: Duration = Duration::from_secs(60);

/// Failed tokens of HTTP requests and upgrades per second and address. Past it: 429, except for
/// tokens that were verified before.
pub const TOKEN_FAILURES_PER_ADDRESS: u32 = 20;

/// The burst of it, in seconds.
pub const TOKEN_FAILURES_BURST: u64 = 5;

/// Addresses whose failures are counted at once. Past it: those of other addresses are not.
pub const TOKEN_ADDRESSES_MAX: usize = 65_536;

/// Tokens of one address that wait for verification. Past it: 503.
pub const TOKENS_WAITING_OF_ADDRESS: usize = 256;

/// Bytes of tokens of one session or address that wait for verification. Past it: try again.
pub const TOKENS_WAITING_BYTES: usize = 1024 * 1024;

/// Bytes of all tokens that wait for verification; the first of a session or address always may.
/// Past it: try again.
pub const TOKENS_WAITING_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Sessions' tokens that wait for the key set at once. Past it: try again.
pub const SESSION_KEY_WAITERS_MAX: usize = 1_024;

/// Valid tokens that are remembered and not verified again. Past it: some are.
pub const VERIFIED_TOKENS_MAX: usize = 1_024;

/// Longest of these, in bytes.
pub const VERIFIED_TOKEN_BYTES_MAX: usize = 4 * 1024;

/// Largest key set, in bytes.
pub const JWKS_BYTES_MAX: usize = 256 * 1024;

/// Time for the endpoint of calls to answer. Past it: the client is told to try again.
pub const RPC_TIMEOUT: Duration = Duration::from_secs(3);

/// Largest answer to a call, in bytes.
pub const RPC_BYTES_MAX: usize = 256 * 1024;

/// Publishes, history, presence and calls of one session in progress. Past it: the next is refused.
pub const PENDING_COMMANDS_MAX: u16 = 64;

/// Members of a topic in one presence answer. Past it: the command is refused; the statistics have
/// no bound.
pub const PRESENCE_MEMBERS_MAX: usize = 2_000;

/// Topics that a token may subscribe its session to.
pub const SERVER_SUBSCRIPTIONS_MAX: usize = 128;

/// Longest time over which `POST /admin/drain` closes sessions. Past it: refused.
pub const SHED_WINDOW_MAX: Duration = Duration::from_secs(600);

/// The default of it.
pub const SHED_WINDOW: Duration = Duration::from_secs(5);

/// Time after the window for the closed sessions to reconnect elsewhere and for the other nodes to
/// report them. Until then the mean is unknown.
pub const SHED_SETTLE: Duration = Duration::from_secs(3);

/// Longest delay, in ms, that a session closed in waves is asked for. The waves already spread the
/// sessions.
pub const SHED_RETRY_MS_MAX: u64 = 1_000;

/// `debug.echo`: largest message, in bytes, as it came and inflated. Past it: close 1009.
pub const ECHO_MESSAGE_BYTES_MAX: usize = 16 * 1024 * 1024;

/// `debug.echo`: sessions at once. Past it: upgrades are answered 503.
pub const ECHO_SESSIONS_MAX: usize = 64;

/// `debug.echo`: time without a byte sent or taken. Past it: closed.
pub const ECHO_IDLE_TIMEOUT: Duration = Duration::from_secs(60);

const _: () = assert!(QUEUE_HIGH_WATER * 2 <= QUEUE_EVENTS_MAX);
const _: () = assert!(MESSAGE_BYTES_MAX + 14 <= READ_BUFFER_BYTES);
const _: () = assert!(
    MESSAGE_BYTES_MAX <= INFLATED_BYTES_MAX,
    "compression must not forbid a message that is allowed without it"
);
const _: () = assert!(BACKLOG_BYTES_MAX > DELTA_BYTES_MAX, "one delta must fit a backlog");
const _: () = assert!(HISTORY_BYTES >= DELTA_BYTES_MAX, "one delta must fit a history");
const _: () = assert!(CONFLATE_WINDOW <= ATTACH_WINDOW);
const _: () = assert!(RECOVERY_BYTES < BACKLOG_BYTES_MAX, "recovering must not look like being slow");

/// Bytes of one `merge` topic's state. Past it: the delta is refused at the source.
pub const STATE_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Time for which browsers are told to use only TLS for the host of the TLS port.
pub const HSTS: Duration = Duration::from_secs(365 * 86_400);

/// Time between two checks of the certificate files.
pub const TLS_RELOAD_INTERVAL: Duration = Duration::from_secs(60);

/// Least `limits.memory`, in bytes.
pub const MEMORY_BYTES_MIN: u64 = 16 * 1024 * 1024;

/// Least share of it, in bytes, for `limits.backlog_total_bytes`, `limits.history_total_bytes` and
/// the similar ones.
pub const MEMORY_PART_BYTES_MIN: usize = 64 * 1024;

/// Time that connections to a handed-over socket wait in the kernel while the sources are loading.
/// Past it: they are accepted, and upgrades are answered 503 until the sources are loaded.
pub const HANDED_WAIT: Duration = Duration::from_secs(10);

//! What may happen in a world of the model: single steps in any order, mixed with short stories whose order is known to
//! be dangerous: replays that wait for full sockets, subscriptions that start over, many commands at once, long lists,
//! long idle times.

use std::ops::Range;

use proptest::prelude::*;

use super::sizes::{CLIENTS, ClientKind, FLOOR_MAX, TOPICS};

/// The topics that may be conflated, and the streams.
const STATES: Range<usize> = 0..2;
const STREAMS: Range<usize> = 2..TOPICS.len();

#[derive(Debug, Clone)]
pub(super) enum Op {
    /// A client connects, if that place is free.
    Come(usize),
    /// A client disconnects without a close.
    Go(usize),
    Subscribe(usize, Vec<usize>, Option<u32>),
    /// A client remembers its position.
    Mark(usize),
    /// A client remembers a position before the first delta of this epoch.
    Beginning(usize, usize),
    /// A client subscribes from its position, or from a remembered one.
    Recover {
        client: usize,
        topics: Vec<usize>,
        old: bool,
        reject: bool,
    },
    Unsubscribe(usize, usize),
    /// A client subscribes, unsubscribes and subscribes again, several times, with padding in each command, and waits
    /// for no answer.
    Breath {
        client: usize,
        topics: Vec<usize>,
        times: usize,
        bytes: usize,
    },
    Snapshot(usize, Vec<usize>),
    Rate(usize, usize, Option<u32>),
    Session {
        client: usize,
        flush_ms: u32,
        bytes_per_second: u32,
        batch: bool,
    },
    /// Publishes deltas of a given size.
    Publish {
        topic: usize,
        deltas: usize,
        bytes: usize,
    },
    /// The epoch of all topics changes. Afterwards either all deltas are kept, or only those from now on.
    NewEpoch {
        offset: u64,
        whole: bool,
    },
    /// A client reads at most this many bytes.
    Read(usize, usize),
    /// So many ms pass in which nothing happens.
    Lull(u64),
    /// The shard runs a tick, after waiting this many ms for something to do.
    Turn(u64),
    /// The control plane answers the waiting requests.
    Answer,
}

fn op() -> impl Strategy<Value = Op> {
    let (client, topic) = (0..CLIENTS, 0..TOPICS.len());
    let topics = prop::collection::vec(0..TOPICS.len(), 1..4);
    let rate = prop::option::of(prop::sample::select(vec![50u32, 100, 200]));
    let wishes =
        (prop::sample::select(vec![0u32, 20, 200, 2_000]), prop::sample::select(vec![0u32, 2_000_000]), any::<bool>());
    prop_oneof![
        2 => client.clone().prop_map(Op::Come),
        1 => client.clone().prop_map(Op::Go),
        4 => (client.clone(), topics.clone(), rate.clone()).prop_map(|(c, t, r)| Op::Subscribe(c, t, r)),
        1 => client.clone().prop_map(Op::Mark),
        3 => (client.clone(), topics.clone(), any::<bool>(), any::<bool>())
            .prop_map(|(client, topics, old, reject)| Op::Recover { client, topics, old, reject }),
        1 => (client.clone(), topic.clone()).prop_map(|(c, t)| Op::Unsubscribe(c, t)),
        1 => (client.clone(), topics.clone(), 1usize..4, prop::sample::select(vec![0usize, 6_000]))
            .prop_map(|(client, topics, times, bytes)| Op::Breath { client, topics, times, bytes }),
        2 => (client.clone(), topics).prop_map(|(c, t)| Op::Snapshot(c, t)),
        3 => (client.clone(), topic.clone(), rate).prop_map(|(c, t, r)| Op::Rate(c, t, r)),
        2 => (client.clone(), wishes).prop_map(|(client, (flush_ms, bytes_per_second, batch))| Op::Session { client, flush_ms, bytes_per_second, batch }),
        8 => (topic, 1usize..14, prop::sample::select(vec![10usize, 500, 6_000])).prop_map(|(topic, deltas, bytes)| Op::Publish { topic, deltas, bytes }),
        1 => (0..=FLOOR_MAX, any::<bool>()).prop_map(|(offset, whole)| Op::NewEpoch { offset, whole }),
        3 => prop::sample::select(vec![1_000u64, 11_000, 26_000, 40_000]).prop_map(Op::Lull),
        6 => (client, prop::sample::select(vec![50usize, 5_000, 100_000])).prop_map(|(c, n)| Op::Read(c, n)),
        10 => (0u64..4).prop_map(Op::Turn),
        6 => Just(Op::Answer),
    ]
}

/// Answers requests.
fn answers() -> [Op; 3] {
    [Op::Turn(1), Op::Answer, Op::Turn(0)]
}

/// A client that is connected, has read everything, and then remembers its position in a topic.
fn follows(client: usize, topic: usize) -> Vec<Op> {
    let mut ops = vec![Op::Come(client), Op::Turn(0), Op::Subscribe(client, vec![topic], None)];
    ops.extend(answers());
    ops.extend([Op::Publish { topic, deltas: 1, bytes: 10 }, Op::Turn(0), Op::Read(client, 100_000), Op::Turn(0)]);
    ops.extend([Op::Read(client, 100_000), Op::Mark(client)]);
    ops
}

/// More deltas than a socket takes.
fn fills(topic: usize) -> [Op; 2] {
    [Op::Publish { topic, deltas: 7, bytes: 6_000 }, Op::Turn(0)]
}

/// A stream must be replayed to a client whose socket is full; meanwhile the client does other things with it.
fn pending_replay() -> impl Strategy<Value = Vec<Op>> {
    let meanwhile = |client: usize, stream: usize| {
        prop_oneof![
            4 => Just(Op::Snapshot(client, vec![stream])),
            2 => Just(Op::Publish { topic: stream, deltas: 1, bytes: 10 }),
            // More than some worlds keep.
            2 => Just(Op::Publish { topic: stream, deltas: 25, bytes: 10 }),
            2 => any::<bool>().prop_map(move |old| Op::Recover { client, topics: vec![stream], old, reject: false }),
            1 => Just(Op::Unsubscribe(client, stream)),
            1 => Just(Op::Breath { client, topics: vec![stream], times: 1, bytes: 0 }),
            1 => STATES.prop_map(|topic| Op::Publish { topic, deltas: 9, bytes: 6_000 }),
            1 => STATES.prop_map(move |topic| Op::Rate(client, topic, Some(50))),
            1 => Just(Op::Read(client, 5_000)),
            4 => Just(Op::Turn(0)),
            3 => Just(Op::Answer),
        ]
    };
    (0..CLIENTS, STATES, STREAMS, 1usize..12, 0..3).prop_flat_map(move |(client, state, stream, missed, first)| {
        prop::collection::vec(meanwhile(client, stream), 3..14).prop_map(move |meanwhile| {
            let mut ops = follows(client, stream);
            ops.push(Op::Subscribe(client, vec![state], None));
            ops.extend(answers());
            ops.push(Op::Publish { topic: stream, deltas: missed, bytes: 500 });
            ops.extend(fills(state));
            ops.push(Op::Recover { client, topics: vec![stream], old: true, reject: false });
            ops.extend(answers());
            ops.extend([Op::Publish { topic: stream, deltas: 1, bytes: 10 }, Op::Turn(0)]);
            match first {
                0 => {
                    ops.push(Op::Snapshot(client, vec![stream]));
                    ops.extend(answers());
                }
                1 => ops.extend([Op::Publish { topic: stream, deltas: 25, bytes: 10 }, Op::Turn(0)]),
                _ => {}
            }
            ops.extend(meanwhile);
            ops
        })
    })
}

/// A client that requested lists gets so much at once that it needs several.
fn long_lists() -> impl Strategy<Value = Vec<Op>> {
    (0..CLIENTS, STREAMS, 11usize..40).prop_map(|(client, stream, deltas)| {
        let mut ops = follows(client, stream);
        ops.extend([Op::Session { client, flush_ms: 0, bytes_per_second: 0, batch: true }, Op::Turn(1)]);
        ops.extend([
            Op::Publish { topic: stream, deltas, bytes: 6_000 },
            Op::Turn(0),
            Op::Read(client, 100_000),
            Op::Turn(1),
        ]);
        ops
    })
}

/// A client reconnects from a position of which nothing is kept any more, or everything, and wants all or an error.
fn all_or_nothing() -> impl Strategy<Value = Vec<Op>> {
    (0..CLIENTS, STREAMS, 1usize..30, any::<bool>()).prop_map(|(client, stream, missed, reject)| {
        let mut ops = follows(client, stream);
        ops.extend([
            Op::Unsubscribe(client, stream),
            Op::Turn(1),
            Op::Publish { topic: stream, deltas: missed, bytes: 10 },
        ]);
        ops.push(Op::Recover { client, topics: vec![stream], old: true, reject });
        ops.extend(answers());
        ops.push(Op::Read(client, 100_000));
        ops
    })
}

/// Nothing was published in this epoch when a client subscribes. Then something is, and the client reconnects.
fn from_the_beginning() -> impl Strategy<Value = Vec<Op>> {
    (0..CLIENTS, 0..TOPICS.len(), 0..=FLOOR_MAX, any::<bool>()).prop_map(|(client, topic, offset, whole)| {
        let mut ops = vec![Op::NewEpoch { offset, whole }, Op::Turn(0), Op::Go(client), Op::Come(client), Op::Turn(0)];
        ops.push(Op::Subscribe(client, vec![topic], None));
        ops.extend(answers());
        ops.extend([
            Op::Read(client, 100_000),
            Op::Mark(client),
            Op::Publish { topic, deltas: 1, bytes: 10 },
            Op::Turn(0),
        ]);
        ops.extend([Op::Read(client, 100_000), Op::Go(client), Op::Come(client), Op::Turn(0)]);
        for beginning in [false, true] {
            if beginning {
                ops.extend([Op::Go(client), Op::Come(client), Op::Turn(0), Op::Beginning(client, topic)]);
            }
            ops.push(Op::Recover { client, topics: vec![topic], old: true, reject: false });
            ops.extend(answers());
            ops.push(Op::Read(client, 100_000));
        }
        ops
    })
}

/// A client that is not written to at once is pinged, or has just read its backlog: it has its full time to answer.
fn lull() -> impl Strategy<Value = Vec<Op>> {
    let owed = (STATES, prop::sample::select(vec![26_000u64, 40_000]));
    let ms = prop::sample::select(vec![26_000u64, 40_000]);
    (0..CLIENTS, any::<bool>(), prop::option::of(owed), ms).prop_map(|(client, late, owed, ms)| {
        let mut ops = vec![Op::Come(client), Op::Turn(0)];
        let flush_ms = if late { 2_000 } else { 0 };
        ops.extend([Op::Session { client, flush_ms, bytes_per_second: 0, batch: false }, Op::Turn(1)]);
        if let Some((topic, full_ms)) = owed {
            ops.push(Op::Subscribe(client, vec![topic], None));
            ops.extend(answers());
            ops.extend(fills(topic));
            // Full sockets take the backlog a few KB at a time.
            ops.push(Op::Lull(full_ms));
            (0..6).for_each(|_| ops.extend([Op::Read(client, 100_000), Op::Turn(1)]));
        }
        ops.extend([Op::Lull(ms), Op::Lull(1_000), Op::Read(client, 100_000), Op::Turn(1)]);
        ops
    })
}

/// Steps and stories, in any order.
pub(super) fn ops() -> impl Strategy<Value = Vec<Op>> {
    let story = prop_oneof![
        5 => pending_replay(),
        1 => long_lists(),
        1 => all_or_nothing(),
        1 => from_the_beginning(),
        2 => lull(),
    ];
    let part = prop_oneof![12 => op().prop_map(|op| vec![op]), 1 => story];
    prop::collection::vec(part, 1..80).prop_map(|parts| parts.into_iter().flatten().collect())
}

/// The settings of a world.
#[derive(Debug, Clone)]
pub(super) struct Ways {
    pub(super) kinds: [ClientKind; CLIENTS],
    /// So small that a slow client of a stream is closed, or so large that none is.
    pub(super) backlog_bytes: usize,
    /// A limit on all backlogs that two clients soon reach, or none.
    pub(super) backlog_total_bytes: usize,
    /// A limit on kept deltas so small that it is reached all the time, or none.
    pub(super) deltas_total_bytes: usize,
    /// The allowance of a session: so small that states and replays wait, or unlimited.
    pub(super) reply_bytes_per_second: u32,
    /// Number of deltas kept per topic: all, or so few that replays are lost.
    pub(super) history_size: usize,
}

impl Ways {
    /// No limits, and all sessions speak `plain`.
    pub(super) fn plain() -> Self {
        Self {
            kinds: [ClientKind { centrifuge: false, deflate: false }; CLIENTS],
            backlog_bytes: 1 << 30,
            backlog_total_bytes: 0,
            deltas_total_bytes: 0,
            reply_bytes_per_second: u32::MAX,
            history_size: 100_000,
        }
    }

    /// Whether all deltas of an epoch are kept.
    pub(super) fn keep_all(&self) -> bool {
        self.history_size > 1_000
    }
}

pub(super) fn ways() -> impl Strategy<Value = Ways> {
    let kind = || (prop::bool::weighted(0.4), prop::bool::weighted(0.4));
    let kinds = [kind(), kind(), kind()];
    let backlogs = (prop::sample::select(vec![20_000, 1 << 30]), prop::sample::select(vec![0, 0, 48 * 1024]));
    let deltas = prop::sample::select(vec![0, 0, 32 * 1024]);
    let history = prop_oneof![3 => Just(100_000), 1 => Just(20)];
    let replies = prop_oneof![2 => Just(u32::MAX), 1 => Just(1_000_000u32)];
    let all = (kinds, backlogs, deltas, history, replies);
    all.prop_map(|(kinds, backlogs, deltas_total_bytes, history_size, reply_bytes_per_second)| Ways {
        kinds: kinds.map(|(centrifuge, deflate)| ClientKind { centrifuge, deflate }),
        backlog_bytes: backlogs.0,
        backlog_total_bytes: backlogs.1,
        deltas_total_bytes,
        reply_bytes_per_second,
        history_size,
    })
}

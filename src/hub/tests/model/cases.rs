//! Worlds of the model with a known outcome.

use std::time::Duration;

use serde_json::json;

use super::World;
use super::sizes::TOPICS;
use super::worlds::{Op, Ways};
use crate::config::FlushBackend;
use crate::limits::TURN_TOPICS;

/// Other subscribers see a subscription that starts over as present throughout, from whatever position it starts.
#[test]
fn a_subscription_that_begins_again_is_not_seen_to_end() {
    let ways = Ways::plain();
    let mut world = World::new(FlushBackend::Epoll, &[], ways);
    world.come(0);
    let topics: Vec<usize> = (0..TOPICS.len()).collect();
    for again in [
        Op::Subscribe(0, topics.clone(), None),
        Op::Subscribe(0, topics.clone(), Some(50)),
        Op::Recover { client: 0, topics: topics.clone(), old: false, reject: false },
    ] {
        world.do_one(again).unwrap();
        world.settle().unwrap();
        let seen = world.seen.lock();
        assert_eq!((seen.there.len(), seen.told), (TOPICS.len(), TOPICS.len()));
    }
    world.leave().unwrap();
    assert_eq!(world.seen.lock().told, 2 * TOPICS.len());
}

/// A session that sends a lot at once is read in turns: another session's command is answered in the first of them.
#[test]
fn a_session_that_sends_much_is_read_in_turns() {
    let mut world = World::new(FlushBackend::Epoll, &[], Ways::plain());
    (0..2).for_each(|client| world.come(client));
    world.turn(1).unwrap();
    let commands = 4 * TURN_TOPICS / TOPICS.len();
    if let Some(peer) = &mut world.peers[0] {
        (0..commands).for_each(|_| peer.send(&json!({"op": "unsubscribe", "args": TOPICS})));
    }
    if let Some(peer) = &mut world.peers[1] {
        peer.send(&json!({"op": "ping"}));
    }
    let (mut turns, mut answered_in) = (0, None);
    while world.peers[..2].iter().flatten().any(|peer| !peer.unanswered.is_empty()) {
        let before = world.shard.stats.commands.get();
        world.shard.turn(&mut world.events, Duration::from_millis(100));
        let heard = world.shard.stats.commands.get() - before;
        let most = (TURN_TOPICS / TOPICS.len() + 2) as u64;
        assert!(heard <= most, "{heard} commands of {commands} in a turn");
        turns += usize::from(heard > 0);
        world.peers[..2].iter_mut().flatten().for_each(|peer| peer.read(1 << 20).unwrap());
        if world.peers[1].as_ref().is_some_and(|peer| peer.unanswered.is_empty()) {
            answered_in = answered_in.or(Some(turns));
        }
    }
    assert!(turns >= 4, "{commands} commands in {turns} turns");
    assert!(answered_in <= Some(2), "the other session was answered in turn {answered_in:?} of {turns}");
    world.leave().unwrap();
}

/// Commands that waited for an answer are carried out in the turns of their session, not in addition to them: a message
/// that waits for a `connect`, and each later one, is more than one turn takes.
#[test]
fn commands_that_waited_are_carried_out_in_turns() {
    let mut ways = Ways::plain();
    ways.kinds[0].centrifuge = true;
    let mut world = World::new(FlushBackend::Epoll, &[], ways);
    world.come(0);
    world.turn(1).unwrap();
    world.settle().unwrap();
    let unsubscribes = |peer: &mut super::Peer| {
        let first = peer.sent + 1;
        let commands = (0..TURN_TOPICS as u64).map(|n| json!({"id": first + n, "unsubscribe": {"channel": TOPICS[0]}}));
        let commands: Vec<String> = commands.map(|command| command.to_string()).collect();
        peer.sent += TURN_TOPICS as u64;
        peer.unanswered.extend(first..=peer.sent);
        commands.join("\n")
    };
    if let Some(peer) = &mut world.peers[0] {
        peer.sent += 1;
        peer.unanswered.insert(peer.sent);
        peer.joining.insert(peer.sent, TOPICS[0]);
        let subscribe = json!({"id": peer.sent, "subscribe": {"channel": TOPICS[0]}});
        let behind = format!("{subscribe}\n{}", unsubscribes(peer));
        peer.send_frame(0x81, behind.into_bytes());
        for _ in 0..2 {
            let more = unsubscribes(peer);
            peer.send_frame(0x81, more.into_bytes());
        }
    }
    let heard = |world: &mut World| {
        let before = world.shard.stats.commands.get();
        world.turn(20).unwrap();
        world.shard.stats.commands.get() - before
    };
    assert_eq!(heard(&mut world), 1, "commands behind the subscribe wait for its answer");
    world.answer();
    assert_eq!(heard(&mut world), 0, "in the turn in which the answer comes");
    for message in 0..3 {
        let most = TURN_TOPICS as u64;
        assert_eq!(heard(&mut world), most, "message {message}: one in each turn");
    }
    world.settle().unwrap();
    world.leave().unwrap();
}

/// A fault prevents a state: a command is answered with an error, and a session that needed it to catch up reconnects.
#[test]
fn a_state_that_a_fault_keeps_back_is_answered() {
    let mut world = World::new(FlushBackend::Epoll, &[], Ways::plain());
    world.come(0);
    world.publish(0, 10);
    world.settle().unwrap();
    let topic = crate::name::TopicName::new(TOPICS[0]).unwrap();
    if let Some(peer) = &mut world.peers[0] {
        peer.send(&json!({"op": "snapshot", "args": [TOPICS[0]]}));
    }
    world.turn(20).unwrap();
    let ask = world.shard.requests.first_under_way().unwrap();
    world.shard.unanswered(ask, &topic);
    assert!(world.shard.requests.under_way() == 0 && world.shard.pending.counts() == (0, 0));
    // The control plane's own answer is ignored.
    world.settle().unwrap();
    world.leave().unwrap();
}

/// A subscription with a rate is behind by more deltas than a shard keeps. The state that it gets instead is charged
/// for the excess over their length; above the allowance it comes later.
#[test]
fn a_state_in_place_of_deltas_waits_for_its_allowance() {
    // Slow enough for a slow machine: the allowance recovers with time.
    let ways = Ways { reply_bytes_per_second: 200_000, ..Ways::plain() };
    let mut world = World::new(FlushBackend::Epoll, &[], ways);
    world.come(0);
    for part in 0..10 {
        world.publish_data(TOPICS[0], &json!({(format!("part{part}")): "x".repeat(200_000)}));
    }
    world.do_one(Op::Subscribe(0, vec![0], Some(1))).unwrap();
    world.settle().unwrap();
    let delayed = world.shard.stats.states_delayed.get();
    (0..600).for_each(|_| world.publish(0, 10));
    world.shard.pass(Duration::from_millis(1_100));
    for _ in 0..4 {
        world.turn(1).unwrap();
        world.answer();
    }
    assert!(world.shard.stats.states_delayed.get() > delayed, "it was just sent 2 MB");
    assert!(world.shard.sessions.iter().all(|(_, session)| session.subscriptions.lagging.len() == 1));
    // Until the allowance has room again.
    world.shard.pass(Duration::from_secs(12));
    world.settle().unwrap();
    assert!(world.shard.sessions.iter().all(|(_, session)| session.subscriptions.lagging.is_empty()));
    // A state no longer than the deltas that it replaces is not charged.
    let delayed = world.shard.stats.states_delayed.get();
    (0..2_500).for_each(|_| world.publish(0, 10));
    world.shard.pass(Duration::from_millis(1_100));
    world.settle().unwrap();
    assert_eq!(world.shard.stats.states_delayed.get(), delayed);
    world.leave().unwrap();
}

/// Missed deltas wait for room in an allowance. A state that the session subscribes to meanwhile takes that room: the
/// deltas wait longer, and come.
#[test]
fn missed_deltas_whose_room_a_state_took_come_later() {
    let mut ways = Ways { reply_bytes_per_second: 1_000_000, backlog_bytes: 20_000, ..Ways::plain() };
    ways.kinds[0].centrifuge = true;
    let mut world = World::new(FlushBackend::Epoll, &[], ways);
    world.come(0);
    world.do_one(Op::Subscribe(0, vec![2], None)).unwrap();
    world.publish(2, 10);
    world.settle().unwrap();
    world.do_one(Op::Mark(0)).unwrap();
    world.go(0);
    (0..20).for_each(|_| world.publish(2, 6_000));
    world.publish(1, 6_000);
    world.come(0);
    world.do_one(Op::Recover { client: 0, topics: vec![2], old: true, reject: false }).unwrap();
    let waits =
        |world: &World| world.shard.sessions.ids(|_| true).into_iter().any(|id| world.shard.allowances.waits(id));
    for _ in 0..1_000 {
        if waits(&world) {
            break;
        }
        world.turn(0).unwrap();
        world.answer();
        world.peers.iter_mut().flatten().try_for_each(|peer| peer.read(1 << 20)).unwrap();
    }
    assert!(waits(&world), "the missed deltas fit the allowance");
    world.do_one(Op::Subscribe(0, vec![1], None)).unwrap();
    // The subscribe is read, and answered when there is room.
    world.turn(20).unwrap();
    assert!(world.shard.requests.under_way() > 0, "the subscribe was not read");
    world.shard.pass(Duration::from_secs(10));
    world.answer();
    world.settle().unwrap();
    world.leave().unwrap();
}

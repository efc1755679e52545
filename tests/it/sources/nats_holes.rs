//! A node that missed messages of a real JetStream stream saves what it knows: nodes that start later tell what it tells, and
//! a node that missed nothing saves again.

use serde_json::{Value, json};

use crate::support::Server;
use crate::support::nats::{Nats, add, add_kind, etag, saved_upto, view};

const EVERY: &str = "snapshot_every = \"100ms\"";
const NEVER: &str = "snapshot_every = \"0s\"";

fn told(server: &Server, topic: &str) -> (Value, Option<String>) {
    (view(server, topic), etag(server, topic))
}

fn is_whole(server: &Server, topic: &str) -> bool {
    view(server, topic)["incomplete"].is_null() && etag(server, topic).is_some()
}

async fn purge_before(nats: &Nats, sequence: u64) {
    nats.jetstream().await.get_stream("NEXUS").await.unwrap().purge().sequence(sequence).await.unwrap();
}

async fn epoch(server: &Server, topic: &str) -> String {
    view(server, topic)["epoch"].as_str().unwrap().trim_end_matches('~').to_owned()
}

/// The message at the end of a hole is the newest of its topic: what the node that saves knows by it counts on all nodes, though
/// it is as old as the hole.
#[tokio::test]
async fn what_a_node_knows_after_a_hole_is_the_same_on_nodes_that_start_later() {
    for topic in ["latest:a", "stream:a", "merge:a"] {
        let nats = Nats::start();
        let js = nats.jetstream().await;
        let subject = topic.replace(':', ".");
        let first = nats.server(EVERY).await;
        add(&js, &subject, &json!({"n": 1})).await;
        let last = add(&js, "merge.b", &json!({"n": 1})).await;
        first.until("read", |s| view(s, "merge:b")["offset"] == last).await;
        saved_upto(&js, &epoch(&first, "merge:b").await, last).await;
        drop(first);
        add(&js, &subject, &json!({"n": 2})).await;
        let kind = if topic == "merge:a" { "snapshot" } else { "delta" };
        let kept = add_kind(&js, &subject, kind, &json!({"n": 3})).await;
        purge_before(&nats, kept).await;
        let saver = nats.server(EVERY).await;
        assert_eq!((view(&saver, topic)["offset"].as_u64(), is_whole(&saver, topic)), (Some(kept), true), "{topic}");
        assert!(!is_whole(&saver, "merge:b"), "it may have had more");
        let last = add(&js, "latest.c", &json!(1)).await;
        saver.until("read", |s| view(s, "latest:c")["offset"] == last).await;
        saved_upto(&js, &epoch(&saver, "latest:c").await, last).await;
        purge_before(&nats, last).await;
        let later = nats.server(NEVER).await;
        let newest = |server: &Server| match topic {
            "stream:a" => (json!(view(server, topic)["offset"]), is_whole(server, topic)),
            _ => (json!(told(server, topic)), is_whole(server, topic)),
        };
        assert_eq!(newest(&later), newest(&saver), "{topic}: {}", view(&later, topic));
        for other in ["merge:b", "latest:c"] {
            assert_eq!(is_whole(&later, other), is_whole(&saver, other), "{other}");
        }
    }
}

/// A node that missed messages saves in the place of one that is held up. That one knows more, and once it is back, what it
/// tells as whole is whole on nodes that start later.
#[tokio::test]
async fn a_node_that_knows_more_saves_again_what_another_saved_as_incomplete() {
    for attempt in 0.. {
        assert!(attempt < 10, "never held up before it saved");
        let nats = Nats::start();
        let js = nats.jetstream().await;
        // A stream that is full lets go of messages by itself.
        let knowing = nats.server("max_messages = 2\nsnapshot_every = \"3s\"").await;
        let mut newest = 0;
        for (topic, data) in [
            ("merge:quiet", json!({"a": 1})),
            ("merge:busy", json!({"a": 1})),
            ("merge:busy", json!({"b": 2})),
            ("latest:c", json!(1)),
        ] {
            newest = add(&js, &topic.replace(':', "."), &data).await;
            knowing.until("read", |s| view(s, topic)["offset"] == newest).await;
        }
        let epoch = epoch(&knowing, "latest:c").await;
        knowing.signal("STOP");
        let bucket = js.get_key_value("NEXUS_STATE").await.unwrap();
        if bucket.get(format!("position.{epoch}")).await.unwrap().is_some() {
            continue;
        }
        let lacking = nats.server(EVERY).await;
        for topic in ["merge:quiet", "merge:busy"] {
            assert!(!is_whole(&lacking, topic), "{topic}");
        }
        saved_upto(&js, &epoch, newest).await;
        drop(lacking);
        knowing.signal("CONT");
        let newest = add(&js, "latest.c", &json!(2)).await;
        saved_upto(&js, &epoch, newest).await;
        let later = nats.server(NEVER).await;
        for topic in ["merge:quiet", "merge:busy", "latest:c"] {
            assert_eq!(told(&later, topic), told(&knowing, topic), "{topic}");
            assert!(is_whole(&later, topic), "{topic}: {}", view(&later, topic));
        }
        return;
    }
}

/// There is no room for a delta on the node that saves: a node that starts later does not take what was saved before it for
/// the newest, and tells all other topics as the node that saved does.
#[tokio::test]
async fn a_saved_state_from_before_a_delta_without_room_does_not_count() {
    let nats = Nats::start();
    let js = nats.jetstream().await;
    let roomy = nats.server(EVERY).await;
    let mut last = 0;
    for n in 0..4 {
        last = add(&js, &format!("merge.{n}"), &json!({"a": 1})).await;
    }
    roomy.until("read", |s| view(s, "merge:3")["offset"] == last).await;
    let epoch = epoch(&roomy, "merge:3").await;
    saved_upto(&js, &epoch, last).await;
    drop(roomy);
    let small = nats.server(&format!("{EVERY}\n[limits]\ntopics = 3\n")).await;
    let without = (0..4).find(|n| !is_whole(&small, &format!("merge:{n}"))).unwrap();
    let other = (0..4).find(|n| *n != without).unwrap();
    add(&js, &format!("merge.{without}"), &json!({"b": 2})).await;
    let last = add(&js, &format!("merge.{other}"), &json!({"b": 2})).await;
    small.until("read", |s| view(s, &format!("merge:{other}"))["offset"] == last).await;
    saved_upto(&js, &epoch, last).await;
    // What is read is a message of neither.
    purge_before(&nats, last).await;
    let later = nats.server(NEVER).await;
    for n in 0..4 {
        let topic = format!("merge:{n}");
        assert_eq!(is_whole(&later, &topic), n != without, "{topic}: {}", view(&later, &topic));
        match n == without {
            true => assert_eq!(view(&later, &topic)["data"], json!({"a": 1}), "what is known of it is told"),
            false => assert_eq!(told(&later, &topic), told(&small, &topic)),
        }
    }
}

//! What lies in the bucket beside a real JetStream stream changes or goes while nodes run and start: no node gives a state that
//! lacks something as whole.

use serde_json::json;

use crate::support::Server;
use crate::support::nats::{Nats, add, etag, saved_upto, view};

const BUCKET: &str = "KV_NEXUS_STATE";
const SAVES: &str = "snapshot_every = \"100ms\"";
const SAVES_NOTHING: &str = "snapshot_every = \"0s\"";

fn epoch(server: &Server, topic: &str) -> String {
    view(server, topic)["epoch"].as_str().unwrap().trim_end_matches('~').to_owned()
}

/// States that are saved again while a node reads them come to it in another order, and come all.
#[tokio::test]
async fn a_node_that_starts_while_another_saves_gets_every_state() {
    const TOPICS: usize = 2_500;
    let nats = Nats::start();
    let js = nats.jetstream().await;
    let first = nats.server(SAVES).await;
    for member in ["a", "b", "c"] {
        for n in 0..TOPICS {
            let payload = json!({ member: n }).to_string();
            js.publish(format!("nexus.deltas.merge.{n}"), payload.into()).await.unwrap();
        }
    }
    let last = add(&js, "merge.last", &json!({"a": 1})).await;
    first.until("read", |s| view(s, "merge:last")["offset"] == last).await;
    saved_upto(&js, &epoch(&first, "merge:last"), last).await;
    for round in 0..4 {
        // All states are saved again while the other node starts.
        let patches = {
            let js = js.clone();
            tokio::spawn(async move {
                for n in 0..TOPICS {
                    let payload = json!({ "d": format!("{round}") }).to_string();
                    js.publish(format!("nexus.deltas.merge.{n}"), payload.into()).await.unwrap();
                }
            })
        };
        let second = nats.server(SAVES_NOTHING).await;
        patches.await.unwrap();
        let last = add(&js, "merge.last", &json!({"a": round})).await;
        for server in [&first, &second] {
            server.until("read", |s| view(s, "merge:last")["offset"] == last).await;
        }
        for n in (0..TOPICS).step_by(7) {
            let topic = format!("merge:{n}");
            assert_eq!(view(&second, &topic), view(&first, &topic), "round {round}");
            assert_eq!(view(&first, &topic)["data"].as_object().map_or(0, serde_json::Map::len), 4, "{topic}");
        }
    }
}

/// The bucket is deleted, emptied or an older copy of it is put back while a node runs, and what the stream has of these
/// topics is let go of then: what the node knows is saved again.
#[tokio::test]
async fn states_that_the_bucket_lost_are_saved_again() {
    for how in ["deleted", "emptied", "older"] {
        let mut nats = Nats::start();
        let js = nats.jetstream().await;
        let running = nats.server(SAVES).await;
        let mut last = 0;
        for n in 0..4 {
            last = add(&js, &format!("merge.{n}"), &json!({"v": 1, "n": n})).await;
        }
        running.until("read", |s| view(s, "merge:3")["offset"] == last).await;
        let epoch = epoch(&running, "merge:3");
        saved_upto(&js, &epoch, last).await;
        nats.back_up();
        running.until("back", |s| s.get("/readyz").0 == 200).await;
        let js = nats.jetstream().await;
        for n in 0..3 {
            last = add(&js, &format!("merge.{n}"), &json!({"v": 2})).await;
        }
        running.until("read", |s| view(s, "merge:2")["offset"] == last).await;
        saved_upto(&js, &epoch, last).await;
        match how {
            "deleted" => drop(js.delete_stream(BUCKET).await.unwrap()),
            "emptied" => drop(js.get_stream(BUCKET).await.unwrap().purge().await.unwrap()),
            _ => {
                nats.put_back(&[BUCKET]);
                nats.start_again();
            }
        }
        let js = nats.jetstream().await;
        let last = add(&js, "merge.3", &json!({"t": 1})).await;
        running.until("read", |s| view(s, "merge:3")["offset"] == last).await;
        running.until("warned", |s| s.log().contains("all are saved again")).await;
        saved_upto(&js, &epoch, last).await;
        js.get_stream("NEXUS").await.unwrap().purge().sequence(last).await.unwrap();
        drop(js);
        let last = add(&nats.jetstream().await, "merge.3", &json!({"u": 1})).await;
        running.until("read", |s| view(s, "merge:3")["offset"] == last).await;
        let started = nats.server(SAVES_NOTHING).await;
        started.until("read", |s| view(s, "merge:3")["offset"] == last).await;
        for n in 0..4 {
            let topic = format!("merge:{n}");
            assert_eq!(view(&started, &topic), view(&running, &topic), "{how}");
            assert_eq!(etag(&started, &topic), etag(&running, &topic), "{how}");
        }
    }
}

/// One saved state is removed by hand: its topic is incomplete on nodes that start, until it is saved again.
#[tokio::test]
async fn a_state_that_was_removed_from_the_bucket_is_incomplete() {
    for is_purged in [false, true] {
        let nats = Nats::start();
        let js = nats.jetstream().await;
        let running = nats.server(SAVES).await;
        add(&js, "merge.m", &json!({"a": 1})).await;
        let last = add(&js, "merge.n", &json!({"a": 1})).await;
        running.until("read", |s| view(s, "merge:n")["offset"] == last).await;
        let epoch = epoch(&running, "merge:n");
        saved_upto(&js, &epoch, last).await;
        let bucket = js.get_key_value("NEXUS_STATE").await.unwrap();
        let key = format!("state.{epoch}.merge=3Am");
        if is_purged {
            bucket.purge(&key).await.unwrap()
        } else {
            bucket.delete(&key).await.unwrap()
        }
        for _ in 0..2 {
            let started = nats.server(SAVES_NOTHING).await;
            assert_eq!(view(&started, "merge:n"), view(&running, "merge:n"));
            assert_eq!(view(&started, "merge:m")["incomplete"], true);
        }
        let last = add(&js, "merge.m", &json!({"b": 1})).await;
        running.until("read", |s| view(s, "merge:m")["offset"] == last).await;
        saved_upto(&js, &epoch, last).await;
        let started = nats.server(SAVES_NOTHING).await;
        assert_eq!(view(&started, "merge:m"), view(&running, "merge:m"));
        assert_eq!(view(&running, "merge:m")["data"], json!({"a": 1, "b": 1}));
    }
}

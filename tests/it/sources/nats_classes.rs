//! States in the NATS bucket that were saved when their namespace had another class.

use serde_json::json;

use crate::support::class_changes::{ClassChange, class_changes};
use crate::support::nats::{Nats, add, saved_upto, view};

/// As with Redis, they do not count. If the stream has all messages, the state is computed from these.
#[tokio::test]
async fn a_state_that_was_saved_with_another_class_does_not_count() {
    for change in class_changes() {
        let nats = Nats::start();
        let first = nats.server(&ClassChange::options(change.before, "100ms")).await;
        let js = nats.jetstream().await;
        add(&js, "q.a", &json!({"a": 1})).await;
        let newest = add(&js, "q.a", &json!({"b": 2})).await;
        let last = add(&js, "merge.other", &json!({"m": 1})).await;
        first.until("read", |s| view(s, "merge:other")["offset"] == last).await;
        saved_upto(&js, view(&first, "merge:other")["epoch"].as_str().unwrap(), last).await;
        drop(first);
        let second = nats.server(&ClassChange::options(change.now, "0s")).await;
        change.check_all_read(&view(&second, "q:a"));
        drop(second);
        js.get_stream("NEXUS").await.unwrap().purge().sequence(newest).await.unwrap();
        let third = nats.server(&ClassChange::options(change.now, "0s")).await;
        change.check_first_gone(&view(&third, "q:a"));
        assert_eq!(view(&third, "merge:other").get("incomplete"), None, "of the same class as before");
        drop(third);
        js.get_stream("NEXUS").await.unwrap().purge().await.unwrap();
        let fourth = nats.server(&ClassChange::options(change.now, "0s")).await;
        change.check_all_gone(&view(&fourth, "q:a"));
    }
}

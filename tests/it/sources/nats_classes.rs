//! States in the NATS bucket that were saved while their namespace had another class.

use serde_json::{Value, json};

use crate::support::nats::{Nats, add, saved_upto, view};

/// As with Redis: they do not count. If the stream has all its messages, these tell what the state is.
#[tokio::test]
async fn a_state_that_was_saved_with_another_class_does_not_count() {
    let (merged, newest) = (json!({"a": 1, "b": 2}), json!({"b": 2}));
    for (before, now, whole) in [
        ("latest", "merge", Some(&merged)),
        ("merge", "latest", Some(&newest)),
        ("stream", "merge", Some(&merged)),
        ("stream", "latest", Some(&newest)),
        ("latest", "stream", None),
    ] {
        let nats = Nats::start();
        let with =
            |class: &str, every: &str| format!("snapshot_every = \"{every}\"\n[namespace.q]\nclass = \"{class}\"\n");
        let first = nats.server(&with(before, "100ms")).await;
        let js = nats.jetstream().await;
        add(&js, "q.a", &json!({"a": 1})).await;
        let newest = add(&js, "q.a", &json!({"b": 2})).await;
        let last = add(&js, "merge.other", &json!({"m": 1})).await;
        first.until("read", |s| view(s, "merge:other")["offset"] == last).await;
        saved_upto(&js, view(&first, "merge:other")["epoch"].as_str().unwrap(), last).await;
        drop(first);
        let second = nats.server(&with(now, "0s")).await;
        let seen = view(&second, "q:a");
        assert_eq!(seen.get("incomplete"), None, "{before} to {now}: {seen}");
        if let Some(whole) = whole {
            assert_eq!(seen["data"], *whole, "{before} to {now}");
        }
        drop(second);
        // The first message is gone: of a value the newest is there all the same.
        js.get_stream("NEXUS").await.unwrap().purge().sequence(newest).await.unwrap();
        let third = nats.server(&with(now, "0s")).await;
        let seen = view(&third, "q:a");
        assert_eq!(seen.get("incomplete").is_some(), now == "merge", "{before} to {now}: {seen}");
        assert_eq!(view(&third, "merge:other").get("incomplete"), None, "of the same class as before");
        drop(third);
        js.get_stream("NEXUS").await.unwrap().purge().await.unwrap();
        let fourth = nats.server(&with(now, "0s")).await;
        let seen = view(&fourth, "q:a");
        assert_eq!((&seen["data"], &seen["incomplete"]), (&Value::Null, &json!(true)), "{before} to {now}");
    }
}

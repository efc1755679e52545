//! A namespace whose class changes between two starts of a server.

use serde_json::{Value, json};

/// One change: of a topic with the two patches `{"a":1}` and `{"b":2}`.
pub(crate) struct ClassChange {
    pub(crate) before: &'static str,
    pub(crate) now: &'static str,
    /// The state that the new class makes of both; `None` for a `stream`, which has none.
    state: Option<Value>,
}

impl ClassChange {
    /// Options of a server whose namespace `q` has this class and which saves states so often.
    pub(crate) fn options(class: &str, snapshot_every: &str) -> String {
        format!("snapshot_every = \"{snapshot_every}\"\n[namespace.q]\nclass = \"{class}\"\n")
    }

    /// What a server answers that has read both deltas: the saved state does not count.
    pub(crate) fn check_all_read(&self, seen: &Value) {
        assert_eq!(seen.get("incomplete"), None, "{}: {seen}", self.name());
        if let Some(state) = &self.state {
            assert_eq!(seen["data"], *state, "{}", self.name());
        }
    }

    /// What it answers if the first delta is gone: of a value, the newest is there all the same.
    pub(crate) fn check_first_gone(&self, seen: &Value) {
        assert_eq!(seen.get("incomplete").is_some(), self.now == "merge", "{}: {seen}", self.name());
    }

    /// What it answers if both deltas are gone.
    pub(crate) fn check_all_gone(&self, seen: &Value) {
        assert_eq!((&seen["data"], &seen["incomplete"]), (&Value::Null, &json!(true)), "{}", self.name());
    }

    fn name(&self) -> String {
        format!("{} to {}", self.before, self.now)
    }
}

/// All changes that a saved state does not survive.
pub(crate) fn class_changes() -> Vec<ClassChange> {
    let (merged, newest) = (json!({"a": 1, "b": 2}), json!({"b": 2}));
    let change = |before, now, state| ClassChange { before, now, state };
    vec![
        change("latest", "merge", Some(merged.clone())),
        change("merge", "latest", Some(newest.clone())),
        change("stream", "merge", Some(merged)),
        change("stream", "latest", Some(newest)),
        change("latest", "stream", None),
    ]
}

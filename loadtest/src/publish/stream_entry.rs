//! A delta as an entry of a Redis stream, as a backend appends it.

/// The stream that servers read unless told otherwise.
pub(crate) const STREAM: &str = "nexus:deltas";

/// An entry to be appended.
#[derive(Debug, Clone, Copy)]
pub(crate) struct StreamEntry<'a> {
    pub(crate) stream: &'a str,
    /// Length to which the stream is trimmed, about; `None` trims nothing.
    pub(crate) max_len: Option<usize>,
    /// `*` lets Redis choose.
    pub(crate) id: &'a str,
    pub(crate) topic: &'a str,
    /// JSON.
    pub(crate) data: &'a str,
    pub(crate) is_snapshot: bool,
}

impl<'a> StreamEntry<'a> {
    /// A delta in the usual stream.
    pub(crate) fn new(topic: &'a str, data: &'a str) -> Self {
        Self { stream: STREAM, max_len: None, id: "*", topic, data, is_snapshot: false }
    }

    /// The command that appends it and answers with its ID.
    pub(crate) fn append(&self) -> redis::Cmd {
        let mut command = redis::cmd("XADD");
        command.arg(self.stream);
        if let Some(max_len) = self.max_len {
            command.arg("MAXLEN").arg("~").arg(max_len);
        }
        command.arg(self.id).arg("topic").arg(self.topic).arg("data").arg(self.data);
        if self.is_snapshot {
            command.arg("kind").arg("snapshot");
        }
        command
    }
}

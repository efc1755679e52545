//! The log lines of a traced delta on its way through its topic.

use super::delta::Delta;
use super::trace::Trace;

/// How a traced delta went through its topic.
pub(super) struct Passage {
    /// When state and history were changed, in µs.
    pub(super) applied_us: u64,
    /// When its frames were made and in the queues.
    pub(super) queued_us: u64,
    pub(super) shards: usize,
    pub(super) encodings: u32,
}

/// Logs that a traced delta was taken and published.
pub(super) fn log_published(delta: &Delta, trace: &Trace, source: u16, passage: &Passage) {
    let (topic, offset) = (delta.topic.as_str(), delta.offset.get());
    tracing::info!(
        target: "nexus_push::trace",
        %trace,
        topic,
        offset,
        us = 0u64,
        source,
        source_ms = delta.ts,
        taken_ms = delta.taken_ms,
        bytes = delta.payload.bytes().len(),
        "trace: taken"
    );
    let Passage { applied_us, queued_us, shards, encodings } = *passage;
    tracing::info!(
        target: "nexus_push::trace",
        %trace,
        topic,
        offset,
        us = queued_us,
        applied_us,
        shards,
        encodings,
        "trace: published"
    );
}

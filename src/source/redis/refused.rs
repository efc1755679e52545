//! Copies of refused entries, in a stream beside the one that they came in, for publishers who want to look at them.
//!
//! All nodes refuse the same entries. Each copy has its entry's own ID, which a stream takes once: whichever node is first
//! writes it. Redis makes the copy, so that nothing of an entry is held here.

use std::sync::Arc;

use ::redis::{Cmd, Value, cmd};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::id::EntryId;
use super::keys::in_slot_of;
use super::masters::Masters;
use super::shared_link::SharedLink;
use crate::limits::{REFUSED_COPIES_WAITING, REFUSED_COPY_BYTES};
use crate::metrics::Metrics;
use crate::source::refusal::Refusal;

/// Copies that are sent together.
const TOGETHER: usize = 64;

/// Fields that a copy has at most, beside what is said of the refusal.
const FIELDS_MAX: usize = 64;

/// Copies an entry of the first key to the second, under the ID that is the first argument. Answers 1, or 0 if that has been
/// done already. What is cut of its names and values is counted.
const COPY: &str = "local entry = redis.call('XRANGE', KEYS[1], ARGV[1], ARGV[1])
local copy = {'refused_id', ARGV[1], 'refused_reason', ARGV[2], 'refused_text', ARGV[3], 'refused_remedy', ARGV[4]}
local room, fields, cut = tonumber(ARGV[5]), tonumber(ARGV[6]) * 2, 0
local function put(text)
  local kept = string.sub(text, 1, room)
  room = room - #kept
  cut = cut + #text - #kept
  copy[#copy + 1] = kept
end
if entry[1] then
  local given = entry[1][2]
  for i = 1, #given, 2 do
    if i > fields or room <= 0 then
      cut = cut + #given[i] + #given[i + 1]
    else
      put(given[i])
      put(given[i + 1])
    end
  end
end
if cut > 0 then
  copy[#copy + 1] = 'refused_cut_bytes'
  copy[#copy + 1] = tostring(cut)
end
local done = redis.pcall('XADD', KEYS[2], 'MAXLEN', '~', ARGV[7], ARGV[1], unpack(copy))
if type(done) == 'table' and done.err then
  if string.find(done.err, 'equal or smaller', 1, true) then return 0 end
  return done
end
return 1";

/// Where copies of one stream's entries are handed in.
pub(super) struct Copies {
    queue: mpsc::Sender<(EntryId, Refusal)>,
    metrics: Arc<Metrics>,
}

/// Key of the copies of a stream's entries. In a Redis Cluster it lies in the stream's slot.
pub(super) fn key_of(stream: &str, is_cluster: bool) -> String {
    if is_cluster { format!("{}:refused", in_slot_of(stream)) } else { format!("{stream}:refused") }
}

impl Copies {
    /// Writes copies of `stream`'s entries, about `max_len` of them, until `stop`.
    pub(super) fn start(
        masters: &Masters,
        stream: &str,
        max_len: u64,
        metrics: Arc<Metrics>,
        stop: CancellationToken,
    ) -> Self {
        let (queue, waiting) = mpsc::channel(REFUSED_COPIES_WAITING);
        let writer = Writer {
            link: SharedLink::new(masters.clone()),
            stream: stream.to_owned(),
            key: key_of(stream, masters.is_cluster()),
            max_len,
            metrics: metrics.clone(),
        };
        tokio::spawn(async move { stop.run_until_cancelled(writer.run(waiting)).await });
        Self { queue, metrics }
    }

    /// Hands one in, without waiting. An entry whose ID is after all others would be the last that its stream takes.
    pub(super) fn hand_in(&self, id: EntryId, refusal: Refusal) {
        if id.offset().is_err_and(|error| error.is_for_good()) {
            return;
        }
        if self.queue.try_send((id, refusal)).is_err() {
            self.metrics.refused_copies_dropped.inc();
        }
    }
}

struct Writer {
    link: SharedLink,
    stream: String,
    key: String,
    max_len: u64,
    metrics: Arc<Metrics>,
}

impl Writer {
    async fn run(self, mut waiting: mpsc::Receiver<(EntryId, Refusal)>) {
        let mut batch = Vec::with_capacity(TOGETHER);
        let mut is_failing = false;
        while waiting.recv_many(&mut batch, TOGETHER).await > 0 {
            let commands: Vec<Cmd> = batch.drain(..).map(|(id, refusal)| self.command(id, &refusal)).collect();
            let mut fault = None;
            for answer in self.link.each(&self.stream, &commands).await {
                match answer {
                    Ok(Value::Int(0)) => {}
                    Ok(_) => {
                        self.metrics.refused_copied.inc();
                    }
                    Err(error) => {
                        self.metrics.refused_copies_dropped.inc();
                        fault = Some(error);
                    }
                }
            }
            // Once for each time that it begins.
            if let (Some(error), false) = (&fault, is_failing) {
                let key = &self.key;
                tracing::warn!(key, %error, "copies of refused entries cannot be written: they are dropped and counted");
            }
            is_failing = fault.is_some();
        }
    }

    fn command(&self, id: EntryId, refusal: &Refusal) -> Cmd {
        let mut command = cmd("EVAL");
        command.arg(COPY).arg(2).arg(&self.stream).arg(&self.key).arg(id.to_string());
        command.arg(refusal.reason.label()).arg(&refusal.text).arg(&refusal.remedy);
        command.arg(REFUSED_COPY_BYTES).arg(FIELDS_MAX).arg(self.max_len);
        command
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn copies_lie_in_the_streams_slot() {
        for (stream, is_cluster, key) in [
            ("nexus:deltas", false, "nexus:deltas:refused"),
            ("nexus:deltas", true, "{nexus:deltas}:refused"),
            ("nexus:deltas:{3}", true, "nexus:deltas:{3}:refused"),
            ("a{}b", true, "{a{}b}:refused"),
        ] {
            assert_eq!(super::key_of(stream, is_cluster), key);
        }
    }
}

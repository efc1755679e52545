//! Names of the keys beside a stream. They carry the stream's hash tag, so that in Redis Cluster all of a
//! partition's keys lie in one slot.

/// What decides in which slot of a Redis Cluster a key lies, where that is not all of it.
pub(super) fn hash_tag(key: &str) -> Option<&str> {
    let (tag, _) = key.split_once('{')?.1.split_once('}')?;
    (!tag.is_empty()).then_some(tag)
}

/// What a key begins with that lies in the slot of `stream`, named after it.
pub(super) fn in_slot_of(stream: &str) -> String {
    if hash_tag(stream).is_some() { stream.to_owned() } else { format!("{{{stream}}}") }
}

/// Keys of one partition.
#[derive(Debug, Clone)]
pub(super) struct Keys {
    /// The stream.
    pub(super) stream: String,
    /// Its epoch.
    pub(super) epoch: String,
    /// Hash of saved topic states.
    pub(super) snapshots: String,
    /// The entry up to which saved states are complete.
    pub(super) position: String,
    /// How many entries the stream had been given up to that one.
    pub(super) count: String,
    /// Held by the node that saves.
    pub(super) saver: String,
    /// The highest offset at which a topic ended whose saved state was removed.
    pub(super) ended: String,
    /// The latest time, Unix ms, at which one ended for want of deltas.
    pub(super) expired: String,
    /// Entries of topics that are saved beside other streams, or are to be: hash.
    pub(super) strays: String,
    /// Which topics leave the stream: hash.
    pub(super) away: String,
    /// With a stream's name behind it: up to where that one's entries were handed on to this one.
    relay: String,
}

impl Keys {
    pub(super) fn new(stream: &str) -> Self {
        let base = in_slot_of(stream);
        Self {
            stream: stream.to_owned(),
            epoch: format!("{base}:epoch"),
            snapshots: format!("{base}:snapshots"),
            position: format!("{base}:position"),
            count: format!("{base}:count"),
            saver: format!("{base}:saver"),
            ended: format!("{base}:ended"),
            expired: format!("{base}:expired"),
            strays: format!("{base}:strays"),
            away: format!("{base}:away"),
            relay: format!("{base}:relay"),
        }
    }

    /// Up to where entries of the stream `from` were handed on to this one.
    pub(super) fn relay(&self, from: &str) -> String {
        format!("{}:{from}", self.relay)
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn keys_share_the_streams_hash_tag() {
        assert_eq!(super::Keys::new("nexus:deltas").epoch, "{nexus:deltas}:epoch");
        assert_eq!(super::Keys::new("nexus:deltas:{3}").epoch, "nexus:deltas:{3}:epoch");
        assert_eq!(super::Keys::new("a{}b").epoch, "{a{}b}:epoch");
    }
}

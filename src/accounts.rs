//! Accounts of memory that does not belong to a single shard or topic: it is shared by threads, or moves between them.
//!
//! An account is one relaxed number. The owner of the memory keeps a [`Held`], whose drop subtracts its bytes, so no
//! path through a function can miss that. `docs/limits.md` lists all accounts.

use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

/// Bytes of memory of one kind now.
#[derive(Debug)]
pub struct Account(AtomicUsize);

/// Deltas that no topic keeps (any more): in the shards' queues, and kept by shards for lagging
/// subscriptions.
pub static DELTAS: Account = Account::new();

/// Snapshots that no topic keeps (any more) and no HTTP answer shares: on their way to shards, or
/// being saved.
pub static SNAPSHOTS: Account = Account::new();

/// Snapshots on their way to shards, kept by topics or not: the number that their ceiling applies
/// to. It is no account of its own, because topics count the snapshots that they keep.
pub static SNAPSHOTS_SENT: Account = Account::new();

/// Received data that is not a command yet: partial messages, and commands that wait for an answer.
pub static INCOMING: Account = Account::new();

/// Requests of sessions to the control plane in progress, with their tokens and payloads.
pub static ASKED: Account = Account::new();

/// State that shards keep for subscribes and snapshots until their answers arrive.
pub static SUBSCRIBING: Account = Account::new();

/// Bodies of HTTP requests that are read or being answered.
pub static REQUESTS: Account = Account::new();

/// Bodies of HTTP answers that their clients have not taken, with the snapshots that they share and
/// no topic keeps.
pub static ANSWERS: Account = Account::new();

/// Backlogs of sessions with a full socket, with the spare room in their buffers.
pub static BACKLOGS: Account = Account::new();

/// The whole of a ceiling, in the units of a share.
pub const WHOLE: u32 = 256;

/// The share of the ceilings that is in force while the process is close to its memory limit.
static SHARE: AtomicU32 = AtomicU32::new(WHOLE);

/// The current share, in 1/256.
pub fn share() -> u32 {
    SHARE.load(Ordering::Relaxed)
}

/// Sets the share, in 1/256.
pub fn set_share(share: u32) {
    SHARE.store(share.min(WHOLE), Ordering::Relaxed);
}

/// The part of a ceiling of so many bytes that is in force.
pub fn ceiling(bytes: usize) -> usize {
    match share() {
        WHOLE => bytes,
        share => bytes / WHOLE as usize * share as usize,
    }
}

impl Account {
    const fn new() -> Self {
        Self(AtomicUsize::new(0))
    }

    /// Bytes now.
    pub fn bytes(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }

    /// Replaces `before` bytes by `now` bytes.
    pub fn change(&self, before: usize, now: usize) {
        // A negative difference wraps around, and so does the sum: together they are right.
        if before != now {
            self.0.fetch_add(now.wrapping_sub(before), Ordering::Relaxed);
        }
    }
}

/// Bytes in an account, given back when this is dropped.
#[derive(Debug)]
pub struct Held {
    account: &'static Account,
    bytes: usize,
}

impl Held {
    /// Of no bytes yet.
    pub fn none(account: &'static Account) -> Self {
        Self { account, bytes: 0 }
    }

    /// Of so many bytes.
    pub fn of(account: &'static Account, bytes: usize) -> Self {
        let mut held = Self::none(account);
        held.set(bytes);
        held
    }

    /// The number of bytes.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Changes the number of bytes.
    pub fn set(&mut self, bytes: usize) {
        self.account.change(self.bytes, bytes);
        self.bytes = bytes;
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.set(0);
    }
}

/// Bytes that an allocator takes for so many: sizes come in four steps per power of two.
#[must_use]
pub const fn allocated(bytes: usize) -> usize {
    match bytes {
        0 => 0,
        1..=64 => bytes.next_multiple_of(16),
        _ => bytes.next_multiple_of(1 << ((bytes - 1).ilog2() - 2)),
    }
}

/// Appends `more` to `bytes`, which grows by at least a quarter. A `Vec` by itself doubles, and
/// half of its memory would be counted for nothing.
pub fn append(bytes: &mut Vec<u8>, more: &[u8]) {
    let free = bytes.capacity() - bytes.len();
    if more.len() > free {
        bytes.reserve_exact(more.len().max(bytes.len() / 4));
    }
    bytes.extend_from_slice(more);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_rounded_as_they_are_allocated() {
        for (bytes, taken) in
            [(0, 0), (1, 16), (64, 64), (65, 80), (128, 128), (129, 160), (4_096, 4_096), (4_097, 5_120)]
        {
            assert_eq!(allocated(bytes), taken, "{bytes}");
        }
    }

    #[test]
    fn dropped_accounts_are_subtracted() {
        static SOME: Account = Account::new();
        let mut one = Held::of(&SOME, 100);
        let other = Held::of(&SOME, 11);
        one.set(40);
        assert_eq!((SOME.bytes(), one.bytes()), (51, 40));
        drop(one);
        assert_eq!(SOME.bytes(), 11);
        drop(other);
        assert_eq!(SOME.bytes(), 0);
    }
}

//! Accounts of memory that no shard and no topic holds alone: what several threads share, or what moves between them.
//!
//! An account is one relaxed number. What is held is counted where it is held, by a [`Held`] that gives it back when it is
//! dropped, so that no way out of a function can forget it. `docs/limits.md` lists all accounts.

use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

/// Bytes of memory of one kind, now.
#[derive(Debug)]
pub struct Account(AtomicUsize);

/// Deltas that no topic keeps (any more): in the shards' queues, and kept by shards for lagging subscriptions.
pub static DELTAS: Account = Account::new();

/// Snapshots that no topic keeps (any more) and no HTTP answer shares: on their way to shards, or being saved.
pub static SNAPSHOTS: Account = Account::new();

/// Snapshots on their way to shards, whether topics keep them or not: what their ceiling looks at. No account of its own,
/// because what topics keep counts there.
pub static SNAPSHOTS_SENT: Account = Account::new();

/// What clients of sockets have sent and no command was made of: partial messages, commands that wait for an answer.
pub static INCOMING: Account = Account::new();

/// What sessions have asked for and is under way: requests to the control plane, with their tokens and payloads.
pub static ASKED: Account = Account::new();

/// What shards keep of subscribes and snapshots that wait for the answers to those.
pub static SUBSCRIBING: Account = Account::new();

/// Bodies of HTTP requests that are read or being answered.
pub static REQUESTS: Account = Account::new();

/// Bodies of HTTP answers that their clients have not taken, with the snapshots that they share and no topic keeps.
pub static ANSWERS: Account = Account::new();

/// Bytes owed to sessions with a full socket, with the room that was made for more of them.
pub static BACKLOGS: Account = Account::new();

/// All of a ceiling, in the parts that a share is counted in.
pub const WHOLE: u32 = 256;

/// The share of the ceilings that is in force while the process is close to its memory limit.
static SHARE: AtomicU32 = AtomicU32::new(WHOLE);

/// The share that is left, in 1/256.
pub fn share() -> u32 {
    SHARE.load(Ordering::Relaxed)
}

/// So much is left from now on, in 1/256.
pub fn set_share(share: u32) {
    SHARE.store(share.min(WHOLE), Ordering::Relaxed);
}

/// What is left of a ceiling of so many bytes.
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

    /// What was `before` bytes is `now` bytes.
    pub fn change(&self, before: usize, now: usize) {
        // A difference below zero wraps around, and so does the sum: together they are right.
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
    /// Nothing yet.
    pub fn none(account: &'static Account) -> Self {
        Self { account, bytes: 0 }
    }

    /// So many bytes.
    pub fn of(account: &'static Account, bytes: usize) -> Self {
        let mut held = Self::none(account);
        held.set(bytes);
        held
    }

    /// Bytes held.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// So many bytes are held now.
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

/// Bytes that an allocator takes for so many: sizes come in four steps to each power of two.
#[must_use]
pub const fn allocated(bytes: usize) -> usize {
    match bytes {
        0 => 0,
        1..=64 => bytes.next_multiple_of(16),
        _ => bytes.next_multiple_of(1 << ((bytes - 1).ilog2() - 2)),
    }
}

/// Appends `more` to `bytes`, which grows by a quarter at least: a `Vec` of its own accord doubles, and half of what it
/// then has would be counted, or be there, for nothing.
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
    fn what_is_dropped_is_given_back() {
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

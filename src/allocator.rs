//! Gives freed memory back to the kernel.
//!
//! mimalloc keeps a page that another thread emptied until the owning thread looks at it. Topics and
//! sessions are created on one thread and end on another, so after a storm most of its memory would
//! stay resident.

use std::cell::Cell;
use std::time::{Duration, Instant};

/// Least time between two sweeps of a thread's freed pages. A sweep costs some 20 ns per page of 64
/// KiB.
const EVERY: Duration = Duration::from_secs(5);

thread_local! {
    static LAST: Cell<Option<Instant>> = const { Cell::new(None) };
}

/// Gives back the free memory of the calling thread's pages, at most every five seconds. For
/// threads that are idle.
pub fn give_back() {
    let now = Instant::now();
    let due = LAST.with(|last| match last.get() {
        Some(at) if now.duration_since(at) < EVERY => false,
        _ => {
            last.set(Some(now));
            true
        }
    });
    if due {
        collect(false);
    }
}

/// Gives back unused memory at once that would otherwise be kept for a second for the next
/// allocation.
pub fn give_back_now() {
    collect(true);
}

#[cfg(not(sanitized))]
fn collect(force: bool) {
    #[allow(
        unsafe_code,
        reason = "mimalloc's own crate does not offer it; without, 5/6 of a storm's memory stayed resident"
    )]
    // SAFETY: takes no pointers, may be called at any time from any thread, and touches only the
    // calling thread's heap and memory that no thread uses.
    unsafe {
        libmimalloc_sys::mi_collect(force);
    }
}

#[cfg(sanitized)]
fn collect(_: bool) {}

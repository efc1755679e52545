//! Gives freed memory back to the kernel.
//!
//! mimalloc keeps a page that another thread emptied until the thread that owns it comes by. Topics and sessions are made on
//! one thread and end on another, so that after a storm most of its memory would stay resident.

use std::cell::Cell;
use std::time::{Duration, Instant};

/// Least time between two looks of a thread at its freed pages. A look costs some 20 ns per page of 64 KiB.
const EVERY: Duration = Duration::from_secs(5);

thread_local! {
    static LAST: Cell<Option<Instant>> = const { Cell::new(None) };
}

/// Gives back what the calling thread's pages have free, every five seconds at most. To be called where a thread has
/// nothing better to do.
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

/// Gives back at once what no thread uses, where it would be kept for a second for the next that needs some.
pub fn give_back_now() {
    collect(true);
}

#[cfg(not(sanitized))]
fn collect(force: bool) {
    #[allow(
        unsafe_code,
        reason = "mimalloc's own crate does not offer it; without, 5/6 of a storm's memory stayed resident"
    )]
    // SAFETY: takes no pointers, may be called at any time from any thread, and touches the calling thread's heap and what
    // no thread uses alone.
    unsafe {
        libmimalloc_sys::mi_collect(force);
    }
}

#[cfg(sanitized)]
fn collect(_: bool) {}

//! The atomics of the wake-up. `tests/mailbox_model` replaces this module with loom's.

pub(super) use std::sync::atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering, fence};

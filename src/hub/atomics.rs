//! What the wake-up is made of; `tests/mailbox_model` has another.

pub(super) use std::sync::atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering, fence};

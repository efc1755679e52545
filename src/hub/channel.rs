//! The channel of the mailbox. `tests/mailbox_model` replaces this module with loom's.

pub(super) use flume::{Receiver, Sender, TrySendError, bounded};
pub(super) use mio::Waker;

//! What the mailbox is made of; `tests/mailbox_model` has another.

pub(super) use flume::{Receiver, Sender, TrySendError, bounded};
pub(super) use mio::Waker;

//! Dialects: the form of commands and deliveries on the wire. Knows frames, but neither sockets nor
//! topics' state: callers pass in what it needs of them.
//!
//! A delta becomes one whole frame per encoding, which all its subscribers share:
//!
//! ```
//! use nexus_push::config::PayloadForm;
//! use nexus_push::name::TopicName;
//! use nexus_push::position::Offset;
//! use nexus_push::protocol::{Delivery, Encoding};
//! use nexus_push::wire::frame::header_bytes;
//!
//! let topic = TopicName::new("quotes:BTCUSDT")?;
//! let (prev, form) = (Offset::ZERO.next(), PayloadForm::Json);
//! let delivery = Delivery { topic: &topic, offset: prev.next(), prev, count: 1, ts: None, data: br#"{"p":1}"#, form };
//! let frame = Encoding::Plain.delivery(&delivery, None);
//! assert_eq!(
//!     frame[header_bytes(&frame)..],
//!     br#"{"topic":"quotes:BTCUSDT","type":"delta","offset":2,"prev":1,"data":{"p":1}}"#[..]
//! );
//! # Ok::<(), nexus_push::name::NameError>(())
//! ```

mod centrifuge;
mod command;
mod delivery;
mod dialect;
mod encoding;
mod fossil;
mod join;
mod lists;
mod members;
mod plain;
mod reply;

pub use centrifuge::server_error;
pub use command::{
    BadCommand, Command, CommandId, HistoryQuery, Op, Refusal, Refused, RefusedGroup, SessionWishes, SubscribeItem,
    SubscribeOptions, SubscribeTerms,
};
pub use delivery::{Delivery, Known, SnapshotDelivery, base64_json};
pub use dialect::{Centrifuge, Dialect};
pub use encoding::Encoding;
pub use reply::{
    Connected, HistoryDelta, HistoryPage, INSUFFICIENT_STATE, MemberInfo, MembershipChange, NOT_ALLOWED_ANY_MORE,
    Notice, SUBSCRIPTION_EXPIRED, Standing, Subscribed, UNSUBSCRIBED_BY_SERVER,
};

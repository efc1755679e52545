//! Dialects: what a command and a delivery look like on the wire. Knows frames, but no sockets and no topics'
//! state: what it needs to know of them is handed in.

mod centrifuge;
mod command;
mod delivery;
mod dialect;
mod fossil;
mod lists;
mod members;
mod plain;
mod reply;

pub use centrifuge::server_error;
pub use command::{
    BadCommand, Command, CommandId, HistoryQuery, Op, Refusal, Refused, RefusedGroup, SessionWishes, SubscribeItem,
    SubscribeOptions, SubscribeTerms,
};
pub use delivery::{Delivery, Encoding, Known, SnapshotDelivery, base64_json};
pub use dialect::Dialect;
pub use reply::{
    Connected, HistoryDelta, HistoryPage, INSUFFICIENT_STATE, MemberInfo, MembershipChange, NOT_ALLOWED_ANY_MORE,
    Notice, SUBSCRIPTION_EXPIRED, Standing, Subscribed, UNSUBSCRIBED_BY_SERVER,
};

//! NATS JetStream: one stream, read whole by every node; an appender for the publish API; and a key-value bucket beside
//! the stream, in which nodes agree on the epoch and keep topic states.

mod append;
mod bucket;
mod flow;
mod following;
mod held;
mod link;
mod loading;
mod message;
mod progress;
mod pull;
mod read_size;
mod reader;
mod reading;
mod saver;
mod sequence;
mod source;
mod states;
mod subjects;
mod trouble;

pub use append::NatsAppender;
pub use link::Link;
pub(super) use link::OpenLink;
pub(super) use message::read_draft;
pub use message::{ReadDelta, read_message};
pub use source::NatsSource;
pub use subjects::Subjects;
pub use trouble::Trouble;

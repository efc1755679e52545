//! What clients ask for, one command in a file. Each gets one answer, whose length is bounded by that of the command.

mod about_topic;
mod auth;
mod connect;
mod dispatch;
mod order;
mod presence;
mod rate;
mod reply;
mod rpc;
mod settings;
mod snapshot;
mod sub_refresh;
mod subscribe;
mod token_texts;
mod unsubscribe;

pub(super) use token_texts::ttl_s;

//! Identities of clients, and the topics that they may have.

mod api_keys;
mod claims;
mod identity;
mod jwks;
mod keys;
mod rights;
mod seats;
mod token_error;
mod tokens;
mod topic_rules;
mod users;
mod verified;
mod verifier;

pub use api_keys::{ApiKey, ApiKeys};
pub use claims::{has_ended, read_claims};
pub use identity::{Grant, Identity};
pub use rights::{Denied, may_have, names_its_users};
pub use seats::Seat;
pub use token_error::TokenError;
pub use tokens::{Tokens, Verdict};
pub use topic_rules::TopicRules;
pub use users::Users;
pub use verifier::{Caller, Verifier};

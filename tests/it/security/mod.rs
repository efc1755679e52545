//! Authentication and authorization.

mod access;
mod algorithms;
mod auth_matrix;
mod forged_tokens;
mod own_topics;
mod present_token;
mod secrets;
mod tls;
mod token_claims;
mod token_faults;
mod token_rejection;
mod user_limits;

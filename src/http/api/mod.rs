//! The HTTP API: topics for clients, publishing for backends, commands for operators.

pub(in crate::http) mod admin;
pub(in crate::http) mod answers;
pub(in crate::http) mod audience;
pub(in crate::http) mod authorization;
pub(in crate::http) mod body;
pub(in crate::http) mod budget;
pub(in crate::http) mod commands;
pub(in crate::http) mod cors;
pub(in crate::http) mod in_progress;
pub(in crate::http) mod key;
pub(in crate::http) mod listing;
pub(in crate::http) mod members;
pub(in crate::http) mod operate;
pub(in crate::http) mod operator;
pub(in crate::http) mod publish;
pub(in crate::http) mod query;
pub(in crate::http) mod style;
pub(in crate::http) mod topic;
pub(in crate::http) mod visible;

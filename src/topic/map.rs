//! The map of topics; `registry_model` compiles the registry with one whose locks loom knows.

pub(super) use dashmap::DashMap;
pub(super) use dashmap::mapref::entry::Entry;

//! What passes over a socket: both dialects, compression, published SDKs, hostile clients.

mod bytes;
mod centrifuge;
mod channel_names;
mod commands;
mod compression;
mod conformance;
mod hostile_clients;
mod odd_values;
mod sdks;
mod supabase;

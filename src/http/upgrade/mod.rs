//! From a request to a session: the handshake, the page's origin, and who is admitted.

pub(in crate::http) mod admission;
pub(in crate::http) mod echo;
pub(in crate::http) mod handshake;
pub(in crate::http) mod origin;

//! One session as a client sees it: its connection, its protocol, and the checks on what it receives.

pub(crate) mod check;
pub(crate) mod churn;
pub(crate) mod class;
pub(crate) mod decode;
pub(crate) mod inflate;
pub(crate) mod protocol;
pub(crate) mod session;
pub(crate) mod shared;
pub(crate) mod transport;

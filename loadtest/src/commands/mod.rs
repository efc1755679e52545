//! The commands, one file each. `workload` has the options that most of them share, `once` executes one run.

pub(crate) mod capacity;
pub(crate) mod connections;
pub(crate) mod egress;
pub(crate) mod ingest;
pub(crate) mod ladder;
pub(crate) mod once;
pub(crate) mod peers;
pub(crate) mod reads;
pub(crate) mod run;
pub(crate) mod scale_out;
pub(crate) mod soak;
pub(crate) mod workload;

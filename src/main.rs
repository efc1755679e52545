//! Command line in, exit code out.

use std::process::ExitCode;

// Sessions are made on the control plane's threads and end on the shards': what this allocator is good at. It has not been
// compared with glibc's by measurement here yet.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    nexus_push::cli::run()
}

//! Command line in, exit code out.

use std::process::ExitCode;

// Sessions are created on the control plane's threads and end on the shards', which suits this
// allocator. Without huge pages (`no_thp`): with them a server that holds 15,000 idle sessions has
// three times the resident memory (docs/performance.md compares them with glibc). Sanitizers
// support only their own allocator: see docs/testing.md.
#[cfg(not(sanitized))]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    nexus_push::cli::run()
}

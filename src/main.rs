//! Command line in, exit code out.

use std::process::ExitCode;

// Sessions come and go in storms from several threads. Measured on this project's W4 and W5 against glibc's malloc,
// see docs/performance.md.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    nexus_push::cli::run()
}

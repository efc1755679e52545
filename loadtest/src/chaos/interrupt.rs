//! Ctrl-C and SIGTERM, as a flag that is polled.

use std::sync::Once;
use std::sync::atomic::{AtomicBool, Ordering};

static CAME: AtomicBool = AtomicBool::new(false);
static WATCH: Once = Once::new();

/// Begins to watch for the signals. A second one ends the process as usual.
pub(crate) fn watch() {
    WATCH.call_once(|| {
        std::thread::spawn(|| {
            let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() else { return };
            runtime.block_on(async {
                use tokio::signal::unix::{SignalKind, signal};
                let Ok(mut end) = signal(SignalKind::terminate()) else { return };
                for times in 0.. {
                    tokio::select! {
                        _ = tokio::signal::ctrl_c() => {}
                        _ = end.recv() => {}
                    }
                    CAME.store(true, Ordering::Relaxed);
                    if times > 0 {
                        // All started processes end with this one.
                        std::process::exit(130);
                    }
                }
            });
        });
    });
}

pub(crate) fn came() -> bool {
    CAME.load(Ordering::Relaxed)
}

/// Clears the flag: the run ends now.
pub(crate) fn forget() {
    CAME.store(false, Ordering::Relaxed);
}

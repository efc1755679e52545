//! What the service manager is told while the server runs: that clients can come, how it fares, that all of it turns.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::signal::unix::Signal;
use tokio::task::AbortHandle;
use tokio_util::sync::CancellationToken;

use crate::http::{Certificates, State};
use crate::systemd::{Notifier, Tell};

/// Time between two lines of status; less where half of the watchdog's time is less.
const STATUS_EVERY: Duration = Duration::from_secs(5);

/// Time between two looks at whether the sources are loaded.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// While the sources are loaded it is said again and again that this may take so much longer.
const LOADING_EXTENSION: Duration = Duration::from_secs(30);

/// Age of a shard's sign of life that is nothing yet: one that sleeps gives one a second.
const HEARTBEAT_AGE_MIN: Duration = Duration::from_secs(3);

/// Tells the manager until told to stop: ready once the sources are loaded and sockets are taken; the watchdog fed while every
/// shard turns, the desk is there and this task is run, which takes the control plane's threads.
pub(super) async fn tell(notifier: Arc<Notifier>, state: Arc<State>, desk: AbortHandle, stop: CancellationToken) {
    if !notifier.is_heard() {
        return;
    }
    let half = notifier.watchdog().map(|time| time / 2);
    let every = half.map_or(STATUS_EVERY, |half| half.min(STATUS_EVERY));
    let mut ready = false;
    let mut next = Instant::now();
    loop {
        if !ready && state.is_loaded() && !state.is_draining() {
            ready = true;
            notifier.tell(&[Tell::Ready, Tell::Status(&status(&state))]);
        }
        if Instant::now() >= next {
            next = Instant::now() + every;
            let status = status(&state);
            let mut what = vec![Tell::Status(&status)];
            if !ready && !state.is_draining() {
                what.push(Tell::ExtendTimeout(LOADING_EXTENSION));
            }
            if let Some(half) = half {
                let heartbeat_age = Duration::from_millis(state.hub.heartbeat_age_ms());
                let turns = heartbeat_age < half.max(HEARTBEAT_AGE_MIN) && !desk.is_finished();
                // Shards end one by one in a drain; that it ends is bounded by other means.
                if turns || state.is_draining() {
                    what.push(Tell::Watchdog);
                } else {
                    tracing::error!(%status, "the watchdog is not fed");
                }
            }
            notifier.tell(&what);
        }
        let wait = next.saturating_duration_since(Instant::now());
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(if ready { wait } else { wait.min(LOOK_EVERY) }) => {}
        }
    }
}

/// One line for `systemctl status`.
fn status(state: &State) -> String {
    let (sessions, topics) = (state.hub.sessions(), state.topics.len());
    if state.is_draining() {
        return format!("stopping, {sessions} sessions left");
    }
    let stuck_ms = state.hub.heartbeat_age_ms();
    if stuck_ms > u64::try_from(HEARTBEAT_AGE_MIN.as_millis()).unwrap_or(u64::MAX) {
        return format!("a shard has not turned for {stuck_ms} ms, {sessions} sessions");
    }
    let reasons = state.not_ready();
    let how = match (state.is_loaded(), reasons.is_empty()) {
        (_, true) => "ready".to_owned(),
        (false, _) => format!("loading ({})", reasons.join("; ")),
        (true, false) => format!("not ready ({})", reasons.join("; ")),
    };
    format!("{how}, {sessions} of {} sessions, {topics} topics", state.hub.sessions_max())
}

/// At SIGHUP, reads again what can change without a restart, and tells the manager before and after.
pub(super) async fn reload(
    mut hangup: Signal,
    certificates: Option<Arc<Certificates>>,
    notifier: Arc<Notifier>,
    state: Arc<State>,
    stop: CancellationToken,
) {
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = hangup.recv() => {}
        }
        // Before it is ready, and after it began to stop, to say so would be wrong.
        let told = state.is_loaded() && !state.is_draining();
        if told {
            notifier.tell(&[Tell::Reloading]);
        }
        match &certificates {
            Some(certificates) => certificates.clone().read_again().await,
            None => tracing::info!("SIGHUP: without [tls] there is nothing to read again"),
        }
        if told {
            notifier.tell(&[Tell::Ready]);
        }
    }
}

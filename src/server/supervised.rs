//! Notifications to the service manager: readiness, status, watchdog.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::signal::unix::Signal;
use tokio::task::AbortHandle;
use tokio_util::sync::CancellationToken;

use crate::http::{Certificates, Readiness};
use crate::hub::Hub;
use crate::systemd::{Notifier, Tell};
use crate::topic::Topics;

/// Time between two status lines, or half of the watchdog's time if that is less.
const STATUS_EVERY: Duration = Duration::from_secs(5);

/// Extension of the start time-out, repeated while the sources are loading.
const LOADING_EXTENSION: Duration = Duration::from_secs(30);

/// The heartbeat of a shard may be this old: a sleeping shard renews it once a second.
const HEARTBEAT_AGE_MIN: Duration = Duration::from_secs(3);

/// The parts that are reported to the service manager.
pub(super) struct Observed {
    pub(super) hub: Arc<Hub>,
    pub(super) topics: Arc<Topics>,
    pub(super) readiness: Arc<Readiness>,
}

/// Notifies the manager until `stop`: ready once the sources are loaded and sockets are accepted
/// from. The watchdog is fed while every shard runs, the control plane answers and this task is
/// scheduled, which needs the control plane's threads.
pub(super) async fn tell(notifier: Arc<Notifier>, node: Observed, control: AbortHandle, stop: CancellationToken) {
    if !notifier.is_heard() {
        return;
    }
    let half = notifier.watchdog().map(|time| time / 2);
    let every = half.map_or(STATUS_EVERY, |half| half.min(STATUS_EVERY));
    let mut ready = false;
    let mut next = Instant::now();
    loop {
        if !ready && node.readiness.is_loaded() && !node.readiness.is_draining() {
            ready = true;
            notifier.tell(&[Tell::Ready, Tell::Status(&status(&node))]);
        }
        if Instant::now() >= next {
            next = Instant::now() + every;
            let status = status(&node);
            let mut what = vec![Tell::Status(&status)];
            if !ready && !node.readiness.is_draining() {
                what.push(Tell::ExtendTimeout(LOADING_EXTENSION));
            }
            if let Some(half) = half {
                let heartbeat_age = Duration::from_millis(node.hub.heartbeat_age_ms());
                let turns = heartbeat_age < half.max(HEARTBEAT_AGE_MIN) && !control.is_finished();
                // Shards end one by one in a drain; other time-outs bound it.
                if turns || node.readiness.is_draining() {
                    what.push(Tell::Watchdog);
                } else {
                    tracing::error!(%status, "the watchdog is not notified, because a part of the server is stuck");
                }
            }
            notifier.tell(&what);
        }
        let wait = next.saturating_duration_since(Instant::now());
        tokio::select! {
            () = stop.cancelled() => return,
            () = node.readiness.until_loaded(), if !ready && !node.readiness.is_loaded() => {}
            () = tokio::time::sleep(wait) => {}
        }
    }
}

/// One line for `systemctl status`.
fn status(node: &Observed) -> String {
    let (sessions, topics) = (node.hub.sessions(), node.topics.len());
    if node.readiness.is_draining() {
        return format!("stopping, {sessions} sessions left");
    }
    let stuck_ms = node.hub.heartbeat_age_ms();
    if stuck_ms > u64::try_from(HEARTBEAT_AGE_MIN.as_millis()).unwrap_or(u64::MAX) {
        return format!("a shard has not run for {stuck_ms} ms, {sessions} sessions");
    }
    let reasons = node.readiness.not_ready();
    let how = match (node.readiness.is_loaded(), reasons.is_empty()) {
        (_, true) => "ready".to_owned(),
        (false, _) => format!("loading ({})", reasons.join("; ")),
        (true, false) => format!("not ready ({})", reasons.join("; ")),
    };
    format!("{how}, {sessions} of {} sessions, {topics} topics", node.hub.sessions_max())
}

/// On SIGHUP, reloads everything that can change without a restart, and notifies the manager before
/// and after.
pub(super) async fn reload(
    mut hangup: Signal,
    certificates: Option<Arc<Certificates>>,
    notifier: Arc<Notifier>,
    readiness: Arc<Readiness>,
    stop: CancellationToken,
) {
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = hangup.recv() => {}
        }
        // Before it is ready, and after it began to stop, this message would be wrong.
        let notifies = readiness.is_loaded() && !readiness.is_draining();
        if notifies {
            notifier.tell(&[Tell::Reloading]);
        }
        match &certificates {
            Some(certificates) => certificates.clone().read_again().await,
            None => tracing::info!("SIGHUP: without [tls] there is nothing to reload"),
        }
        if notifies {
            notifier.tell(&[Tell::Ready]);
        }
    }
}

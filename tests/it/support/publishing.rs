//! A publisher that runs during a test, and the check of what all clients got.

use crate::support::reconnecting_client::{Diary, ReconnectingClient, TOPIC};
use crate::support::{Redis, Server};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

/// Appends 1, 2, 3, … to the topic until it is dropped.
pub(crate) struct Publishing {
    stop: Arc<AtomicBool>,
    last: Arc<AtomicU64>,
    thread: Option<std::thread::JoinHandle<()>>,
}

/// To Redis, over its own connection.
pub(crate) fn to_redis(redis: &Redis) -> impl FnMut(u64) + Send + use<> {
    let mut connection = redis::Client::open(redis.url()).unwrap().get_connection().unwrap();
    move |n| {
        let mut command = redis::cmd("XADD");
        command.arg(&["nexus:deltas", "*", "topic", TOPIC, "data"]).arg(n);
        let _: String = command.query(&mut connection).unwrap();
    }
}

/// Checks that all clients have everything, without errors.
pub(crate) async fn all_have_all(server: &Server, clients: &[ReconnectingClient], diary: &Diary, last: u64) {
    server.until("all of it", |_| clients.iter().all(|r| r.seen.load(Ordering::SeqCst) == last)).await;
    assert_eq!(*diary.faults.lock().unwrap(), Vec::<String>::new());
}

impl Publishing {
    pub(crate) fn start(mut publish: impl FnMut(u64) + Send + 'static) -> Self {
        let (stop, last) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (stopped, counter) = (stop.clone(), last.clone());
        let thread = std::thread::spawn(move || {
            for n in 1.. {
                if stopped.load(Ordering::SeqCst) {
                    return;
                }
                publish(n);
                counter.store(n, Ordering::SeqCst);
                std::thread::sleep(Duration::from_millis(20));
            }
        });
        Self { stop, last, thread: Some(thread) }
    }

    /// Ends it. Returns the last number.
    pub(crate) fn end(mut self) -> u64 {
        self.stop.store(true, Ordering::SeqCst);
        self.thread.take().unwrap().join().unwrap();
        self.last.load(Ordering::SeqCst)
    }
}

impl Drop for Publishing {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
    }
}

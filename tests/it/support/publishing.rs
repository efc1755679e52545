//! A publisher beside a test, and what all clients must have got of it.

use crate::support::reconnecting_client::{Diary, Roamer, TOPIC};
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

/// To Redis, by a connection of its own.
pub(crate) fn to_redis(redis: &Redis) -> impl FnMut(u64) + Send + use<> {
    let mut connection = redis::Client::open(redis.url()).unwrap().get_connection().unwrap();
    move |n| {
        let mut command = redis::cmd("XADD");
        command.arg(&["nexus:deltas", "*", "topic", TOPIC, "data"]).arg(n);
        let _: String = command.query(&mut connection).unwrap();
    }
}

/// Everybody has everything, and nothing was amiss.
pub(crate) async fn all_have_all(server: &Server, roamers: &[Roamer], diary: &Diary, last: u64) {
    server.until("all of it", |_| roamers.iter().all(|r| r.seen.load(Ordering::SeqCst) == last)).await;
    assert_eq!(*diary.faults.lock().unwrap(), Vec::<String>::new());
}

impl Publishing {
    pub(crate) fn start(mut publish: impl FnMut(u64) + Send + 'static) -> Self {
        let (stop, last) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (stopped, told) = (stop.clone(), last.clone());
        let thread = std::thread::spawn(move || {
            for n in 1.. {
                if stopped.load(Ordering::SeqCst) {
                    return;
                }
                publish(n);
                told.store(n, Ordering::SeqCst);
                std::thread::sleep(Duration::from_millis(20));
            }
        });
        Self { stop, last, thread: Some(thread) }
    }

    /// Ends it, and returns the last number.
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

//! Sessions that leave, come back, and change their subscriptions.

use std::rc::Rc;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use serde::{Deserialize, Serialize};

use crate::client::session::{Session, Turn};

/// The rates of both.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct Churn {
    /// Sessions that leave per second. Half of them come back and recover; the others come back as new sessions.
    pub(crate) leaves: f64,
    /// Subscriptions that are exchanged per second.
    pub(crate) switches: f64,
    pub(crate) seed: u64,
}

/// Interval at which due changes are made.
const STEP: Duration = Duration::from_millis(100);

/// Time for which a session is away.
const AWAY_MS: std::ops::Range<u64> = 100..3_000;

/// Attempts to find a topic that a session does not have.
const TRIES: usize = 20;

/// Runs until it is aborted. Every session keeps the first topic.
pub(crate) async fn run(sessions: Vec<Rc<Session>>, topics: usize, churn: Churn) {
    let mut rng = StdRng::seed_from_u64(churn.seed);
    let began = Instant::now();
    let (mut left, mut switched) = (0.0, 0.0);
    loop {
        tokio::time::sleep(STEP).await;
        let due_s = began.elapsed().as_secs_f64();
        while left < due_s * churn.leaves {
            left += 1.0;
            if let Some(session) = pick(&mut rng, &sessions) {
                let anew = rng.random::<bool>().then(|| others(&mut rng, session, topics));
                let away = Duration::from_millis(rng.random_range(AWAY_MS));
                session.turn(Turn::Leave { away, anew });
            }
        }
        while switched < due_s * churn.switches {
            switched += 1.0;
            if let Some(session) = pick(&mut rng, &sessions) {
                let from = {
                    let tracks = session.tracks.borrow();
                    tracks.get(rng.random_range(0..tracks.len().max(1))).map_or(0, |t| t.topic)
                };
                let to = (0..TRIES).map(|_| topic(&mut rng, topics)).find(|to| !session.has(*to));
                if let (true, Some(to)) = (from > 0, to) {
                    session.turn(Turn::Switch { from, to });
                }
            }
        }
    }
}

fn pick<'a>(rng: &mut StdRng, sessions: &'a [Rc<Session>]) -> Option<&'a Rc<Session>> {
    let session = sessions.get(rng.random_range(0..sessions.len().max(1)))?;
    (!session.away.get() && !session.is_slow()).then_some(session)
}

/// A random topic other than the first.
fn topic(rng: &mut StdRng, topics: usize) -> u32 {
    u32::try_from(rng.random_range(1..topics.max(2))).unwrap_or(1)
}

/// As many topics as the session has, including the first.
fn others(rng: &mut StdRng, session: &Session, topics: usize) -> Vec<u32> {
    let count = session.tracks.borrow().len();
    let mut all = vec![0];
    for _ in 0..count * TRIES {
        let topic = topic(rng, topics);
        if all.len() < count && !all.contains(&topic) {
            all.push(topic);
        }
    }
    all
}

//! A simulation of everything around the stream: several nodes, one Redis that trims, fails over, is wiped, stands still or is
//! out of memory, clocks that jump, savers that take turns, topics that end, clients that move from node to node. Readers,
//! savers and topics are the real ones; Redis, its network and time are not. A seed says all that happens.
//!
//! At every moment and for every node and topic, what is served as whole is what an oracle says, which works it out from the
//! entries alone; of one epoch, topic and offset there is one body; and whoever is told that it recovered has missed nothing.
//!
//! `NEXUS_TEST_SEED` lives through one world again, and tells it with `NEXUS_TEST_LINES=200`; with `NEXUS_TEST_LOG=1` the
//! nodes' own lines stand between. `NEXUS_TEST_WORLDS` says how many worlds there are.

mod client;
mod data;
mod judge;
mod moves;
mod oracle;
mod server;
mod weather;
mod world;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

pub(super) use server::{Connection, Door};

use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::FormatTime;

use crate::clock;
use crate::random;
use weather::{Weather, of_environment};
use world::{Tally, World};

/// When it is, in a world.
struct VirtualTime;

impl FormatTime for VirtualTime {
    fn format_time(&self, to: &mut Writer<'_>) -> std::fmt::Result {
        let ms = clock::simulated::now_ms().map_or(0, |ms| ms - world::START_MS);
        write!(to, "{:>8}.{:03}", ms / 1_000, ms % 1_000)
    }
}

fn live(seed: u64, weather: Weather, is_told: bool) -> Result<Tally, String> {
    random::simulated::set(Some(seed));
    let outcome = virtual_time().block_on(World::live(seed, weather, is_told));
    random::simulated::set(None);
    outcome
}

/// Worlds of one weather, by two threads.
fn worlds(weather: Weather, count: u64) {
    let first: Option<u64> = of_environment("NEXUS_TEST_SEED");
    let count = of_environment("NEXUS_TEST_WORLDS").unwrap_or(if first.is_some() { 1 } else { count });
    let first = first.unwrap_or(1);
    if std::env::var_os("NEXUS_TEST_LOG").is_some() {
        // What the nodes say, between the lines of the world.
        let _ =
            tracing_subscriber::fmt().with_ansi(false).with_timer(VirtualTime).with_writer(std::io::stdout).try_init();
    }
    let (next, faults, sum) = (AtomicU64::new(first), Mutex::new(Vec::new()), Mutex::new(Tally::default()));
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= first + count {
                        return;
                    }
                    match live(seed, weather, false) {
                        Ok(tally) => *sum.lock().unwrap_or_else(PoisonError::into_inner) += tally,
                        Err(fault) => faults.lock().unwrap_or_else(PoisonError::into_inner).push((seed, fault)),
                    }
                }
            });
        }
    });
    let mut faults = faults.into_inner().unwrap_or_else(PoisonError::into_inner);
    let tally = sum.into_inner().unwrap_or_else(PoisonError::into_inner);
    println!("{weather:?}: {count} worlds, {tally:?}");
    faults.sort();
    for (seed, fault) in &faults {
        println!("seed {seed}: {fault}");
    }
    if let Some((seed, _)) = faults.first() {
        let told = live(*seed, weather, true).err().unwrap_or_else(|| "it does not happen again".into());
        panic!("{} of {count} worlds went wrong; NEXUS_TEST_SEED={seed}:\n{told}", faults.len());
    }
    assert!(tally.whole > 0 && tally.moves > 0, "nothing was looked at");
}

/// A runtime whose time a world makes pass.
fn virtual_time() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().expect("a runtime")
}

#[test]
fn a_clock_that_jumps_for_a_moment_ends_no_topic() {
    random::simulated::set(Some(1));
    let outcome = virtual_time().block_on(World::live_through_a_jump_of_the_clock());
    random::simulated::set(None);
    outcome.unwrap();
}

#[test]
fn in_fair_weather_all_nodes_tell_the_truth() {
    worlds(Weather::Fair, 340);
}

#[test]
fn of_topics_in_two_streams_the_newest_counts() {
    worlds(Weather::Several, 340);
}

#[test]
fn whatever_is_trimmed_no_state_lacks_it_unsaid() {
    worlds(Weather::Trimmed, 340);
}

#[test]
fn whatever_is_trimmed_of_two_streams_no_state_lacks_it_unsaid() {
    worlds(Weather::SeveralTrimmed, 340);
}

#[test]
fn whatever_is_lost_no_node_goes_on_with_it() {
    worlds(Weather::Lossy, 340);
}

#[test]
fn whatever_is_lost_of_two_streams_no_node_goes_on_with_it() {
    worlds(Weather::SeveralLossy, 340);
}

#[test]
fn with_an_odd_redis_all_nodes_tell_the_truth() {
    worlds(Weather::Odd, 340);
}

#[test]
fn while_topics_move_to_other_streams_nothing_is_missed() {
    worlds(Weather::Moving, 340);
}

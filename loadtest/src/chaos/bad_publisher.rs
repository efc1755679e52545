//! A publisher that sends garbage, repeats, deltas that are too large, and ten times its rate.

use std::time::Duration;

use anyhow::{Context as _, ensure};

use crate::chaos::redis_faults::{LIMIT, set_up};
use crate::chaos::store::open;
use crate::chaos::test_bed::Props;
use crate::chaos::test_bed::TestBed;
use crate::client::shared::monotonic_ns;
use crate::publish::stream_entry::{STREAM, StreamEntry};

/// Factor of its usual rate.
const FASTER: u64 = 10;

/// Entries that are not deltas, as field and value pairs.
fn garbage() -> Vec<Vec<(&'static str, String)>> {
    let topic = || ("topic", "stream:t0".to_owned());
    let data = |text: &str| ("data", text.to_owned());
    vec![
        vec![("hello", "world".to_owned())],
        vec![topic()],
        vec![data("{}")],
        vec![topic(), data("{\"n\":")],
        vec![topic(), data("not JSON")],
        vec![topic(), data("")],
        vec![topic(), data(&"[".repeat(100))],
        vec![topic(), data(&format!("\"{}\"", "x".repeat(300 * 1_024)))],
        vec![topic(), data("{}"), ("kind", "nonsense".to_owned())],
        vec![("topic", "merge:t0".to_owned()), data("[1,2]")],
        vec![("topic", "no spaces here".to_owned()), data("{}")],
        vec![("topic", "x".repeat(300)), data("{}")],
        vec![("topic", String::new()), data("{}")],
    ]
}

pub(super) fn misbehaves(test_bed: &mut TestBed<'_>) -> anyhow::Result<Props> {
    let (redis, nodes) = set_up(test_bed, 1)?;
    let node = nodes.first().context("no node")?;
    let mut connection = open(&format!("127.0.0.1:{}", redis.port))?;
    let skipped_before = node.metric("source_skipped_total")?;
    test_bed.fault("garbage, repeats, ten times the rate");
    let time = test_bed.fault_time(Duration::from_secs(10));
    test_bed.set_rate(test_bed.args.rate * FASTER);
    let end_ns = monotonic_ns() + u64::try_from(time.as_nanos())?;
    let (mut thrown, mut doubled) = (0_u32, 0_u32);
    while monotonic_ns() < end_ns {
        for fields in garbage() {
            let mut command = redis::cmd("XADD");
            command.arg(STREAM).arg("*");
            for (name, value) in &fields {
                command.arg(*name).arg(value);
            }
            let _: String = command.query(&mut connection)?;
            thrown += 1;
        }
        // The same event again, like a publisher that does not check whether the first arrived.
        let again = test_bed.publish_log()?.doubled("stream:t1");
        if let Some(data) = again {
            let id: String = StreamEntry::new("stream:t1", &data).append().query(&mut connection)?;
            doubled += 1;
            // Redis itself refuses an ID that is taken.
            let taken = StreamEntry { id: &id, ..StreamEntry::new("stream:t1", "{}") };
            let refused: Result<String, _> = taken.append().query(&mut connection);
            ensure!(refused.is_err(), "an ID was accepted twice");
        }
        test_bed.wait(Duration::from_millis(50))?;
    }
    test_bed.set_rate(test_bed.args.rate);
    test_bed.healed();
    test_bed.whole(LIMIT)?;
    test_bed.until("everything was read", LIMIT, |_| {
        node.metric("source_skipped_total").is_ok_and(|n| n - skipped_before >= f64::from(thrown))
    })?;
    let skipped = node.metric("source_skipped_total")? - skipped_before;
    test_bed.check(
        "what is no delta is refused and counted",
        (skipped - f64::from(thrown)).abs() < 0.5,
        format!("{thrown} thrown, {skipped} skipped"),
    );
    let refused = node.metric("deltas_refused_total")?;
    test_bed.note(format!("{doubled} events sent twice; deltas refused, by reason, in all: {refused}"));
    Ok(Box::new((redis, nodes)))
}

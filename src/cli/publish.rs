//! `nexus-push publish`

mod args;
mod input;
mod interrupts;
mod lines;
mod many;

use std::borrow::Cow;
use std::io::IsTerminal as _;
use std::path::Path;

use anyhow::bail;
use bytes::Bytes;

pub(super) use self::args::PublishArgs;
use self::interrupts::Interrupts;
use super::output::say;
use super::target::{Fault, Placed, Target};
use crate::source::draft::Draft;
use crate::source::precheck::Checked;

pub(super) async fn run(args: PublishArgs) -> anyhow::Result<()> {
    let mut interrupts = Interrupts::new()?;
    let Some(topic) = &args.topic else {
        if args.kind.is_some() || args.snapshot || args.ts.is_some() {
            bail!("--kind, --snapshot and --ts are for one TOPIC; each line has its own");
        }
        if args.lines.is_none() && std::io::stdin().is_terminal() {
            bail!("the topic is missing: nexus-push publish TOPIC DATA, or --lines FILE (- is standard input)");
        }
        return many::run(&args, &mut interrupts).await;
    };
    if args.keep_going || args.ids {
        bail!("--keep-going and --ids are for --lines");
    }
    let ready = async {
        let (mut target, delta) = checked(&args, topic).await?;
        target.look_for_streams().await?;
        anyhow::Ok((target, delta))
    };
    let (target, delta) = tokio::select! {
        ready = ready => ready?,
        () = interrupts.next() => bail!("interrupted before anything was published"),
    };
    let suspicion = delta.suspicion.as_ref();
    if let Some(suspicion) = suspicion {
        eprintln!("nexus-push: {}", suspicion.told(false));
    }
    for note in target.notes().iter().filter(|_| !args.quiet) {
        eprintln!("nexus-push: {note}");
    }
    let deltas = [&delta];
    let mut sent = tokio::select! {
        sent = target.send(&deltas) => sent,
        () = interrupts.next() => bail!("interrupted; it is not known whether the delta was published"),
    };
    match sent.pop() {
        Some(Ok(Placed { place, warnings })) => {
            // Warnings that were printed before sending are not repeated.
            for warning in warnings.iter().filter(|warning| suspicion.is_none_or(|known| known.text != warning.text)) {
                eprintln!("nexus-push: {}", warning.told);
            }
            say(format_args!("{topic}\t{place}"))
        }
        Some(Err(fault @ Fault::Refused(..))) => bail!("{fault}"),
        Some(Err(Fault::Failed(why))) => bail!("publishing failed: {why}"),
        None => bail!("not published"),
    }
}

/// The delta in the arguments, and its target.
async fn checked(args: &PublishArgs, topic: &str) -> anyhow::Result<(Target, Checked)> {
    let mut target = Target::connect(&args.target).await?;
    let bytes_max = target.bytes_max();
    let data = match (&args.data, &args.file) {
        (Some(data), None) if data != "-" => Some(Bytes::copy_from_slice(data.as_bytes())),
        (Some(_), None) => Some(input::whole(Path::new("-"), bytes_max).await?),
        (_, Some(file)) => Some(input::whole(file, bytes_max).await?),
        (None, None) if args.kind.is_none() => {
            bail!("the data is missing: nexus-push publish TOPIC DATA, or --file FILE (- is standard input)")
        }
        (None, None) => None,
    };
    let kind = if args.snapshot { Some("snapshot") } else { args.kind.as_deref() };
    let ts = args.ts.as_deref().map(Cow::Borrowed);
    let draft = Draft { topic: topic.into(), kind: kind.map(Cow::Borrowed), ts, data };
    let delta = target.check(draft).map_err(|refusal| anyhow::anyhow!(refusal.told(true)))?;
    Ok((target, delta))
}

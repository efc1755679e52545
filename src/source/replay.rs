//! Replays recordings: several files merged by their times, at the recorded pace or a multiple of it.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::fs::File;
use std::future::Future;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio_util::sync::CancellationToken;

use super::normalize::{Counts, Format, NormalDelta, Normalizer};
use super::{Feed, Source, SourceStatus};
use crate::config;
use crate::limits::DELTA_BYTES_MAX;
use crate::topic::{Incoming, Payload, SourceId};

/// Longest line that is read; a longer one is cut and so malformed.
const LINE_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// Moments that wait between the reading thread and the pacing task.
const AHEAD: usize = 4_096;

/// Why a recording cannot be replayed.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    /// The file cannot be opened or read.
    #[error("{path}: {error}")]
    Io {
        /// Which file.
        path: String,
        /// Why.
        error: std::io::Error,
    },
    /// The file's name does not tell what is in it.
    #[error("{0}: cannot tell the format; names begin with binance-spot-, binance-usdm-, bybit-linear- or bybit-spot-")]
    Format(String),
}

/// One recorded line and what it came to.
#[derive(Debug)]
pub struct Moment {
    /// Time within the recording, from its first line.
    pub at: Duration,
    /// What it says.
    pub deltas: Vec<NormalDelta>,
}

struct Recording {
    path: String,
    format: Format,
    symbol: String,
    reader: Box<dyn BufRead + Send>,
    /// A file that is one JSON text over several lines.
    whole: bool,
}

impl Recording {
    fn open(path: &Path) -> Result<Self, ReplayError> {
        let shown = path.display().to_string();
        let name = path.file_name().and_then(|n| n.to_str()).unwrap_or("");
        let format = Format::of_file(name).ok_or_else(|| ReplayError::Format(shown.clone()))?;
        let symbol = name.split('-').nth(2).unwrap_or("").to_ascii_uppercase();
        let file = File::open(path).map_err(|error| ReplayError::Io { path: shown.clone(), error })?;
        let reader: Box<dyn BufRead + Send> = if name.ends_with(".gz") {
            Box::new(BufReader::new(flate2::read::MultiGzDecoder::new(file)))
        } else {
            Box::new(BufReader::new(file))
        };
        Ok(Self { path: shown, format, symbol, reader, whole: name.ends_with(".json") })
    }

    fn next_line(&mut self) -> Result<Option<Vec<u8>>, ReplayError> {
        let error = |error| ReplayError::Io { path: self.path.clone(), error };
        let mut line = Vec::new();
        let mut limited = (&mut self.reader).take(LINE_BYTES_MAX);
        let n = if self.whole { limited.read_to_end(&mut line) } else { limited.read_until(b'\n', &mut line) }
            .map_err(error)?;
        let line = line.trim_ascii();
        Ok((n > 0).then(|| line.to_vec()))
    }

    /// The line's time, ns; `None` where it has none and so goes with the line before.
    fn time_ns(&self, line: &[u8]) -> Option<u64> {
        match self.format {
            Format::Binance { .. } => {
                let digits = line.split(|b| *b == b' ').next()?;
                std::str::from_utf8(digits).ok()?.parse().ok()
            }
            Format::Bybit { .. } => {
                let key = b"\"ts\":";
                let at = line.windows(key.len()).position(|w| w == key)? + key.len();
                let rest = line.get(at..)?;
                let digits: Vec<u8> = rest
                    .iter()
                    .copied()
                    .skip_while(|b| matches!(b, b' ' | b'"'))
                    .take_while(u8::is_ascii_digit)
                    .collect();
                std::str::from_utf8(&digits).ok()?.parse::<u64>().ok()?.checked_mul(1_000_000)
            }
        }
    }
}

/// The lines of several recordings in the order of their times.
///
/// Recordings of different days (their first lines over an hour apart) are laid over each other: each counts from its
/// own first line.
pub struct Recordings {
    recordings: Vec<Recording>,
    /// Next line of each, by time.
    heads: BinaryHeap<Reverse<(u64, usize, Vec<u8>)>>,
    bases: Vec<u64>,
    last: Vec<u64>,
    /// What the lines came to.
    pub normalizer: Normalizer,
}

impl Recordings {
    /// Opens all files.
    ///
    /// # Errors
    /// Which file cannot be opened or understood.
    pub fn open(paths: &[PathBuf]) -> Result<Self, ReplayError> {
        let recordings = paths.iter().map(|p| Recording::open(p)).collect::<Result<Vec<_>, _>>()?;
        let count = recordings.len();
        let mut opened = Self {
            recordings,
            heads: BinaryHeap::new(),
            bases: vec![0; count],
            last: vec![0; count],
            normalizer: Normalizer::default(),
        };
        let mut firsts = Vec::with_capacity(count);
        for i in 0..count {
            firsts.push(opened.refill(i, true)?);
        }
        let earliest = firsts.iter().flatten().min().copied().unwrap_or(0);
        for (base, first) in opened.bases.iter_mut().zip(firsts) {
            let first = first.unwrap_or(earliest);
            *base = if first - earliest > 3_600_000_000_000 { first } else { earliest };
        }
        let heads = std::mem::take(&mut opened.heads);
        opened.heads = heads
            .into_iter()
            .map(|Reverse((time, i, line))| {
                Reverse((time.saturating_sub(opened.bases.get(i).copied().unwrap_or(0)), i, line))
            })
            .collect();
        Ok(opened)
    }

    /// Reads the next line of recording `i`. Returns its own time.
    fn refill(&mut self, i: usize, first: bool) -> Result<Option<u64>, ReplayError> {
        let Some(recording) = self.recordings.get_mut(i) else { return Ok(None) };
        let Some(line) = recording.next_line()? else { return Ok(None) };
        let last = self.last.get(i).copied().unwrap_or(0);
        let time = recording.time_ns(&line).unwrap_or(last).max(last);
        if let Some(last) = self.last.get_mut(i) {
            *last = time;
        }
        let base = if first { 0 } else { self.bases.get(i).copied().unwrap_or(0) };
        self.heads.push(Reverse((time.saturating_sub(base), i, line)));
        Ok(Some(time))
    }

    /// The next line that came to something.
    ///
    /// # Errors
    /// If a file cannot be read on.
    pub fn next_moment(&mut self) -> Result<Option<Moment>, ReplayError> {
        while let Some(Reverse((time, i, line))) = self.heads.pop() {
            self.refill(i, false)?;
            let Some(recording) = self.recordings.get(i) else { continue };
            let deltas = self.normalizer.line(recording.format, &recording.symbol, &line);
            if !deltas.is_empty() {
                return Ok(Some(Moment { at: Duration::from_nanos(time), deltas }));
            }
        }
        Ok(None)
    }
}

/// Moments of `files` as a stream, read ahead on a thread of its own. Ends after the last one; the counts come with
/// the end.
pub struct Pace {
    moments: flume::Receiver<Result<Moment, ReplayError>>,
    counts: Arc<std::sync::Mutex<Counts>>,
    speed: f64,
    began: Instant,
    /// Read, but its time has not come.
    next: Option<Moment>,
}

impl Pace {
    /// Opens `files`, to be played at `speed` times the recorded pace.
    ///
    /// # Errors
    /// Which file cannot be opened or understood.
    pub fn open(files: &[PathBuf], speed: f64) -> Result<Self, ReplayError> {
        let mut recordings = Recordings::open(files)?;
        let (sender, moments) = flume::bounded(AHEAD);
        let counts = Arc::new(std::sync::Mutex::new(Counts::default()));
        let shared = counts.clone();
        std::thread::spawn(move || {
            loop {
                let next = recordings.next_moment().transpose();
                shared
                    .lock()
                    .unwrap_or_else(std::sync::PoisonError::into_inner)
                    .clone_from(&recordings.normalizer.counts);
                match next {
                    Some(moment) => {
                        if sender.send(moment).is_err() {
                            return;
                        }
                    }
                    None => return,
                }
            }
        });
        Ok(Self { moments, counts, speed, began: Instant::now(), next: None })
    }

    /// The next moment, when its time has come. `None` after the last. May be cancelled: nothing is lost by it.
    ///
    /// # Errors
    /// If a file cannot be read on.
    pub async fn next(&mut self) -> Result<Option<Moment>, ReplayError> {
        if self.next.is_none() {
            let Ok(moment) = self.moments.recv_async().await else { return Ok(None) };
            self.next = Some(moment?);
        }
        let due = self.began + self.next.as_ref().map_or(Duration::ZERO, |moment| moment.at.div_f64(self.speed));
        // A timer is no finer than a millisecond: less than that is not waited for.
        if due > Instant::now() + Duration::from_millis(1) {
            tokio::time::sleep_until(due.into()).await;
        }
        Ok(self.next.take())
    }

    /// The next moment if its time has come; else `None`, at once.
    ///
    /// # Errors
    /// If a file cannot be read on.
    pub async fn due(&mut self) -> Result<Option<Moment>, ReplayError> {
        tokio::time::timeout(Duration::ZERO, self.next()).await.unwrap_or(Ok(None))
    }

    /// What the lines have come to so far.
    pub fn counts(&self) -> Counts {
        self.counts.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone()
    }
}

/// Recordings as a source of this process.
pub struct ReplaySource {
    config: config::Replay,
    status: Arc<SourceStatus>,
}

impl ReplaySource {
    /// As configured.
    pub fn new(config: config::Replay) -> Self {
        Self { config, status: SourceStatus::new("replay", false, 0) }
    }

    async fn run(self, feed: Feed, stop: CancellationToken) {
        self.status.set_connected(true);
        self.status.set_loaded(true);
        loop {
            match self.once(&feed, &stop).await {
                Ok(counts) => tracing::info!(?counts, "the recording has ended"),
                Err(error) => {
                    tracing::error!(%error, "replay");
                    self.status.note(error.to_string());
                    self.status.set_connected(false);
                    return;
                }
            }
            if !self.config.repeat || stop.is_cancelled() {
                return;
            }
        }
    }

    async fn once(&self, feed: &Feed, stop: &CancellationToken) -> Result<Counts, ReplayError> {
        let mut pace = Pace::open(&self.config.files, self.config.speed)?;
        loop {
            let moment = tokio::select! {
                () = stop.cancelled() => break,
                moment = pace.next() => moment?,
            };
            let Some(moment) = moment else { break };
            for delta in &moment.deltas {
                let Ok(payload) = Payload::new(Bytes::from(delta.data.to_string()), DELTA_BYTES_MAX) else {
                    self.status.skip();
                    continue;
                };
                let NormalDelta { topic, kind, ts, .. } = delta;
                let incoming = Incoming {
                    topic,
                    kind: *kind,
                    ts: *ts,
                    at_ms: None,
                    payload,
                    offset: None,
                    source: SourceId(0),
                    home: None,
                    is_relayed: false,
                };
                if feed.publish(incoming).await.is_err() {
                    self.status.skip();
                }
            }
            self.status.read(moment.deltas.len() as u64, 0);
        }
        Ok(pace.counts())
    }
}

impl Source for ReplaySource {
    fn status(&self) -> Arc<SourceStatus> {
        self.status.clone()
    }

    fn run(self: Box<Self>, feed: Feed, stop: CancellationToken) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        Box::pin((*self).run(feed, stop))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn files_are_merged_by_time_and_days_are_laid_over_each_other() {
        let dir = tempfile::tempdir().unwrap();
        let ticker = |bid: u32| {
            format!(r#"{{"stream":"x@bookTicker","data":{{"u":1,"s":"AB","b":"{bid}","B":"1","a":"9","A":"1"}}}}"#)
        };
        let day = 1_723_161_253_000_000_000u64;
        let write = |name: &str, lines: &[String]| {
            let path = dir.path().join(name);
            if name.ends_with(".gz") {
                let mut gz = flate2::write::GzEncoder::new(File::create(&path).unwrap(), flate2::Compression::fast());
                gz.write_all(lines.join("\n").as_bytes()).unwrap();
                gz.finish().unwrap();
            } else {
                std::fs::write(&path, lines.join("\n")).unwrap();
            }
            path
        };
        let files = [
            write(
                "binance-spot-ab-1.gz",
                &[format!("{day} {}", ticker(1)), format!("{} {}", day + 20_000_000, ticker(3))],
            ),
            write("binance-usdm-ab-1", &[format!("{} {}", day + 10_000_000, ticker(2)), "garbage".into()]),
            write(
                "bybit-linear-cd-1",
                &[r#"{"topic":"tickers.CD","ts":1733011200691,"data":{"lastPrice":"4"}}"#.into()],
            ),
        ];
        let mut recordings = Recordings::open(&files).unwrap();
        let mut seen = Vec::new();
        while let Some(moment) = recordings.next_moment().unwrap() {
            seen.push((moment.at.as_millis(), moment.deltas[0].topic.clone()));
        }
        seen.sort();
        assert_eq!(
            seen,
            [
                (0, "quotes:binance-spot.AB".to_owned()),
                (0, "quotes:bybit-linear.CD".to_owned()),
                (10, "quotes:binance-usdm.AB".to_owned()),
                (20, "quotes:binance-spot.AB".to_owned()),
            ]
        );
        assert_eq!(recordings.normalizer.counts.malformed, 1);
        assert!(Recordings::open(&[dir.path().join("nope-1")]).is_err());
    }
}

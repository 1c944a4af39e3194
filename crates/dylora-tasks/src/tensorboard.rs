//! A run's losses and metrics as event files that TensorBoard reads, beside its record.
//!
//! A file is a row of records: length (u64), CRC of the length, bytes of an `Event` message, CRC of the bytes; all little
//! endian, the CRCs masked (TensorFlow's `record_writer.h`). Of the messages in `event.proto` and `summary.proto` only the
//! fields are declared here that scalars need.

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crc::{CRC_32_ISCSI, Crc};
use prost::Message;

use crate::error::{Error, Result};
use crate::record::{RankName, RankScores};
use crate::trainer::StepReport;

/// Most steps of a run that are written; a longer run has every second, third, ... of its steps. A step takes some 130 bytes.
pub const MOST_STEPS: u64 = 10_000;

/// Seconds after which what was written can be seen.
const PATIENCE: Duration = Duration::from_secs(5);

/// A number of a run.
#[derive(Clone, Debug, PartialEq)]
pub struct Scalar {
    /// The optimizer step, from 1.
    pub step: u64,
    /// `train/loss`, `train/lr`, `train/rank`, `train/grad_norm`, or `dev/METRIC/rank-N` (`dev/METRIC` without ranks).
    pub tag: String,
    /// Its value.
    pub value: f32,
}

#[derive(Clone, PartialEq, Message)]
struct Event {
    /// Seconds since 1970.
    #[prost(double, tag = "1")]
    wall_time: f64,
    #[prost(int64, tag = "2")]
    step: i64,
    #[prost(string, optional, tag = "3")]
    file_version: Option<String>,
    #[prost(message, optional, tag = "5")]
    summary: Option<Summary>,
    #[prost(message, optional, tag = "7")]
    session: Option<Session>,
}

#[derive(Clone, PartialEq, Message)]
struct Summary {
    #[prost(message, repeated, tag = "1")]
    values: Vec<Value>,
}

#[derive(Clone, PartialEq, Message)]
struct Value {
    #[prost(string, tag = "1")]
    tag: String,
    #[prost(float, optional, tag = "2")]
    scalar: Option<f32>,
}

#[derive(Clone, PartialEq, Message)]
struct Session {
    #[prost(int32, tag = "1")]
    status: i32,
}

/// `SessionLog.START`: what was seen of this step and later ones is void.
const START: i32 = 1;

/// What a file begins with.
const VERSION: &str = "brain.Event:2";

/// Writes the event file of a run that is going on.
pub(crate) struct EventLog {
    path: PathBuf,
    file: BufWriter<File>,
    every: u64,
    seen: Instant,
}

impl EventLog {
    /// A new file in a run's directory, for what comes after step `done` of `steps`. Files that are there lose what is not in
    /// the checkpoint: later steps, metrics, and a record that was torn.
    ///
    /// # Errors
    /// If a file cannot be read or written.
    pub(crate) fn begin(dir: &Path, done: u64, steps: u64) -> Result<Self> {
        let mut last = 0;
        for path in files(dir)? {
            last = last.max(stamp(&path).unwrap_or(0));
            cut(&path, done)?;
        }
        // TensorBoard takes files in the order of their names.
        let stamp = now().as_secs().max(last + 1);
        let path = dir.join(format!("events.out.tfevents.{stamp:010}.dylora"));
        let file = File::create_new(&path).map_err(Error::io("create", &path))?;
        let mut log = EventLog {
            path,
            file: BufWriter::new(file),
            every: steps.div_ceil(MOST_STEPS).max(1),
            seen: Instant::now(),
        };
        log.write(Event {
            file_version: Some(VERSION.to_owned()),
            ..Event::default()
        })?;
        // One that looks on drops what was cut.
        log.write(Event {
            step: done as i64 + 1,
            session: Some(Session { status: START }),
            ..Event::default()
        })?;
        log.flush()?;
        Ok(log)
    }

    /// Writes a step, if it is one of those that are written.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub(crate) fn step(&mut self, step: u64, report: &StepReport) -> Result<()> {
        if step.is_multiple_of(self.every) {
            let rank = report.rank.map(|rank| ("train/rank", rank as f64));
            let values = [
                ("train/loss", report.loss),
                ("train/lr", report.lr),
                ("train/grad_norm", report.grad_norm),
            ];
            self.scalars(
                step,
                values
                    .into_iter()
                    .chain(rank)
                    .map(|(tag, value)| (tag.to_owned(), value)),
            )?;
            if self.seen.elapsed() >= PATIENCE {
                self.flush()?;
            }
        }
        Ok(())
    }

    /// Writes the metrics of every rank and hands all to the system.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub(crate) fn metrics(&mut self, step: u64, ranks: &[RankScores]) -> Result<()> {
        for RankScores { rank, scores } in ranks {
            let tag = |metric: &str| match rank {
                RankName::At(rank) => format!("dev/{metric}/rank-{rank}"),
                _ => format!("dev/{metric}"),
            };
            self.scalars(step, scores.0.iter().map(|(metric, value)| (tag(metric), *value)))?;
        }
        self.flush()
    }

    /// Hands what was written to the system: a process that is killed afterwards loses none of it.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub(crate) fn flush(&mut self) -> Result<()> {
        self.seen = Instant::now();
        self.file.flush().map_err(Error::io("write", &self.path))
    }

    fn scalars(&mut self, step: u64, values: impl Iterator<Item = (String, f64)>) -> Result<()> {
        let values = values.map(|(tag, value)| Value {
            tag,
            scalar: Some(value as f32),
        });
        let summary = Summary {
            values: values.collect(),
        };
        self.write(Event {
            step: step as i64,
            summary: Some(summary),
            ..Event::default()
        })
    }

    fn write(&mut self, event: Event) -> Result<()> {
        let event = Event {
            wall_time: now().as_secs_f64(),
            ..event
        };
        let record = record(&event.encode_to_vec());
        self.file.write_all(&record).map_err(Error::io("write", &self.path))
    }
}

/// The scalars of all event files in a run's directory, in their order.
///
/// # Errors
/// If a file cannot be read, or is damaged: a CRC that is wrong, a record that is torn.
pub fn read(dir: &Path) -> Result<Vec<Scalar>> {
    let mut found = Vec::new();
    for path in files(dir)? {
        let bytes = fs::read(&path).map_err(Error::io("read", &path))?;
        let mut at = 0;
        while at < bytes.len() {
            let Some((event, end)) = next(&bytes, at) else {
                return Err(Error::file(&path, format!("is damaged at byte {at}")));
            };
            found.extend(scalars(&event));
            at = end;
        }
    }
    Ok(found)
}

fn scalars(event: &Event) -> impl Iterator<Item = Scalar> + '_ {
    let values = event.summary.iter().flat_map(|summary| &summary.values);
    values.filter_map(|value| {
        Some(Scalar {
            step: u64::try_from(event.step).ok()?,
            tag: value.tag.clone(),
            value: value.scalar?,
        })
    })
}

/// The event files of a directory in the order of their names.
fn files(dir: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).map_err(Error::io("read", dir))? {
        let path = entry.map_err(Error::io("read", dir))?.path();
        if stamp(&path).is_some() {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

/// The number in the name of an event file of ours.
fn stamp(path: &Path) -> Option<u64> {
    let name = path.file_name()?.to_str()?;
    let number = name.strip_prefix("events.out.tfevents.")?.strip_suffix(".dylora")?;
    number.parse().ok()
}

/// Cuts a file behind the steps up to `done`; one that holds none of them goes.
fn cut(path: &Path, done: u64) -> Result<()> {
    let bytes = fs::read(path).map_err(Error::io("read", path))?;
    let (mut at, mut kept) = (0, 0);
    while let Some((event, end)) = next(&bytes, at) {
        let mut scalars = scalars(&event).peekable();
        if scalars.peek().is_some() {
            if !scalars.all(|scalar| scalar.step <= done && scalar.tag.starts_with("train/")) {
                break;
            }
            kept += 1;
        }
        at = end;
    }
    if kept == 0 {
        return fs::remove_file(path).map_err(Error::io("remove", path));
    }
    if at < bytes.len() {
        let file = File::options().write(true).open(path);
        let shorter = file.and_then(|file| file.set_len(at as u64));
        shorter.map_err(Error::io("write", path))?;
    }
    Ok(())
}

/// The record at a place, whole and undamaged, and where the one behind it is.
fn next(bytes: &[u8], at: usize) -> Option<(Event, usize)> {
    let length = bytes.get(at..at.checked_add(8)?)?;
    let crc = |from: usize| {
        Some(u32::from_le_bytes(
            bytes.get(from..from.checked_add(4)?)?.try_into().ok()?,
        ))
    };
    if crc(at + 8)? != masked_crc(length) {
        return None;
    }
    let first = at + 12;
    let end = first.checked_add(usize::try_from(u64::from_le_bytes(length.try_into().ok()?)).ok()?)?;
    let message = bytes.get(first..end)?;
    if crc(end)? != masked_crc(message) {
        return None;
    }
    Some((Event::decode(message).ok()?, end + 4))
}

/// A message with its length and both CRCs.
fn record(message: &[u8]) -> Vec<u8> {
    let length = (message.len() as u64).to_le_bytes();
    let mut bytes = Vec::with_capacity(message.len() + 16);
    bytes.extend(length);
    bytes.extend(masked_crc(&length).to_le_bytes());
    bytes.extend(message);
    bytes.extend(masked_crc(message).to_le_bytes());
    bytes
}

/// CRC-32C, turned by 15 bits and shifted by a constant, so that the CRC of bytes that hold CRCs is no special case.
fn masked_crc(bytes: &[u8]) -> u32 {
    static CASTAGNOLI: Crc<u32> = Crc::<u32>::new(&CRC_32_ISCSI);
    CASTAGNOLI.checksum(bytes).rotate_right(15).wrapping_add(0xa282_ead8)
}

/// Time since 1970.
fn now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::Scores;

    fn report(step: u64) -> StepReport {
        StepReport {
            loss: step as f64 / 2.0,
            grad_norm: 1.0,
            lr: 0.1,
            rank: step.is_multiple_of(2).then_some(3),
        }
    }

    fn steps(log: &mut EventLog, range: std::ops::RangeInclusive<u64>) -> Result<()> {
        range.into_iter().try_for_each(|step| log.step(step, &report(step)))
    }

    fn losses(dir: &Path) -> Result<Vec<u64>> {
        let found = read(dir)?;
        let losses = found.into_iter().filter(|scalar| scalar.tag == "train/loss");
        Ok(losses.map(|scalar| scalar.step).collect())
    }

    /// The bytes that `tensorboard` 2.21's own writer makes of step 7, loss 0.5, at second 2.
    #[test]
    fn a_record_has_the_bytes_of_tensorboard() {
        let event = Event {
            wall_time: 2.0,
            step: 7,
            summary: Some(Summary {
                values: vec![Value {
                    tag: "train/loss".to_owned(),
                    scalar: Some(0.5),
                }],
            }),
            ..Event::default()
        };
        let hex: String = record(&event.encode_to_vec())
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        assert_eq!(
            hex,
            "200000000000000029eda95009000000000000004010072a130a110a0a747261696e2f6c6f7373150000003f9e1bfae5"
        );
    }

    #[test]
    fn a_file_taken_up_again_has_every_step_once() -> std::result::Result<(), Box<dyn std::error::Error>> {
        let dir = tempfile::tempdir()?;
        let mut log = EventLog::begin(dir.path(), 0, 9)?;
        steps(&mut log, 1..=6)?;
        log.flush()?;
        let first = log.path.clone();
        // Killed in the middle of a record; the checkpoint is of step 4.
        File::options().append(true).open(&first)?.write_all(&[24, 0, 0])?;
        assert!(read(dir.path()).is_err());
        let mut log = EventLog::begin(dir.path(), 4, 9)?;
        assert_eq!(losses(dir.path())?, [1, 2, 3, 4]);
        steps(&mut log, 5..=9)?;
        let scores = Scores(vec![("accuracy".into(), 0.75)]);
        let ranks = [RankName::At(4), RankName::Full].map(|rank| RankScores {
            rank,
            scores: scores.clone(),
        });
        log.metrics(9, &ranks)?;
        assert_eq!(losses(dir.path())?, [1, 2, 3, 4, 5, 6, 7, 8, 9]);
        // Killed before its record was written: evaluated again.
        let mut log = EventLog::begin(dir.path(), 9, 9)?;
        log.metrics(9, &ranks)?;
        let found = read(dir.path())?;
        let tags: Vec<_> = found[found.len() - 2..]
            .iter()
            .map(|scalar| scalar.tag.as_str())
            .collect();
        assert_eq!(tags, ["dev/accuracy/rank-4", "dev/accuracy"]);
        assert_eq!(found.iter().filter(|scalar| scalar.tag.starts_with("dev")).count(), 2);
        assert_eq!(found.iter().filter(|scalar| scalar.tag == "train/rank").count(), 4);
        // A run that has to begin anew keeps none.
        EventLog::begin(dir.path(), 0, 9)?;
        assert!(read(dir.path())?.is_empty());
        assert_eq!(files(dir.path())?.len(), 1);
        Ok(())
    }

    #[test]
    fn a_wrong_bit_is_found() -> std::result::Result<(), Box<dyn std::error::Error>> {
        let dir = tempfile::tempdir()?;
        let mut log = EventLog::begin(dir.path(), 0, 3)?;
        steps(&mut log, 1..=3)?;
        log.flush()?;
        let whole = fs::read(&log.path)?;
        for byte in 0..whole.len() {
            let mut wrong = whole.clone();
            wrong[byte] ^= 1 << (byte % 8);
            fs::write(&log.path, wrong)?;
            assert!(read(dir.path()).is_err(), "byte {byte}");
        }
        Ok(())
    }

    #[test]
    fn a_long_run_is_thinned() -> std::result::Result<(), Box<dyn std::error::Error>> {
        let dir = tempfile::tempdir()?;
        let steps_of_run = 2 * MOST_STEPS + 1;
        let mut log = EventLog::begin(dir.path(), 0, steps_of_run)?;
        steps(&mut log, 1..=steps_of_run)?;
        log.flush()?;
        let written = losses(dir.path())?;
        assert_eq!(written[..3], [3, 6, 9]);
        assert!(written.len() as u64 <= MOST_STEPS && written.len() as u64 > MOST_STEPS / 2);
        assert!(fs::metadata(&log.path)?.len() <= 150 * MOST_STEPS);
        Ok(())
    }
}

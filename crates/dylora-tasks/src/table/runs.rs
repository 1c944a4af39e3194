//! What stands below a table: the runs behind it, and the settings that they share.

use std::collections::BTreeSet;

use dylora_nn::Method;
use jiff::Timestamp;
use serde::{Serialize, Serializer};
use serde_json::Value;

use super::Finding;
use crate::record::{CodeVersion, Record, json_number};

/// One run behind a table.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Run {
    /// Name of the task.
    pub task: String,
    /// The method.
    pub method: Method,
    /// The seed.
    pub seed: u64,
    /// Optimizer steps.
    pub steps: u64,
    /// Seconds of training steps.
    pub train_seconds: f64,
    /// Mean training loss of the last epoch, rows weighted equally; `None` if no epoch ended.
    #[serde(serialize_with = "number")]
    pub last_epoch_loss: Option<f64>,
    /// Where it ran.
    pub device: String,
    /// The code that made it.
    pub code: CodeVersion,
    /// When it ended, in seconds since 1970 (UTC); 0 where that is not known.
    pub finished_unix: u64,
    /// The settings in which it differs from the recipe.
    #[serde(skip)]
    pub(crate) variant: String,
    /// All that is known of it.
    #[serde(skip)]
    pub(crate) record: Record,
}

fn number<S: Serializer>(value: &Option<f64>, serializer: S) -> Result<S::Ok, S::Error> {
    value.map(json_number).serialize(serializer)
}

impl Run {
    pub(super) fn new(finding: &Finding<'_>) -> Run {
        let record = finding.record;
        Run {
            variant: finding.variant.clone(),
            record: record.clone(),
            task: record.settings.task.clone(),
            method: record.settings.method,
            seed: record.settings.seed,
            steps: record.steps,
            train_seconds: record.timing.train_seconds,
            last_epoch_loss: record.loss.epochs.last().copied(),
            device: record.device.clone(),
            code: record.code.clone(),
            finished_unix: record.timing.finished_unix,
        }
    }

    /// `2026-01-31`, where the record has a time.
    pub(crate) fn date(&self) -> Option<String> {
        let seconds = i64::try_from(self.finished_unix).ok().filter(|&seconds| seconds > 0)?;
        let time = Timestamp::from_second(seconds).ok()?;
        Some(time.strftime("%Y-%m-%d").to_string())
    }

    /// `dylora 0.1.0, revision 0123abc`.
    pub(crate) fn code_words(&self) -> String {
        match &self.code.revision {
            Some(revision) => format!("dylora {}, revision {revision}", self.code.dylora),
            None => format!("dylora {}", self.code.dylora),
        }
    }
}

/// Seeds, code, device and dates of runs, each with its name.
pub(crate) fn facts_of_runs<'a>(runs: impl Iterator<Item = &'a Run> + Clone) -> [(&'static str, String); 4] {
    let distinct = |words: &dyn Fn(&Run) -> String| {
        let all: BTreeSet<String> = runs.clone().map(words).collect();
        all.into_iter().collect::<Vec<_>>().join("; ")
    };
    let seeds: BTreeSet<u64> = runs.clone().map(|run| run.seed).collect();
    let seeds: Vec<String> = seeds.iter().map(u64::to_string).collect();
    let dates: BTreeSet<String> = runs.clone().filter_map(Run::date).collect();
    let dates = match (dates.first(), dates.last()) {
        (Some(first), Some(last)) if first == last => format!("{first} (UTC)"),
        (Some(first), Some(last)) => format!("{first} to {last} (UTC)"),
        _ => "not recorded".to_owned(),
    };
    [
        ("Seeds", seeds.join(", ")),
        ("Code", distinct(&Run::code_words)),
        ("Device", distinct(&|run| run.device.clone())),
        ("Records of", dates),
    ]
}

/// Each value of a setting, with the methods whose runs have it.
type Values = Vec<(String, Vec<Method>)>;

/// Settings of the runs by name: those that are the same in all of them, and those that are not.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Settings {
    pub(crate) shared: Vec<(String, String)>,
    pub(crate) differing: Vec<(String, Values)>,
}

/// What the table itself shows of a run.
const SHOWN: [&str; 3] = ["task", "method", "seed"];

/// Directories of one machine; the caption says what they hold, so they stand here only if the runs do not agree.
const PLACES: [&str; 2] = ["model", "data"];

impl Settings {
    pub(super) fn of(records: &[&Record]) -> Settings {
        let mut settings = Settings::default();
        let mut names: Vec<(String, Values)> = Vec::new();
        for record in records {
            let Ok(Value::Object(all)) = serde_json::to_value(&record.settings) else {
                continue;
            };
            for (name, value) in all {
                if SHOWN.contains(&name.as_str()) {
                    continue;
                }
                let index = names.iter().position(|(each, _)| *each == name).unwrap_or_else(|| {
                    names.push((name, Vec::new()));
                    names.len() - 1
                });
                let (values, value) = (&mut names[index].1, words(&value));
                let method = record.settings.method;
                match values.iter_mut().find(|(each, _)| *each == value) {
                    Some((_, methods)) if methods.contains(&method) => {}
                    Some((_, methods)) => methods.push(method),
                    None => values.push((value, vec![method])),
                }
            }
        }
        for (name, mut values) in names {
            match values.len() {
                1 if PLACES.contains(&name.as_str()) => {}
                1 => settings
                    .shared
                    .extend(values.pop().map(|(value, _)| (name.replace('_', " "), value))),
                _ => settings.differing.push((name.replace('_', " "), values)),
            }
        }
        settings
    }
}

/// A JSON value for a reader.
fn words(value: &Value) -> String {
    match value {
        Value::Null => "not set".to_owned(),
        Value::String(word) => word.clone(),
        Value::Array(values) => values.iter().map(words).collect::<Vec<_>>().join(", "),
        Value::Object(map) => map
            .iter()
            .map(|(name, value)| format!("{name}: {}", words(value)))
            .collect::<Vec<_>>()
            .join(", "),
        other => other.to_string(),
    }
}

//! What a finished run leaves behind: one JSON object with every setting, the numbers and where they came from.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::de::{self, Deserializer, MapAccess, Visitor};
use serde::ser::{SerializeMap, Serializer};
use serde::{Deserialize, Serialize};

use crate::settings::TrainSettings;

/// Which rank a row of numbers belongs to: a number, `"full"` (fine-tuning, which has none), or, in a table, `"best"`, `"worst"`
/// or `"mean"` of several.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum RankName {
    /// Adapters cut to this rank.
    At(usize),
    /// The best rank of each task.
    Best,
    /// The worst rank of each task.
    Worst,
    /// The mean over the ranks.
    Mean,
    /// No adapters: every weight was trained (`full`, `flop`).
    Full,
}

/// The ranks that are words.
const RANK_WORDS: [(RankName, &str); 4] = [
    (RankName::Full, "full"),
    (RankName::Best, "best"),
    (RankName::Worst, "worst"),
    (RankName::Mean, "mean"),
];

impl RankName {
    /// The rank of an evaluation: `None` stands for fine-tuning.
    pub fn new(rank: Option<usize>) -> Self {
        rank.map_or(RankName::Full, RankName::At)
    }
}

/// The rank that is this word.
fn of_word(word: &str) -> Option<RankName> {
    let found = RANK_WORDS.iter().find(|(_, known)| *known == word);
    found.map(|(rank, _)| *rank)
}

impl FromStr for RankName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number = text.parse().ok().filter(|&rank| rank > 0).map(RankName::At);
        number.or_else(|| of_word(text)).ok_or_else(|| {
            let words: Vec<&str> = RANK_WORDS.iter().map(|(_, word)| *word).collect();
            format!(
                "rank: {text:?} is neither a number from 1 nor one of {}",
                words.join(", ")
            )
        })
    }
}

impl fmt::Display for RankName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RankName::At(rank) => write!(f, "{rank}"),
            word => {
                let found = RANK_WORDS.iter().find(|(known, _)| known == word);
                f.write_str(found.map_or("", |(_, word)| word))
            }
        }
    }
}

impl Serialize for RankName {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            RankName::At(rank) => serializer.serialize_u64(*rank as u64),
            other => serializer.collect_str(other),
        }
    }
}

impl<'de> Deserialize<'de> for RankName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Raw {
            Number(usize),
            Word(String),
        }
        match Raw::deserialize(deserializer)? {
            Raw::Number(rank) => Ok(RankName::At(rank)),
            Raw::Word(word) => of_word(&word).ok_or_else(|| de::Error::custom(format!("{word:?} is not a rank"))),
        }
    }
}

/// Metrics by name, in the order of the task. JSON has no NaN: a value that is not a number is the string `"nan"`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Scores(pub Vec<(String, f64)>);

impl Scores {
    /// The value of a metric.
    pub fn get(&self, name: &str) -> Option<f64> {
        self.0.iter().find(|(each, _)| each == name).map(|(_, value)| *value)
    }
}

/// A number for JSON: itself, or `"nan"`, `"inf"`, `"-inf"`.
pub fn json_number(value: f64) -> serde_json::Value {
    serde_json::Number::from_f64(value).map_or_else(
        || {
            let word = if value.is_nan() {
                "nan"
            } else if value > 0.0 {
                "inf"
            } else {
                "-inf"
            };
            serde_json::Value::from(word)
        },
        serde_json::Value::Number,
    )
}

fn from_json_number(value: &serde_json::Value) -> Option<f64> {
    match value {
        serde_json::Value::Number(number) => number.as_f64(),
        serde_json::Value::String(word) => word.parse().ok(),
        _ => None,
    }
}

impl Serialize for Scores {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for (name, value) in &self.0 {
            map.serialize_entry(name, &json_number(*value))?;
        }
        map.end()
    }
}

impl<'de> Deserialize<'de> for Scores {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Read;
        impl<'de> Visitor<'de> for Read {
            type Value = Scores;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("metrics by name")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Scores, A::Error> {
                let mut scores = Vec::new();
                while let Some((name, value)) = map.next_entry::<String, serde_json::Value>()? {
                    let value = from_json_number(&value)
                        .ok_or_else(|| de::Error::custom(format!("{name}: {value} is not a number")))?;
                    scores.push((name, value));
                }
                Ok(Scores(scores))
            }
        }
        deserializer.deserialize_map(Read)
    }
}

/// The metrics of one rank: `{"rank": 4, "accuracy": 0.87, ...}`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RankScores {
    /// The rank.
    pub rank: RankName,
    /// Its metrics.
    #[serde(flatten)]
    pub scores: Scores,
}

/// The loss over a run, as means of the training batches.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct LossCurve {
    /// Loss of the first step.
    pub first: f64,
    /// Loss of the last step.
    pub last: f64,
    /// Mean loss of each finished epoch, rows weighted equally.
    pub epochs: Vec<f64>,
    /// Sum over the rows of the running epoch; 0, and not written, once it has ended.
    #[serde(default, skip_serializing_if = "is_default")]
    pub running_sum: f64,
    /// Rows of the running epoch so far.
    #[serde(default, skip_serializing_if = "is_default")]
    pub running_rows: usize,
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

impl LossCurve {
    /// Adds one step: its mean loss over so many rows.
    pub fn add(&mut self, loss: f64, rows: usize) {
        if self.epochs.is_empty() && self.running_rows == 0 {
            self.first = loss;
        }
        self.last = loss;
        self.running_sum += loss * rows as f64;
        self.running_rows += rows;
    }

    /// Ends an epoch and gives its mean.
    pub fn end_epoch(&mut self) -> f64 {
        let mean = self.running_sum / self.running_rows.max(1) as f64;
        self.epochs.push(mean);
        self.running_sum = 0.0;
        self.running_rows = 0;
        mean
    }
}

/// A run drawn with few points, whatever its length: loss and learning rate over the steps, and how often each rank was
/// drawn.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Trace {
    /// The last step of each point, from 1; rising, and the last is the run's last step.
    pub step: Vec<u64>,
    /// Mean training loss over the steps since the point before, rows weighted equally.
    pub loss: Vec<f64>,
    /// Learning rate of the step.
    pub lr: Vec<f64>,
    /// Steps at each rank. Empty for `full`, which has no ranks, and for steps that train all of them at once.
    pub ranks: BTreeMap<usize, u64>,
}

impl Trace {
    /// Most points of a trace.
    pub const POINTS: u64 = 200;

    /// Steps from one point to the next in a run of so many; the last point may have fewer.
    pub fn spacing(steps: u64) -> u64 {
        steps.div_ceil(Self::POINTS).max(1)
    }

    /// Adds a step of a run of `steps`. `open` has the losses since the last point.
    pub(crate) fn add(&mut self, open: &mut OpenPoint, steps: u64, step: &TracedStep) {
        if let Some(rank) = step.rank {
            *self.ranks.entry(rank).or_default() += 1;
        }
        open.sum += step.loss * step.rows as f64;
        open.rows += step.rows as u64;
        if step.step.is_multiple_of(Self::spacing(steps)) || step.step == steps {
            self.step.push(step.step);
            self.loss.push(open.sum / open.rows.max(1) as f64);
            self.lr.push(step.lr);
            *open = OpenPoint::default();
        }
    }
}

/// What the next point of a [`Trace`] is the mean of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct OpenPoint {
    /// Sum of the losses of its rows so far.
    pub sum: f64,
    /// Its rows so far.
    pub rows: u64,
}

/// What a [`Trace`] keeps of a step.
pub(crate) struct TracedStep {
    /// From 1.
    pub(crate) step: u64,
    pub(crate) loss: f64,
    pub(crate) lr: f64,
    pub(crate) rank: Option<usize>,
    pub(crate) rows: usize,
}

/// Seconds and speeds of a run. They do not count time before an interruption that no checkpoint saw.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Timing {
    /// Seconds of training steps.
    pub train_seconds: f64,
    /// Seconds of evaluation.
    pub eval_seconds: f64,
    /// Training rows per second.
    pub rows_per_second: f64,
    /// Training tokens per second; no token is padding.
    pub tokens_per_second: f64,
    /// How often the run was taken up again.
    pub resumed: u32,
    /// When it ended, in seconds since 1970 (UTC).
    pub finished_unix: u64,
}

/// The code that made a record.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CodeVersion {
    /// Version of the crate.
    pub dylora: String,
    /// Revision of the sources, where the build was told (environment variable `DYLORA_REVISION`).
    pub revision: Option<String>,
}

impl CodeVersion {
    /// This build.
    pub fn current() -> Self {
        CodeVersion {
            dylora: env!("CARGO_PKG_VERSION").to_owned(),
            revision: option_env!("DYLORA_REVISION").map(str::to_owned),
        }
    }
}

/// Everything about one finished run; `record.json` of a run directory. Written once, never changed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// Version of this shape.
    pub format: u32,
    /// The code that made it.
    pub code: CodeVersion,
    /// Every setting.
    pub settings: TrainSettings,
    /// Where it ran.
    pub device: String,
    /// Rows trained on.
    pub train_rows: usize,
    /// Optimizer steps.
    pub steps: u64,
    /// Trained numbers that the model uses at each rank, head included, in the order of `ranks`.
    pub trainable: Vec<usize>,
    /// The loss over time.
    pub loss: LossCurve,
    /// The same with few points, with the rate and the ranks drawn; empty in records of earlier versions.
    #[serde(default)]
    pub trace: Trace,
    /// Metrics at every rank that is evaluated, on the last weights.
    pub ranks: Vec<RankScores>,
    /// What a person must know to read the metrics, a sentence each.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
    /// Times.
    pub timing: Timing,
}

/// The current shape of a record.
pub const RECORD_FORMAT: u32 = 1;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nan_and_ranks_survive_json() -> Result<(), serde_json::Error> {
        let row = RankScores {
            rank: RankName::At(3),
            scores: Scores(vec![("pearson".into(), f64::NAN), ("spearman".into(), 0.1 + 0.2)]),
        };
        let text = serde_json::to_string(&row)?;
        assert_eq!(text, r#"{"rank":3,"pearson":"nan","spearman":0.30000000000000004}"#);
        let back: RankScores = serde_json::from_str(&text)?;
        assert_eq!(back.rank, row.rank);
        assert!(back.scores.get("pearson").is_some_and(f64::is_nan));
        assert_eq!(back.scores.get("spearman"), Some(0.1 + 0.2));
        for rank in [RankName::Full, RankName::Best, RankName::Worst, RankName::Mean] {
            let word = serde_json::to_string(&rank)?;
            assert_eq!(serde_json::from_str::<RankName>(&word)?, rank);
        }
        assert!(serde_json::from_str::<RankName>("\"third\"").is_err());
        Ok(())
    }

    /// A trace of steps whose loss is their number; every third has one row, the others four.
    fn trace_of(steps: u64) -> Trace {
        let (mut trace, mut open) = (Trace::default(), OpenPoint::default());
        for step in 1..=steps {
            let step = TracedStep {
                step,
                loss: step as f64,
                lr: 1.0 / step as f64,
                rank: (step % 2 == 0).then_some(3),
                rows: if step % 3 == 0 { 1 } else { 4 },
            };
            trace.add(&mut open, steps, &step);
        }
        assert_eq!(open, OpenPoint::default(), "the last step ends a point");
        trace
    }

    #[test]
    fn a_trace_has_few_points_that_weigh_rows_equally() {
        let trace = trace_of(601);
        assert_eq!((trace.step.len(), trace.step[..2].to_vec()), (151, vec![4, 8]));
        assert_eq!(trace.step.last(), Some(&601));
        assert_eq!(trace.loss[0], (4.0 + 8.0 + 3.0 + 16.0) / 13.0);
        assert_eq!(trace.loss[150], 601.0);
        assert_eq!(trace.lr[1], 1.0 / 8.0);
        assert_eq!(trace.ranks, BTreeMap::from([(3, 300)]));
        for steps in [1, 2, 199, 200, 201, 399, 400, 401, 100_003] {
            let trace = trace_of(steps);
            assert!(trace.step.len() as u64 <= Trace::POINTS, "{steps}");
            assert_eq!(trace.step.last(), Some(&steps));
            assert_eq!((trace.loss.len(), trace.lr.len()), (trace.step.len(), trace.step.len()));
        }
        assert_eq!(trace_of(200).step.len(), 200);
    }

    #[test]
    fn an_epoch_mean_weighs_rows_equally() {
        let mut curve = LossCurve::default();
        curve.add(1.0, 3);
        curve.add(5.0, 1);
        assert_eq!(curve.end_epoch(), 2.0);
        curve.add(7.0, 2);
        assert_eq!((curve.first, curve.last), (1.0, 7.0));
        assert_eq!(curve.end_epoch(), 7.0);
        assert_eq!(curve.epochs, [2.0, 7.0]);
    }
}

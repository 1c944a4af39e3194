//! How fast a training step is, and how much memory it takes.

use std::path::Path;
use std::time::Instant;

use dylora_nn::{EncoderConfig, Gpt2Config};
use serde::{Deserialize, Serialize};

use crate::classifier::Classifier;
use crate::error::{Error, Result};
use crate::pack::{PackedBatch, pack};
use crate::run_dir::read_json;
use crate::settings::TrainSettings;
use crate::task::{Head, Label};
use crate::text2text::{EncodedPair, TextTrainer};
use crate::tokens::Encoded;
use crate::trainer::{Submitted, Trainer};

/// The sizes of a model whose steps are timed.
#[derive(Clone, Debug, PartialEq)]
pub enum Shape {
    /// An encoder with a classifier's head.
    Encoder(EncoderConfig),
    /// A GPT-2.
    Causal(Gpt2Config),
}

impl Shape {
    /// A published size by name, or the sizes of a model directory's `config.json`.
    ///
    /// # Errors
    /// What [`EncoderConfig::from_file`] and [`Gpt2Config::from_file`] report.
    pub fn of(name: &str) -> Result<Self> {
        #[derive(Deserialize)]
        struct Kind {
            model_type: Option<String>,
        }
        Ok(match name {
            "roberta-base" => Shape::Encoder(EncoderConfig::roberta_base()),
            "gpt2" => Shape::Causal(Gpt2Config::small()),
            "gpt2-medium" => Shape::Causal(Gpt2Config::medium()),
            "gpt2-large" => Shape::Causal(Gpt2Config::large()),
            "gpt2-xl" => Shape::Causal(Gpt2Config::xl()),
            dir => {
                let path = Path::new(dir).join("config.json");
                let kind: Kind = read_json(&path)?;
                match kind.model_type.as_deref() {
                    Some("gpt2") => Shape::Causal(Gpt2Config::from_file(&path)?),
                    _ => Shape::Encoder(EncoderConfig::from_file(&path)?),
                }
            }
        })
    }

    /// Rows of one length with ids spread over the vocabulary. A causal model reads `length` tokens and predicts one more, so
    /// its rows are that much longer.
    pub fn uniform_rows(&self, rows: usize, length: usize) -> Vec<Vec<u32>> {
        let (vocabulary, length) = match self {
            Shape::Encoder(config) => (config.vocab_size, length),
            Shape::Causal(config) => (config.vocab_size, length + 1),
        };
        // A prime apart from each other, so that neighbours are unlike.
        let id = |index: usize| (index * 7919 % vocabulary.max(1)) as u32;
        (0..rows)
            .map(|row| (0..length).map(|token| id(row * length + token)).collect())
            .collect()
    }
}

/// What a benchmark of training steps runs: random weights of a shape, given rows, a rank drawn anew for each step.
pub struct StepBench {
    /// The shape.
    pub shape: Shape,
    /// Method, ranks, precision, dropout, token budget; paths are not read.
    pub settings: TrainSettings,
    /// Rows of token ids, split into batches of `settings.batch_size` in their order.
    pub rows: Vec<Vec<u32>>,
    /// Steps that are timed; rows are gone through again if there are fewer.
    pub steps: usize,
    /// Steps before those.
    pub warm_up: usize,
}

/// What a benchmark found.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct StepReport {
    /// Median seconds of a step.
    pub step_med_s: f64,
    /// Seconds of the fastest step.
    pub step_min_s: f64,
    /// Tokens of all timed steps over their seconds.
    pub tokens_per_s: f64,
    /// Rows of all timed steps over their seconds.
    pub rows_per_s: f64,
    /// Largest resident memory of this process so far, in MiB; none where the system does not say.
    #[serde(rename = "peak_rss_MiB")]
    pub peak_rss_mib: Option<f64>,
    /// Timed steps.
    pub steps: usize,
    /// Numbers that are trained at the largest rank.
    pub trainable: usize,
    /// Where it ran.
    pub device: String,
}

impl StepBench {
    /// Trains and measures, `progress` being told of every step.
    ///
    /// # Errors
    /// No rows, an empty row, an id beyond the vocabulary, settings that cannot be used.
    pub fn run(&self, progress: impl FnMut(f64)) -> Result<StepReport> {
        self.settings.validate()?;
        if self.rows.is_empty() || self.steps == 0 {
            return Err(Error::argument("--steps", "nothing to measure"));
        }
        match (&self.shape, self.settings.dropout) {
            (Shape::Encoder(config), None) => self.classifier(config, progress),
            (Shape::Encoder(config), Some(p)) => self.classifier(&config.clone().with_dropout(p), progress),
            (Shape::Causal(config), None) => self.causal(config, progress),
            (Shape::Causal(config), Some(p)) => self.causal(&config.clone().with_dropout(p), progress),
        }
    }

    fn total(&self) -> u64 {
        (self.warm_up + self.steps) as u64
    }

    fn classifier(&self, config: &EncoderConfig, progress: impl FnMut(f64)) -> Result<StepReport> {
        let settings = &self.settings;
        let classifier = Classifier::of(settings, config, Head::Classify(2), None, settings.precision)?;
        let batches = self.batches(classifier.position_offset())?;
        let trainable = classifier.model.num_trainable(classifier.model.rank());
        let device = classifier.device().describe();
        let mut trainer = Trainer::new(classifier, settings, self.total())?;
        let count = |batch: &Vec<PackedBatch>| {
            let rows = batch.iter().map(PackedBatch::sequences).sum();
            (rows, batch.iter().map(PackedBatch::tokens).sum())
        };
        self.time(&batches, |batch| trainer.submit(batch), count, progress)
            .map(|report| StepReport {
                trainable,
                device,
                ..report
            })
    }

    fn causal(&self, config: &Gpt2Config, progress: impl FnMut(f64)) -> Result<StepReport> {
        let vocabulary = config.vocab_size as u32;
        if let Some(id) = self.rows.iter().flatten().find(|id| **id >= vocabulary) {
            return Err(Error::argument(
                "--rows-file",
                format!("token {id} is not in a vocabulary of {vocabulary}"),
            ));
        }
        if self.rows.iter().any(|ids| ids.len() < 2) {
            return Err(Error::argument(
                "--rows-file",
                "a row of less than two tokens predicts none",
            ));
        }
        let texts = self.rows.iter().map(|ids| EncodedPair {
            ids: ids.iter().map(|id| *id as i32).collect(),
            predicted: ids.len() - 1,
        });
        let texts: Vec<EncodedPair> = texts.collect();
        let texts: Vec<&EncodedPair> = texts.iter().collect();
        let batches: Vec<Vec<&EncodedPair>> = texts.chunks(self.settings.batch_size).map(<[_]>::to_vec).collect();
        let mut trainer = TextTrainer::over(None, &self.settings, config, self.total())?;
        let trainable = trainer.model.num_trainable(trainer.model.rank());
        let device = trainer.device().describe();
        let count = |batch: &Vec<&EncodedPair>| (batch.len(), batch.iter().map(|text| text.predicted).sum());
        self.time(&batches, |batch| trainer.submit(batch), count, progress)
            .map(|report| StepReport {
                trainable,
                device,
                ..report
            })
    }

    /// Goes through the batches again and again; `count` gives rows and tokens of one.
    fn time<B>(
        &self,
        batches: &[B],
        mut submit: impl FnMut(&B) -> Result<Submitted>,
        count: impl Fn(&B) -> (usize, usize),
        mut progress: impl FnMut(f64),
    ) -> Result<StepReport> {
        let (mut seconds, mut rows, mut tokens, mut begun) = (Vec::new(), 0, 0, None);
        for (step, batch) in batches.iter().cycle().take(self.warm_up + self.steps).enumerate() {
            let started = Instant::now();
            // As a run does it: a GPU has the next step to work on while the one before is reported.
            if let Some(before) = begun.replace(submit(batch)?) {
                before.report()?;
            }
            if begun.as_ref().is_some_and(Submitted::is_done) {
                begun.take().map(Submitted::report).transpose()?;
            }
            let elapsed = started.elapsed().as_secs_f64();
            progress(elapsed);
            if step >= self.warm_up {
                seconds.push(elapsed);
                let (more_rows, more_tokens) = count(batch);
                rows += more_rows;
                tokens += more_tokens;
            }
        }
        let total: f64 = seconds.iter().sum();
        seconds.sort_by(f64::total_cmp);
        Ok(StepReport {
            step_med_s: seconds[seconds.len() / 2],
            step_min_s: seconds[0],
            tokens_per_s: tokens as f64 / total,
            rows_per_s: rows as f64 / total,
            peak_rss_mib: peak_rss_mib(),
            steps: self.steps,
            trainable: 0,
            device: String::new(),
        })
    }

    fn batches(&self, position_offset: usize) -> Result<Vec<Vec<PackedBatch>>> {
        let encoded: Vec<Encoded> = self
            .rows
            .iter()
            .map(|ids| Encoded {
                ids: ids.clone(),
                token_types: vec![0; ids.len()],
            })
            .collect();
        let labels: Vec<Label> = (0..encoded.len()).map(|row| Label::Class(row % 2)).collect();
        let order: Vec<usize> = (0..encoded.len()).collect();
        order
            .chunks(self.settings.batch_size)
            .map(|rows| pack(&encoded, &labels, rows, position_offset, self.settings.token_budget))
            .collect()
    }
}

/// Largest resident memory of this process so far, in MiB, where `/proc` tells it.
pub fn peak_rss_mib() -> Option<f64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim()
        .strip_suffix("kB")?
        .trim()
        .parse::<f64>()
        .ok()
        .map(|kib| kib / 1024.0)
}

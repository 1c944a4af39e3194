//! How fast a training step is, and how much memory it takes.

use std::time::Instant;

use dylora_nn::EncoderConfig;
use serde::Serialize;

use crate::classifier::Classifier;
use crate::error::{Error, Result};
use crate::pack::{PackedBatch, pack};
use crate::settings::TrainSettings;
use crate::task::{Head, Label};
use crate::tokens::Encoded;
use crate::trainer::{Submitted, Trainer};

/// What a benchmark of training steps runs: random weights of a shape, given rows, a rank drawn anew for each step.
pub struct StepBench {
    /// The shape.
    pub config: EncoderConfig,
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
    /// Rows of one length with ids spread over the vocabulary.
    pub fn uniform_rows(vocab_size: usize, rows: usize, length: usize) -> Vec<Vec<u32>> {
        // A prime apart from each other, so that neighbours are unlike; ids above the usual special ones.
        let id = |index: usize| (index * 7919 % vocab_size.max(1)) as u32;
        (0..rows)
            .map(|row| (0..length).map(|token| id(row * length + token)).collect())
            .collect()
    }

    /// Trains and measures, `progress` being told of every step.
    ///
    /// # Errors
    /// No rows, an empty row, an id beyond the vocabulary, settings that cannot be used.
    pub fn run(&self, mut progress: impl FnMut(f64)) -> Result<StepReport> {
        self.settings.validate()?;
        if self.rows.is_empty() || self.steps == 0 {
            return Err(Error::argument("--steps", "nothing to measure"));
        }
        let mut config = self.config.clone();
        if let Some(dropout) = self.settings.dropout {
            config = config.with_dropout(dropout);
        }
        let head = Head::Classify(2);
        let settings = &self.settings;
        let classifier = Classifier::new(
            &config,
            head,
            settings.adapter().as_ref(),
            None,
            settings.precision,
            settings.seed,
        )?;
        let batches = self.batches(classifier.position_offset())?;
        let trainable = classifier.model.num_trainable(classifier.model.rank());
        let device = classifier.device().describe();
        let mut trainer = Trainer::new(classifier, settings, (self.warm_up + self.steps) as u64)?;
        let (mut seconds, mut rows, mut tokens, mut begun) = (Vec::new(), 0, 0, None);
        for (step, batch) in batches.iter().cycle().take(self.warm_up + self.steps).enumerate() {
            let started = Instant::now();
            let submitted = trainer.submit(batch)?;
            // As a run does it: a GPU has the next step to work on while the one before is reported.
            if let Some(before) = begun.replace(submitted) {
                before.report()?;
            }
            if begun.as_ref().is_some_and(Submitted::is_done) {
                begun.take().map(Submitted::report).transpose()?;
            }
            let elapsed = started.elapsed().as_secs_f64();
            progress(elapsed);
            if step >= self.warm_up {
                seconds.push(elapsed);
                rows += batch.iter().map(PackedBatch::sequences).sum::<usize>();
                tokens += batch.iter().map(PackedBatch::tokens).sum::<usize>();
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
            trainable,
            device,
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

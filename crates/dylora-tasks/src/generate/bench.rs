//! How fast texts are generated.

use std::time::Instant;

use dylora_nn::{AdapterSettings, Gpt2Config, Gpt2LanguageModel};
use serde::Serialize;

use super::{GenerateSettings, generate};
use crate::device;
use crate::error::{Error, Result};
use crate::settings::Precision;

/// What a benchmark of generation runs: random weights of a shape, prompts of one length.
pub struct GenerateBench {
    /// The shape.
    pub config: Gpt2Config,
    /// Adapters on it, if any; their largest rank is used.
    pub adapter: Option<AdapterSettings>,
    /// Of weights and activations.
    pub precision: Precision,
    /// Prompts as token ids.
    pub prompts: Vec<Vec<i32>>,
    /// How texts are searched for.
    pub settings: GenerateSettings,
    /// Passes over the prompts that are timed, after one that is not.
    pub runs: usize,
    /// Seed of the weights.
    pub seed: u64,
}

/// What a benchmark found.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct GenerateReport {
    /// Tokens of the best texts of all prompts over the seconds of the median pass.
    pub tokens_per_s: f64,
    /// Median seconds of a pass.
    pub pass_med_s: f64,
    /// Tokens of the best texts.
    pub tokens: usize,
    /// Prompts of a pass.
    pub prompts: usize,
    /// Where it ran.
    pub device: String,
}

impl GenerateBench {
    /// Prompts of one length with ids spread over the vocabulary.
    pub fn uniform_prompts(vocab_size: usize, prompts: usize, length: usize) -> Vec<Vec<i32>> {
        let id = |index: usize| (index * 7919 % vocab_size.max(1)) as i32;
        (0..prompts)
            .map(|row| (0..length).map(|token| id(row * length + token)).collect())
            .collect()
    }

    /// Generates and measures.
    ///
    /// # Errors
    /// Nothing to measure, or what [`generate`] reports.
    pub fn run(&self) -> Result<GenerateReport> {
        if self.runs == 0 || self.prompts.is_empty() {
            return Err(Error::argument("--runs", "nothing to measure"));
        }
        let device = device::open(self.precision)?;
        let (dtype, config, seed) = (self.precision.dtype(), &self.config, self.seed);
        let model = match &self.adapter {
            Some(adapter) => Gpt2LanguageModel::new(&device, dtype, config, Some(adapter), None, seed)?,
            None => Gpt2LanguageModel::for_inference(&device, dtype, config, None, seed)?,
        };
        let rank = self.adapter.as_ref().map_or(0, |adapter| adapter.rank);
        let (mut seconds, mut tokens) = (Vec::with_capacity(self.runs), 0);
        for run in 0..=self.runs {
            let started = Instant::now();
            // From inside the thread pool, so that no kernel has to wait for a thread to be woken.
            let texts = rayon::scope(|_| generate(&model, rank, &self.prompts, &self.settings, &mut |_| ()))?;
            if run > 0 {
                seconds.push(started.elapsed().as_secs_f64());
            }
            tokens = texts
                .iter()
                .filter_map(|found| found.first())
                .map(|best| best.tokens.len())
                .sum();
        }
        seconds.sort_by(f64::total_cmp);
        let median = seconds[seconds.len() / 2];
        Ok(GenerateReport {
            tokens_per_s: tokens as f64 / median,
            pass_med_s: median,
            tokens,
            prompts: self.prompts.len(),
            device: device.describe(),
        })
    }
}

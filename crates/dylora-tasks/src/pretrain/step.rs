//! One step of pre-training after another, and the evaluation of the held-out texts.

use dylora_nn::autograd::{RankSlice, Tape};
use dylora_nn::tensor::{DType, Device, Purpose, Segments, Stream, Tensor};
use dylora_nn::{
    AdamW, AdamWForm, AdamWSettings, Ctx, EncoderConfig, LinearWarmup, MaskedLanguageModel, Selected, Targets, Update,
};

use super::PretrainSettings;
use super::mask::{Hidden, Masking};
use crate::classifier::inputs;
use crate::device;
use crate::error::{Error, Result};
use crate::pack::PackedBatch;
use crate::settings::Precision;
use crate::trainer::check_finite;

/// What one step did.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct MaskedReport {
    /// Mean loss over the hidden tokens.
    pub loss: f64,
    /// Norm of all gradients together before clipping.
    pub grad_norm: f64,
    /// Learning rate.
    pub lr: f64,
    /// Tokens that were hidden.
    pub hidden: usize,
}

/// A masked language model in training. Its whole state is the weights, the moments and the number of steps done.
pub struct MaskedTrainer {
    /// The model.
    pub model: MaskedLanguageModel,
    /// The optimizer.
    pub optimizer: AdamW,
    device: Device,
    schedule: LinearWarmup,
    clip: Option<f64>,
    dropout: Stream,
    masking: Masking,
    done: u64,
}

impl MaskedTrainer {
    /// A new model at step 0.
    ///
    /// # Errors
    /// If the settings are not usable.
    pub fn new(settings: &PretrainSettings, config: &EncoderConfig) -> Result<Self> {
        let device = device::open(Precision::F32)?;
        let model = MaskedLanguageModel::new(&device, DType::F32, config, None, settings.seed)?;
        let optimizer = AdamW::new(
            &model.parameters(),
            AdamWSettings {
                beta1: settings.beta1,
                beta2: settings.beta2,
                eps: settings.epsilon,
                weight_decay: settings.weight_decay,
                form: AdamWForm::Torch,
                update: Update::Dense,
            },
        )?;
        Ok(MaskedTrainer {
            model,
            optimizer,
            device,
            schedule: LinearWarmup {
                peak: settings.lr,
                warmup: settings.warmup(),
                total: settings.steps,
            },
            clip: (settings.clip > 0.0).then_some(settings.clip),
            dropout: Stream::new(settings.seed, Purpose::Dropout),
            masking: Masking::new(settings.mask_share, config.vocab_size, settings.seed),
            done: 0,
        })
    }

    /// Where the model is.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Says that so many steps were done before; the moments and weights are the caller's to restore.
    pub fn set_done(&mut self, done: u64) {
        self.done = done;
    }

    /// One optimizer step over the batches, whose tokens are hidden here.
    ///
    /// # Errors
    /// [`Error::Diverged`] if the loss or the gradients are not numbers; if there is no token to hide.
    pub fn step(&mut self, mut batches: Vec<PackedBatch>) -> Result<MaskedReport> {
        let index = u32::try_from(self.done).map_err(|_| Error::argument("--steps", "more than 2^32 steps"))?;
        let lr = self.schedule.lr(self.done);
        let hidden = self.masking.hide(&mut batches, index);
        let total: usize = hidden.iter().map(|hidden| hidden.rows.len()).sum();
        if total == 0 {
            return Err(Error::argument(
                "--text",
                format!("the texts of step {} are special tokens only", self.done + 1),
            ));
        }
        let mut draws = Some(self.dropout.draws(index));
        self.optimizer.zero_grad()?;
        let mut loss = 0.0;
        for (batch, hidden) in batches.iter().zip(&hidden).filter(|(_, h)| !h.rows.is_empty()) {
            let mut tape = Tape::new();
            let mut ctx = Ctx {
                tape: &mut tape,
                slice: RankSlice::full(0),
                dropout: draws.take(),
            };
            let logits = self
                .model
                .forward(&mut ctx, &inputs(&self.device, batch)?, &self.selected(hidden)?)?;
            // The next pass draws on where this one stopped.
            draws = ctx.dropout.take();
            let part = self.targets(hidden)?.loss(&mut tape, &logits, 1.0 / total as f64)?;
            loss += part.value().to_f64_vec()?.iter().sum::<f64>();
            tape.backward(&part)?;
        }
        // Before the update: a checkpoint never holds what such a loss would make of the weights.
        check_finite("loss", loss, self.done + 1)?;
        self.optimizer.step(lr, self.clip)?;
        let grad_norm = self.optimizer.grad_norm()?;
        check_finite("gradient norm", grad_norm, self.done + 1)?;
        self.done += 1;
        Ok(MaskedReport {
            loss,
            grad_norm,
            lr,
            hidden: total,
        })
    }

    /// Mean loss and share of right guesses over the hidden tokens of held-out batches, and how many these are. The same
    /// tokens are hidden every time.
    ///
    /// # Errors
    /// If a batch does not fit the model.
    pub fn evaluate(&self, mut batches: Vec<PackedBatch>) -> Result<(f64, f64, usize)> {
        let hidden = self.masking.hide_held_out(&mut batches);
        let (mut loss, mut right, mut total) = (0.0, 0, 0);
        for (batch, hidden) in batches.iter().zip(&hidden).filter(|(_, h)| !h.rows.is_empty()) {
            let mut tape = Tape::inference();
            let mut ctx = Ctx {
                tape: &mut tape,
                slice: RankSlice::full(0),
                dropout: None,
            };
            let logits = self
                .model
                .forward(&mut ctx, &inputs(&self.device, batch)?, &self.selected(hidden)?)?;
            let part = self.targets(hidden)?.loss(&mut tape, &logits, 1.0)?;
            loss += part.value().to_f64_vec()?.iter().sum::<f64>();
            let values = logits.value().to_f64_vec()?;
            let guesses = values.chunks_exact(logits.value().width().max(1)).map(largest);
            right += guesses.zip(&hidden.targets).filter(|(a, b)| *a == **b as usize).count();
            total += hidden.rows.len();
        }
        let mean = |sum: f64| sum / total.max(1) as f64;
        Ok((mean(loss), mean(right as f64), total))
    }

    fn selected(&self, hidden: &Hidden) -> Result<Selected> {
        Ok(Selected {
            rows: Tensor::from_slice(&self.device, &hidden.rows, &[hidden.rows.len()])?,
            segments: Segments::new(&self.device, &hidden.counts)?,
        })
    }

    fn targets(&self, hidden: &Hidden) -> Result<Targets> {
        let targets = Tensor::from_slice(&self.device, &hidden.targets, &[hidden.targets.len()])?;
        Ok(Targets::Classes(targets))
    }
}

/// The place of the largest value, the first of equals.
fn largest(values: &[f64]) -> usize {
    let mut best = 0;
    for (at, value) in values.iter().enumerate() {
        if *value > values[best] {
            best = at;
        }
    }
    best
}

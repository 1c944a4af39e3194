//! One step of text-to-text training after another.

use dylora_nn::autograd::Tape;
use dylora_nn::tensor::{DType, Device, Later, StepCache, Tensor};
use dylora_nn::{AdamW, CausalInputs, Checkpoint, Ctx, Gpt2Config, Gpt2LanguageModel};

use super::data::EncodedPair;
use super::pass::Texts;
use crate::course::{Course, check_finite, optimizer};
use crate::device;
use crate::error::{Error, Result};
use crate::settings::{Precision, TrainSettings};
use crate::trainer::{StepReport, Submitted};

/// A language model in training. Its whole state is the trained tensors, the moments and the number of steps done.
pub struct TextTrainer {
    /// The model.
    pub model: Gpt2LanguageModel,
    /// The optimizer.
    pub optimizer: AdamW,
    device: Device,
    course: Course,
    smoothing: f64,
    budget: usize,
    cache: StepCache,
    /// Whether parts are filled up, so that few graphs serve all of them.
    filled: bool,
    loss: Tensor,
}

/// The model that settings ask for, on the device that was chosen; random where there is no checkpoint.
///
/// # Errors
/// What is wrong with settings or checkpoint, all keys at once.
pub(super) fn build(
    settings: &TrainSettings,
    config: &Gpt2Config,
    source: Option<&Checkpoint>,
) -> Result<(Device, Gpt2LanguageModel)> {
    let adapter = settings.adapter();
    if settings.precision == Precision::Bf16 && adapter.is_none() {
        return Err(Error::argument(
            "--precision",
            "bf16 needs a frozen base; --method full learns every weight and takes f32 or tf32",
        ));
    }
    let device = device::open(settings.precision)?;
    let dtype = settings.precision.dtype();
    let model = Gpt2LanguageModel::new(&device, dtype, config, adapter.as_ref(), source, settings.seed)?;
    Ok((device, model))
}

impl TextTrainer {
    /// A trainer at step 0 of `total`, over the weights of the settings' model.
    ///
    /// # Errors
    /// If the settings or the checkpoint are not usable.
    pub fn new(settings: &TrainSettings, config: &Gpt2Config, total: u64) -> Result<Self> {
        Self::over(Some(&Checkpoint::open(&settings.model)?), settings, config, total)
    }

    /// The same over another checkpoint's weights, or random ones.
    ///
    /// # Errors
    /// As [`TextTrainer::new`].
    pub fn over(
        source: Option<&Checkpoint>,
        settings: &TrainSettings,
        config: &Gpt2Config,
        total: u64,
    ) -> Result<Self> {
        let (device, model) = build(settings, config, source)?;
        let wide = match settings.precision.dtype() {
            DType::F64 => DType::F64,
            _ => DType::F32,
        };
        Ok(TextTrainer {
            cache: StepCache::new(&device),
            filled: matches!(device, Device::Cuda(_)) && Texts::fills(config),
            course: Course::new(settings, total, model.rank())?,
            loss: Tensor::zeros(&device, wide, &[1])?,
            optimizer: optimizer(&model.parameters(), settings)?,
            model,
            device,
            smoothing: settings.label_smoothing,
            budget: settings.token_budget,
        })
    }

    /// Where the model is.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Runs every pass by itself from now on, where a GPU would replay recorded ones: the same numbers, more slowly.
    pub fn without_graphs(&mut self) {
        self.cache = StepCache::eager(&self.device);
    }

    /// Says that so many steps were done before; the moments and tensors are the caller's to restore.
    pub fn set_done(&mut self, done: u64) {
        self.course.done = done;
    }

    /// One optimizer step over texts, at the rank that seed and step give. The loss is the mean over all predicted tokens.
    ///
    /// # Errors
    /// [`Error::Diverged`] if the loss or the gradients are not numbers; what the model reports.
    pub fn step(&mut self, texts: &[&EncodedPair]) -> Result<StepReport> {
        self.submit(texts)?.report()
    }

    /// [`TextTrainer::step`] without waiting for a GPU.
    ///
    /// # Errors
    /// As [`TextTrainer::step`].
    pub fn submit(&mut self, texts: &[&EncodedPair]) -> Result<Submitted> {
        let turn = self.course.turn(self.course.draw()?);
        let predicted: usize = texts.iter().map(|text| text.predicted).sum();
        let mut draws = Some(self.course.draws()?);
        self.optimizer.zero_grad()?;
        let mut losses = Vec::new();
        for part in within_budget(texts, self.budget) {
            let texts = Texts::new(part, self.model.config(), self.filled)?;
            for (slice, probability) in &turn.slices {
                self.model.slice().set(slice.clone());
                let (smoothing, filled) = (self.smoothing, self.filled);
                let weight = probability / predicted as f64;
                let mut values = self.course.values(slice, draws.take(), weight);
                let TextTrainer {
                    model,
                    cache,
                    loss: last,
                    ..
                } = self;
                cache.pass(texts.key(), &texts.inputs(), &mut values, &mut |pass| -> Result<()> {
                    let mut tape = Tape::new();
                    let mut ctx = Ctx {
                        tape: &mut tape,
                        slice: slice.clone(),
                        dropout: pass.dropout.take(),
                    };
                    let (inputs, targets) = texts.build(&pass.inputs)?;
                    let loss = if filled {
                        model.filled_loss(&mut ctx, &inputs, &targets, smoothing, weight)?
                    } else {
                        model.loss(&mut ctx, &inputs, &targets, smoothing, weight)?
                    };
                    pass.dropout = ctx.dropout.take();
                    last.copy_from(loss.value())?;
                    Ok(tape.backward(&loss)?)
                })?;
                // The next pass draws on where this one stopped.
                draws = values.dropout;
                losses.push(self.loss.to_host_later()?);
            }
        }
        // Before the update: a checkpoint never holds what such a loss would make of the weights. A GPU's update leaves them
        // alone by itself where the gradients are not numbers.
        let mut loss = 0.0;
        if losses.iter().all(Later::is_here) {
            for part in losses.drain(..) {
                loss = part.wait()?.iter().fold(loss, |sum, value| sum + value);
            }
            check_finite("loss", loss, self.course.done + 1)?;
        }
        self.model.slice().set(turn.whole());
        self.course.update(&turn, &mut self.cache, &mut self.optimizer)?;
        self.course.end(&turn, &self.optimizer, loss, losses)
    }
}

/// Texts in parts of at most `budget` tokens, or of one text that has more.
pub(super) fn within_budget<'a, 'b>(texts: &'a [&'b EncodedPair], budget: usize) -> Vec<&'a [&'b EncodedPair]> {
    let (mut parts, mut first, mut tokens) = (Vec::new(), 0, 0);
    for (at, text) in texts.iter().enumerate() {
        if at > first && tokens + text.ids.len() > budget {
            parts.push(&texts[first..at]);
            (first, tokens) = (at, 0);
        }
        tokens += text.ids.len();
    }
    if first < texts.len() {
        parts.push(&texts[first..]);
    }
    parts
}

/// A part on the device, with what is to be predicted.
pub(super) fn batch(device: &Device, part: &[&EncodedPair]) -> Result<(CausalInputs, dylora_nn::tensor::Tensor)> {
    let texts: Vec<(&[i32], usize)> = part.iter().map(|text| (text.ids.as_slice(), text.predicted)).collect();
    Ok(CausalInputs::for_training(device, &texts)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_keep_to_the_budget_and_to_the_order() {
        let text = |len: usize| EncodedPair {
            ids: vec![0; len],
            predicted: 1,
        };
        let texts: Vec<EncodedPair> = [3, 4, 9, 2, 2, 1].map(text).into();
        let texts: Vec<&EncodedPair> = texts.iter().collect();
        let sizes = |budget| -> Vec<Vec<usize>> {
            let parts = within_budget(&texts, budget);
            parts
                .iter()
                .map(|part| part.iter().map(|t| t.ids.len()).collect())
                .collect()
        };
        assert_eq!(sizes(7), [vec![3, 4], vec![9], vec![2, 2, 1]]);
        assert_eq!(sizes(1).len(), 6);
        assert_eq!(sizes(100).len(), 1);
        assert!(within_budget(&[], 5).is_empty());
    }
}

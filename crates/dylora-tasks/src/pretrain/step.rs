//! One step of pre-training after another, and the evaluation of the held-out texts.

use dylora_nn::autograd::{Parameter, RankSlice, Tape, Var};
use dylora_nn::tensor::{DType, Device, Purpose, Segments, Stream, Tensor};
use dylora_nn::{
    AdamW, AdamWForm, AdamWSettings, CausalInputs, Ctx, EncoderConfig, Gpt2Config, Gpt2LanguageModel, LinearWarmup,
    MaskedLanguageModel, Selected, Targets, Update,
};

use super::PretrainSettings;
use super::mask::{Hidden, Masking};
use crate::classifier::inputs;
use crate::course::check_finite;
use crate::device;
use crate::error::{Error, Result};
use crate::pack::PackedBatch;
use crate::settings::Precision;

/// Logits of a causal model that are looked at together: 64 MiB in f32.
const LOGITS: usize = 1 << 24;

/// What one step did.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StepReport {
    /// Mean loss over the hidden tokens; over all predicted ones with a causal model.
    pub loss: f64,
    /// Norm of all gradients together before clipping.
    pub grad_norm: f64,
    /// Learning rate.
    pub lr: f64,
    /// Tokens that were hidden, or predicted.
    pub hidden: usize,
}

/// The sizes of a model to pre-train.
#[derive(Clone, Debug)]
pub(super) enum ModelConfig {
    Encoder(EncoderConfig),
    Causal(Gpt2Config),
}

impl ModelConfig {
    pub(super) fn to_json(&self) -> String {
        match self {
            ModelConfig::Encoder(config) => config.to_json(),
            ModelConfig::Causal(config) => config.to_json(),
        }
    }

    pub(super) fn vocab_size(&self) -> usize {
        match self {
            ModelConfig::Encoder(config) => config.vocab_size,
            ModelConfig::Causal(config) => config.vocab_size,
        }
    }

    pub(super) fn position_offset(&self) -> usize {
        match self {
            ModelConfig::Encoder(config) => config.position_offset,
            ModelConfig::Causal(_) => 0,
        }
    }
}

/// A model and what it learns from a batch.
enum Objective {
    /// Hidden tokens are guessed.
    Masked(Box<MaskedLanguageModel>, Masking),
    /// Every token but the first is predicted from those before it.
    Causal(Box<Gpt2LanguageModel>),
}

impl Objective {
    fn parameters(&self) -> Vec<Parameter> {
        match self {
            Objective::Masked(model, _) => model.parameters(),
            Objective::Causal(model) => model.parameters(),
        }
    }
}

/// What is predicted of a batch.
enum Part {
    Hidden(Hidden),
    Next,
}

impl Part {
    /// Tokens that are predicted.
    fn count(&self, batch: &PackedBatch) -> usize {
        match self {
            Part::Hidden(hidden) => hidden.rows.len(),
            Part::Next => batch.tokens() - batch.sequences(),
        }
    }
}

/// The texts of a batch, each with the number of its tokens that are predicted.
fn texts(batch: &PackedBatch) -> Vec<(&[i32], usize)> {
    let mut rest = batch.ids.as_slice();
    let mut texts = Vec::with_capacity(batch.sequences());
    for &length in &batch.lengths {
        let (text, after) = rest.split_at(length);
        texts.push((text, length - 1));
        rest = after;
    }
    texts
}

/// What an evaluation has counted so far.
#[derive(Default)]
struct Sum {
    loss: f64,
    right: usize,
    total: usize,
}

/// A language model in training. Its whole state is the weights, the moments and the number of steps done.
pub(super) struct LanguageTrainer {
    objective: Objective,
    /// The optimizer.
    pub(super) optimizer: AdamW,
    device: Device,
    schedule: LinearWarmup,
    clip: Option<f64>,
    dropout: Stream,
    done: u64,
}

impl LanguageTrainer {
    /// A new model at step 0.
    ///
    /// # Errors
    /// If the settings are not usable.
    pub(super) fn new(settings: &PretrainSettings, config: &ModelConfig) -> Result<Self> {
        let device = device::open(Precision::F32)?;
        let seed = settings.seed;
        let objective = match config {
            ModelConfig::Encoder(config) => Objective::Masked(
                Box::new(MaskedLanguageModel::new(&device, DType::F32, config, None, seed)?),
                Masking::new(settings.mask_share, config.vocab_size, seed),
            ),
            ModelConfig::Causal(config) => {
                let model = Gpt2LanguageModel::new(&device, DType::F32, config, None, None, seed)?;
                Objective::Causal(Box::new(model))
            }
        };
        let optimizer = AdamW::new(
            &objective.parameters(),
            AdamWSettings {
                beta1: settings.beta1,
                beta2: settings.beta2,
                eps: settings.epsilon,
                weight_decay: settings.weight_decay,
                form: AdamWForm::Torch,
                update: Update::Dense,
            },
        )?;
        Ok(LanguageTrainer {
            objective,
            optimizer,
            device,
            schedule: LinearWarmup {
                peak: settings.lr,
                warmup: settings.warmup(),
                total: settings.steps,
            },
            clip: (settings.clip > 0.0).then_some(settings.clip),
            dropout: Stream::new(seed, Purpose::Dropout),
            done: 0,
        })
    }

    /// Every weight by name, as a checkpoint of the pre-training stores it.
    pub(super) fn named(&self) -> Vec<(String, Tensor)> {
        match &self.objective {
            Objective::Masked(model, _) => model.named(),
            Objective::Causal(model) => model.named_trained(),
        }
    }

    /// Every weight by the key and in the layout that published models have.
    ///
    /// # Errors
    /// If the weights cannot be copied.
    pub(super) fn published(&self) -> Result<Vec<(String, Tensor)>> {
        match &self.objective {
            Objective::Masked(model, _) => Ok(model.named()),
            Objective::Causal(model) => Ok(model.merge(0)?),
        }
    }

    /// Where the model is.
    pub(super) fn device(&self) -> &Device {
        &self.device
    }

    /// Says that so many steps were done before; the moments and weights are the caller's to restore.
    pub(super) fn set_done(&mut self, done: u64) {
        self.done = done;
    }

    /// One optimizer step over the batches, whose tokens are hidden here if the model is to guess them.
    ///
    /// # Errors
    /// [`Error::Diverged`] if the loss or the gradients are not numbers; if there is no token to hide.
    pub(super) fn step(&mut self, mut batches: Vec<PackedBatch>) -> Result<StepReport> {
        let index = u32::try_from(self.done).map_err(|_| Error::argument("--steps", "more than 2^32 steps"))?;
        let lr = self.schedule.lr(self.done);
        let parts: Vec<Part> = match &self.objective {
            Objective::Masked(_, masking) => masking
                .hide(&mut batches, index)
                .into_iter()
                .map(Part::Hidden)
                .collect(),
            Objective::Causal(_) => batches.iter().map(|_| Part::Next).collect(),
        };
        let total: usize = parts.iter().zip(&batches).map(|(part, batch)| part.count(batch)).sum();
        if total == 0 {
            return Err(Error::argument(
                "--text",
                format!("the texts of step {} are special tokens only", self.done + 1),
            ));
        }
        let mut draws = Some(self.dropout.draws(index));
        self.optimizer.zero_grad()?;
        let mut loss = 0.0;
        for (batch, part) in batches.iter().zip(&parts).filter(|(batch, part)| part.count(batch) > 0) {
            let mut tape = Tape::new();
            let mut ctx = Ctx {
                tape: &mut tape,
                slice: RankSlice::full(0),
                dropout: draws.take(),
            };
            let part = self.loss(&mut ctx, batch, part, 1.0 / total as f64)?;
            // The next pass draws on where this one stopped.
            draws = ctx.dropout.take();
            loss += part.value().to_f64_vec()?.iter().sum::<f64>();
            tape.backward(&part)?;
        }
        // Before the update: a checkpoint never holds what such a loss would make of the weights.
        check_finite("loss", loss, self.done + 1)?;
        self.optimizer.step(lr, self.clip)?;
        let grad_norm = self.optimizer.grad_norm()?;
        check_finite("gradient norm", grad_norm, self.done + 1)?;
        self.done += 1;
        Ok(StepReport {
            loss,
            grad_norm,
            lr,
            hidden: total,
        })
    }

    /// The summed loss of what is predicted of a batch, weighted.
    fn loss(&self, ctx: &mut Ctx<'_>, batch: &PackedBatch, part: &Part, weight: f64) -> Result<Var> {
        match (&self.objective, part) {
            (Objective::Masked(model, _), Part::Hidden(hidden)) => {
                let logits = model.forward(ctx, &inputs(&self.device, batch)?, &self.selected(hidden)?)?;
                Ok(self.targets(&hidden.targets)?.loss(ctx.tape, &logits, weight)?)
            }
            (Objective::Causal(model), _) => {
                let (inputs, targets) = CausalInputs::for_training(&self.device, &texts(batch))?;
                Ok(model.loss(ctx, &inputs, &targets, 0.0, weight)?)
            }
            // Parts are made from the same objective.
            (Objective::Masked(..), Part::Next) => {
                Err(Error::argument("--model-type", "the step has no hidden tokens"))
            }
        }
    }

    /// Mean loss and share of right guesses over the predicted tokens of held-out batches, and how many these are. An
    /// encoder has the same tokens hidden every time.
    ///
    /// # Errors
    /// If a batch does not fit the model.
    pub(super) fn evaluate(&self, mut batches: Vec<PackedBatch>) -> Result<(f64, f64, usize)> {
        let mut sum = Sum::default();
        match &self.objective {
            Objective::Masked(model, masking) => {
                let hidden = masking.hide_held_out(&mut batches);
                for (batch, hidden) in batches.iter().zip(&hidden).filter(|(_, h)| !h.rows.is_empty()) {
                    let (inputs, selected) = (inputs(&self.device, batch)?, self.selected(hidden)?);
                    self.score(&hidden.targets, &mut sum, |ctx| {
                        Ok(model.forward(ctx, &inputs, &selected)?)
                    })?;
                }
            }
            Objective::Causal(model) => {
                let most = (LOGITS / model.config().vocab_size).max(1);
                for batch in &batches {
                    let texts: Vec<_> = texts(batch)
                        .into_iter()
                        .filter(|(_, predicted)| *predicted > 0)
                        .collect();
                    let mut rest = texts.as_slice();
                    while !rest.is_empty() {
                        let mut tokens = 0;
                        let fits = rest.iter().take_while(|(ids, _)| {
                            tokens += ids.len();
                            tokens <= most
                        });
                        let (group, after) = rest.split_at(fits.count().max(1));
                        rest = after;
                        let (inputs, _) = CausalInputs::for_training(&self.device, group)?;
                        let targets: Vec<i32> = group.iter().flat_map(|(ids, _)| ids[1..].iter().copied()).collect();
                        self.score(&targets, &mut sum, |ctx| Ok(model.forward(ctx, &inputs)?))?;
                    }
                }
            }
        }
        let mean = |value: f64| value / sum.total.max(1) as f64;
        Ok((mean(sum.loss), mean(sum.right as f64), sum.total))
    }

    /// Adds the loss and the right guesses of logits.
    fn score(&self, targets: &[i32], sum: &mut Sum, logits: impl FnOnce(&mut Ctx<'_>) -> Result<Var>) -> Result<()> {
        let mut tape = Tape::inference();
        let mut ctx = Ctx {
            tape: &mut tape,
            slice: RankSlice::full(0),
            dropout: None,
        };
        let logits = logits(&mut ctx)?;
        let part = self.targets(targets)?.loss(&mut tape, &logits, 1.0)?;
        sum.loss += part.value().to_f64_vec()?.iter().sum::<f64>();
        let values = logits.value().to_f64_vec()?;
        let guesses = values.chunks_exact(logits.value().width().max(1)).map(largest);
        sum.right += guesses.zip(targets).filter(|(a, b)| *a == **b as usize).count();
        sum.total += targets.len();
        Ok(())
    }

    fn selected(&self, hidden: &Hidden) -> Result<Selected> {
        Ok(Selected {
            rows: Tensor::from_slice(&self.device, &hidden.rows, &[hidden.rows.len()])?,
            segments: Segments::new(&self.device, &hidden.counts)?,
        })
    }

    fn targets(&self, targets: &[i32]) -> Result<Targets> {
        let targets = Tensor::from_slice(&self.device, targets, &[targets.len()])?;
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

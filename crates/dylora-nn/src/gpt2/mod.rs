//! GPT-2 with its language-model head: token and position embeddings, pre-norm blocks, and an output that is the token
//! embedding. Keys are those of transformers' `GPT2LMHeadModel`, with or without `transformer.`.

mod block;
mod config;
mod decoder;
mod input_major;
mod inputs;

use dylora_autograd::ops::{self, CrossEntropy};
use dylora_autograd::tensor::{DType, Device, Tensor};
use dylora_autograd::{Parameter, RankSlice, SliceCell, Var, Weight};

use crate::checkpoint::Checkpoint;
use crate::ctx::Ctx;
use crate::dylora::AdapterSettings;
use crate::error::{Error, Result};
use crate::norm::LayerNorm;
use crate::scope::{Init, Naming, Source};

pub use block::Gpt2Block;
use block::Stream;
pub use config::Gpt2Config;
pub use decoder::{Decoder, Fed, Feed};
pub(crate) use input_major::output_major;
pub use inputs::CausalInputs;

/// The prefix of the keys below the head.
const PREFIX: &str = "transformer";

/// Buffers of the causal mask, and the output where a file holds it beside the embedding it is tied to.
fn unused(bare: &str) -> bool {
    bare == "lm_head.weight" || bare.ends_with(".attn.bias") || bare.ends_with(".attn.masked_bias")
}

/// A frozen token embedding in a table with as many rows as the device likes best.
fn padded(words: &Weight, config: &Gpt2Config) -> Result<Option<Weight>> {
    let (Weight::Frozen(own), d) = (words, config.hidden_size) else {
        return Ok(None);
    };
    let rows = ops::vocabulary_rows(own.device(), config.vocab_size);
    if rows == config.vocab_size {
        return Ok(None);
    }
    let all = Tensor::zeros(own.device(), own.dtype(), &[rows, d])?;
    all.rows(0..config.vocab_size)?.copy_from(own)?;
    Ok(Some(Weight::Frozen(all)))
}

/// GPT-2 as a language model, with adapters or fully trained.
///
/// ```
/// use dylora_nn::autograd::{RankSlice, Tape};
/// use dylora_nn::tensor::{DType, Device};
/// use dylora_nn::{AdapterSettings, CausalInputs, Ctx, Gpt2Config, Gpt2LanguageModel, Result};
///
/// # fn main() -> Result<()> {
/// let config = Gpt2Config {
///     vocab_size: 20,
///     hidden_size: 8,
///     num_layers: 2,
///     num_heads: 2,
///     intermediate_size: 32,
///     eos_token_id: 19,
///     ..Gpt2Config::small()
/// };
/// let device = Device::cpu();
/// let adapters = AdapterSettings::query_value(4, 32.0);
/// let model = Gpt2LanguageModel::new(&device, DType::F32, &config, Some(&adapters), None, 42)?;
///
/// // A text of five tokens, the last two of which are to be learnt.
/// let (inputs, targets) = CausalInputs::for_training(&device, &[(&[3, 4, 5, 6, 19], 2)])?;
/// let mut tape = Tape::new();
/// let mut ctx = Ctx { tape: &mut tape, slice: RankSlice::prefix(2), dropout: None };
/// let loss = model.loss(&mut ctx, &inputs, &targets, 0.1, 0.5)?;
/// tape.backward(&loss)?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Gpt2LanguageModel {
    config: Gpt2Config,
    words: Weight,
    /// The frozen token embedding with further rows of zeros, where the device gains by them; `words` is a part of it.
    padded: Option<Weight>,
    positions: Weight,
    blocks: Vec<Gpt2Block>,
    norm: LayerNorm,
    slice: SliceCell,
    rank: usize,
    weights: Vec<(String, Weight)>,
}

impl Gpt2LanguageModel {
    /// Builds a model.
    ///
    /// With `adapter` only the adapters learn; without it every weight does. Weights come from `source`, or are random
    /// where there is none: normal with the configuration's deviation, smaller by sqrt(2 blocks) where a block adds to the
    /// hidden states, biases 0, norms 1 and 0. What is new is drawn from the streams of `seed`.
    ///
    /// # Errors
    /// If the settings are not usable, or the checkpoint does not fit; every offending key is named.
    pub fn new(
        device: &Device,
        dtype: DType,
        config: &Gpt2Config,
        adapter: Option<&AdapterSettings>,
        source: Option<&Checkpoint>,
        seed: u64,
    ) -> Result<Self> {
        if let Some(adapter) = adapter {
            adapter.validate()?;
        }
        Self::build(device, dtype, config, adapter, source, seed, adapter.is_none())
    }

    /// A model without adapters in which nothing learns: every weight has the type `dtype` and no place for a gradient.
    /// Weights are those of [`Gpt2LanguageModel::new`].
    ///
    /// # Errors
    /// As [`Gpt2LanguageModel::new`].
    pub fn for_inference(
        device: &Device,
        dtype: DType,
        config: &Gpt2Config,
        source: Option<&Checkpoint>,
        seed: u64,
    ) -> Result<Self> {
        Self::build(device, dtype, config, None, source, seed, false)
    }

    fn build(
        device: &Device,
        dtype: DType,
        config: &Gpt2Config,
        adapter: Option<&AdapterSettings>,
        source: Option<&Checkpoint>,
        seed: u64,
        all: bool,
    ) -> Result<Self> {
        config.validate()?;
        let rank = adapter.map_or(0, |a| a.rank);
        let slice = SliceCell::new(RankSlice::full(rank));
        let naming = Naming { prefix: PREFIX, unused };
        let weights = Source::new(device, dtype, source, naming, all, config.initializer_range, seed);
        let root = weights.root();
        let scope = root.at(PREFIX);
        let table = |name: &str, rows| scope.weight(name, &[rows, config.hidden_size], Init::Normal, true);
        let (mut words, positions) = (
            table("wte.weight", config.vocab_size)?,
            table("wpe.weight", config.max_positions)?,
        );
        let blocks = (0..config.num_layers)
            .map(|i| Gpt2Block::new(&scope.at(&format!("h.{i}")), i, config, adapter, &slice))
            .collect::<Result<_>>()?;
        let norm = LayerNorm::new(&scope.at("ln_f"), config.hidden_size, config.layer_norm_eps)?;
        drop((scope, root));
        let mut weights = weights.finish()?.weights;
        let padded = padded(&words, config)?;
        if let Some(all) = &padded {
            words = Weight::Frozen(all.value().rows(0..config.vocab_size)?);
            let key = format!("{PREFIX}.wte.weight");
            let mut list = weights.iter_mut().filter(|(name, _)| *name == key);
            list.by_ref().for_each(|(_, weight)| *weight = words.clone());
        }
        Ok(Gpt2LanguageModel {
            config: config.clone(),
            words,
            padded,
            positions,
            blocks,
            norm,
            slice,
            rank,
            weights,
        })
    }

    /// The normalised hidden states of the tokens that are read, `[read, hidden_size]`.
    ///
    /// # Errors
    /// If a sequence is longer than the model's positions, an id has no embedding, or the rank is not in 1..=r.
    pub fn hidden(&self, ctx: &mut Ctx<'_>, inputs: &CausalInputs) -> Result<Var> {
        if self.rank > 0 {
            self.check_rank(ctx.slice.read)?;
        }
        let segments = inputs.segments();
        self.check_length(segments.longest())?;
        let mut stream = self.enter(ctx, inputs.ids(), inputs.positions())?;
        // Nothing else of the last block is read, so nothing else is computed there but keys and values.
        let read = (inputs.read().segments.tokens() < segments.tokens()).then_some(inputs.read());
        for (i, block) in self.blocks.iter().enumerate() {
            let read = read.filter(|_| i + 1 == self.blocks.len());
            stream = block.forward(ctx, &stream, segments, read, self.norm_behind(i))?;
        }
        Ok(stream.normed)
    }

    /// The embeddings, normalised for the first block.
    fn enter(&self, ctx: &mut Ctx<'_>, ids: &Tensor, positions: &Tensor) -> Result<Stream> {
        let first = self.blocks.first();
        let norm = first.map(|block| &block.norm_1);
        let norm = norm.ok_or_else(|| Error::setting("n_layer", "a model without blocks"))?;
        let x = ops::embed(ctx.tape, &[(ids, &self.words), (positions, &self.positions)])?;
        let dropout = ctx.next_dropout(self.config.embedding_dropout)?;
        let x = ops::dropout(ctx.tape, &x, dropout)?;
        let normed = norm.forward(ctx, &x, None, None)?;
        Ok(Stream { x, normed })
    }

    /// The norm that reads what block `index` leaves.
    fn norm_behind(&self, index: usize) -> &LayerNorm {
        self.blocks.get(index + 1).map_or(&self.norm, |block| &block.norm_1)
    }

    /// Logits `[read, vocab_size]`.
    ///
    /// # Errors
    /// As [`Gpt2LanguageModel::hidden`].
    pub fn forward(&self, ctx: &mut Ctx<'_>, inputs: &CausalInputs) -> Result<Var> {
        let x = self.hidden(ctx, inputs)?;
        Ok(ops::linear(ctx.tape, &x, &self.words, None)?)
    }

    /// `weight` times the sum of the cross-entropies of the tokens that are read against `targets` i32 `[read]`; `[1]`. A
    /// weight of 1 / read gives the mean; the share `smoothing` of each target is spread over the vocabulary. The logits of
    /// a batch never exist as a whole.
    ///
    /// # Errors
    /// As [`Gpt2LanguageModel::hidden`], or if nothing is read or the targets do not fit.
    pub fn loss(
        &self,
        ctx: &mut Ctx<'_>,
        inputs: &CausalInputs,
        targets: &Tensor,
        smoothing: f64,
        weight: f64,
    ) -> Result<Var> {
        self.loss_but(ctx, inputs, targets, None, smoothing, weight)
    }

    /// [`Gpt2LanguageModel::loss`] of a batch that was filled up: a target of [`Gpt2Config::vocab_size`], which is no token,
    /// counts nothing.
    ///
    /// # Errors
    /// As [`Gpt2LanguageModel::loss`].
    pub fn filled_loss(
        &self,
        ctx: &mut Ctx<'_>,
        inputs: &CausalInputs,
        targets: &Tensor,
        smoothing: f64,
        weight: f64,
    ) -> Result<Var> {
        let none = i32::try_from(self.config.vocab_size).ok();
        self.loss_but(ctx, inputs, targets, none, smoothing, weight)
    }

    fn loss_but(
        &self,
        ctx: &mut Ctx<'_>,
        inputs: &CausalInputs,
        targets: &Tensor,
        ignore: Option<i32>,
        smoothing: f64,
        weight: f64,
    ) -> Result<Var> {
        let x = self.hidden(ctx, inputs)?;
        let classes = self.config.vocab_size;
        let rows = ops::logit_rows(targets.device(), classes);
        let settings = CrossEntropy {
            smoothing,
            ignore,
            weight,
        };
        Ok(ops::linear_cross_entropy(
            ctx.tape,
            &x,
            self.padded.as_ref().unwrap_or(&self.words),
            classes,
            targets,
            &settings,
            rows,
        )?)
    }

    fn check_length(&self, tokens: usize) -> Result<()> {
        let positions = self.config.max_positions;
        if tokens > positions {
            return Err(Error::setting(
                "tokens",
                format!("a sequence of {tokens} is longer than the {positions} positions of the model"),
            ));
        }
        Ok(())
    }

    fn check_rank(&self, rank: usize) -> Result<()> {
        match rank {
            0 => Err(Error::setting("rank", "0 is not a rank; the smallest is 1")),
            b if b > self.rank => Err(Error::setting(
                "rank",
                format!("{b} is above the adapters' rank {}", self.rank),
            )),
            _ => Ok(()),
        }
    }

    /// The sizes.
    pub fn config(&self) -> &Gpt2Config {
        &self.config
    }

    /// The largest rank; 0 without adapters.
    pub fn rank(&self) -> usize {
        self.rank
    }

    /// The slice that gradients and updates are limited to, shared by all adapters.
    pub fn slice(&self) -> &SliceCell {
        &self.slice
    }

    /// Everything that learns, in the order of the model. Names are checkpoint keys, except for the thirds of `c_attn`,
    /// which are called `c_attn.query`, `c_attn.key` and `c_attn.value`.
    pub fn parameters(&self) -> Vec<Parameter> {
        self.weights.iter().filter_map(|(_, w)| w.trained().cloned()).collect()
    }

    /// The frozen weights with their names.
    pub fn frozen(&self) -> impl Iterator<Item = (&str, &Tensor)> {
        self.weights.iter().filter_map(|(name, weight)| match weight {
            Weight::Frozen(value) => Some((name.as_str(), value)),
            Weight::Trained(_) => None,
        })
    }

    /// Trained values in use at a rank: rows of A, columns of B, and everything else that learns.
    pub fn num_trainable(&self, rank: usize) -> usize {
        self.parameters()
            .iter()
            .map(|p| match p.mask() {
                Some(_) => p.len() / self.rank.max(1) * rank.min(self.rank),
                None => p.len(),
            })
            .sum()
    }

    /// Everything that learns, by name, as a run stores it: matrices are `[outputs, inputs]`.
    pub fn named_trained(&self) -> Vec<(String, Tensor)> {
        self.parameters()
            .iter()
            .map(|p| (p.name().to_owned(), p.value().clone()))
            .collect()
    }

    /// Restores what [`Gpt2LanguageModel::named_trained`] gave. Keys that begin with one of `others` are another's.
    ///
    /// # Errors
    /// If keys are missing, unexpected or misshapen (all are named, and nothing is changed), or the file cannot be read.
    pub fn load_trained(&self, checkpoint: &Checkpoint, others: &[&str]) -> Result<()> {
        checkpoint.restore(&self.named_trained(), others)
    }

    /// The weights of a plain model that equals this one at a rank, as they are published: adapters are added to their
    /// layers, and layers are stored input-major. Without adapters the rank is of no account.
    ///
    /// # Errors
    /// If the rank is not in 1..=r.
    pub fn merge(&self, rank: usize) -> Result<Vec<(String, Tensor)>> {
        if self.rank > 0 {
            self.check_rank(rank)?;
        }
        let key = |name: &str| format!("{PREFIX}.{name}");
        let mut merged = vec![
            (key("wte.weight"), self.words.value().clone()),
            (key("wpe.weight"), self.positions.value().clone()),
        ];
        for (i, block) in self.blocks.iter().enumerate() {
            let named = block.published(rank)?;
            merged.extend(
                named
                    .into_iter()
                    .map(|(name, value)| (key(&format!("h.{i}.{name}")), value)),
            );
        }
        let norms = self.weights.iter().filter(|(name, _)| name.contains(".ln_"));
        merged.extend(norms.map(|(name, weight)| (name.clone(), weight.value().clone())));
        Ok(merged)
    }
}

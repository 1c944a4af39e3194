//! An encoder with a language-model head: what masked pre-training trains.

use dylora_autograd::ops::{self, Gelu};
use dylora_autograd::tensor::{DType, Device, Tensor};
use dylora_autograd::{Parameter, RankSlice, SliceCell, Var, Weight};

use crate::checkpoint::Checkpoint;
use crate::config::{EncoderConfig, Family};
use crate::ctx::{Ctx, Inputs, Selected};
use crate::encoder::Encoder;
use crate::error::{Error, Result};
use crate::linear::Linear;
use crate::norm::LayerNorm;
use crate::scope::{Init, Scope, Source};

/// RoBERTa's language-model head: dense, GELU (erf), layer norm, and a decoder whose matrix is the word embedding.
///
/// Keys: `lm_head.dense`, `lm_head.layer_norm`, `lm_head.bias`.
#[derive(Clone, Debug)]
pub struct LanguageModelHead {
    dense: Linear,
    norm: LayerNorm,
    words: Weight,
    bias: Weight,
}

impl LanguageModelHead {
    fn new(scope: &Scope<'_, '_>, config: &EncoderConfig, words: &Weight) -> Result<Self> {
        let d = config.hidden_size;
        Ok(LanguageModelHead {
            dense: Linear::base(&scope.at("dense"), d, d)?,
            norm: LayerNorm::new(&scope.at("layer_norm"), d, config.layer_norm_eps)?,
            words: words.clone(),
            bias: scope.weight("bias", &[config.vocab_size], Init::Zeros, false)?,
        })
    }

    /// x `[n, hidden_size]` to logits `[n, vocab_size]`.
    ///
    /// The decoder and the embedding share one parameter: its gradient is the sum of both uses.
    ///
    /// # Errors
    /// If the shape of x does not fit.
    pub fn forward(&self, ctx: &mut Ctx<'_>, x: &Var) -> Result<Var> {
        let x = self.dense.forward(ctx, x)?;
        let x = ops::gelu(ctx.tape, &x, Gelu::Erf)?;
        let x = self.norm.forward(ctx, &x, None, None)?;
        Ok(ops::linear(ctx.tape, &x, &self.words, Some(&self.bias))?)
    }
}

/// RoBERTa with its language-model head; every weight learns. Keys are those of transformers' `RobertaForMaskedLM`.
///
/// ```
/// use dylora_nn::autograd::{RankSlice, Tape, ops};
/// use dylora_nn::tensor::{DType, Device, Segments, Tensor};
/// use dylora_nn::{Ctx, EncoderConfig, Inputs, MaskedLanguageModel, Result, Selected};
///
/// # fn main() -> Result<()> {
/// let config = EncoderConfig {
///     vocab_size: 20,
///     hidden_size: 8,
///     num_layers: 2,
///     num_heads: 2,
///     intermediate_size: 16,
///     ..EncoderConfig::roberta_base()
/// };
/// let device = Device::cpu();
/// let model = MaskedLanguageModel::new(&device, DType::F32, &config, None, 42)?;
///
/// // One sequence whose third token, a 6, is hidden by a mask (id 4).
/// let ids = |v: &[i32]| Tensor::from_slice(&device, v, &[v.len()]);
/// let inputs = Inputs {
///     ids: ids(&[0, 5, 4, 2])?,
///     positions: ids(&[2, 3, 4, 5])?,
///     token_types: ids(&[0; 4])?,
///     segments: Segments::new(&device, &[4])?,
///     first: Selected::one_each(ids(&[0])?)?,
/// };
/// let masked = Selected { rows: ids(&[2])?, segments: Segments::new(&device, &[1])? };
/// let mut tape = Tape::new();
/// let mut ctx = Ctx { tape: &mut tape, slice: RankSlice::full(0), dropout: None };
/// let logits = model.forward(&mut ctx, &inputs, &masked)?;
/// assert_eq!(logits.value().shape(), [1, 20]);
/// let mean = ops::CrossEntropy { smoothing: 0.0, ignore: None, weight: 1.0 };
/// let loss = ops::cross_entropy(&mut tape, &logits, &ids(&[6])?, &mean)?;
/// tape.backward(&loss)?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct MaskedLanguageModel {
    encoder: Encoder,
    head: LanguageModelHead,
    weights: Vec<(String, Weight)>,
}

impl MaskedLanguageModel {
    /// Builds a model with the weights of `source`, or with random ones of the streams of `seed`: matrices normal with
    /// the configuration's deviation, biases 0, norms 1 and 0.
    ///
    /// # Errors
    /// If the family is not RoBERTa, or the checkpoint does not fit; every offending key is named.
    pub fn new(
        device: &Device,
        dtype: DType,
        config: &EncoderConfig,
        source: Option<&Checkpoint>,
        seed: u64,
    ) -> Result<Self> {
        if config.family != Family::Roberta {
            return Err(Error::Config(
                "a masked language model of this family is not supported (roberta is)".to_owned(),
            ));
        }
        let weights = Source::new(
            device,
            dtype,
            source,
            config.family.into(),
            true,
            config.initializer_range,
            seed,
        );
        let root = weights.root();
        let no_ranks = SliceCell::new(RankSlice::full(0));
        let encoder = Encoder::new(&root.at(config.family.prefix()), config, None, &no_ranks)?;
        let head = LanguageModelHead::new(&root.at("lm_head"), config, encoder.words())?;
        drop(root);
        Ok(MaskedLanguageModel {
            encoder,
            head,
            weights: weights.finish()?.weights,
        })
    }

    /// Logits `[selected, vocab_size]` of the selected tokens alone.
    ///
    /// # Errors
    /// If the inputs do not fit the model.
    pub fn forward(&self, ctx: &mut Ctx<'_>, inputs: &Inputs, selected: &Selected) -> Result<Var> {
        let x = self.encoder.selected_tokens(ctx, inputs, selected)?;
        self.head.forward(ctx, &x)
    }

    /// The encoder.
    pub fn encoder(&self) -> &Encoder {
        &self.encoder
    }

    /// Every weight, in the order of the model; names are checkpoint keys.
    pub fn parameters(&self) -> Vec<Parameter> {
        self.weights.iter().filter_map(|(_, w)| w.trained().cloned()).collect()
    }

    /// Every weight by its key, as stored in checkpoints. The decoder's matrix is the word embedding and stands there once.
    pub fn named(&self) -> Vec<(String, Tensor)> {
        self.weights
            .iter()
            .map(|(name, weight)| (name.clone(), weight.value().clone()))
            .collect()
    }
}

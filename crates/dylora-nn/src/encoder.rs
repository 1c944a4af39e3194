//! The encoder of RoBERTa and BERT: embeddings and blocks.

use dylora_autograd::tensor;
use dylora_autograd::{SliceCell, Var, Weight, ops};

use crate::block::Block;
use crate::config::EncoderConfig;
use crate::ctx::{Ctx, Inputs, Selected};
use crate::dylora::AdapterSettings;
use crate::error::{Error, Result};
use crate::norm::LayerNorm;
use crate::scope::{Init, Scope};

/// Embeddings and blocks.
#[derive(Clone, Debug)]
pub struct Encoder {
    words: Weight,
    positions: Weight,
    token_types: Weight,
    norm: LayerNorm,
    hidden_dropout: f64,
    pub(crate) blocks: Vec<Block>,
}

impl Encoder {
    pub(crate) fn new(
        scope: &Scope<'_, '_>,
        config: &EncoderConfig,
        adapter: Option<&AdapterSettings>,
        slice: &SliceCell,
    ) -> Result<Self> {
        let embeddings = scope.at("embeddings");
        let d = config.hidden_size;
        let table = |name: &str, rows| embeddings.weight(name, &[rows, d], Init::Normal, true);
        Ok(Encoder {
            words: table("word_embeddings.weight", config.vocab_size)?,
            positions: table(
                "position_embeddings.weight",
                config.max_positions + config.position_offset,
            )?,
            token_types: table("token_type_embeddings.weight", config.type_vocab_size)?,
            norm: LayerNorm::new(&embeddings.at("LayerNorm"), d, config.layer_norm_eps)?,
            hidden_dropout: config.hidden_dropout,
            blocks: (0..config.num_layers)
                .map(|i| Block::new(&scope.at(&format!("encoder.layer.{i}")), config, adapter, slice))
                .collect::<Result<_>>()?,
        })
    }

    /// The final hidden state of the first token of each sequence, `[sequences, hidden_size]`: all that a classification
    /// head reads.
    ///
    /// # Errors
    /// If a sequence is empty, or an id, position or token type lies outside its table.
    pub fn first_tokens(&self, ctx: &mut Ctx<'_>, inputs: &Inputs) -> Result<Var> {
        let (first, count) = (&inputs.first, inputs.segments.count());
        if first.segments.count() != count {
            return Err(tensor::Error::shape("first", &[first.segments.count()], &[count]).into());
        }
        self.selected_tokens(ctx, inputs, first)
    }

    /// The final hidden states of some tokens, `[selected, hidden_size]`.
    ///
    /// Nothing else of the last block is read by the head, so nothing else is computed there: its queries, output
    /// projection and feed-forward part run on the selected rows alone.
    ///
    /// # Errors
    /// If `selected` does not belong to the inputs, or an id, position or token type lies outside its table.
    pub fn selected_tokens(&self, ctx: &mut Ctx<'_>, inputs: &Inputs, selected: &Selected) -> Result<Var> {
        let segments = &inputs.segments;
        if selected.rows.len() != selected.segments.tokens() {
            return Err(tensor::Error::shape("selected", selected.rows.shape(), &[selected.segments.tokens()]).into());
        }
        let mut x = self.embed(ctx, inputs)?;
        let Some((last, blocks)) = self.blocks.split_last() else {
            return Err(Error::setting("num_hidden_layers", "an encoder without blocks"));
        };
        for block in blocks {
            x = block.forward(ctx, &x, segments, &x, segments)?;
        }
        let from = ops::gather_rows(ctx.tape, &x, &selected.rows)?;
        last.forward(ctx, &from, &selected.segments, &x, segments)
    }

    /// All final hidden states, `[tokens, hidden_size]`.
    ///
    /// # Errors
    /// As [`Encoder::first_tokens`].
    pub fn all_tokens(&self, ctx: &mut Ctx<'_>, inputs: &Inputs) -> Result<Var> {
        let mut x = self.embed(ctx, inputs)?;
        for block in &self.blocks {
            x = block.forward(ctx, &x, &inputs.segments, &x, &inputs.segments)?;
        }
        Ok(x)
    }

    /// The word embeddings `[vocab_size, hidden_size]`, to which a language model's decoder is tied.
    pub(crate) fn words(&self) -> &Weight {
        &self.words
    }

    fn embed(&self, ctx: &mut Ctx<'_>, inputs: &Inputs) -> Result<Var> {
        let tables = [
            (&inputs.ids, &self.words),
            (&inputs.positions, &self.positions),
            (&inputs.token_types, &self.token_types),
        ];
        let x = ops::embed(ctx.tape, &tables)?;
        let x = self.norm.forward(ctx, &x, None, None)?;
        let dropout = ctx.next_dropout(self.hidden_dropout)?;
        Ok(ops::dropout(ctx.tape, &x, dropout)?)
    }
}

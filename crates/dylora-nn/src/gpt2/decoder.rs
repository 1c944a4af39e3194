//! GPT-2 with a cache of keys and values: each token goes through the model once, however many texts continue it.
//!
//! The cache is a list of rows, one for each token that was fed, and a text is the list of the rows of its tokens. Texts
//! with a common beginning share its rows, and choosing other beams copies nothing. Attention reads the rows where they are.

use std::ops::Range;

use dylora_autograd::ops;
use dylora_autograd::tensor::ops::{self as kernels, CacheAttention, TopClasses};
use dylora_autograd::tensor::{Segments, Tensor};
use dylora_autograd::{RankSlice, Tape};

use super::Gpt2LanguageModel;
use super::block::{Gpt2Block, Stream};
use crate::ctx::{Ctx, Selected};
use crate::error::{Error, Result};
use crate::norm::LayerNorm;

/// New tokens of one text.
#[derive(Clone, Copy, Debug)]
pub struct Feed<'a> {
    /// Their ids; at least one.
    pub ids: &'a [i32],
    /// The rows of all tokens before them.
    pub past: &'a [i32],
}

/// A model that reads texts token by token, at one rank.
///
/// ```
/// use dylora_nn::tensor::{DType, Device};
/// use dylora_nn::{Decoder, Feed, Gpt2Config, Gpt2LanguageModel, Result};
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
/// let model = Gpt2LanguageModel::new(&Device::cpu(), DType::F32, &config, None, None, 42)?;
/// let mut decoder = Decoder::new(&model, 0)?;
///
/// // Two texts at once; then the likeliest next token of the first.
/// let fed = decoder.feed(&[Feed { ids: &[3, 4, 5], past: &[] }, Feed { ids: &[6], past: &[] }])?;
/// let top = fed.top(&[vec![], vec![]], 1)?;
/// let text: Vec<i32> = fed.rows(0).collect();
/// let fed = decoder.feed(&[Feed { ids: &top.classes[..1], past: &text }])?;
/// assert_eq!(fed.logits().shape(), [1, 20]);
/// # Ok(())
/// # }
/// ```
pub struct Decoder<'m> {
    model: &'m Gpt2LanguageModel,
    slice: RankSlice,
    /// Keys and values of each block, `[capacity, hidden_size]`.
    cache: Vec<[Tensor; 2]>,
    capacity: usize,
    used: usize,
}

/// What one call of [`Decoder::feed`] gave.
#[derive(Debug)]
pub struct Fed {
    logits: Tensor,
    rows: Vec<Range<i32>>,
}

impl Fed {
    /// The logits of each text's last token, `[texts, vocab_size]`.
    pub fn logits(&self) -> &Tensor {
        &self.logits
    }

    /// The rows of the new tokens of a text.
    pub fn rows(&self, text: usize) -> Range<i32> {
        self.rows[text].clone()
    }

    /// The `k` likeliest next tokens of each text with the logarithms of their probabilities; those of `banned` come last.
    ///
    /// # Errors
    /// If `k` is 0 or there are not as many lists as texts.
    pub fn top(&self, banned: &[Vec<i32>], k: usize) -> Result<TopClasses> {
        Ok(kernels::top_log_softmax(&self.logits, banned, k)?)
    }
}

/// Where a call's tokens are in the cache, and what they see.
pub(super) struct Step<'a> {
    rows: Range<usize>,
    /// The rows that the texts see, text after text.
    seen: &'a Tensor,
    queries: &'a Segments,
    keys: &'a Segments,
}

/// Rows of a new cache.
const FIRST_CAPACITY: usize = 256;

impl<'m> Decoder<'m> {
    /// A decoder with an empty cache. Without adapters the rank is of no account.
    ///
    /// # Errors
    /// If the rank is not in 1..=r.
    pub fn new(model: &'m Gpt2LanguageModel, rank: usize) -> Result<Self> {
        if model.rank > 0 {
            model.check_rank(rank)?;
        }
        Ok(Decoder {
            model,
            slice: RankSlice::full(rank),
            cache: Vec::new(),
            capacity: 0,
            used: 0,
        })
    }

    /// The model.
    pub fn model(&self) -> &'m Gpt2LanguageModel {
        self.model
    }

    /// Rows of the cache that are taken.
    pub fn used(&self) -> usize {
        self.used
    }

    /// Reads new tokens of some texts, all in one pass.
    ///
    /// # Errors
    /// If a text has no new token or more tokens than the model has positions, an id has no embedding, or a row is not in
    /// the cache.
    pub fn feed(&mut self, texts: &[Feed<'_>]) -> Result<Fed> {
        let model = self.model;
        let device = model.words.value().device();
        let (mut ids, mut positions, mut seen, mut last) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        let mut rows = Vec::with_capacity(texts.len());
        for (index, text) in texts.iter().enumerate() {
            let length = text.past.len() + text.ids.len();
            if text.ids.is_empty() {
                return Err(Error::setting("tokens", format!("text {index} has no new token")));
            }
            model.check_length(length)?;
            if let Some(row) = text
                .past
                .iter()
                .find(|row| usize::try_from(**row).is_ok_and(|r| r >= self.used))
            {
                return Err(Error::setting(
                    "past",
                    format!("row {row} of text {index} is not among the {} of the cache", self.used),
                ));
            }
            let first = (self.used + ids.len()) as i32;
            let range = first..first + text.ids.len() as i32;
            ids.extend_from_slice(text.ids);
            positions.extend((text.past.len()..length).map(|p| p as i32));
            seen.extend_from_slice(text.past);
            seen.extend(range.clone());
            last.push(ids.len() as i32 - 1);
            rows.push(range);
        }
        if texts.is_empty() {
            return Err(Error::setting("tokens", "nothing to read"));
        }
        let lengths = |of: fn(&Feed<'_>) -> usize| texts.iter().map(of).collect::<Vec<_>>();
        let queries = Segments::new(device, &lengths(|text| text.ids.len()))?;
        let keys = Segments::new(device, &lengths(|text| text.past.len() + text.ids.len()))?;
        let row = |values: &[i32]| Tensor::from_slice(device, values, &[values.len()]);
        let read = Selected {
            rows: row(&last)?,
            segments: Segments::new(device, &vec![1; texts.len()])?,
        };
        let seen = row(&seen)?;
        let step = Step {
            rows: self.used..self.used + ids.len(),
            seen: &seen,
            queries: &queries,
            keys: &keys,
        };
        let mut tape = Tape::inference();
        let mut ctx = Ctx {
            tape: &mut tape,
            slice: self.slice.clone(),
            dropout: None,
        };
        let mut stream = model.enter(&mut ctx, &row(&ids)?, &row(&positions)?)?;
        self.reserve(step.rows.end, stream.x.value())?;
        let only_last = (last.len() < ids.len()).then_some(&read);
        let blocks = model.blocks.len();
        for (i, (block, cache)) in model.blocks.iter().zip(&self.cache).enumerate() {
            let read = only_last.filter(|_| i + 1 == blocks);
            stream = block.step(&mut ctx, &stream, &step, cache, read, model.norm_behind(i))?;
        }
        let logits = ops::linear(ctx.tape, &stream.normed, &model.words, None)?;
        self.used = step.rows.end;
        Ok(Fed {
            logits: logits.value().clone(),
            rows,
        })
    }

    /// Makes room for `rows` rows of the type and width of x.
    fn reserve(&mut self, rows: usize, x: &Tensor) -> Result<()> {
        if rows <= self.capacity {
            return Ok(());
        }
        let capacity = rows.next_power_of_two().max(FIRST_CAPACITY);
        let grow = |old: Option<&Tensor>| -> Result<Tensor> {
            let new = Tensor::zeros(x.device(), x.dtype(), &[capacity, x.width()])?;
            if let Some(old) = old {
                new.rows(0..self.used)?.copy_from(&old.rows(0..self.used)?)?;
            }
            Ok(new)
        };
        self.cache = (0..self.model.blocks.len())
            .map(|i| {
                let old = self.cache.get(i);
                Ok([grow(old.map(|c| &c[0]))?, grow(old.map(|c| &c[1]))?])
            })
            .collect::<Result<_>>()?;
        self.capacity = capacity;
        Ok(())
    }

    /// Forgets every row that is in none of the texts, and renumbers those that are.
    ///
    /// # Errors
    /// If a row is not in the cache.
    pub fn keep(&mut self, texts: &mut [&mut Vec<i32>]) -> Result<()> {
        let mut new = vec![-1; self.used];
        let mut kept = Vec::new();
        for text in texts.iter_mut() {
            for row in text.iter_mut() {
                let place = usize::try_from(*row).ok().and_then(|row| new.get_mut(row));
                let place = place.ok_or_else(|| Error::setting("past", format!("row {row} is not in the cache")))?;
                if *place < 0 {
                    *place = kept.len() as i32;
                    kept.push(*row);
                }
                *row = *place;
            }
        }
        self.used = kept.len();
        if kept.is_empty() {
            return Ok(());
        }
        let device = self.model.words.value().device();
        let rows = Tensor::from_slice(device, &kept, &[kept.len()])?;
        for tensor in self.cache.iter().flatten() {
            let moved = kernels::gather_rows(tensor, &rows)?;
            tensor.rows(0..kept.len())?.copy_from(&moved)?;
        }
        Ok(())
    }
}

impl Gpt2Block {
    /// [`Gpt2Block::forward`] for new tokens x whose past is in the cache, to which they are added.
    pub(super) fn step(
        &self,
        ctx: &mut Ctx<'_>,
        stream: &Stream,
        step: &Step<'_>,
        cache: &[Tensor; 2],
        read: Option<&Selected>,
        next: &LayerNorm,
    ) -> Result<Stream> {
        let asking = self.read(ctx, stream, read)?;
        let queries = read.map_or(step.queries, |read| &read.segments);
        let q = self.projections.query.forward(ctx, &asking.normed)?;
        let k = self.projections.key.forward(ctx, &stream.normed)?;
        let v = self.projections.value.forward(ctx, &stream.normed)?;
        for (new, all) in [&k, &v].into_iter().zip(cache) {
            all.rows(step.rows.clone())?.copy_from(new.value())?;
        }
        let settings = CacheAttention {
            queries,
            keys: step.keys,
            rows: step.seen,
            num_heads: self.num_heads,
            scale: self.scale,
        };
        let context = kernels::attend_rows(q.value(), &cache[0], &cache[1], &settings)?;
        let context = ctx.tape.constant(&context);
        self.after_attention(ctx, &asking.x, &context, next)
    }
}

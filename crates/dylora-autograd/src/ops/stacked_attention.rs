//! Attention that reads query, key and value side by side in one tensor; the mathematics is [`attention`](super::attention)'s.

use dylora_tensor::ops::{self as kernels, Attention};
use dylora_tensor::{Dropout, Result, Segments, Tensor};

use crate::op::{Backward, Op};
use crate::sink::{GradSink, Input};
use crate::tape::Tape;
use crate::var::Var;

#[derive(Debug)]
pub(crate) struct Record {
    q: Option<(Input, Tensor)>,
    input: Input,
    stacked: Tensor,
    out: Tensor,
    lse: Tensor,
    queries: Segments,
    keys: Segments,
    num_heads: usize,
    scale: f64,
    causal: bool,
    dropout: Option<Dropout>,
}

/// Attention over `stacked` `[tokens, 3 d]`, which is query, key and value side by side; or of `q` `[query tokens, d]` over
/// `stacked` `[key tokens, 2 d]`, which is key and value. The context is `[query tokens, d]`.
///
/// # Errors
/// If shapes or types do not fit.
pub fn stacked_attention(tape: &mut Tape, q: Option<&Var>, stacked: &Var, args: &Attention<'_>) -> Result<Var> {
    let input = tape.input(stacked)?;
    let q = q
        .map(|q| Ok::<_, dylora_tensor::Error>((tape.input(q)?, q.value.clone())))
        .transpose()?;
    let (out, lse) = kernels::stacked_attention(q.as_ref().map(|(_, q)| q), &stacked.value, args)?;
    let wanted = input.wanted() || q.as_ref().is_some_and(|(input, _)| input.wanted());
    Ok(tape.push(out.clone(), wanted, || {
        Op::StackedAttention(Record {
            q,
            input,
            stacked: stacked.value.clone(),
            out,
            lse,
            queries: args.queries.clone(),
            keys: args.keys.clone(),
            num_heads: args.num_heads,
            scale: args.scale,
            causal: args.causal,
            dropout: args.dropout,
        })
    }))
}

impl Backward for Record {
    fn saved(&self) -> Vec<&Tensor> {
        let q = self.q.iter().map(|(_, q)| q);
        q.chain([&self.stacked, &self.out, &self.lse]).collect()
    }

    fn backward(self, dout: Tensor, sink: &mut GradSink<'_>) -> Result<()> {
        let settings = Attention {
            queries: &self.queries,
            keys: &self.keys,
            num_heads: self.num_heads,
            scale: self.scale,
            causal: self.causal,
            dropout: self.dropout,
        };
        let q = self.q.as_ref().map(|(_, q)| q);
        let (dq, dstacked) =
            kernels::stacked_attention_gradient(&dout, q, &self.stacked, &self.out, &self.lse, &settings)?;
        if let (Some(dq), Some((input, _))) = (dq, &self.q) {
            sink.add(*input, dq)?;
        }
        sink.add(self.input, dstacked)
    }
}

//! FLOP: factorised low-rank pruning (Wang, Wohlwend and Lei, "Structured Pruning of Large Language Models", EMNLP 2020).
//!
//! A linear layer's matrix is a sum of rank-1 components, W = P diag(z) Q with P `[m, k]`, Q `[k, d]` and k = min(m, d); z
//! is a gate for each component. In training gates are drawn from the hard-concrete distribution, and a penalty on the
//! expected number of open ones pulls it to a target. In evaluation each layer closes as many gates as its expectation
//! says, and what they stood on is dropped. Every weight of the model learns.
//!
//! Numbers and rules are those of the released code (asappresearch/flop); docs/decisions.md says which.

use std::cell::Cell;
use std::ops::Range;

use dylora_autograd::ops::{self, HardConcrete};
use dylora_autograd::tensor::{self, DType, Device, Tensor};
use dylora_autograd::{Parameter, Tape, Var, Weight};

use crate::ctx::Ctx;
use crate::error::{Error, Result};
use crate::linear::Linear;

/// The slope of the sigmoid that gives an open gate its value in evaluation, found by the authors.
const SETTLED_SLOPE: f64 = 0.8;

/// How a factorised model starts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct FlopSettings {
    /// Gates start around log alpha = ln((1 - x) / x): the smaller x, the more of them are open.
    pub gate_init: f64,
}

impl FlopSettings {
    /// The standard deviation of log alpha at the start.
    pub(crate) const STD: f64 = 0.01;

    /// The mean of log alpha at the start.
    pub(crate) fn mean(&self) -> f64 {
        ((1.0 - self.gate_init) / self.gate_init).ln()
    }

    pub(crate) fn validate(&self) -> Result<()> {
        if self.gate_init > 0.0 && self.gate_init < 1.0 {
            return Ok(());
        }
        let message = format!("{} is not between 0 and 1", self.gate_init);
        Err(Error::setting("gate_init", message))
    }
}

/// The gates of a model: one for each component of each factorised layer, and the penalty's two multipliers.
#[derive(Clone, Debug)]
pub struct Gates {
    log_alpha: Parameter,
    lambda: Parameter,
    shares: Tensor,
    layers: Vec<(usize, usize)>,
}

impl Gates {
    /// The key of the gates' parameters, `[gates]`, layer after layer.
    pub const LOG_ALPHA: &'static str = "gates.log_alpha";
    /// The key of the multipliers, `[2]`.
    pub const LAMBDA: &'static str = "gates.lambda";

    /// Gates of layers `[m, d]` with these parameters; `constant` makes a tensor of the model's type on its device.
    pub(crate) fn new(
        layers: Vec<(usize, usize)>,
        log_alpha: Tensor,
        constant: impl Fn(Vec<f64>) -> Result<Tensor>,
    ) -> Result<Self> {
        let all = layers.iter().map(|&(m, d)| components(m, d) * (m + d)).sum::<usize>() as f64;
        let share = |&(m, d): &(usize, usize)| std::iter::repeat_n((m + d) as f64 / all, components(m, d));
        Ok(Gates {
            shares: constant(layers.iter().flat_map(share).collect())?,
            lambda: Parameter::new(Self::LAMBDA, constant(vec![0.0; 2])?, false)?,
            log_alpha: Parameter::new(Self::LOG_ALPHA, log_alpha, false)?,
            layers,
        })
    }

    /// How many gates layers of these sizes have.
    pub(crate) fn count(layers: &[(usize, usize)]) -> usize {
        layers.iter().map(|&(m, d)| components(m, d)).sum()
    }

    /// The parameters of the gates, which descend on the loss and the penalty.
    pub fn log_alpha(&self) -> &Parameter {
        &self.log_alpha
    }

    /// The multipliers lambda_1 and lambda_2, which ascend on the penalty.
    pub fn lambda(&self) -> &Parameter {
        &self.lambda
    }

    /// The sparsity among the factors' numbers that leaves `1 - sparsity` of what the matrices had before they were
    /// factorised. Factors have (m + d) min(m, d) numbers where a matrix has m d.
    pub fn target(&self, sparsity: f64) -> f64 {
        let (factors, dense) = self.sizes();
        1.0 - (1.0 - sparsity) * dense as f64 / factors as f64
    }

    /// Numbers of all factors, and of the matrices that they stand for.
    fn sizes(&self) -> (usize, usize) {
        let sum = |size: fn(usize, usize) -> usize| self.layers.iter().map(|&(m, d)| size(m, d)).sum();
        (sum(|m, d| components(m, d) * (m + d)), sum(|m, d| m * d))
    }

    /// lambda_1 (s - target) + lambda_2 (s - target)² for the expected sparsity s of the factors, `[1]`.
    ///
    /// # Errors
    /// Inside a pass of a step, which would keep its first target.
    pub fn penalty(&self, tape: &mut Tape, target: f64) -> Result<Var> {
        let form = HardConcrete::FLOP;
        let penalty = ops::sparsity_penalty(tape, &self.log_alpha, &self.lambda, &self.shares, target, &form)?;
        Ok(penalty)
    }

    /// What remains if every layer drops the components whose gates are closed in evaluation.
    ///
    /// # Errors
    /// Inside a step.
    pub fn remaining(&self) -> Result<Remaining> {
        let values = self.log_alpha.value().to_f64_vec()?;
        let (factors, dense) = self.sizes();
        let mut remaining = Remaining {
            components: 0,
            of_components: values.len(),
            numbers: 0,
            of_factors: factors,
            of_dense: dense,
            expected: 0.0,
        };
        let mut at = 0;
        for &(m, d) in &self.layers {
            let own = &values[at..at + components(m, d)];
            let open = settled(own).iter().filter(|z| **z > 0.0).count();
            remaining.components += open;
            remaining.numbers += open * (m + d);
            remaining.expected += expected(own) * (m + d) as f64;
            at += own.len();
        }
        Ok(remaining)
    }
}

/// What pruning leaves of the factorised layers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Remaining {
    /// Components with an open gate.
    pub components: usize,
    /// All of them.
    pub of_components: usize,
    /// Numbers of the factors of open components.
    pub numbers: usize,
    /// Numbers of all factors.
    pub of_factors: usize,
    /// Numbers of the matrices before they were factorised.
    pub of_dense: usize,
    /// The expectation of `numbers` over drawn gates, which the penalty holds to the target.
    pub expected: f64,
}

impl Remaining {
    /// The share of the matrices' numbers that is gone; negative where more numbers remain than there were.
    pub fn sparsity(&self) -> f64 {
        1.0 - self.numbers as f64 / self.of_dense as f64
    }

    /// The same for the expectation over drawn gates.
    pub fn expected_sparsity(&self) -> f64 {
        1.0 - self.expected / self.of_dense as f64
    }
}

/// Components of an `[m, d]` matrix.
fn components(m: usize, d: usize) -> usize {
    m.min(d)
}

/// The expected number of open gates.
fn expected(log_alpha: &[f64]) -> f64 {
    log_alpha.iter().map(|a| HardConcrete::FLOP.open(*a)).sum()
}

/// The gates of one layer in evaluation: as many closed as are expected to be, the least likely ones, and sigmoid(0.8 log
/// alpha) for the others. Of equal ones the first are closed.
fn settled(log_alpha: &[f64]) -> Vec<f64> {
    // Halves are rounded to even, as Python does.
    let closed = (log_alpha.len() as f64 - expected(log_alpha)).round_ties_even() as usize;
    let mut order: Vec<usize> = (0..log_alpha.len()).collect();
    order.sort_by(|a, b| log_alpha[*a].total_cmp(&log_alpha[*b]));
    let mut z = vec![0.0; log_alpha.len()];
    for &open in &order[closed.min(order.len())..] {
        z[open] = 1.0 / (1.0 + (-SETTLED_SLOPE * log_alpha[open]).exp());
    }
    z
}

/// P and Q with P Q = W `[m, d]` and the singular value shared equally: P = U S^½, Q = S^½ Vᵀ, f64 on the host.
pub(crate) fn factorise(weight: &Tensor) -> Result<(Tensor, Tensor)> {
    let [u, s, v] = ops::svd(weight)?;
    let (m, k, d) = (u.shape()[0], s.len(), v.width());
    let roots: Vec<f64> = s.to_f64_vec()?.into_iter().map(f64::sqrt).collect();
    let (mut p, mut q) = (u.to_f64_vec()?, v.to_f64_vec()?);
    for row in p.chunks_exact_mut(k) {
        row.iter_mut().zip(&roots).for_each(|(p, root)| *p *= root);
    }
    for (row, root) in q.chunks_exact_mut(d).zip(&roots) {
        row.iter_mut().for_each(|q| *q *= root);
    }
    let host = Device::cpu();
    Ok((
        Tensor::from_vec(&host, p, &[m, k])?,
        Tensor::from_vec(&host, q, &[k, d])?,
    ))
}

/// The first of a factorised layer's two matrices, and its gates; the second is the layer's weight.
#[derive(Clone, Debug)]
pub struct Factors {
    /// Q, `[k, d]`.
    pub q: Weight,
    /// The gates between the two; none once closed components have been dropped.
    pub(crate) gate: Option<Gate>,
}

/// The gates of one layer among those of the model.
#[derive(Clone, Debug)]
pub(crate) struct Gate {
    log_alpha: Parameter,
    range: Range<usize>,
}

impl Gate {
    /// The layer's gates in evaluation.
    fn settled(&self) -> Result<Vec<f64>> {
        Ok(settled(&self.log_alpha.value().rows(self.range.clone())?.to_f64_vec()?))
    }
}

impl Factors {
    /// diag(z) Q x, `[n, k]`: gates are drawn in training, where dropout is, and settled elsewhere.
    pub(crate) fn forward(&self, ctx: &mut Ctx<'_>, x: &Var) -> Result<Var> {
        let low = ops::linear(ctx.tape, x, &self.q, None)?;
        let Some(gate) = &self.gate else {
            return Ok(low);
        };
        let z = match &mut ctx.dropout {
            Some(draws) => {
                let (form, draw) = (HardConcrete::FLOP, draws.next());
                ops::hard_concrete(ctx.tape, &gate.log_alpha, gate.range.clone(), &form, draw)?
            }
            None => {
                let value = low.value();
                ctx.tape.constant(&like(value, gate.settled()?, &[value.width()])?)
            }
        };
        Ok(ops::gate(ctx.tape, &low, &z)?)
    }

    /// P diag(z) with the columns of open components, `[m, open]`, and Q with their rows, `[open, d]`, in f64. A layer of
    /// which nothing remains keeps one component of zeros.
    fn open(&self, p: &Tensor) -> Result<(Vec<f64>, Vec<f64>, usize)> {
        let (k, d) = (self.q.value().shape()[0], self.q.value().width());
        let z = match &self.gate {
            Some(gate) => gate.settled()?,
            None => vec![1.0; k],
        };
        let mut open: Vec<usize> = (0..k).filter(|c| z[*c] > 0.0).collect();
        if open.is_empty() {
            open.push(0);
        }
        let (p, q) = (p.to_f64_vec()?, self.q.value().to_f64_vec()?);
        let left = p.chunks_exact(k).flat_map(|row| open.iter().map(|c| row[*c] * z[*c]));
        let right = open.iter().flat_map(|c| &q[c * d..(c + 1) * d]).copied();
        Ok((left.collect(), right.collect(), open.len()))
    }

    /// The layer without its closed components, behind whose second matrix `base` stands.
    pub(crate) fn pruned(&self, base: &Linear) -> Result<(Linear, Factors)> {
        let p = base.weight.value();
        let (left, right, open) = self.open(p)?;
        Ok((
            Linear {
                weight: Weight::Frozen(like(p, left, &[p.shape()[0], open])?),
                bias: Weight::Frozen(base.bias.value().clone()),
            },
            Factors {
                q: Weight::Frozen(like(p, right, &[open, self.q.value().width()])?),
                gate: None,
            },
        ))
    }

    /// P diag(z) Q, `[m, d]`, of the type and on the device of P.
    pub(crate) fn product(&self, p: &Tensor) -> Result<Tensor> {
        let (left, right, open) = self.open(p)?;
        let host = Device::cpu();
        let left = Tensor::from_vec(&host, left, &[p.shape()[0], open])?;
        let right = Tensor::from_vec(&host, right, &[open, self.q.value().width()])?;
        let product = tensor::ops::linear_input_gradient(&left, &right, None)?;
        Ok(product.to_dtype(p.dtype())?.to_device(p.device())?)
    }
}

/// A tensor of the type and on the device of another.
fn like(other: &Tensor, values: Vec<f64>, shape: &[usize]) -> Result<Tensor> {
    place(other.device(), other.dtype(), values, shape)
}

/// A tensor of these values, rounded once.
pub(crate) fn place(device: &Device, dtype: DType, values: Vec<f64>, shape: &[usize]) -> Result<Tensor> {
    let host = Tensor::from_vec(&Device::cpu(), values, shape)?;
    Ok(host.to_dtype(dtype)?.to_device(device)?)
}

/// Hands out the gates of a model that is being built, layer after layer.
pub(crate) struct GatePlan {
    gates: Gates,
    layer: Cell<usize>,
    first: Cell<usize>,
}

impl GatePlan {
    pub(crate) fn new(gates: Gates) -> Self {
        GatePlan {
            gates,
            layer: Cell::new(0),
            first: Cell::new(0),
        }
    }

    pub(crate) fn gates(&self) -> &Gates {
        &self.gates
    }

    /// The gates of the next layer, which must have this size.
    pub(crate) fn next(&self, m: usize, d: usize) -> Result<Gate> {
        let (layer, first) = (self.layer.get(), self.first.get());
        if self.gates.layers.get(layer) != Some(&(m, d)) {
            let message = format!("layer {layer} of size {m} x {d} has no gates");
            return Err(Error::setting("gates", message));
        }
        let range = first..first + components(m, d);
        self.layer.set(layer + 1);
        self.first.set(range.end);
        Ok(Gate {
            log_alpha: self.gates.log_alpha.clone(),
            range,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the released `HardConcrete` gives in evaluation for these parameters, computed with PyTorch's own functions.
    #[test]
    fn settled_gates_are_those_of_the_released_code() {
        let log_alpha = [-4.0, -2.5, -2.3, -1.0, 0.0, 1.5, 2.9, -3.5];
        // open: 0.1680 0.4745 0.5245 0.8018 0.9167 0.9801 0.9950 0.2493; their sum is 5.1098, so 3 are closed.
        let z = settled(&log_alpha);
        let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
        let open = [2, 3, 4, 5, 6];
        for (i, (z, a)) in z.iter().zip(log_alpha).enumerate() {
            let wanted = if open.contains(&i) { sigmoid(0.8 * a) } else { 0.0 };
            assert!((z - wanted).abs() < 1e-15, "{i}: {z} for {wanted}");
        }
        assert!(
            (expected(&log_alpha) - 5.109_8).abs() < 1e-3,
            "{}",
            expected(&log_alpha)
        );
        assert_eq!(settled(&[-20.0; 3]), [0.0; 3]);
        assert!(settled(&[20.0; 3]).iter().all(|z| *z > 0.99));
    }
}

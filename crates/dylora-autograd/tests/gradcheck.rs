//! Every operation's gradient against central differences in f64, over generated shapes, ranks, masks, frozen-ness and
//! segments. The `match` over [`OpKind`] has no wildcard: a new operation does not compile until it is checked here.

use dylora_autograd::gradcheck::{self, Derivative};
use dylora_autograd::ops::{self, AttentionArgs, CrossEntropy, Gelu, HardConcrete, Lora};
use dylora_autograd::tensor::{Device, Dropout, Purpose, Segments, Stream, Tensor, ops as kernels};
use dylora_autograd::{
    CustomOp, GradMask, GradSink, Input, OpKind, Parameter, RankSlice, Result, SliceCell, Tape, Var, Weight,
};
use proptest::prelude::*;

/// What a case is made of; each operation takes what it needs.
#[derive(Clone, Debug)]
struct Case {
    n: usize,
    d: usize,
    m: usize,
    rank: usize,
    b: usize,
    only_last: bool,
    lengths: Vec<usize>,
    extra_keys: Vec<usize>,
    heads: usize,
    /// Bits: which inputs and weights are trained.
    trained: u8,
    flags: u8,
    dropout: bool,
    seed: u64,
}

fn case() -> impl Strategy<Value = Case> {
    (
        (1..7usize, 1..9usize, 1..8usize),
        (1..6usize).prop_flat_map(|r| (Just(r), 1..=r)),
        any::<bool>(),
        prop::collection::vec((0..5usize, 0..3usize), 1..4),
        1..4usize,
        (any::<u8>(), any::<u8>(), any::<bool>(), any::<u64>()),
    )
        .prop_map(|((n, d, m), (rank, b), only_last, lengths, heads, rest)| Case {
            n,
            d,
            m,
            rank,
            b,
            only_last,
            lengths: lengths.iter().map(|l| l.0).collect(),
            extra_keys: lengths.iter().map(|l| l.1).collect(),
            heads,
            trained: rest.0,
            flags: rest.1,
            dropout: rest.2,
            seed: rest.3,
        })
}

/// Makes tensors, parameters and dropouts for one case.
struct Maker<'a> {
    device: Device,
    case: &'a Case,
    made: u32,
    parameters: Vec<Parameter>,
}

impl Maker<'_> {
    fn values(&mut self, len: usize) -> Vec<f64> {
        self.made += 1;
        let draw = Stream::new(self.case.seed, Purpose::Head).draws(self.made).next();
        // Between -1.5 and 1.5: enough to be curved, little enough to stay smooth at the scale of the step.
        (0..len as u32)
            .map(|i| f64::from(draw.word(i)) / f64::from(u32::MAX) * 3.0 - 1.5)
            .collect()
    }

    fn tensor(&mut self, shape: &[usize]) -> Result<Tensor> {
        let values = self.values(shape.iter().product());
        Tensor::from_vec(&self.device, values, shape)
    }

    fn parameter(&mut self, shape: &[usize]) -> Result<Parameter> {
        let name = format!("p{}", self.made);
        let parameter = Parameter::new(name, self.tensor(shape)?, true)?;
        self.parameters.push(parameter.clone());
        Ok(parameter)
    }

    /// Trained if the case's bit says so.
    fn weight(&mut self, bit: u8, shape: &[usize]) -> Result<Weight> {
        Ok(if self.case.trained >> bit & 1 == 1 {
            Weight::Trained(self.parameter(shape)?)
        } else {
            Weight::Frozen(self.tensor(shape)?)
        })
    }

    fn ids(&mut self, len: usize, limit: usize) -> Result<Tensor> {
        let values: Vec<i32> = self
            .values(len)
            .iter()
            .map(|v| ((v + 1.5) / 3.0001 * limit as f64) as i32)
            .collect();
        Tensor::from_vec(&self.device, values, &[len])
    }

    fn dropout(&self) -> Result<Option<Dropout>> {
        let draw = Stream::new(self.case.seed, Purpose::Dropout).draws(0).next();
        Dropout::new(if self.case.dropout { 0.3 } else { 0.0 }, draw)
    }
}

/// A value that depends on a weight: constant or not as the weight is.
fn input(tape: &mut Tape, weight: &Weight) -> Result<Var> {
    match weight {
        Weight::Frozen(value) => Ok(tape.constant(value)),
        Weight::Trained(parameter) => tape.parameter(parameter),
    }
}

/// A scalar of which every element of y has another weight in the gradient.
fn squash(tape: &mut Tape, y: &Var, target: &Tensor) -> Result<Var> {
    ops::mse(tape, y, target, 0.5)
}

#[derive(Debug)]
struct Square(Tensor);

impl CustomOp for Square {
    fn saved(&self) -> Vec<&Tensor> {
        vec![&self.0]
    }

    fn backward(self: Box<Self>, dy: Tensor, inputs: &[Input], sink: &mut GradSink<'_>) -> Result<()> {
        let x = self.0.to_vec::<f64>()?;
        let dx: Vec<f64> = x.iter().zip(dy.to_vec::<f64>()?).map(|(x, dy)| 2.0 * x * dy).collect();
        sink.add(inputs[0], Tensor::from_vec(dy.device(), dx, dy.shape())?)
    }
}

fn derivatives(kind: OpKind, case: &Case) -> Result<Vec<Derivative>> {
    let mut make = Maker {
        device: Device::cpu(),
        case,
        made: 0,
        parameters: Vec::new(),
    };
    let (n, d, m) = (case.n, case.d, case.m);
    let dropout = make.dropout()?;
    let gelu = if case.flags & 1 == 0 { Gelu::Erf } else { Gelu::Tanh };
    let mut elementwise = |op: &dyn Fn(&mut Tape, &Var) -> Result<Var>| {
        let (x, target) = (make.parameter(&[n, d])?, make.tensor(&[n, d])?);
        gradcheck::check(std::slice::from_ref(&x), case.seed, &mut |tape| {
            let x = tape.parameter(&x)?;
            let y = op(tape, &x)?;
            squash(tape, &y, &target)
        })
    };
    match kind {
        OpKind::Tanh => elementwise(&|tape, x| ops::tanh(tape, x)),
        OpKind::Gelu => elementwise(&|tape, x| ops::gelu(tape, x, gelu)),
        OpKind::BiasGelu => {
            let bias = make.tensor(&[d])?;
            let (x, target) = (make.parameter(&[n, d])?, make.tensor(&[n, d])?);
            gradcheck::check(std::slice::from_ref(&x), case.seed, &mut |tape| {
                let x = tape.parameter(&x)?;
                let y = ops::bias_gelu(tape, &x, &bias, gelu)?;
                squash(tape, &y, &target)
            })
        }
        OpKind::Dropout => elementwise(&|tape, x| ops::dropout(tape, x, dropout)),
        // x + x as well, so that contributions to one place are added up.
        OpKind::Add => elementwise(&|tape, x| {
            let y = ops::tanh(tape, x)?;
            let z = ops::add(tape, x, &y)?;
            ops::add(tape, &z, &y)
        }),
        OpKind::Parameter => elementwise(&|_, x| Ok(x.clone())),
        OpKind::Mse => elementwise(&|_, x| Ok(x.clone())),
        OpKind::Custom => elementwise(&|tape, x| {
            let squares = x.value().to_vec::<f64>()?.iter().map(|v| v * v).collect();
            let value = Tensor::from_vec(x.value().device(), squares, x.value().shape())?;
            tape.custom(value, &[x], Box::new(Square(x.value().clone())))
        }),
        OpKind::Linear => {
            let (x, w) = (make.weight(0, &[n, d])?, make.weight(1, &[m, d])?);
            let bias = make.weight(2, &[m])?;
            let target = make.tensor(&[n, m])?;
            let bias = (case.flags & 1 == 1).then_some(bias);
            make.parameters.retain(|p| {
                [Some(&x), Some(&w), bias.as_ref()]
                    .into_iter()
                    .flatten()
                    .filter_map(Weight::trained)
                    .any(|q| q.name() == p.name())
            });
            skip_constant(&make.parameters, case.seed, &mut |tape| {
                let x = input(tape, &x)?;
                // Twice, so that the second gradient of x is accumulated by the product itself.
                let y = ops::linear(tape, &x, &w, bias.as_ref())?;
                let z = ops::linear(tape, &x, &w, None)?;
                let y = ops::add(tape, &y, &z)?;
                squash(tape, &y, &target)
            })
        }
        OpKind::Gate => {
            let (x, z) = (make.weight(0, &[n, d])?, make.weight(1, &[d])?);
            let target = make.tensor(&[n, d])?;
            skip_constant(&make.parameters, case.seed, &mut |tape| {
                let (x, z) = (input(tape, &x)?, input(tape, &z)?);
                let y = ops::gate(tape, &x, &z)?;
                squash(tape, &y, &target)
            })
        }
        OpKind::HardConcrete => {
            // Some gates more than the range, so that its place counts.
            let log_alpha = make.parameter(&[d + m])?;
            let form = HardConcrete {
                beta: 0.7,
                ..HardConcrete::FLOP
            };
            let draw = Stream::new(case.seed, Purpose::Dropout).draws(1).next();
            let range = m..m + d;
            let target = make.tensor(&[d])?;
            // A gate that is cut at one end of the difference and not at the other has no derivative to compare with. The
            // difference moves log alpha by at most 2^-8.
            let states = |by: f64| -> Result<Vec<(bool, bool)>> {
                let moved = log_alpha.value().rows(range.clone())?.to_vec::<f64>()?;
                let moved: Vec<f64> = moved.iter().map(|a| a + by).collect();
                let z = kernels::hard_concrete(&Tensor::from_vec(&make.device, moved, &[d])?, &form, draw)?;
                Ok(z.to_vec::<f64>()?.iter().map(|z| (*z == 0.0, *z == 1.0)).collect())
            };
            if states(-1.0 / 256.0)? != states(1.0 / 256.0)? {
                return Ok(Vec::new());
            }
            gradcheck::check(std::slice::from_ref(&log_alpha), case.seed, &mut |tape| {
                let z = ops::hard_concrete(tape, &log_alpha, range.clone(), &form, draw)?;
                squash(tape, &z, &target)
            })
        }
        OpKind::SparsityPenalty => {
            let (log_alpha, lambda) = (make.parameter(&[d])?, make.parameter(&[2])?);
            let shares = make.tensor(&[d])?;
            let form = HardConcrete::FLOP;
            gradcheck::check(&make.parameters, case.seed, &mut |tape| {
                ops::sparsity_penalty(tape, &log_alpha, &lambda, &shares, 0.4, &form)
            })
        }
        OpKind::LoraLinear => {
            let slice = if case.only_last {
                RankSlice::only(case.b)
            } else {
                RankSlice::prefix(case.b)
            };
            let cell = SliceCell::new(slice.clone());
            let mut factor = |shape: &[usize], axis| -> Result<Parameter> {
                let mask = GradMask {
                    axis,
                    slice: cell.clone(),
                };
                let parameter = make.parameter(shape)?.with_mask(mask);
                if let Some(last) = make.parameters.last_mut() {
                    *last = parameter.clone();
                }
                Ok(parameter)
            };
            let (a, b) = (factor(&[case.rank, d], 0)?, factor(&[m, case.rank], 1)?);
            let (x, w, bias) = (
                make.weight(0, &[n, d])?,
                make.weight(1, &[m, d])?,
                make.weight(2, &[m])?,
            );
            let target = make.tensor(&[n, m])?;
            let scale = 1.6 / case.b as f64;
            let based = case.flags & 1 == 0;
            if !based {
                make.parameters.retain(|p| {
                    ![&w, &bias]
                        .into_iter()
                        .filter_map(|w| w.trained())
                        .any(|q| q.name() == p.name())
                });
            }
            let found = gradcheck::check(&make.parameters, case.seed, &mut |tape| {
                let x = input(tape, &x)?;
                let lora = Lora {
                    a: &a,
                    b: &b,
                    slice: slice.clone(),
                    scale,
                };
                let y = if based {
                    ops::lora_linear(tape, &x, &w, Some(&bias), &lora)?
                } else {
                    ops::low_rank(tape, &x, &lora)?
                };
                squash(tape, &y, &target)
            })?;
            for (i, g) in a.grad().to_vec::<f64>()?.iter().enumerate() {
                assert!(slice.write.contains(&(i / d)) || *g == 0.0, "A leaks at {i}");
            }
            for (i, g) in b.grad().to_vec::<f64>()?.iter().enumerate() {
                assert!(slice.write.contains(&(i % case.rank)) || *g == 0.0, "B leaks at {i}");
            }
            Ok(found)
        }
        OpKind::StackedLinear => {
            let slice = if case.only_last {
                RankSlice::only(case.b)
            } else {
                RankSlice::prefix(case.b)
            };
            let cell = SliceCell::new(slice.clone());
            let mut factor = |shape: &[usize], axis| -> Result<Parameter> {
                let mask = GradMask {
                    axis,
                    slice: cell.clone(),
                };
                let parameter = make.parameter(shape)?.with_mask(mask);
                if let Some(last) = make.parameters.last_mut() {
                    *last = parameter.clone();
                }
                Ok(parameter)
            };
            let pairs = [
                (factor(&[case.rank, d], 0)?, factor(&[m, case.rank], 1)?, 2 * m),
                (factor(&[case.rank, d], 0)?, factor(&[m, case.rank], 1)?, 0),
            ];
            let count = 1 + case.flags as usize % 2;
            make.parameters.truncate(2 * count);
            let x = make.weight(0, &[n, d])?;
            let (w, bias) = (make.tensor(&[3 * m, d])?, make.tensor(&[3 * m])?);
            let target = make.tensor(&[n, 3 * m])?;
            gradcheck::check(&make.parameters, case.seed, &mut |tape| {
                let x = input(tape, &x)?;
                let paths: Vec<_> = pairs[..count]
                    .iter()
                    .enumerate()
                    .map(|(i, (a, b, column))| {
                        // Of two paths one has no dropout, if the case has any.
                        let dropout = dropout.filter(|_| i as u8 != case.flags >> 1 & 3);
                        let lora = Lora {
                            a,
                            b,
                            slice: slice.clone(),
                            scale: 1.6 / case.b as f64,
                        };
                        (lora, *column, dropout)
                    })
                    .collect();
                let y = ops::stacked_linear(tape, &x, &w, &bias, &paths)?;
                squash(tape, &y, &target)
            })
        }
        OpKind::StackedAttention => {
            let (width, apart) = (case.heads * d, case.flags & 2 == 2);
            let queries = Segments::new(&make.device, &case.lengths)?;
            let extra = case.extra_keys.iter().map(|extra| if apart { *extra } else { 0 });
            let key_lengths: Vec<usize> = case.lengths.iter().zip(extra).map(|(q, extra)| q + extra).collect();
            let keys = Segments::new(&make.device, &key_lengths)?;
            let parts = if apart { 2 } else { 3 };
            let stacked = make.weight(0, &[keys.tokens(), parts * width])?;
            let q = apart.then(|| make.weight(1, &[queries.tokens(), width])).transpose()?;
            let target = make.tensor(&[queries.tokens(), width])?;
            skip_constant(&make.parameters, case.seed, &mut |tape| {
                let stacked = input(tape, &stacked)?;
                let q = q.as_ref().map(|q| input(tape, q)).transpose()?;
                let args = AttentionArgs {
                    queries: &queries,
                    keys: &keys,
                    num_heads: case.heads,
                    scale: 0.7,
                    causal: case.flags & 1 == 1,
                    dropout,
                };
                let y = ops::stacked_attention(tape, q.as_ref(), &stacked, &args)?;
                squash(tape, &y, &target)
            })
        }
        OpKind::Attention => {
            let width = case.heads * d;
            let causal = case.flags & 1 == 1;
            let queries = Segments::new(&make.device, &case.lengths)?;
            let key_lengths: Vec<usize> = case
                .lengths
                .iter()
                .zip(&case.extra_keys)
                .map(|(q, extra)| q + extra)
                .collect();
            let keys = Segments::new(&make.device, &key_lengths)?;
            let q = make.weight(0, &[queries.tokens(), width])?;
            let (k, v) = (
                make.weight(1, &[keys.tokens(), width])?,
                make.weight(2, &[keys.tokens(), width])?,
            );
            let target = make.tensor(&[queries.tokens(), width])?;
            skip_constant(&make.parameters, case.seed, &mut |tape| {
                let (q, k, v) = (input(tape, &q)?, input(tape, &k)?, input(tape, &v)?);
                let args = AttentionArgs {
                    queries: &queries,
                    keys: &keys,
                    num_heads: case.heads,
                    scale: 0.7,
                    causal,
                    dropout,
                };
                let y = ops::attention(tape, &q, &k, &v, &args)?;
                squash(tape, &y, &target)
            })
        }
        OpKind::LayerNorm => {
            let (x, residual) = (make.weight(0, &[n, d])?, make.weight(1, &[n, d])?);
            let (gamma, beta) = (make.weight(2, &[d])?, make.weight(3, &[d])?);
            let bias = make.tensor(&[d])?;
            let target = make.tensor(&[n, d])?;
            let residual = (case.flags & 1 == 0).then_some(residual);
            if residual.is_none() {
                make.parameters.retain(|p| p.name() != "p1");
            }
            skip_constant(&make.parameters, case.seed, &mut |tape| {
                let x = input(tape, &x)?;
                let residual = residual.as_ref().map(|r| input(tape, r)).transpose()?;
                // A large epsilon keeps rows of two nearly equal values from being too curved for the differences.
                let y = if case.flags & 2 == 0 {
                    ops::layer_norm(tape, &x, residual.as_ref(), dropout, &gamma, &beta, 0.05)?
                } else {
                    let weights = [&gamma, &beta];
                    ops::bias_layer_norm(tape, &x, Some(&bias), residual.as_ref(), dropout, weights, 0.05)?
                };
                squash(tape, &y, &target)
            })
        }
        // Residual: the loss depends on the sum alone. ResidualNorm: on the normalised sum, and mostly on the sum too.
        OpKind::Residual | OpKind::ResidualNorm => {
            let (x, out) = (make.weight(0, &[n, d])?, make.weight(1, &[n, d])?);
            let mut learnt = make.parameters.len();
            let (gamma, beta) = (make.weight(2, &[d])?, make.weight(3, &[d])?);
            let bias = make.tensor(&[d])?;
            let (one, other) = (make.tensor(&[n, d])?, make.tensor(&[n, d])?);
            let bias = (case.flags & 1 == 0).then_some(bias);
            let (with_norm, with_sum) = (kind == OpKind::ResidualNorm, case.flags & 6 != 0);
            if with_norm {
                learnt = make.parameters.len();
            }
            make.parameters.truncate(learnt);
            let frozen = |w: &Weight| Weight::Frozen(w.value().clone());
            let weights = if with_norm {
                [gamma, beta]
            } else {
                [frozen(&gamma), frozen(&beta)]
            };
            skip_constant(&make.parameters, case.seed, &mut |tape| {
                let (x, out) = (input(tape, &x)?, input(tape, &out)?);
                let weights = [&weights[0], &weights[1]];
                let (sum, y) = ops::residual_norm(tape, &x, &out, bias.as_ref(), dropout, weights, 0.05)?;
                if !with_norm {
                    return squash(tape, &sum, &one);
                }
                let loss = squash(tape, &y, &one)?;
                if !with_sum {
                    return Ok(loss);
                }
                // The sum twice: once on its own, once added to x.
                let on = ops::add(tape, &sum, &x)?;
                let (first, second) = (squash(tape, &sum, &other)?, squash(tape, &on, &one)?);
                let all = ops::add(tape, &loss, &first)?;
                ops::add(tape, &all, &second)
            })
        }
        OpKind::Embed => {
            let (words, positions) = (make.weight(0, &[m, d])?, make.weight(1, &[case.rank, d])?);
            let (ids, places) = (make.ids(n, m)?, make.ids(n, case.rank)?);
            let target = make.tensor(&[n, d])?;
            skip_constant(&make.parameters, case.seed, &mut |tape| {
                let y = ops::embed(tape, &[(&ids, &words), (&places, &positions)])?;
                squash(tape, &y, &target)
            })
        }
        OpKind::GatherRows => {
            let x = make.parameter(&[n, d])?;
            let rows = make.ids(m, n)?;
            let (gathered, whole) = (make.tensor(&[m, d])?, make.tensor(&[n, d])?);
            gradcheck::check(&make.parameters, case.seed, &mut |tape| {
                let x = tape.parameter(&x)?;
                let x = ops::tanh(tape, &x)?;
                let y = ops::gather_rows(tape, &x, &rows)?;
                let (a, b) = (squash(tape, &y, &gathered)?, squash(tape, &x, &whole)?);
                ops::add(tape, &a, &b)
            })
        }
        OpKind::LinearCrossEntropy => {
            let (x, w) = (make.weight(0, &[n, d])?, make.weight(1, &[m, d])?);
            let (targets, whole) = (make.ids(n, m)?, make.tensor(&[m, d])?);
            let (places, aim) = (make.tensor(&[n, d])?, make.tensor(&[1])?);
            let settings = CrossEntropy {
                smoothing: if case.flags & 1 == 0 { 0.0 } else { 0.1 },
                ignore: (case.flags & 2 == 0).then_some(0),
                weight: 0.3,
            };
            skip_constant(&make.parameters, case.seed, &mut |tape| {
                // x elsewhere too and W as a value too, so that gradients are added to others; the loss goes on to a
                // square, so that its own gradient is not one; rank is the chunk.
                let v = input(tape, &x)?;
                let loss = ops::linear_cross_entropy(tape, &v, &w, m, &targets, &settings, case.rank)?;
                let loss = squash(tape, &loss, &aim)?;
                let w = input(tape, &w)?;
                let (first, second) = (squash(tape, &v, &places)?, squash(tape, &w, &whole)?);
                let sum = ops::add(tape, &loss, &first)?;
                ops::add(tape, &sum, &second)
            })
        }
        OpKind::CrossEntropy => {
            let (x, targets) = (make.parameter(&[n, m])?, make.ids(n, m)?);
            let settings = CrossEntropy {
                smoothing: if case.flags & 1 == 0 { 0.0 } else { 0.1 },
                ignore: (case.flags & 2 == 0).then_some(0),
                weight: 0.3,
            };
            gradcheck::check(&make.parameters, case.seed, &mut |tape| {
                let x = tape.parameter(&x)?;
                let x = ops::tanh(tape, &x)?;
                ops::cross_entropy(tape, &x, &targets, &settings)
            })
        }
    }
}

/// Nothing to check where nothing is trained; such a loss refuses a backward pass, which is asserted.
fn skip_constant(
    parameters: &[Parameter],
    seed: u64,
    loss: &mut dyn FnMut(&mut Tape) -> Result<Var>,
) -> Result<Vec<Derivative>> {
    if parameters.is_empty() {
        let mut tape = Tape::new();
        let value = loss(&mut tape)?;
        assert_eq!(tape.recorded().count(), 0, "a constant was recorded");
        assert!(tape.backward(&value).is_err());
        return Ok(Vec::new());
    }
    gradcheck::check(parameters, seed, loss)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    /// The five-point difference is exact to h⁴ = 1.5e-11 times the fifth derivative along a unit direction, and its
    /// rounding error is about 1e-12; 1e-7 of the gradient's size leaves room for curvature.
    #[test]
    fn gradients_match_central_differences(case in case()) {
        for kind in OpKind::ALL {
            let found = derivatives(*kind, &case).map_err(|e| TestCaseError::fail(format!("{kind:?}: {e}")))?;
            for derivative in found {
                prop_assert!(derivative.relative_error(1e-3) < 1e-7, "{kind:?}: {derivative:?}");
            }
        }
    }
}

#[test]
fn chunked_logits_give_the_value_of_whole_ones_and_do_not_outlive_their_chunk() -> Result<()> {
    let device = Device::cpu();
    let (n, d, c) = (7, 3, 50);
    let numbers = |len: usize, at: f64| (0..len).map(|i| (i as f64 * at).sin()).collect::<Vec<_>>();
    let x = Parameter::new("x", Tensor::from_vec(&device, numbers(n * d, 0.7), &[n, d])?, false)?;
    let w = Weight::Frozen(Tensor::from_vec(&device, numbers(c * d, 1.3), &[c, d])?);
    let targets = Tensor::from_slice(&device, &[0, 49, 3, 7, 7, 20, 1], &[n])?;
    let settings = CrossEntropy {
        smoothing: 0.1,
        ignore: Some(7),
        weight: 0.2,
    };
    let mut tape = Tape::inference();
    let v = tape.parameter(&x)?;
    let logits = ops::linear(&mut tape, &v, &w, None)?;
    let whole = ops::cross_entropy(&mut tape, &logits, &targets, &settings)?;
    for rows in [1, 3, 7, 100] {
        let mut tape = Tape::new();
        let v = tape.parameter(&x)?;
        let loss = ops::linear_cross_entropy(&mut tape, &v, &w, c, &targets, &settings, rows)?;
        let (found, expected) = (loss.value().to_vec::<f64>()?[0], whole.value().to_vec::<f64>()?[0]);
        // Seven sums of fifty terms in another order.
        assert!(
            (found - expected).abs() < 1e-13 * expected,
            "{rows}: {found} {expected}"
        );
        let kept: Vec<_> = tape.saved().map(|(_, t)| t.shape().to_vec()).collect();
        assert_eq!(kept, [[n, d]], "frozen logits keep dx and nothing else");
    }
    let mut tape = Tape::new();
    let v = tape.parameter(&x)?;
    assert!(ops::linear_cross_entropy(&mut tape, &v, &w, c, &targets, &settings, 0).is_err());
    assert!(ops::linear_cross_entropy(&mut tape, &v, &w, c, &targets.rows(0..6)?, &settings, 2).is_err());
    Ok(())
}

#[test]
fn a_weight_may_have_rows_that_are_no_classes() -> Result<()> {
    let device = Device::cpu();
    let (n, d, c) = (4, 3, 5);
    let numbers = |len: usize, at: f64| (0..len).map(|i| (i as f64 * at).sin()).collect::<Vec<_>>();
    let wide = Tensor::from_vec(&device, numbers((c + 3) * d, 1.3), &[c + 3, d])?;
    let narrow = wide.rows(0..c)?;
    let targets = Tensor::from_slice(&device, &[0, 4, 3, 1], &[n])?;
    let settings = CrossEntropy {
        smoothing: 0.1,
        ignore: None,
        weight: 0.2,
    };
    let run = |w: &Tensor| -> Result<(Vec<f64>, Vec<f64>)> {
        let x = Parameter::new("x", Tensor::from_vec(&device, numbers(n * d, 0.7), &[n, d])?, false)?;
        let mut tape = Tape::new();
        let v = tape.parameter(&x)?;
        let loss = ops::linear_cross_entropy(&mut tape, &v, &Weight::Frozen(w.clone()), c, &targets, &settings, 3)?;
        let value = loss.value().to_vec::<f64>()?;
        tape.backward(&loss)?;
        Ok((value, x.grad().to_vec::<f64>()?))
    };
    assert_eq!(run(&wide)?, run(&narrow)?);
    let mut tape = Tape::new();
    let x = tape.constant(&Tensor::zeros(&device, wide.dtype(), &[n, d])?);
    let learns = Weight::Trained(Parameter::new("w", wide, false)?);
    assert!(ops::linear_cross_entropy(&mut tape, &x, &learns, c, &targets, &settings, 3).is_err());
    Ok(())
}

#[test]
fn layer_norm_with_the_published_epsilon() -> Result<()> {
    let case = Case {
        n: 5,
        d: 32,
        m: 1,
        rank: 1,
        b: 1,
        only_last: false,
        lengths: Vec::new(),
        extra_keys: Vec::new(),
        heads: 1,
        trained: 0xff,
        flags: 0,
        dropout: true,
        seed: 5,
    };
    let mut make = Maker {
        device: Device::cpu(),
        case: &case,
        made: 0,
        parameters: Vec::new(),
    };
    let (x, gamma, beta) = (
        make.weight(0, &[5, 32])?,
        make.weight(1, &[32])?,
        make.weight(2, &[32])?,
    );
    let target = make.tensor(&[5, 32])?;
    let found = gradcheck::check(&make.parameters, 3, &mut |tape| {
        let x = input(tape, &x)?;
        let y = ops::layer_norm(tape, &x, None, None, &gamma, &beta, 1e-5)?;
        squash(tape, &y, &target)
    })?;
    for derivative in found {
        assert!(derivative.relative_error(1e-6) < 1e-8, "{derivative:?}");
    }
    Ok(())
}

#[test]
fn a_variable_of_another_tape_is_refused() -> Result<()> {
    let device = Device::cpu();
    let p = Parameter::new("p", Tensor::from_slice(&device, &[1.0f64], &[1])?, false)?;
    let x = Tape::new().parameter(&p)?;
    assert!(ops::tanh(&mut Tape::new(), &x).is_err());
    Ok(())
}

#[test]
fn a_gradient_that_two_places_share_is_not_overwritten() -> Result<()> {
    // Without dropout the residual and x of a layer norm get one tensor; adding to one must not change the other.
    let device = Device::cpu();
    let new = |name, v: &[f64]| Parameter::new(name, Tensor::from_slice(&device, v, &[1, 2])?, false);
    let (x, r) = (new("x", &[0.3, -0.4])?, new("r", &[0.9, 0.1])?);
    let one = Weight::Frozen(Tensor::from_slice(&device, &[1.0f64, 2.0], &[2])?);
    let target = Tensor::from_slice(&device, &[0.5f64, 0.5], &[2])?;
    let found = gradcheck::check(&[x.clone(), r.clone()], 1, &mut |tape| {
        let (vx, vr) = (tape.parameter(&x)?, tape.parameter(&r)?);
        let y = ops::layer_norm(tape, &vx, Some(&vr), None, &one, &one, 0.1)?;
        let w = ops::add(tape, &y, &vr)?;
        squash(tape, &w, &target)
    })?;
    for derivative in found {
        assert!(derivative.relative_error(1e-6) < 1e-7, "{derivative:?}");
    }
    Ok(())
}

//! What one training step keeps for the backward pass: nothing of a frozen weight, and no more than the formula says.

use dylora_autograd::tensor::{DType, Device, Purpose, Stream, Tensor};
use dylora_autograd::{OpKind, Tape, Var, ops};
use dylora_nn::{Ctx, Family, Inputs, Method, Result, ScaleRule, SequenceClassifier, Target};
use dylora_tests::{adapter, config, packed, random_model};

const LENGTHS: [usize; 4] = [5, 1, 3, 2];
const TOKENS: usize = 11;
const SEQUENCES: usize = 4;
const LAYERS: usize = 3;
const LABELS: usize = 2;
/// Sizes of `dylora_tests::config`.
const HIDDEN: usize = 8;
const WIDE: usize = 12;
const HEADS: usize = 2;

/// What records keep, with the kind of each.
type Saved = Vec<(OpKind, Tensor)>;

/// Forward pass of a step at rank `b`; the tape is ready for `backward`.
fn forward(model: &SequenceClassifier, inputs: &Inputs, method: Method, b: usize) -> Result<(Tape, Var)> {
    let slice = method.slice(b, model.rank());
    model.slice().set(slice.clone());
    let mut tape = Tape::new();
    let mut ctx = Ctx {
        tape: &mut tape,
        slice,
        dropout: Some(Stream::new(1, Purpose::Dropout).draws(0)),
    };
    let logits = model.forward(&mut ctx, inputs)?;
    let labels = Tensor::from_slice(&Device::cpu(), &[0, 1, 1, 0], &[SEQUENCES])?;
    let mean = ops::CrossEntropy {
        smoothing: 0.0,
        ignore: None,
        weight: 0.25,
    };
    let loss = ops::cross_entropy(&mut tape, &logits, &labels, &mean)?;
    Ok((tape, loss))
}

/// Numbers in the given tensors that are not weights; memory that several records share counts once.
fn floats(saved: &[(OpKind, Tensor)]) -> usize {
    let mut counted: Vec<&Tensor> = Vec::new();
    for (_, tensor) in saved {
        let known = counted.iter().any(|other| other.shares_memory(tensor));
        if tensor.dtype() != DType::I32 && !known {
            counted.push(tensor);
        }
    }
    counted.iter().map(|tensor| tensor.len()).sum()
}

/// The records of each block, and those of the head and the loss behind them. A block ends with its second normalisation.
fn by_layer(tape: &Tape) -> (Vec<Saved>, Saved) {
    let mut layers = vec![Vec::new()];
    let mut norms = 0;
    for (kind, tensor) in tape.saved() {
        // Each normalisation keeps three tensors; what comes after two of them is the next block's.
        if norms == 6 && layers.len() <= LAYERS {
            layers.push(Vec::new());
            norms = 0;
        }
        if kind == OpKind::LayerNorm {
            norms += 1;
        }
        if let Some(layer) = layers.last_mut() {
            layer.push((kind, tensor.clone()));
        }
    }
    let head = layers.pop().unwrap_or_default();
    (layers, head)
}

/// What attention and feed-forward part of a block keep for `queries` rows that attend to `keys` rows: q, context and
/// log-sum-exp; k and v; two normalisations' sums, means and deviations; and GELU's input.
fn block(queries: usize, keys: usize) -> usize {
    queries * (2 * HIDDEN + HEADS) + keys * 2 * HIDDEN + 2 * queries * (HIDDEN + 2) + queries * WIDE
}

#[test]
fn a_dylora_step_keeps_what_the_formula_says_and_nothing_of_a_frozen_weight() -> Result<()> {
    for family in [Family::Roberta, Family::Bert] {
        for dropout in [0.0, 0.1] {
            let config = config(family, LAYERS, dropout);
            assert_eq!(
                (config.hidden_size, config.intermediate_size, config.num_heads),
                (HIDDEN, WIDE, HEADS)
            );
            // Dropout on the adapters' input would give each a buffer of its own; the published setting has none.
            let settings = adapter(4, ScaleRule::OverB, &[Target::Query, Target::Value], 0.0);
            let model = random_model(&config, LABELS, Some(&settings), 3)?;
            let inputs = packed(&config, &LENGTHS, 5)?;
            for method in [Method::Lora, Method::DyLora, Method::DyLoraFrozen] {
                for b in 1..=4 {
                    let (tape, _) = forward(&model, &inputs, method, b)?;
                    let rank = if method == Method::Lora { 4 } else { b };
                    let what = format!("{family:?} {method} rank {b} dropout {dropout}");

                    assert_eq!(model.frozen().count(), 3 + 2 + LAYERS * (6 * 2 + 4));
                    for (kind, tensor) in tape.saved() {
                        for (name, weight) in model.frozen() {
                            assert!(!tensor.shares_memory(weight), "{what}: {kind:?} keeps {name}");
                        }
                    }

                    let (layers, head) = by_layer(&tape);
                    assert_eq!(layers.len(), LAYERS, "{what}");
                    for (index, layer) in layers.iter().enumerate() {
                        let inputs: Vec<&Tensor> = layer
                            .iter()
                            .filter(|(kind, _)| *kind == OpKind::LoraLinear)
                            .map(|(_, t)| t)
                            .collect();
                        // x and h of the query, x and h of the value.
                        assert_eq!(inputs.len(), 4, "{what}");
                        let last = index + 1 == LAYERS;
                        let queries = if last { SEQUENCES } else { TOKENS };
                        // Query and value read the same x, except in the last block, whose query reads first tokens only.
                        assert_eq!(inputs[0].shares_memory(inputs[2]), !last, "{what} layer {index}");
                        let x = if last { SEQUENCES + TOKENS } else { TOKENS } * HIDDEN;
                        let h = (queries + TOKENS) * rank;
                        assert_eq!(floats(layer), x + h + block(queries, TOKENS), "{what} layer {index}");
                    }
                    // The inputs of dense and projection, tanh's result (the projection's input, unless dropout lies
                    // between), and the gradient of the logits.
                    let pooled = if dropout > 0.0 { 3 } else { 2 };
                    assert_eq!(floats(&head), SEQUENCES * (pooled * HIDDEN + LABELS), "{what}: head");
                    // Blocks share nothing with each other.
                    let all: Vec<_> = layers.concat().into_iter().chain(head.clone()).collect();
                    let parts = layers.iter().map(|layer| floats(layer)).sum::<usize>() + floats(&head);
                    assert_eq!(floats(&all), parts, "{what}");
                    assert_eq!(all.len(), tape.saved().count());

                    // Before the first adapter nothing is recorded: no embedding, no key of the first block.
                    assert_eq!(tape.recorded().next(), Some(OpKind::LoraLinear), "{what}");
                    assert!(tape.recorded().all(|kind| kind != OpKind::Embed), "{what}");
                }
            }
        }
    }
    Ok(())
}

#[test]
fn frozen_weights_have_no_gradient_and_do_not_move() -> Result<()> {
    let config = config(Family::Roberta, LAYERS, 0.1);
    let model = random_model(
        &config,
        LABELS,
        Some(&adapter(3, ScaleRule::OverB, &[Target::Query, Target::Value], 0.0)),
        3,
    )?;
    let inputs = packed(&config, &LENGTHS, 5)?;
    let frozen = || {
        model
            .frozen()
            .map(|(_, t)| Ok(t.to_vec::<f64>()?))
            .collect::<Result<Vec<_>>>()
    };
    let before = frozen()?;
    let (tape, loss) = forward(&model, &inputs, Method::DyLora, 2)?;
    tape.backward(&loss)?;
    assert_eq!(frozen()?, before);
    // What is trained, values and gradients, is none of the frozen memory; every gradient was reached.
    for parameter in model.parameters() {
        for (name, weight) in model.frozen() {
            assert_ne!(parameter.name(), name);
            assert!(
                !parameter.value().shares_memory(weight) && !parameter.grad().shares_memory(weight),
                "{name}"
            );
        }
        assert!(
            parameter.grad().to_f64_vec()?.iter().any(|g| *g != 0.0),
            "{}",
            parameter.name()
        );
    }
    let gradients: usize = model.parameters().iter().map(|p| p.grad().len()).sum();
    assert_eq!(gradients, model.num_trainable(3));
    Ok(())
}

#[test]
fn full_fine_tuning_keeps_more() -> Result<()> {
    let config = config(Family::Bert, LAYERS, 0.1);
    let inputs = packed(&config, &LENGTHS, 5)?;
    let kept = |method: Method, rank: usize| -> Result<(usize, Vec<OpKind>)> {
        let settings = adapter(rank.max(1), ScaleRule::OverB, &[Target::Query, Target::Value], 0.0);
        let model = random_model(&config, LABELS, (rank > 0).then_some(&settings), 3)?;
        let (tape, _) = forward(&model, &inputs, method, rank.max(1))?;
        let saved: Vec<_> = tape.saved().map(|(kind, tensor)| (kind, tensor.clone())).collect();
        Ok((floats(&saved), tape.recorded().collect()))
    };
    let (dylora, _) = kept(Method::DyLora, 1)?;
    let (full, kinds) = kept(Method::Full, 0)?;
    // Each block's attention output reads the context, which is kept anyway; its two feed-forward layers read a hidden
    // state and GELU's result, which are not. The embeddings' normalisation keeps its sum.
    let rows = (LAYERS - 1) * TOKENS + SEQUENCES;
    let embeddings = TOKENS * (HIDDEN + 2);
    let low_rank = (LAYERS - 1) * 2 * TOKENS + SEQUENCES + TOKENS;
    assert_eq!(full, dylora - low_rank + rows * (HIDDEN + WIDE) + embeddings);
    assert!(full > dylora);
    assert_eq!(kinds.first(), Some(&OpKind::Embed));
    Ok(())
}

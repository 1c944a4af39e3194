//! The heart of the matter: truncation gradients match the finite-difference oracle, for a whole model.
//!
//! A tiny RoBERTa and a tiny BERT in f64, with any rule for the scale, at every rank b, where all ranks up to b learn and where only rank b does, with
//! dropout (the same bits on every call) and without: the gradients of A, B and head against central differences, and
//! exactly zero outside what learns. The same for every weight in full fine-tuning.

use dylora_autograd::gradcheck::{self, Derivative};
use dylora_autograd::tensor::{Device, Error as TensorError, Purpose, Stream, Tensor};
use dylora_autograd::{Parameter, RankSlice, Result, Tape, Var, ops};
use dylora_nn::{Ctx, Error, Family, Inputs, Method, ScaleRule, SequenceClassifier, Target};
use dylora_tests::{adapter, config, gradient, packed, random_model, values};
use proptest::prelude::*;

/// Relative errors stay below this.
const TOLERANCE: f64 = 1e-7;

/// Gradients smaller than this are compared as if they were of this size. A loss of order 1 carries some ten roundings of
/// 2⁻⁵³, which a step of 2⁻⁹ turns into 1e-12 in the numeric side, whatever the gradient's size: a tenth of what
/// `TOLERANCE * FLOOR` allows.
const FLOOR: f64 = 1e-4;

#[derive(Clone, Debug)]
struct Case {
    family: Family,
    rank: usize,
    scale: ScaleRule,
    targets: Vec<Target>,
    lengths: Vec<usize>,
    /// One label is regression.
    num_labels: usize,
    seed: u64,
}

fn case() -> impl Strategy<Value = Case> {
    let family = prop_oneof![Just(Family::Roberta), Just(Family::Bert)];
    let scale = prop::sample::select(ScaleRule::ALL);
    let targets = prop_oneof![
        2 => Just(vec![Target::Query, Target::Value]),
        1 => Just(Target::ALL.to_vec()),
        1 => prop::sample::subsequence(Target::ALL.to_vec(), 1..=3),
    ];
    // Several sequences, one of them of one token, wherever it stands.
    let lengths = prop::collection::vec(1..7usize, 1..4).prop_flat_map(|lengths| {
        (0..=lengths.len()).prop_map(move |at| {
            let mut lengths = lengths.clone();
            lengths.insert(at, 1);
            lengths
        })
    });
    (family, 3..=4usize, scale, targets, lengths, 1..=3usize, any::<u64>()).prop_map(
        |(family, rank, scale, targets, lengths, num_labels, seed)| Case {
            family,
            rank,
            scale,
            targets,
            lengths,
            num_labels,
            seed,
        },
    )
}

/// What a training step minimises, as ordinary tape code.
struct Task {
    model: SequenceClassifier,
    inputs: Inputs,
    classes: Tensor,
    scores: Tensor,
    num_labels: usize,
    dropout: Option<Stream>,
}

impl Task {
    fn new(case: &Case, adapted: bool, dropout: f64) -> dylora_nn::Result<Self> {
        let config = config(case.family, 2, dropout);
        let adapter = adapted.then(|| adapter(case.rank, case.scale, &case.targets, dropout));
        let count = case.lengths.len();
        let classes: Vec<i32> = (0..count).map(|i| (i % case.num_labels) as i32).collect();
        Ok(Task {
            model: random_model(&config, case.num_labels, adapter.as_ref(), case.seed)?,
            inputs: packed(&config, &case.lengths, case.seed)?,
            classes: Tensor::from_vec(&Device::cpu(), classes, &[count])?,
            scores: Tensor::from_vec(&Device::cpu(), values(case.seed, 3, count), &[count])?,
            num_labels: case.num_labels,
            dropout: (dropout > 0.0).then(|| Stream::new(case.seed, Purpose::Dropout)),
        })
    }

    fn loss(&self, tape: &mut Tape, slice: &RankSlice) -> Result<Var> {
        let mut ctx = Ctx {
            tape,
            slice: slice.clone(),
            dropout: self.dropout.map(|stream| stream.draws(17)),
        };
        let logits = self
            .model
            .forward(&mut ctx, &self.inputs)
            .map_err(|error| match error {
                Error::Tensor(error) => error,
                other => TensorError::invalid("model", other.to_string()),
            })?;
        let weight = 1.0 / self.inputs.segments.count() as f64;
        if self.num_labels == 1 {
            return ops::mse(tape, &logits, &self.scores, weight);
        }
        let settings = ops::CrossEntropy {
            smoothing: 0.0,
            ignore: None,
            weight,
        };
        ops::cross_entropy(tape, &logits, &self.classes, &settings)
    }

    /// Derivatives for all parameters; gradients hold what `backward` gave.
    fn check(&self, slice: &RankSlice, seed: u64) -> Result<Vec<Derivative>> {
        self.model.slice().set(slice.clone());
        gradcheck::check(&self.model.parameters(), seed, &mut |tape| self.loss(tape, slice))
    }
}

fn fail(error: impl std::fmt::Display) -> TestCaseError {
    TestCaseError::fail(error.to_string())
}

fn all_match(what: &str, found: &[Derivative]) -> std::result::Result<(), TestCaseError> {
    for derivative in found {
        let error = derivative.relative_error(FLOOR);
        prop_assert!(error < TOLERANCE, "{what}: {error:e} in {derivative:?}");
    }
    Ok(())
}

/// Whether every element outside `slice.write` is zero, and something inside is not.
fn confined(parameter: &Parameter, slice: &RankSlice) -> dylora_nn::Result<(bool, bool)> {
    let axis = parameter.mask().map_or(0, |mask| mask.axis);
    let width = parameter.value().width();
    let (mut clean, mut alive) = (true, false);
    for (i, g) in gradient(parameter)?.into_iter().enumerate() {
        let rank = if axis == 0 { i / width } else { i % width };
        if slice.write.contains(&rank) {
            alive |= g != 0.0;
        } else {
            // Not even a negative zero: nothing was written there.
            clean &= g.to_bits() == 0;
        }
    }
    Ok((clean, alive))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]

    #[test]
    fn adapters_at_every_rank_match_central_differences(case in case()) {
        for dropout in [0.0, 0.2] {
            let task = Task::new(&case, true, dropout).map_err(fail)?;
            for method in [Method::DyLora, Method::DyLoraFrozen] {
                for b in 1..=case.rank {
                    let slice = method.slice(b, case.rank);
                    let what = format!("{method} at rank {b}, dropout {dropout}");
                    let found = task.check(&slice, case.seed ^ b as u64).map_err(fail)?;
                    prop_assert_eq!(found.len(), 2 * 2 * case.targets.len() + 4);
                    all_match(&what, &found)?;
                    for parameter in task.model.adapter_parameters() {
                        let (clean, alive) = confined(&parameter, &slice).map_err(fail)?;
                        prop_assert!(clean, "{}: {} has a gradient outside {:?}", what, parameter.name(), slice.write);
                        // A lone token's attention is 1 whatever the query: only with company can all factors matter.
                        let expected = case.lengths.iter().any(|length| *length > 1) && dropout == 0.0;
                        prop_assert!(alive || !expected, "{}: {} has no gradient", what, parameter.name());
                    }
                    prop_assert!(found.iter().any(|d| d.numeric.abs() > FLOOR), "{}: a loss that stands still", what);
                }
            }
        }
    }

    #[test]
    fn every_weight_of_a_fully_trained_model_matches_central_differences(case in case()) {
        for dropout in [0.0, 0.2] {
            let task = Task::new(&case, false, dropout).map_err(fail)?;
            let found = task.check(&Method::Full.slice(1, 1), case.seed).map_err(fail)?;
            // Three tables and a normalisation, two blocks of six layers and two normalisations, and the head.
            prop_assert_eq!(found.len(), 3 + 2 + 2 * (6 * 2 + 2 * 2) + 4);
            all_match(&format!("full, dropout {dropout}"), &found)?;
            // A key's bias moves all scores of a query alike, which softmax does not see.
            let silent = found.iter().filter(|d| d.magnitude < 1e-12).map(|d| d.name.as_str());
            let known = ["self.key.bias", "self.key.weight", "self.query.weight", "self.query.bias"];
            let more: Vec<_> = silent.filter(|name| !known.iter().any(|k| name.ends_with(k))).collect();
            prop_assert!(more.is_empty() || dropout > 0.0, "no gradient for {:?}", more);
        }
    }
}

#[test]
fn a_frozen_slice_has_the_gradient_of_the_prefix_on_its_own_rank() -> dylora_nn::Result<()> {
    let case = Case {
        family: Family::Roberta,
        rank: 4,
        scale: ScaleRule::OverSqrtB,
        targets: Target::ALL.to_vec(),
        lengths: vec![3, 1, 5],
        num_labels: 2,
        seed: 11,
    };
    let task = Task::new(&case, true, 0.0)?;
    for b in 1..=4 {
        let gradients = |slice: RankSlice| -> dylora_nn::Result<Vec<Vec<f64>>> {
            task.check(&slice, 1)?;
            task.model.parameters().iter().map(gradient).collect()
        };
        let (all, own) = (gradients(RankSlice::prefix(b))?, gradients(RankSlice::only(b))?);
        for (parameter, (all, own)) in task.model.parameters().iter().zip(all.iter().zip(&own)) {
            for (i, (all, own)) in all.iter().zip(own).enumerate() {
                let width = parameter.value().width();
                let masked = parameter.mask().is_some_and(|mask| {
                    let rank = if mask.axis == 0 { i / width } else { i % width };
                    rank != b - 1
                });
                let expected = if masked { 0.0 } else { *all };
                // Sums over tokens in the same order, whichever columns are computed: a few roundings at most.
                assert!(
                    (own - expected).abs() <= 1e-14 * all.abs().max(1e-3),
                    "{} {i} at rank {b}",
                    parameter.name()
                );
            }
        }
    }
    Ok(())
}

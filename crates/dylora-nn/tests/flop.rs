//! Factorised models: what they start from, what their gates do, and what is left of them once they are pruned.

mod common;

use common::{TestResult, config, inputs, logits, randomise, write};
use dylora_nn::autograd::gradcheck;
use dylora_nn::autograd::{RankSlice, Tape, ops};
use dylora_nn::tensor::{DType, Device, Purpose, Stream, Tensor};
use dylora_nn::{AdamW, AdamWSettings, Checkpoint, Ctx, Family, FlopSettings, Gates, SequenceClassifier, save_tensors};

const SETTINGS: FlopSettings = FlopSettings { gate_init: 0.05 };

fn model(family: Family) -> dylora_nn::Result<SequenceClassifier> {
    SequenceClassifier::factorised(&Device::cpu(), DType::F64, &config(family), 3, &SETTINGS, None, 5)
}

/// Gates spread widely, so that each layer has open and closed ones.
fn spread(model: &SequenceClassifier) -> TestResult {
    let gates = model.gates().ok_or("no gates")?.log_alpha();
    let values: Vec<f64> = (0..gates.len()).map(|i| 4.0 * (i as f64 * 0.7).sin()).collect();
    write(gates.value(), &values)?;
    Ok(())
}

#[test]
fn factors_of_a_checkpoint_multiply_to_its_matrices() -> TestResult {
    let (device, dir) = (Device::cpu(), tempfile::tempdir()?);
    for family in [Family::Roberta, Family::Bert] {
        let config = config(family);
        let plain = SequenceClassifier::new(&device, DType::F64, &config, 3, None, None, 1)?;
        randomise(&plain.parameters(), 9)?;
        let path = dir.path().join(format!("{family:?}.safetensors"));
        save_tensors(&path, &plain.named_trained(), &[])?;
        let source = Checkpoint::open(&path)?;
        let model = SequenceClassifier::factorised(&device, DType::F64, &config, 3, &SETTINGS, Some(&source), 1)?;
        // All gates at one: nothing is closed, and P Q is what it was.
        let gates = model.gates().ok_or("no gates")?.log_alpha();
        write(gates.value(), &vec![60.0; gates.len()])?;
        let inputs = inputs(&device, &config, &[5, 3], 2)?;
        for (found, wanted) in logits(&model, &inputs, 0)?.iter().zip(logits(&plain, &inputs, 0)?) {
            // A few hundred rounded sums, on values of size one.
            assert!((found - wanted).abs() < 1e-11, "{found} {wanted}");
        }
        // Merged, it is the checkpoint again: the same keys, the same matrices.
        let merged = model.merge(0)?;
        let plain = plain.merge(0)?;
        let mut keys: Vec<_> = merged.iter().map(|(key, _)| key).collect();
        let mut wanted: Vec<_> = plain.iter().map(|(key, _)| key).collect();
        keys.sort();
        wanted.sort();
        assert_eq!(keys, wanted);
        for (key, value) in &plain {
            let found = merged.iter().find(|(name, _)| name == key).ok_or("lost")?;
            for (found, wanted) in found.1.to_f64_vec()?.iter().zip(value.to_f64_vec()?) {
                assert!((found - wanted).abs() < 1e-12, "{key}: {found} {wanted}");
            }
        }
    }
    Ok(())
}

#[test]
fn a_pruned_model_says_what_the_gated_one_does_with_fewer_numbers() -> TestResult {
    let device = Device::cpu();
    for family in [Family::Roberta, Family::Bert] {
        let config = config(family);
        let model = model(family)?;
        spread(&model)?;
        let remaining = model.gates().ok_or("no gates")?.remaining()?;
        assert!(remaining.components > 0 && remaining.components < remaining.of_components);
        // Blocks of width 8 and 12: four square layers and two of 8 components each, of 16 and 20 numbers.
        assert_eq!(remaining.of_components, 2 * 6 * 8);
        assert_eq!(remaining.of_factors, 2 * 8 * (4 * 16 + 2 * 20));
        assert_eq!(remaining.of_dense, 2 * (4 * 64 + 2 * 96));
        let pruned = model.pruned()?;
        let inputs = inputs(&device, &config, &[4, 6, 1], 3)?;
        let gated = logits(&model, &inputs, 0)?;
        for (found, wanted) in logits(&pruned, &inputs, 0)?.iter().zip(&gated) {
            assert!((found - wanted).abs() < 1e-12, "{found} {wanted}");
        }
        // The merged model is a plain one.
        let (dir, merged) = (tempfile::tempdir()?, model.merge(0)?);
        let path = dir.path().join("merged.safetensors");
        save_tensors(&path, &merged, &[])?;
        let source = Checkpoint::open(&path)?;
        let plain = SequenceClassifier::new(&device, DType::F64, &config, 3, None, Some(&source), 8)?;
        for (found, wanted) in logits(&plain, &inputs, 0)?.iter().zip(&gated) {
            assert!((found - wanted).abs() < 1e-11, "{found} {wanted}");
        }
        // All that learns but gates and multipliers, with the factors that remain.
        let all: usize = plain.num_trainable(0);
        assert_eq!(model.num_remaining(0)?, all - remaining.of_dense + remaining.numbers);
        assert_eq!(pruned.num_remaining(0)?, model.num_remaining(0)?);
        for ((key, one), (other, two)) in pruned.merge(0)?.into_iter().zip(model.merge(0)?) {
            assert_eq!((key, one.to_f64_vec()?), (other, two.to_f64_vec()?));
        }
    }
    Ok(())
}

#[test]
fn a_model_of_which_nothing_remains_has_its_biases() -> TestResult {
    let model = model(Family::Bert)?;
    let gates = model.gates().ok_or("no gates")?;
    write(gates.log_alpha().value(), &vec![-60.0; gates.log_alpha().len()])?;
    assert_eq!(gates.remaining()?.numbers, 0);
    let inputs = inputs(&Device::cpu(), &config(Family::Bert), &[4, 6], 3)?;
    assert_eq!(logits(&model, &inputs, 0)?, logits(&model.pruned()?, &inputs, 0)?);
    Ok(())
}

/// The whole model's gradient with drawn gates, every parameter, against central differences.
#[test]
fn gradients_of_a_gated_model_match_central_differences() -> TestResult {
    let model = model(Family::Bert)?;
    spread(&model)?;
    let inputs = inputs(&Device::cpu(), &config(Family::Bert), &[4, 2], 4)?;
    let classes = Tensor::from_slice(&Device::cpu(), &[0, 2], &[2])?;
    let mean = ops::CrossEntropy {
        smoothing: 0.0,
        ignore: None,
        weight: 0.5,
    };
    let gates = model.gates().ok_or("no gates")?;
    let parameters = model.parameters();
    let parameters: Vec<_> = parameters.into_iter().filter(|p| p.name() != Gates::LAMBDA).collect();
    let found = gradcheck::check(&parameters, 3, &mut |tape| {
        let mut ctx = Ctx {
            tape,
            slice: RankSlice::full(0),
            dropout: Some(Stream::new(1, Purpose::Dropout).draws(0)),
        };
        let logits = model.forward(&mut ctx, &inputs).map_err(tensor_error)?;
        let loss = ops::cross_entropy(tape, &logits, &classes, &mean)?;
        let penalty = gates.penalty(tape, 0.4).map_err(tensor_error)?;
        ops::add(tape, &loss, &penalty)
    })?;
    assert_eq!(found.len(), parameters.len());
    for derivative in found {
        assert!(derivative.relative_error(1e-4) < 1e-6, "{derivative:?}");
    }
    Ok(())
}

fn tensor_error(error: dylora_nn::Error) -> dylora_nn::tensor::Error {
    match error {
        dylora_nn::Error::Tensor(error) => error,
        other => dylora_nn::tensor::Error::Invalid {
            op: "test",
            message: other.to_string(),
        },
    }
}

/// The trajectory of gates and multipliers under the penalty alone, as PyTorch computes it
/// (`tests/fixtures/make_flop.py` prints these numbers): Adam on log alpha, ascending Adam on the multipliers.
#[test]
fn penalty_and_multipliers_move_as_pytorch_moves_them() -> TestResult {
    let model = model(Family::Bert)?;
    let gates = model.gates().ok_or("no gates")?;
    let start: Vec<f64> = (0..gates.log_alpha().len())
        .map(|i| (i as f64 * 0.7).sin() + 1.0)
        .collect();
    write(gates.log_alpha().value(), &start)?;
    let own = [gates.log_alpha().clone(), gates.lambda().clone()];
    let mut optimizer = AdamW::new(&own, AdamWSettings::default())?;
    optimizer.set_rate(Gates::LOG_ALPHA, 0.05)?;
    optimizer.set_rate(Gates::LAMBDA, -0.03)?;
    let mut found = Vec::new();
    for step in 0..200 {
        optimizer.zero_grad()?;
        let mut tape = Tape::new();
        let target = 0.6 * (step as f64 / 80.0).min(1.0);
        let penalty = gates.penalty(&mut tape, target)?;
        tape.backward(&penalty)?;
        optimizer.step(1.0, None)?;
        if [0, 9, 79, 199].contains(&step) {
            let lambda = gates.lambda().value().to_vec::<f64>()?;
            let left = gates.remaining()?;
            let sparsity = 1.0 - left.expected / left.of_factors as f64;
            let first = gates.log_alpha().value().to_vec::<f64>()?[0];
            found.extend([
                penalty.value().to_vec::<f64>()?[0],
                lambda[0],
                lambda[1],
                sparsity,
                first,
            ]);
        }
    }
    for (index, (found, wanted)) in found.iter().zip(PYTORCH).enumerate() {
        // Two hundred steps of sums of 96 in two orders, in f64.
        assert!(
            (found - wanted).abs() < 1e-9 * wanted.abs().max(1.0),
            "{index}: {found} {wanted}"
        );
    }
    Ok(())
}

/// Penalty before the step; multipliers, expected sparsity and first gate after it; at steps 0, 9, 79 and 199.
const PYTORCH: [f64; 20] = [
    0.0,
    0.02999999231048877,
    0.029999802905917534,
    0.03901417324163303,
    1.0,
    -0.006710629221082684,
    0.167436725314123,
    0.22579072337846712,
    0.026289494438343497,
    1.4134979487411874,
    0.17692906981092282,
    -2.3290417697726173,
    2.8318821913169745,
    0.5421261762042453,
    -2.625341252239592,
    -0.0007047441381014246,
    0.27349486968588443,
    5.780441636238197,
    0.5549433016501941,
    -2.789147740966976,
];

#[test]
fn unusable_settings_are_named() {
    let build = |gate_init| {
        let settings = FlopSettings { gate_init };
        SequenceClassifier::factorised(&Device::cpu(), DType::F32, &config(Family::Bert), 2, &settings, None, 5)
    };
    for bad in [0.0, 1.0, -0.1, f64::NAN] {
        assert!(
            build(bad).is_err_and(|error| error.to_string().starts_with("gate_init")),
            "{bad}"
        );
    }
    assert!(build(0.5).is_ok());
}

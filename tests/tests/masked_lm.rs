//! A small random RoBERTa with language-model head against transformers: logits of the hidden tokens, loss and every
//! gradient, that of the word embedding through both of its uses. Fixture: `tests/fixtures/make_masked_lm.py`.

use std::path::{Path, PathBuf};

use dylora_nn::autograd::ops::{self, CrossEntropy};
use dylora_nn::autograd::{RankSlice, Tape};
use dylora_nn::tensor::{DType, Device, Segments, Tensor};
use dylora_nn::{
    Checkpoint, Ctx, EncoderConfig, Family, Inputs, MaskedLanguageModel, Result, Selected, SequenceClassifier,
    save_tensors,
};

type TestResult = std::result::Result<(), Box<dyn std::error::Error>>;

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/masked_lm")
}

/// The largest difference, relative to the largest value or 1.
fn distance(found: &[f64], expected: &[f64]) -> f64 {
    assert_eq!(found.len(), expected.len());
    let scale = expected.iter().fold(1.0f64, |m, v| m.max(v.abs()));
    let pairs = found.iter().zip(expected);
    pairs.map(|(a, b)| (a - b).abs() / scale).fold(0.0, f64::max)
}

/// The weights of the fixture as a checkpoint of their own, changed by `change`.
fn checkpoint(file: &Checkpoint, dir: &Path, change: impl FnOnce(&mut Vec<(String, Tensor)>)) -> Result<Checkpoint> {
    let names = file.names().filter_map(|key| key.strip_prefix("weights/"));
    let mut weights = names
        .map(|name| {
            let tensor = file.tensor(&format!("weights/{name}"), DType::F32, &Device::cpu())?;
            Ok((name.to_owned(), tensor))
        })
        .collect::<Result<Vec<_>>>()?;
    change(&mut weights);
    save_tensors(&dir.join("model.safetensors"), &weights, &[])?;
    Checkpoint::open(dir)
}

fn inputs(file: &Checkpoint, offset: usize) -> Result<(Inputs, Selected, Tensor)> {
    let device = Device::cpu();
    let tensor = |v: &[i32]| Tensor::from_slice(&device, v, &[v.len()]);
    let sizes = |key: &str| -> Result<Vec<usize>> { Ok(file.integers(key)?.iter().map(|n| *n as usize).collect()) };
    let lengths = sizes("input/lengths")?;
    let positions = lengths.iter().flat_map(|l| (0..*l).map(|p| (p + offset) as i32));
    let ids = file.integers("input/ids")?;
    let inputs = Inputs {
        positions: tensor(&positions.collect::<Vec<_>>())?,
        token_types: tensor(&vec![0; ids.len()])?,
        segments: Segments::new(&device, &lengths)?,
        first: Selected::one_each(tensor(&[])?)?,
        ids: tensor(&ids)?,
    };
    let selected = Selected {
        rows: tensor(&file.integers("input/selected")?)?,
        segments: Segments::new(&device, &sizes("input/counts")?)?,
    };
    Ok((inputs, selected, tensor(&file.integers("input/targets")?)?))
}

#[test]
fn logits_loss_and_every_gradient_equal_those_of_transformers() -> TestResult {
    let config = EncoderConfig::from_file(&fixtures().join("roberta.json"))?.with_dropout(0.0);
    let file = Checkpoint::open(&fixtures().join("roberta.safetensors"))?;
    let dir = tempfile::tempdir()?;
    let weights = checkpoint(&file, dir.path(), |_| ())?;
    // As in parity.rs: some thousand roundings of random sign.
    for (dtype, precision, tolerance) in [(DType::F32, "f32", 1e-5), (DType::F64, "f64", 1e-10)] {
        let model = MaskedLanguageModel::new(&Device::cpu(), dtype, &config, Some(&weights), 0)?;
        let (inputs, selected, targets) = inputs(&file, config.position_offset)?;
        let mut tape = Tape::new();
        let mut ctx = Ctx {
            tape: &mut tape,
            slice: RankSlice::full(0),
            dropout: None,
        };
        let logits = model.forward(&mut ctx, &inputs, &selected)?;
        let mean = CrossEntropy {
            smoothing: 0.0,
            ignore: None,
            weight: 1.0 / targets.len() as f64,
        };
        let loss = ops::cross_entropy(&mut tape, &logits, &targets, &mean)?;
        let hold = |what: &str, found: &Tensor| -> Result<()> {
            let key = format!("{precision}/{what}");
            let expected = file.tensor(&key, DType::F64, &Device::cpu())?.to_f64_vec()?;
            let error = distance(&found.to_f64_vec()?, &expected);
            assert!(error < tolerance, "{key} differs by {error:e}");
            Ok(())
        };
        hold("logits", logits.value())?;
        hold("loss", loss.value())?;
        tape.backward(&loss)?;
        let parameters = model.parameters();
        for parameter in &parameters {
            hold(&format!("grad/{}", parameter.name()), parameter.grad())?;
        }
        let stored = file.names().filter(|k| k.starts_with("weights/")).count();
        assert_eq!(parameters.len(), stored, "every weight has a gradient");
    }
    Ok(())
}

#[test]
fn an_encoder_is_read_from_it_and_a_missing_head_is_named() -> TestResult {
    let config = EncoderConfig::from_file(&fixtures().join("roberta.json"))?;
    let file = Checkpoint::open(&fixtures().join("roberta.safetensors"))?;
    let dir = tempfile::tempdir()?;
    let device = Device::cpu();
    let weights = checkpoint(&file, dir.path(), |_| ())?;
    let classifier = SequenceClassifier::new(&device, DType::F32, &config, 2, None, Some(&weights), 0)?;
    let model = MaskedLanguageModel::new(&device, DType::F32, &config, Some(&weights), 0)?;
    let ours: Vec<_> = model
        .named()
        .into_iter()
        .filter(|(k, _)| k.starts_with("roberta."))
        .collect();
    let theirs = classifier.named_trained();
    assert!(ours.len() > 30);
    for (name, tensor) in ours {
        let other = theirs.iter().find(|(key, _)| *key == name).map(|(_, t)| t.to_f64_vec());
        assert_eq!(other.transpose()?, Some(tensor.to_f64_vec()?), "{name}");
    }

    let headless = checkpoint(&file, dir.path(), |weights| {
        weights.retain(|(key, _)| key != "lm_head.layer_norm.bias" && key != "lm_head.bias");
    })?;
    let error = MaskedLanguageModel::new(&device, DType::F32, &config, Some(&headless), 0).err();
    let message = error.map(|error| error.to_string()).unwrap_or_default();
    assert!(
        message.contains("missing: lm_head.layer_norm.bias, lm_head.bias"),
        "{message}"
    );

    let bert = EncoderConfig {
        family: Family::Bert,
        ..config
    };
    assert!(MaskedLanguageModel::new(&device, DType::F32, &bert, None, 0).is_err());
    Ok(())
}

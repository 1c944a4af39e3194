//! Small random GPT-2s against transformers: logits, label-smoothed loss on the targets and every gradient, without
//! adapters and with them at every rank. Fixture: `tests/fixtures/make_gpt2.py`.

#![allow(clippy::print_stderr)]

use std::path::{Path, PathBuf};

use dylora_autograd::gradcheck;
use dylora_nn::autograd::{OpKind, Parameter, RankSlice, Tape};
use dylora_nn::tensor::{DType, Device, Error as TensorError, Purpose, Stream, Tensor};
use dylora_nn::{
    AdapterInit, AdapterSettings, CausalInputs, Checkpoint, Ctx, Error, Gpt2Config, Gpt2LanguageModel, Method, Result,
    ScaleRule, Target, save_tensors,
};
use dylora_tests::{gradient, values};

type TestResult = std::result::Result<(), Box<dyn std::error::Error>>;

const RANK: usize = 4;
const ALPHA: f64 = 32.0;

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/gpt2")
}

/// The largest difference, relative to the largest value or 1.
fn distance(found: &[f64], expected: &[f64]) -> f64 {
    assert_eq!(found.len(), expected.len());
    let scale = expected.iter().fold(1.0f64, |m, v| m.max(v.abs()));
    let pairs = found.iter().zip(expected);
    pairs.map(|(a, b)| (a - b).abs() / scale).fold(0.0, f64::max)
}

struct Fixture {
    file: Checkpoint,
    config: Gpt2Config,
    weights: Checkpoint,
    /// Texts with the numbers of their targets.
    texts: Vec<(Vec<i32>, usize)>,
    smoothing: f64,
    device: Device,
    _dir: tempfile::TempDir,
}

impl Fixture {
    fn open(name: &str, smoothing: f64) -> std::result::Result<Self, Box<dyn std::error::Error>> {
        let file = Checkpoint::open(&fixtures().join(format!("{name}.safetensors")))?;
        let dir = tempfile::tempdir()?;
        let names = file.names().filter_map(|key| key.strip_prefix("weights/"));
        let tensor = |name: &str| file.tensor(&format!("weights/{name}"), DType::F32, &Device::cpu());
        let weights = names
            .map(|name| Ok((name.to_owned(), tensor(name)?)))
            .collect::<Result<Vec<_>>>()?;
        save_tensors(&dir.path().join("model.safetensors"), &weights, &[])?;
        let ids = file.integers("input/ids")?;
        let (lengths, targets) = (file.integers("input/lengths")?, file.integers("input/targets")?);
        let mut rest = ids.as_slice();
        let texts = lengths.iter().zip(&targets).map(|(length, targets)| {
            let (text, more) = rest.split_at(*length as usize);
            rest = more;
            (text.to_vec(), *targets as usize)
        });
        Ok(Fixture {
            texts: texts.collect(),
            config: Gpt2Config::from_file(&fixtures().join(format!("{name}.json")))?,
            weights: Checkpoint::open(dir.path())?,
            smoothing,
            device: Device::cpu(),
            file,
            _dir: dir,
        })
    }

    fn model(&self, dtype: DType, adapter: Option<&AdapterSettings>) -> Result<Gpt2LanguageModel> {
        Gpt2LanguageModel::new(&self.device, dtype, &self.config, adapter, Some(&self.weights), 0)
    }

    fn expected(&self, key: &str) -> Result<Vec<f64>> {
        Ok(self.file.tensor(key, DType::F64, &Device::cpu())?.to_f64_vec()?)
    }

    /// Logits of every token but each text's last, then the loss, both held against the fixture; gradients are left.
    fn hold(&self, model: &Gpt2LanguageModel, slice: RankSlice, place: &str, tolerance: f64) -> TestResult {
        let device = self.device.clone();
        let all: Vec<(&[i32], usize)> = self
            .texts
            .iter()
            .map(|(ids, _)| (&ids[..ids.len() - 1], ids.len() - 1))
            .collect();
        let mut tape = Tape::inference();
        let mut ctx = Ctx {
            tape: &mut tape,
            slice: slice.clone(),
            dropout: None,
        };
        let logits = model.forward(&mut ctx, &CausalInputs::new(&device, &all)?)?;
        let error = distance(
            &logits.value().to_f64_vec()?,
            &self.expected(&format!("{place}/logits"))?,
        );
        assert!(error < tolerance, "{place}: logits differ by {error:e}");

        model.slice().set(slice.clone());
        for parameter in model.parameters() {
            parameter.zero_grad()?;
        }
        let texts: Vec<(&[i32], usize)> = self.texts.iter().map(|(ids, n)| (ids.as_slice(), *n)).collect();
        let (inputs, targets) = CausalInputs::for_training(&device, &texts)?;
        let weight = 1.0 / targets.len() as f64;
        let mut tape = Tape::new();
        let mut ctx = Ctx {
            tape: &mut tape,
            slice,
            dropout: None,
        };
        let loss = model.loss(&mut ctx, &inputs, &targets, self.smoothing, weight)?;
        let error = distance(&loss.value().to_f64_vec()?, &self.expected(&format!("{place}/loss"))?);
        assert!(error < tolerance, "{place}: the loss differs by {error:e}");
        tape.backward(&loss)?;
        Ok(())
    }

    /// Our thirds of c_attn as the published gradient has them: input-major, side by side.
    fn published(&self, parameters: &[Parameter], name: &str) -> Result<Vec<f64>> {
        let own = |name: &str| parameters.iter().find(|p| p.name() == name);
        let Some((stem, what)) = name.rsplit_once('.') else {
            return Ok(Vec::new());
        };
        let parts: Vec<&Parameter> = if name.contains("c_attn") {
            let third = |t: &str| own(&format!("{stem}.{t}.{what}"));
            ["query", "key", "value"].iter().filter_map(|t| third(t)).collect()
        } else {
            own(name).into_iter().collect()
        };
        let conv = ["c_attn", "c_proj", "c_fc"].iter().any(|layer| stem.ends_with(layer));
        let mut columns = Vec::new();
        for part in &parts {
            let (gradient, width) = (gradient(part)?, part.value().width());
            match (conv, part.value().shape().len()) {
                (true, 2) => columns.extend(gradient.chunks_exact(width).map(<[f64]>::to_vec)),
                _ => columns.push(gradient),
            }
        }
        if !(conv && what == "weight") {
            return Ok(columns.concat());
        }
        let inputs = columns.first().map_or(0, Vec::len);
        Ok((0..inputs).flat_map(|i| columns.iter().map(move |c| c[i])).collect())
    }
}

// Some thousand roundings of random sign, as in parity.rs.
const PRECISIONS: [(DType, &str, f64); 2] = [(DType::F32, "f32", 1e-5), (DType::F64, "f64", 1e-10)];

#[test]
fn logits_loss_and_every_gradient_equal_those_of_transformers() -> TestResult {
    plain_models(&Device::cpu(), &PRECISIONS)
}

#[test]
fn a_gpu_gives_what_transformers_gives() -> TestResult {
    if Device::count_cuda() == 0 {
        eprintln!("not run: no CUDA device");
        return Ok(());
    }
    let device = Device::cuda(0, None)?;
    plain_models(&device, &PRECISIONS[..1])?;
    adapted_models(&device, &PRECISIONS[..1])
}

fn plain_models(device: &Device, precisions: &[(DType, &str, f64)]) -> TestResult {
    for (name, smoothing) in [("a", 0.1), ("b", 0.0)] {
        let mut fixture = Fixture::open(name, smoothing)?;
        fixture.device = device.clone();
        for (dtype, precision, tolerance) in precisions.iter().copied() {
            let model = fixture.model(dtype, None)?;
            fixture.hold(&model, RankSlice::full(0), precision, tolerance)?;
            let parameters = model.parameters();
            let prefix = format!("{precision}/grad/");
            let keys: Vec<&str> = fixture
                .file
                .names()
                .filter_map(|key| key.strip_prefix(&prefix))
                .collect();
            // Every block has six norm tensors fewer than parameters because of the thirds: four more each.
            assert_eq!(parameters.len(), keys.len() + 4 * fixture.config.num_layers);
            for key in keys {
                let full = if key.starts_with("transformer.") {
                    key.to_owned()
                } else {
                    format!("transformer.{key}")
                };
                let found = fixture.published(&parameters, &full)?;
                let error = distance(&found, &fixture.expected(&format!("{prefix}{key}"))?);
                assert!(error < tolerance, "{name} {precision} {key} differs by {error:e}");
            }
        }
    }
    Ok(())
}

/// `transformer.h.0.attn.c_attn.query.lora_A.weight` is `0.query.A` in the fixture.
fn factor(parameter: &Parameter) -> String {
    let parts: Vec<&str> = parameter.name().split('.').collect();
    let place = parts.iter().position(|p| *p == "h").map_or("", |i| parts[i + 1]);
    let target = if parts.contains(&"query") { "query" } else { "value" };
    let factor = if parts.contains(&"lora_A") { "A" } else { "B" };
    format!("{place}.{target}.{factor}")
}

#[test]
fn adapters_on_the_query_and_value_thirds_equal_a_stacked_layer_at_every_rank() -> TestResult {
    adapted_models(&Device::cpu(), &PRECISIONS)
}

fn adapted_models(device: &Device, precisions: &[(DType, &str, f64)]) -> TestResult {
    let mut fixture = Fixture::open("a", 0.1)?;
    fixture.device = device.clone();
    for (dtype, precision, tolerance) in precisions.iter().copied() {
        let model = fixture.model(dtype, Some(&AdapterSettings::query_value(RANK, ALPHA)))?;
        let parameters = model.parameters();
        assert_eq!(parameters.len(), 2 * 2 * fixture.config.num_layers);
        for parameter in &parameters {
            let stored = fixture
                .file
                .tensor(&format!("lora/{}", factor(parameter)), dtype, device)?;
            parameter.value().copy_from(&stored)?;
        }
        for b in 1..=RANK {
            let place = format!("{precision}/b{b}");
            fixture.hold(&model, RankSlice::prefix(b), &place, tolerance)?;
            for parameter in &parameters {
                let key = format!("{place}/grad/lora/{}", factor(parameter));
                let error = distance(&gradient(parameter)?, &fixture.expected(&key)?);
                assert!(error < tolerance, "{key} differs by {error:e}");
            }

            // The same logits from a plain model of the merged, published weights.
            let dir = tempfile::tempdir()?;
            save_tensors(&dir.path().join("model.safetensors"), &model.merge(b)?, &[])?;
            let merged = Checkpoint::open(dir.path())?;
            let plain = Gpt2LanguageModel::new(device, dtype, &fixture.config, None, Some(&merged), 0)?;
            fixture.hold(&plain, RankSlice::full(0), &place, tolerance)?;
        }
        assert!(fixture.model(dtype, None)?.merge(1)?.len() == fixture.weights.names().count());
    }
    Ok(())
}

#[test]
fn frozen_weights_have_no_gradient_and_the_tape_keeps_none_of_them() -> TestResult {
    let fixture = Fixture::open("a", 0.1)?;
    let model = fixture.model(DType::F32, Some(&AdapterSettings::query_value(RANK, ALPHA)))?;
    // Two tables, two final norms, and a block's four norms and six layers of weight and bias.
    assert_eq!(model.frozen().count(), 4 + 16 * fixture.config.num_layers);
    let texts: Vec<(&[i32], usize)> = fixture.texts.iter().map(|(ids, n)| (ids.as_slice(), *n)).collect();
    let (inputs, targets) = CausalInputs::for_training(&Device::cpu(), &texts)?;
    let mut tape = Tape::new();
    let mut ctx = Ctx {
        tape: &mut tape,
        slice: RankSlice::prefix(2),
        dropout: None,
    };
    model.loss(&mut ctx, &inputs, &targets, 0.1, 1.0)?;
    // Nothing is recorded before the first adapter, and no logits are kept after the last layer.
    assert_eq!(tape.recorded().next(), Some(OpKind::LoraLinear));
    assert_eq!(tape.recorded().last(), Some(OpKind::LinearCrossEntropy));
    for (kind, tensor) in tape.saved() {
        assert!(tensor.width() != fixture.config.vocab_size, "{kind:?} keeps logits");
        for (name, weight) in model.frozen() {
            assert!(!tensor.shares_memory(weight), "{kind:?} keeps {name}");
        }
    }
    Ok(())
}

/// A tiny GPT-2 in f64 of which no weight has a special value.
fn random_model(dropout: f64, scale: ScaleRule, targets: Option<&[Target]>, seed: u64) -> Result<Gpt2LanguageModel> {
    let config = Gpt2Config {
        vocab_size: 19,
        max_positions: 12,
        hidden_size: 8,
        num_layers: 2,
        num_heads: 2,
        intermediate_size: 12,
        // Normalisation of only eight numbers that happen to be close would be steep; this bounds it.
        layer_norm_eps: 0.1,
        eos_token_id: 18,
        ..Gpt2Config::small()
    }
    .with_dropout(dropout);
    let settings = targets.map(|targets| AdapterSettings {
        rank: 3,
        alpha: 1.0,
        scale,
        targets: targets.to_vec(),
        dropout,
        init: AdapterInit::KaimingUniform,
    });
    let model = Gpt2LanguageModel::new(&Device::cpu(), DType::F64, &config, settings.as_ref(), None, seed)?;
    let frozen = model.frozen().map(|(name, tensor)| (name.to_owned(), tensor.clone()));
    for (place, (name, tensor)) in frozen.chain(model.named_trained()).enumerate() {
        let (centre, spread) = match name.as_str() {
            name if name.contains(".ln_") && name.ends_with("weight") => (1.0, 0.4),
            name if name.contains(".wte.") || name.contains(".wpe.") => (0.0, 1.0),
            _ => (0.0, 0.4),
        };
        let random = values(seed, place as u32, tensor.len());
        let random: Vec<f64> = random.into_iter().map(|v| centre + spread * v).collect();
        tensor.write(&random)?;
    }
    Ok(model)
}

#[test]
fn a_step_keeps_what_the_formula_says() -> TestResult {
    let (hidden, wide, heads, layers) = (8, 12, 2, 2);
    let model = random_model(0.0, ScaleRule::OverB, Some(&[Target::Query, Target::Value]), 7)?;
    for texts in [
        &[(&[1, 2, 3, 4, 18][..], 2), (&[5, 6], 1), (&[7, 8, 9], 0)][..],
        &[(&[1, 2, 3, 4, 18], 4), (&[5, 6], 1)],
    ] {
        let (inputs, targets) = CausalInputs::for_training(&Device::cpu(), texts)?;
        let (tokens, read) = (inputs.ids().len(), targets.len());
        for b in 1..=3 {
            let mut tape = Tape::new();
            let mut ctx = Ctx {
                tape: &mut tape,
                slice: RankSlice::prefix(b),
                dropout: None,
            };
            model.loss(&mut ctx, &inputs, &targets, 0.0, 1.0)?;
            // Memory that several records share counts once; row numbers are no activations.
            let mut kept: Vec<&Tensor> = Vec::new();
            for (_, tensor) in tape.saved().filter(|(_, tensor)| tensor.dtype() != DType::I32) {
                if !kept.iter().any(|other| other.shares_memory(tensor)) {
                    kept.push(tensor);
                }
            }
            // x and h of query and value (one x where all rows ask); q and context, k and v, the log-sum-exp; the two sums with
            // their means and deviations; GELU's input.
            let block = |asking: usize| {
                let x = if asking == tokens { tokens } else { asking + tokens };
                let attention = 2 * (asking + tokens) * hidden + asking * heads;
                x * hidden + (asking + tokens) * b + attention + 2 * asking * (hidden + 2) + asking * wide
            };
            let all = (layers - 1) * block(tokens) + block(read) + read * hidden;
            assert_eq!(kept.iter().map(|tensor| tensor.len()).sum::<usize>(), all, "rank {b}");
            let sums = tape.recorded().filter(|kind| *kind == OpKind::ResidualNorm).count();
            assert_eq!(sums, 2 * layers);
        }
    }
    Ok(())
}

#[test]
fn a_whole_model_matches_central_differences_in_every_mode() -> TestResult {
    let texts: [(&[i32], usize); 4] = [
        (&[1, 2, 3, 4, 18], 2),
        (&[5, 6], 1),
        (&[7, 8, 9], 0),
        (&[10, 2, 2, 11, 12, 18], 5),
    ];
    let (inputs, targets) = CausalInputs::for_training(&Device::cpu(), &texts)?;
    let weight = 1.0 / targets.len() as f64;
    let all = Target::ALL;
    let modes: [(Option<&[Target]>, Method); 4] = [
        (Some(&[Target::Query, Target::Value]), Method::DyLora),
        (Some(&[Target::Query, Target::Value]), Method::DyLoraFrozen),
        (Some(all), Method::DyLora),
        (None, Method::Full),
    ];
    for (seed, dropout, scale) in [
        (1, 0.0, ScaleRule::OverR),
        (2, 0.2, ScaleRule::OverB),
        (3, 0.2, ScaleRule::OverSqrtB),
    ] {
        for (targets_adapted, method) in modes {
            let model = random_model(dropout, scale, targets_adapted, seed)?;
            for b in 1..=if method == Method::Full { 1 } else { 3 } {
                let slice = method.slice(b, 3);
                model.slice().set(slice.clone());
                let dropout = (dropout > 0.0).then(|| Stream::new(seed, Purpose::Dropout));
                let found = gradcheck::check(&model.parameters(), seed, &mut |tape| {
                    let mut ctx = Ctx {
                        tape,
                        slice: slice.clone(),
                        dropout: dropout.map(|stream| stream.draws(3)),
                    };
                    model
                        .loss(&mut ctx, &inputs, &targets, 0.1, weight)
                        .map_err(|error| match error {
                            Error::Tensor(error) => error,
                            other => TensorError::invalid("model", other.to_string()),
                        })
                })?;
                // Tolerance and floor are those of truncation_gradients.rs.
                for derivative in found {
                    let error = derivative.relative_error(1e-4);
                    assert!(error < 1e-7, "{method}, {scale}, at {b}: {error:e} in {derivative:?}");
                }
            }
        }
    }
    Ok(())
}

#[test]
fn a_text_of_wrong_shape_is_refused() -> TestResult {
    let fixture = Fixture::open("a", 0.1)?;
    let model = fixture.model(DType::F32, None)?;
    let device = Device::cpu();
    let message = |ids: &[i32]| -> Result<String> {
        let mut tape = Tape::inference();
        let mut ctx = Ctx {
            tape: &mut tape,
            slice: RankSlice::full(0),
            dropout: None,
        };
        let inputs = CausalInputs::new(&device, &[(ids, 1)])?;
        Ok(model
            .forward(&mut ctx, &inputs)
            .err()
            .map(|e| e.to_string())
            .unwrap_or_default())
    };
    let long = message(&[1; 13])?;
    assert!(long.contains("13 is longer than the 12 positions"), "{long}");
    assert!(message(&[1, 61])?.contains("61"));
    assert!(CausalInputs::new(&device, &[(&[1, 2], 3)]).is_err());
    assert!(CausalInputs::new(&device, &[]).is_err());
    assert!(CausalInputs::for_training(&device, &[(&[1], 1)]).is_err());
    assert!(CausalInputs::for_training(&device, &[(&[1, 2], 0)]).is_err());
    Ok(())
}

#[test]
fn keys_that_do_not_fit_are_all_named() -> TestResult {
    let fixture = Fixture::open("a", 0.1)?;
    let dir = tempfile::tempdir()?;
    let mut weights = fixture.model(DType::F32, None)?.merge(0)?;
    weights.retain(|(name, _)| name != "transformer.h.1.mlp.c_fc.bias");
    for (name, tensor) in &mut weights {
        if name == "transformer.h.0.attn.c_attn.weight" {
            *tensor = Tensor::zeros(&Device::cpu(), DType::F32, &[96, 32])?;
        }
    }
    weights.push((
        "transformer.h.0.extra".to_owned(),
        Tensor::zeros(&Device::cpu(), DType::F32, &[1])?,
    ));
    save_tensors(&dir.path().join("model.safetensors"), &weights, &[])?;
    let source = Checkpoint::open(dir.path())?;
    let error = Gpt2LanguageModel::new(&Device::cpu(), DType::F32, &fixture.config, None, Some(&source), 0).err();
    let message = error.map(|error| error.to_string()).unwrap_or_default();
    for part in [
        "missing: transformer.h.1.mlp.c_fc.bias",
        "unexpected: transformer.h.0.extra",
        "transformer.h.0.attn.c_attn.weight is [96, 32], not [32, 96]",
    ] {
        assert!(message.contains(part), "{message}");
    }
    Ok(())
}

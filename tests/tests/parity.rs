//! Small random RoBERTa and BERT classifiers against transformers: logits, losses and every gradient, in f32 and f64, and
//! the same with DyLoRA adapters at every rank. Fixtures: `tests/fixtures/make_parity.py`.

use std::path::{Path, PathBuf};

use dylora_nn::autograd::ops::{self, CrossEntropy};
use dylora_nn::autograd::{RankSlice, Tape, Var};
use dylora_nn::tensor::{DType, Device, Segments, Tensor};
use dylora_nn::{
    AdapterSettings, Checkpoint, Ctx, EncoderConfig, Error, Inputs, Result, Selected, SequenceClassifier, save_tensors,
};
use dylora_tests::factor_name;

const CASES: [&str; 5] = ["roberta_a", "roberta_b", "roberta_regression", "bert_a", "bert_b"];

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/parity")
}

/// One fixture: what transformers was given and what it computed.
struct Case {
    file: Checkpoint,
    config: EncoderConfig,
    num_labels: usize,
    device: Device,
}

impl Case {
    fn open(name: &str) -> Result<Self> {
        let file = Checkpoint::open(&fixtures().join(format!("{name}.safetensors")))?;
        let config = EncoderConfig::from_file(&fixtures().join(format!("{name}.json")))?.with_dropout(0.0);
        let num_labels = file.shape("f64/logits").and_then(|s| s.last().copied()).unwrap_or(0);
        Ok(Case {
            file,
            config,
            num_labels,
            device: Device::cpu(),
        })
    }

    fn values(&self, key: &str) -> Result<Vec<f64>> {
        Ok(self.file.tensor(key, DType::F64, &self.device)?.to_f64_vec()?)
    }

    /// The weights as a checkpoint of their own, so that the real loader reads them.
    fn checkpoint(&self, dir: &Path) -> Result<Checkpoint> {
        let weights = self
            .file
            .names()
            .filter_map(|key| Some((key, key.strip_prefix("weights/")?.to_owned())))
            .map(|(key, name)| Ok((name, self.file.tensor(key, DType::F32, &self.device)?)))
            .collect::<Result<Vec<_>>>()?;
        let path = dir.join("model.safetensors");
        save_tensors(&path, &weights, &[])?;
        Checkpoint::open(&path)
    }

    fn model(&self, dtype: DType, adapter: Option<&AdapterSettings>) -> Result<SequenceClassifier> {
        let dir = tempfile::tempdir().map_err(Error::io("make", Path::new("a temporary directory")))?;
        let checkpoint = self.checkpoint(dir.path())?;
        SequenceClassifier::new(
            &self.device,
            dtype,
            &self.config,
            self.num_labels,
            adapter,
            Some(&checkpoint),
            0,
        )
    }

    fn inputs(&self) -> Result<Inputs> {
        let ids = self.file.integers("input/ids")?;
        let lengths: Vec<usize> = self
            .file
            .integers("input/lengths")?
            .iter()
            .map(|l| *l as usize)
            .collect();
        let offset = self.config.position_offset;
        let positions: Vec<i32> = lengths
            .iter()
            .flat_map(|l| (0..*l).map(|p| (p + offset) as i32))
            .collect();
        let mut first = 0;
        let mut first_rows = Vec::new();
        for length in &lengths {
            first_rows.push(first);
            first += *length as i32;
        }
        let tensor = |v: &[i32]| Tensor::from_slice(&self.device, v, &[v.len()]);
        Ok(Inputs {
            ids: tensor(&ids)?,
            positions: tensor(&positions)?,
            token_types: tensor(&self.file.integers("input/types")?)?,
            segments: Segments::new(&self.device, &lengths)?,
            first: Selected::one_each(tensor(&first_rows)?)?,
        })
    }

    /// Logits and mean loss on a tape at a rank.
    fn run(&self, model: &SequenceClassifier, dtype: DType, rank: usize) -> Result<(Tape, Var, Var)> {
        let inputs = self.inputs()?;
        let rows = inputs.segments.count();
        let mut tape = Tape::new();
        let mut ctx = Ctx {
            tape: &mut tape,
            slice: RankSlice::prefix(rank),
            dropout: None,
        };
        let logits = model.forward(&mut ctx, &inputs)?;
        let weight = 1.0 / rows as f64;
        let loss = if self.file.shape("input/labels").is_some() {
            let labels = Tensor::from_vec(&self.device, self.file.integers("input/labels")?, &[rows])?;
            let settings = CrossEntropy {
                smoothing: 0.0,
                ignore: None,
                weight,
            };
            ops::cross_entropy(&mut tape, &logits, &labels, &settings)?
        } else {
            let scores = self.file.tensor("input/scores", dtype, &self.device)?;
            ops::mse(&mut tape, &logits, &scores, weight)?
        };
        Ok((tape, logits, loss))
    }
}

/// The largest difference, relative to the largest value or 1.
fn distance(found: &[f64], expected: &[f64]) -> f64 {
    assert_eq!(found.len(), expected.len());
    let scale = expected.iter().fold(1.0f64, |m, v| m.max(v.abs()));
    found
        .iter()
        .zip(expected)
        .map(|(a, b)| (a - b).abs() / scale)
        .fold(0.0, f64::max)
}

/// The tolerances: f32 against PyTorch's f32 (some thousand roundings of 6e-8 each, of random sign), f64 against
/// its f64.
fn precisions() -> [(DType, &'static str, f64); 2] {
    [(DType::F32, "f32", 1e-5), (DType::F64, "f64", 1e-10)]
}

/// The key under which a fixture holds a parameter: `bert_b` has bare keys.
fn stored_name<'a>(case: &Case, name: &'a str) -> &'a str {
    let bare = name.strip_prefix("bert.").unwrap_or(name);
    if case.file.shape(&format!("weights/{name}")).is_some() {
        name
    } else {
        bare
    }
}

#[test]
fn logits_losses_and_every_gradient_equal_those_of_transformers() -> Result<()> {
    for name in CASES {
        let case = Case::open(name)?;
        for (dtype, precision, tolerance) in precisions() {
            let model = case.model(dtype, None)?;
            let (tape, logits, loss) = case.run(&model, dtype, 1)?;
            let error = distance(
                &logits.value().to_f64_vec()?,
                &case.values(&format!("{precision}/logits"))?,
            );
            assert!(error < tolerance, "{name} {precision}: logits differ by {error:e}");
            let error = distance(&loss.value().to_f64_vec()?, &case.values(&format!("{precision}/loss"))?);
            assert!(error < tolerance, "{name} {precision}: loss differs by {error:e}");
            tape.backward(&loss)?;
            let parameters = model.parameters();
            for parameter in &parameters {
                let key = format!("{precision}/grad/{}", stored_name(&case, parameter.name()));
                let error = distance(&parameter.grad().to_f64_vec()?, &case.values(&key)?);
                assert!(error < tolerance, "{name}: {key} differs by {error:e}");
            }
            let stored = case.file.names().filter(|k| k.starts_with("weights/")).count();
            assert_eq!(parameters.len(), stored, "{name}: every weight has a gradient");
        }
    }
    Ok(())
}

#[test]
fn adapters_equal_a_plain_pytorch_formula_at_every_rank() -> Result<()> {
    for name in ["roberta_a", "bert_a"] {
        let case = Case::open(name)?;
        for (dtype, precision, tolerance) in precisions() {
            let model = case.model(dtype, Some(&AdapterSettings::query_value(4, 8.0)))?;
            for parameter in model.adapter_parameters() {
                let key = format!("lora/{}", factor_name(&parameter));
                parameter
                    .value()
                    .copy_from(&case.file.tensor(&key, dtype, &case.device)?)?;
            }
            for b in 1..=4 {
                for parameter in model.parameters() {
                    parameter.zero_grad()?;
                }
                let (tape, logits, loss) = case.run(&model, dtype, b)?;
                let at = |what: &str| format!("{precision}/b{b}/{what}");
                let error = distance(&logits.value().to_f64_vec()?, &case.values(&at("logits"))?);
                assert!(error < tolerance, "{name} {}: {error:e}", at("logits"));
                let error = distance(&loss.value().to_f64_vec()?, &case.values(&at("loss"))?);
                assert!(error < tolerance, "{name} {}: {error:e}", at("loss"));
                tape.backward(&loss)?;
                for parameter in model.parameters() {
                    let key = match parameter.mask() {
                        Some(_) => at(&format!("grad/lora/{}", factor_name(&parameter))),
                        None => at(&format!("grad/{}", stored_name(&case, parameter.name()))),
                    };
                    let error = distance(&parameter.grad().to_f64_vec()?, &case.values(&key)?);
                    assert!(error < tolerance, "{name} {key}: {error:e}");
                }
            }
        }
    }
    Ok(())
}

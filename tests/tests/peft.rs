//! Adapters that PEFT and loralib wrote, read here, and adapters of ours, written for PEFT: logits at every rank against
//! transformers with PEFT. Fixtures: `tests/fixtures/make_peft.py`. The other direction with the real libraries, PEFT reading
//! what `dylora export` wrote, is `tests/peft/check_peft.py`, run by hand.

use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};

use dylora_nn::autograd::{RankSlice, Tape};
use dylora_nn::tensor::{DType, Device, Segments, Tensor};
use dylora_nn::{
    CausalInputs, Checkpoint, Ctx, EncoderConfig, Gpt2Config, Gpt2LanguageModel, Inputs, ScaleRule, Selected,
    SequenceClassifier, Target, save_tensors,
};
use dylora_tasks::adapter::{ExportFormat, StartingAdapter, export, inspect};
use dylora_tasks::run_dir::RunDir;
use dylora_tasks::settings::{DataSource, TrainSettings};
use dylora_tasks::task::{Head, Task};

type TestResult = Result<(), Box<dyn Error>>;

const RANK: usize = 4;
const ALPHA: f64 = 12.0;
/// Two f32 computations of logits of size 1 that sum some thousand products in another order.
const TOLERANCE: f64 = 1e-5;

enum Model {
    Encoder(Box<SequenceClassifier>),
    Gpt2(Box<Gpt2LanguageModel>),
}

struct Case {
    dir: PathBuf,
    expected: Checkpoint,
}

impl Case {
    fn open(name: &str) -> Result<Self, Box<dyn Error>> {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/peft").join(name);
        let expected = Checkpoint::open(&dir.join("expected.safetensors"))?;
        Ok(Case { dir, expected })
    }

    fn is_gpt2(&self) -> bool {
        self.dir.ends_with("gpt2")
    }

    /// Settings that nothing but an adapter has been put into.
    fn settings(&self) -> TrainSettings {
        let data = DataSource::Glue { dir: "data".into() };
        TrainSettings {
            alpha: ALPHA,
            ..TrainSettings::new("mnli", &self.dir, data)
        }
    }

    fn model(&self, weights: &Path, settings: Option<&TrainSettings>) -> Result<Model, Box<dyn Error>> {
        let adapter = settings.and_then(TrainSettings::adapter);
        let source = Checkpoint::open(weights)?;
        let (device, config) = (Device::cpu(), self.dir.join("config.json"));
        Ok(if self.is_gpt2() {
            let config = Gpt2Config::from_file(&config)?.with_dropout(0.0);
            let adapter = adapter.as_ref();
            Model::Gpt2(Box::new(Gpt2LanguageModel::new(
                &device,
                DType::F32,
                &config,
                adapter,
                Some(&source),
                3,
            )?))
        } else {
            let config = EncoderConfig::from_file(&config)?.with_dropout(0.0);
            let adapter = adapter.as_ref();
            Model::Encoder(Box::new(SequenceClassifier::new(
                &device,
                DType::F32,
                &config,
                3,
                adapter,
                Some(&source),
                3,
            )?))
        })
    }

    /// A model that starts from an adapter whose own rank, alpha and targets are taken.
    fn starting(
        &self,
        path: &Path,
        change: impl Fn(&mut TrainSettings),
    ) -> Result<(Model, TrainSettings), Box<dyn Error>> {
        let adapter = StartingAdapter::read(path, &self.dir)?;
        let mut settings = self.settings();
        adapter.suggest(&mut settings);
        change(&mut settings);
        let model = self.model(&self.dir, Some(&settings))?;
        let head = adapter.write_into(&model.trained(), &settings)?;
        assert_eq!(head, !self.is_gpt2());
        Ok((model, settings))
    }

    fn logits(&self, model: &Model, rank: usize) -> Result<Vec<f64>, Box<dyn Error>> {
        let ids = self.expected.integers("input/ids")?;
        let lengths: Vec<usize> = self
            .expected
            .integers("input/lengths")?
            .iter()
            .map(|n| *n as usize)
            .collect();
        let device = Device::cpu();
        let mut tape = Tape::inference();
        let mut ctx = Ctx {
            tape: &mut tape,
            slice: RankSlice::full(rank),
            dropout: None,
        };
        let tensor = |values: &[i32]| Tensor::from_slice(&device, values, &[values.len()]);
        Ok(match model {
            Model::Encoder(model) => {
                let offset = if self.dir.ends_with("roberta") { 2 } else { 0 };
                let positions: Vec<i32> = lengths
                    .iter()
                    .flat_map(|n| (0..*n as i32).map(|p| p + offset))
                    .collect();
                let first: Vec<i32> = lengths
                    .iter()
                    .scan(0, |start, n| {
                        let first = *start;
                        *start += *n as i32;
                        Some(first)
                    })
                    .collect();
                let inputs = Inputs {
                    ids: tensor(&ids)?,
                    positions: tensor(&positions)?,
                    token_types: tensor(&vec![0; ids.len()])?,
                    segments: Segments::new(&device, &lengths)?,
                    first: Selected::one_each(tensor(&first)?)?,
                };
                model.forward(&mut ctx, &inputs)?.value().to_f64_vec()?
            }
            Model::Gpt2(model) => {
                let mut start = 0;
                let texts: Vec<(&[i32], usize)> = lengths
                    .iter()
                    .map(|n| {
                        let text = &ids[start..start + n];
                        start += n;
                        (text, *n)
                    })
                    .collect();
                let inputs = CausalInputs::new(&device, &texts)?;
                model.forward(&mut ctx, &inputs)?.value().to_f64_vec()?
            }
        })
    }

    fn assert_logits(&self, model: &Model, rank: usize, key: &str) -> TestResult {
        let expected = self.expected.tensor(key, DType::F64, &Device::cpu())?.to_f64_vec()?;
        assert_close(&self.logits(model, rank)?, &expected, key);
        Ok(())
    }

    /// A finished run with this model.
    fn run(&self, dir: &Path, model: &Model, settings: &TrainSettings) -> TestResult {
        let run = RunDir::create(dir)?;
        let task = Task {
            name: "mnli".into(),
            head: Head::Classify(3),
            metrics: Vec::new(),
            labels: ["yes", "maybe", "no"].map(String::from).into(),
            eval_splits: Vec::new(),
        };
        if self.is_gpt2() {
            run.begin(settings, &serde_json::json!({"head": "language-model"}))?;
        } else {
            run.begin(settings, &task)?;
        }
        Ok(save_tensors(&run.adapter(), &model.trained(), &[])?)
    }
}

impl Model {
    fn trained(&self) -> Vec<(String, Tensor)> {
        match self {
            Model::Encoder(model) => model.named_trained(),
            Model::Gpt2(model) => model.named_trained(),
        }
    }
}

fn distance(found: &[f64], expected: &[f64]) -> f64 {
    assert_eq!(found.len(), expected.len());
    found
        .iter()
        .zip(expected)
        .fold(0.0, |most, (a, b)| f64::max(most, (a - b).abs()))
}

fn assert_close(found: &[f64], expected: &[f64], what: &str) {
    let most = distance(found, expected);
    assert!(most < TOLERANCE, "{what}: {most:e}");
}

#[test]
fn an_adapter_of_peft_gives_its_logits_here_at_every_rank() -> TestResult {
    for name in ["roberta", "bert", "gpt2"] {
        let case = Case::open(name)?;
        let (model, settings) = case.starting(&case.dir.join("adapter"), |_| ())?;
        assert_eq!((settings.rank, settings.alpha), (RANK, ALPHA), "{name}");
        for b in 1..=RANK {
            case.assert_logits(&model, b, &format!("b{b}/logits"))?;
        }
        let base = case
            .expected
            .tensor("base/logits", DType::F64, &Device::cpu())?
            .to_f64_vec()?;
        assert!(
            distance(&case.logits(&model, RANK)?, &base) > 0.1,
            "{name} changes nothing"
        );
        // Another alpha and room for more ranks leave the function at the adapter's own rank.
        let (model, _) = case.starting(&case.dir.join("adapter"), |settings| {
            settings.alpha = 5.0;
            settings.rank = RANK + 2;
            settings.targets = Target::ALL.to_vec();
        })?;
        case.assert_logits(&model, RANK, &format!("b{RANK}/logits"))?;
    }
    Ok(())
}

#[test]
fn a_file_of_loralib_gives_the_same() -> TestResult {
    for (name, before) in [("roberta", ""), ("bert", ""), ("gpt2", "thirds/")] {
        let case = Case::open(name)?;
        // The file says no alpha; the settings have the right one.
        let (model, settings) = case.starting(&case.dir.join("loralib.safetensors"), |_| ())?;
        assert_eq!(settings.rank, RANK);
        for b in 1..=RANK {
            case.assert_logits(&model, b, &format!("{before}b{b}/logits"))?;
        }
    }
    Ok(())
}

/// What is exported at rank b is read back as that function, and for GPT-2 it is, number by number, what PEFT computes with.
#[test]
fn an_export_at_rank_b_is_the_adapter_at_rank_b() -> TestResult {
    for name in ["roberta", "bert", "gpt2"] {
        let case = Case::open(name)?;
        let gpt2 = case.is_gpt2();
        let (adapter, before) = if gpt2 {
            ("loralib.safetensors", "thirds/")
        } else {
            ("adapter", "")
        };
        let (model, settings) = case.starting(&case.dir.join(adapter), |_| ())?;
        let dir = tempfile::tempdir()?;
        let run = dir.path().join("run");
        case.run(&run, &model, &settings)?;
        for b in 1..=RANK {
            let out = dir.path().join(format!("peft-{b}"));
            let exported = export(&run, None, &out, ExportFormat::Peft, Some(b), false)?;
            assert_eq!(exported.rank, Some(b));
            let (again, suggested) = case.starting(&out, |_| ())?;
            assert_eq!((suggested.rank, suggested.alpha), (b, ALPHA), "{name}");
            assert_eq!(suggested.targets, settings.targets, "{name}");
            case.assert_logits(&again, b, &format!("{before}b{b}/logits"))?;
            let config: serde_json::Value =
                serde_json::from_str(&fs::read_to_string(out.join("adapter_config.json"))?)?;
            let parts = if gpt2 { 2 } else { 1 };
            assert_eq!(config["r"], parts * b);
            assert_eq!(config["lora_alpha"], 12 * parts, "a whole number is written as one");
            assert_eq!(config["fan_in_fan_out"], gpt2);
            assert!(config.get("dylora").is_none());
        }
        if gpt2 {
            for b in [2, RANK] {
                let theirs = Checkpoint::open(&case.dir.join(format!("thirds-{b}/adapter_model.safetensors")))?;
                let ours = Checkpoint::open(&dir.path().join(format!("peft-{b}/adapter_model.safetensors")))?;
                let read = |file: &Checkpoint, key: &str| -> Result<Vec<f64>, Box<dyn Error>> {
                    Ok(file.tensor(key, DType::F64, &Device::cpu())?.to_f64_vec()?)
                };
                assert_eq!(ours.names().collect::<Vec<_>>(), theirs.names().collect::<Vec<_>>());
                for key in theirs.names() {
                    assert_eq!(ours.shape(key), theirs.shape(key), "{key}");
                    assert_eq!(read(&ours, key)?, read(&theirs, key)?, "{key}");
                }
            }
        }
        let all = dir.path().join("all");
        export(&run, None, &all, ExportFormat::Peft, None, true)?;
        let (again, suggested) = case.starting(&all, |_| ())?;
        assert_eq!(suggested.targets, settings.targets);
        for b in 1..=RANK {
            case.assert_logits(&again, b, &format!("{before}b{b}/logits"))?;
        }
        let config: serde_json::Value = serde_json::from_str(&fs::read_to_string(all.join("adapter_config.json"))?)?;
        assert_eq!(config["dylora"]["ranks"], serde_json::json!([1, 2, 3, 4]));
        assert_eq!(inspect(&all)?.kind, "PEFT adapter");
        assert_eq!(inspect(&run)?.facts["ranks"], "1..4");
    }
    Ok(())
}

/// With every rule PEFT's factor is that of the rank, and what is read back has the same logits at every rank that is left.
#[test]
fn an_export_keeps_the_scale_of_its_rank() -> TestResult {
    for name in ["roberta", "bert", "gpt2"] {
        let case = Case::open(name)?;
        let gpt2 = case.is_gpt2();
        for scale in ScaleRule::ALL.iter().copied() {
            let (model, settings) = case.starting(&case.dir.join("loralib.safetensors"), |settings| {
                settings.scale = scale;
            })?;
            let dir = tempfile::tempdir()?;
            let run = dir.path().join("run");
            case.run(&run, &model, &settings)?;
            let expected = (1..=RANK)
                .map(|b| case.logits(&model, b))
                .collect::<Result<Vec<_>, _>>()?;
            let check = |out: &Path, b: usize| -> TestResult {
                let what = format!("{name}, {scale}, rank {b}");
                let config: serde_json::Value =
                    serde_json::from_str(&fs::read_to_string(out.join("adapter_config.json"))?)?;
                let read = |key: &str| config[key].as_f64().ok_or(format!("{what}: no {key}"));
                let (r, rslora) = (read("r")?, config["use_rslora"] == true);
                let theirs = read("lora_alpha")? / if rslora { r.sqrt() } else { r };
                let own = scale.at(ALPHA, b, RANK);
                assert!(
                    (theirs - own).abs() <= 4.0 * f64::EPSILON * own,
                    "{what}: {theirs} is not {own}"
                );
                assert_eq!(rslora, scale == ScaleRule::OverSqrtB, "{what}");
                if !gpt2 {
                    let alpha = match scale {
                        ScaleRule::OverR => serde_json::json!(3 * b),
                        _ => serde_json::json!(12),
                    };
                    assert_eq!(
                        (&config["r"], &config["lora_alpha"]),
                        (&serde_json::json!(b), &alpha),
                        "{what}"
                    );
                }
                let (again, suggested) = case.starting(out, |_| ())?;
                assert_eq!((suggested.rank, suggested.scale), (b, scale), "{what}");
                for c in 1..=b {
                    assert_close(
                        &case.logits(&again, c)?,
                        &expected[c - 1],
                        &format!("{what}, read at {c}"),
                    );
                }
                // Another rule gives the same function at the adapter's own rank.
                let (other, _) = case.starting(out, |settings| {
                    settings.scale = ScaleRule::OverR;
                    settings.rank = RANK + 3;
                })?;
                assert_close(
                    &case.logits(&other, b)?,
                    &expected[b - 1],
                    &format!("{what}, another rule"),
                );
                Ok(())
            };
            for b in 1..=RANK {
                let out = dir.path().join(format!("peft-{b}"));
                export(&run, None, &out, ExportFormat::Peft, Some(b), false)?;
                check(&out, b)?;
                let merged = dir.path().join(format!("merged-{b}"));
                export(&run, None, &merged, ExportFormat::Merged, Some(b), false)?;
                let plain = case.model(&merged, None)?;
                assert_close(
                    &case.logits(&plain, 0)?,
                    &expected[b - 1],
                    &format!("{name}, {scale}, merged at {b}"),
                );
            }
            let all = dir.path().join("all");
            export(&run, None, &all, ExportFormat::Peft, None, true)?;
            check(&all, RANK)?;
            assert_eq!(inspect(&run)?.facts["scale"], scale.name());
            let noted = &inspect(&all)?.facts["dylora"];
            let named = (scale != ScaleRule::default()).then_some(scale.name());
            assert_eq!(noted.get("scale").and_then(|word| word.as_str()), named);
        }
    }
    Ok(())
}

#[test]
fn an_adapter_scaled_by_the_root_of_its_rank_keeps_that_rule() -> TestResult {
    let case = Case::open("roberta")?;
    let dir = tempfile::tempdir()?;
    let mut config: serde_json::Value =
        serde_json::from_str(&fs::read_to_string(case.dir.join("adapter/adapter_config.json"))?)?;
    // 6 / √4 is 12 / 4.
    config["lora_alpha"] = 6.into();
    config["use_rslora"] = true.into();
    fs::write(dir.path().join("adapter_config.json"), config.to_string())?;
    let weights = "adapter_model.safetensors";
    fs::copy(case.dir.join("adapter").join(weights), dir.path().join(weights))?;
    let (model, settings) = case.starting(dir.path(), |_| ())?;
    assert_eq!((settings.alpha, settings.scale), (6.0, ScaleRule::OverSqrtB));
    case.assert_logits(&model, RANK, &format!("b{RANK}/logits"))
}

#[test]
fn a_merged_export_is_a_model_like_any_other() -> TestResult {
    for name in ["roberta", "bert", "gpt2"] {
        let case = Case::open(name)?;
        let (model, settings) = case.starting(&case.dir.join("adapter"), |_| ())?;
        let dir = tempfile::tempdir()?;
        let run = dir.path().join("run");
        case.run(&run, &model, &settings)?;
        for b in [1, 3, RANK] {
            let out = dir.path().join(format!("merged-{b}"));
            export(&run, None, &out, ExportFormat::Merged, Some(b), false)?;
            let plain = case.model(&out, None)?;
            case.assert_logits(&plain, 0, &format!("b{b}/logits"))?;
            let config: serde_json::Value = serde_json::from_str(&fs::read_to_string(out.join("config.json"))?)?;
            if case.is_gpt2() {
                assert_eq!(config["architectures"][0], "GPT2LMHeadModel");
            } else {
                assert_eq!(config["id2label"]["1"], "maybe");
                assert_eq!(config["label2id"]["no"], 2);
            }
        }
    }
    Ok(())
}

#[test]
fn what_cannot_be_exported_or_started_from_says_why() -> TestResult {
    let case = Case::open("roberta")?;
    let (model, settings) = case.starting(&case.dir.join("adapter"), |_| ())?;
    let dir = tempfile::tempdir()?;
    let (run, out) = (dir.path().join("run"), dir.path().join("out"));
    case.run(&run, &model, &settings)?;
    let export = |rank, format, all, out: &Path| match export(&run, None, out, format, rank, all) {
        Ok(_) => String::new(),
        Err(error) => error.to_string(),
    };
    let peft = ExportFormat::Peft;
    assert_eq!(
        export(Some(0), peft, false, &out),
        "--rank: 0 is not a rank; the smallest is 1"
    );
    assert_eq!(
        export(Some(5), peft, false, &out),
        "--rank: 5 is above the run's rank 4"
    );
    assert!(export(None, ExportFormat::Merged, true, &out).starts_with("--all-ranks"));
    assert!(export(Some(2), peft, true, &out).starts_with("--all-ranks"));
    assert!(!out.exists());
    assert!(export(None, peft, false, &run).ends_with("is not empty; choose another directory"));

    let sentence = |path: &Path, settings: Option<&TrainSettings>| {
        let written = StartingAdapter::read(path, &case.dir).and_then(|adapter| {
            adapter
                .write_into(&model.trained(), settings.unwrap_or(&case.settings()))
                .map(|_| ())
        });
        written.err().map(|error| error.to_string()).unwrap_or_default()
    };
    let pickled = dir.path().join("lora.bin");
    fs::write(&pickled, b"PK\x03\x04rest")?;
    let message = sentence(&pickled, None);
    assert!(
        message.contains("is pickled") && message.contains("python -c"),
        "{message}"
    );
    assert!(sentence(dir.path(), None).contains("holds no adapter"));
    let message = sentence(&case.dir.join("expected.safetensors"), None);
    assert!(message.contains("no loralib checkpoint"), "{message}");
    let small = TrainSettings {
        rank: 3,
        ..settings.clone()
    };
    assert!(sentence(&case.dir.join("adapter"), Some(&small)).starts_with("--rank: 3 is below the rank 4"));
    let few = TrainSettings {
        targets: vec![Target::Query],
        ..settings.clone()
    };
    assert!(sentence(&case.dir.join("adapter"), Some(&few)).contains("is on value too"));
    // Of another kind of model.
    let message = sentence(&Case::open("bert")?.dir.join("adapter"), Some(&settings));
    assert!(
        message.contains("is neither a factor") || message.contains("no layer"),
        "{message}"
    );
    Ok(())
}

//! A run's adapter as a PEFT directory, or the model with the adapter merged into it.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use dylora_nn::tensor::{DType, Device, Tensor};
use dylora_nn::{
    Checkpoint, EncoderConfig, Gpt2Config, Gpt2LanguageModel, Method, ScaleRule, SequenceClassifier, save_tensors,
};
use serde::Serialize;
use serde_json::{Map, Value, json};

use super::{
    Architecture, Factors, Layer, Module, OWN_KEY, PEFT_CONFIG, PEFT_PREFIX, PEFT_WEIGHTS, PeftConfig, THIRDS,
};
use crate::error::{Error, Result};
use crate::run_dir::{MODEL_FILES, RunDir, read_json, write_json};
use crate::settings::TrainSettings;
use crate::task::{Head, Task};

/// What is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExportFormat {
    /// `adapter_config.json` and `adapter_model.safetensors`, which PEFT loads beside the base model.
    Peft,
    /// A model directory like any other: the adapter is added to the weights.
    Merged,
}

/// What [`export`] wrote.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Exported {
    /// The directory.
    pub dir: PathBuf,
    /// The files in it.
    pub files: Vec<String>,
    /// The rank; none of a run that trained every weight.
    pub rank: Option<usize>,
    /// Bytes of the weights.
    pub weight_bytes: u64,
}

/// Writes a finished run's adapter to a new directory, cut to `rank` (the largest if none is given). `all_ranks` keeps every
/// rank in one PEFT directory, which PEFT reads as an adapter of the largest rank. `base` is where the base model is now, if
/// it has moved; only [`ExportFormat::Merged`] reads its weights.
///
/// # Errors
/// If the run has not finished, the rank is not one of its own, the format does not fit the run, or `out` holds files.
pub fn export(
    run: &Path,
    base: Option<&Path>,
    out: &Path,
    format: ExportFormat,
    rank: Option<usize>,
    all_ranks: bool,
) -> Result<Exported> {
    let run = RunDir::open(run)?;
    if !run.adapter().is_file() {
        return Err(Error::file(
            run.path(),
            "has not been trained to its end; continue it with --resume",
        ));
    }
    let settings = run.settings()?;
    let source = Source {
        architecture: Architecture::of(&run.model().join("config.json"))?,
        rank: chosen(&settings, rank)?,
        // A language model's task has no classes and no such head.
        task: run.task().ok(),
        settings,
        run,
    };
    if all_ranks && format == ExportFormat::Merged {
        return Err(Error::argument("--all-ranks", "merged weights are of one rank"));
    }
    if all_ranks && rank.is_some_and(|rank| rank != source.settings.rank) {
        return Err(Error::argument("--all-ranks", "keeps every rank; leave --rank out"));
    }
    prepare(out)?;
    let written = match format {
        ExportFormat::Peft => source.peft(out, all_ranks),
        ExportFormat::Merged => source.merged(out, base),
    };
    if written.is_err() {
        // A directory that was made for nothing; one with files stays.
        let _ = fs::remove_dir(out);
    }
    let (files, weights) = written?;
    let weight_bytes = fs::metadata(out.join(weights)).map_err(Error::io("read", out))?.len();
    Ok(Exported {
        dir: out.to_owned(),
        files,
        rank: (!source.settings.method.learns_base()).then_some(source.rank),
        weight_bytes,
    })
}

/// The rank that is meant, 0 for a run that has none.
fn chosen(settings: &TrainSettings, rank: Option<usize>) -> Result<usize> {
    match (settings.method, rank) {
        (Method::Full | Method::Flop, None) => Ok(0),
        (Method::Full | Method::Flop, Some(_)) => Err(Error::argument(
            "--rank",
            "the run trained every weight; it has no ranks",
        )),
        (_, None) => Ok(settings.rank),
        (_, Some(0)) => Err(Error::argument("--rank", "0 is not a rank; the smallest is 1")),
        (_, Some(rank)) if rank > settings.rank => Err(Error::argument(
            "--rank",
            format!("{rank} is above the run's rank {}", settings.rank),
        )),
        (_, Some(rank)) => Ok(rank),
    }
}

/// A directory that is new or empty.
fn prepare(out: &Path) -> Result<()> {
    fs::create_dir_all(out).map_err(Error::io("create", out))?;
    if fs::read_dir(out).map_err(Error::io("read", out))?.next().is_some() {
        return Err(Error::file(out, "is not empty; choose another directory"));
    }
    Ok(())
}

/// A finished run.
struct Source {
    run: RunDir,
    settings: TrainSettings,
    task: Option<Task>,
    architecture: Architecture,
    rank: usize,
}

impl Source {
    fn peft(&self, out: &Path, all_ranks: bool) -> Result<(Vec<String>, &'static str)> {
        if self.settings.method.learns_base() {
            return Err(Error::argument(
                "--format",
                "the run trained every weight and has no adapter; use --format merged",
            ));
        }
        let (modules, head) = self.trained()?;
        let own = self.own(all_ranks);
        let mut config = self.config(&modules);
        let mut metadata = vec![("format".to_owned(), "pt".to_owned())];
        metadata.push((OWN_KEY.to_owned(), own.to_string()));
        if all_ranks {
            config.own = Some(own);
        }
        let mut tensors: Vec<(String, Tensor)> = Vec::new();
        for (module, dtype) in &modules {
            let (a, b) = module.stacked(self.rank).tensors(*dtype)?;
            for (factor, tensor) in [("lora_A", a), ("lora_B", b)] {
                tensors.push((format!("{PEFT_PREFIX}{}.{factor}.weight", module.name), tensor));
            }
        }
        tensors.extend(
            head.into_iter()
                .map(|(key, value)| (format!("{PEFT_PREFIX}{key}"), value)),
        );
        save_tensors(&out.join(PEFT_WEIGHTS), &tensors, &metadata)?;
        write_json(&out.join(PEFT_CONFIG), &config)?;
        Ok((vec![PEFT_CONFIG.to_owned(), PEFT_WEIGHTS.to_owned()], PEFT_WEIGHTS))
    }

    /// The run's adapters by published module, with the type of their numbers, and its head.
    #[allow(clippy::type_complexity)]
    fn trained(&self) -> Result<(Vec<(Module, DType)>, Vec<(String, Tensor)>)> {
        let path = self.run.adapter();
        let checkpoint = Checkpoint::open(&path)?;
        let wide = match self.settings.precision.dtype() {
            DType::F64 => DType::F64,
            _ => DType::F32,
        };
        let read = |key: &str| checkpoint.tensor(key, wide, &Device::cpu());
        // By number of block, so that layer 10 comes after layer 2.
        let mut modules: BTreeMap<(usize, usize), Module> = BTreeMap::new();
        let mut head = Vec::new();
        for key in checkpoint.names() {
            let Some(layer) = key.strip_suffix(".lora_A.weight") else {
                if !key.ends_with(".lora_B.weight") {
                    head.push((key.to_owned(), read(key)?));
                }
                continue;
            };
            let unknown = || Error::file(&path, format!("{layer} is no layer of this kind of model"));
            let factors =
                Factors::new(&read(key)?, &read(&format!("{layer}.lora_B.weight"))?).ok_or_else(unknown)??;
            let third = layer
                .rsplit_once('.')
                .and_then(|(stem, last)| Some((stem, THIRDS.iter().position(|(name, _)| *name == last)?)))
                .filter(|(stem, _)| matches!(self.architecture.layer(stem), Some((_, Layer::Thirds))));
            let (name, part) = third.unwrap_or((layer, 0));
            let (end, kind) = self.architecture.layer(name).ok_or_else(unknown)?;
            let layers = self.architecture.layers();
            let place = layers
                .iter()
                .position(|(known, _)| *known == end)
                .unwrap_or(layers.len());
            let block = name.split('.').find_map(|word| word.parse().ok()).unwrap_or(0);
            let module = modules.entry((block, place)).or_insert_with(|| Module {
                name: name.to_owned(),
                parts: if kind == Layer::Thirds { 3 } else { 1 },
                adapters: Vec::new(),
            });
            module.adapters.push((part, factors));
            module.adapters.sort_by_key(|(part, _)| *part);
        }
        Ok((modules.into_values().map(|module| (module, wide)).collect(), head))
    }

    /// What PEFT computes the same with: in each module its scale, `lora_alpha` over r or √r, is the run's at the rank.
    fn config(&self, modules: &[(Module, DType)]) -> PeftConfig {
        let modules: Vec<Module> = modules.iter().map(|(module, _)| module.clone()).collect();
        let TrainSettings { alpha, scale, .. } = self.settings;
        let of_parts = |parts: usize| {
            let times = match scale {
                ScaleRule::OverB => parts as f64,
                ScaleRule::OverR => (parts * self.rank) as f64 / self.settings.rank as f64,
                ScaleRule::OverSqrtB => (parts as f64).sqrt(),
            };
            (parts * self.rank, times * alpha)
        };
        let of = |module: &Module| of_parts(module.adapters.len());
        let (r, lora_alpha) = modules.first().map_or_else(|| of_parts(1), of);
        let mut config = PeftConfig {
            peft_type: "LORA".to_owned(),
            task_type: Some(
                if self.architecture == Architecture::Gpt2 {
                    "CAUSAL_LM"
                } else {
                    "SEQ_CLS"
                }
                .to_owned(),
            ),
            base_model_name_or_path: Some(self.settings.model.display().to_string()),
            r,
            lora_alpha,
            use_rslora: scale == ScaleRule::OverSqrtB,
            lora_dropout: self.settings.adapter_dropout,
            target_modules: self.architecture.target_names(&modules).into(),
            modules_to_save: Some(self.architecture.head_modules())
                .filter(|names| !names.is_empty())
                .map(|names| names.iter().map(|name| (*name).to_owned()).collect()),
            fan_in_fan_out: self.architecture == Architecture::Gpt2,
            bias: "none".to_owned(),
            init_lora_weights: Value::Bool(true),
            inference_mode: true,
            ..PeftConfig::default()
        };
        for module in &modules {
            let (rank, alpha) = of(module);
            if rank != r {
                let names = self.architecture.target_names(std::slice::from_ref(module));
                for name in names {
                    config.rank_pattern.insert(name.clone(), rank);
                    config.alpha_pattern.insert(name, alpha);
                }
            }
        }
        config
    }

    /// What PEFT has no place for.
    fn own(&self, all_ranks: bool) -> Value {
        let first = if all_ranks { self.settings.rank_min } else { self.rank };
        let mut own = json!({
            "method": self.settings.method,
            "task": self.settings.task,
            "ranks": (first..=self.rank).collect::<Vec<_>>(),
            "alpha": self.settings.alpha,
            "targets": self.settings.targets,
            "labels": self.task.as_ref().map(|task| &task.labels),
        });
        if self.settings.scale != ScaleRule::default() {
            own["scale"] = json!(self.settings.scale);
        }
        own
    }

    fn merged(&self, out: &Path, base: Option<&Path>) -> Result<(Vec<String>, &'static str)> {
        const WEIGHTS: &str = "model.safetensors";
        let directory = self.run.model();
        let config_path = directory.join("config.json");
        let (device, settings) = (Device::cpu(), &self.settings);
        let adapter = settings.adapter();
        // A fine-tuned run holds every weight itself.
        let source = match adapter {
            Some(_) => Some(Checkpoint::map(&settings.base(base)?)?),
            None => None,
        };
        let trained = Checkpoint::open(&self.run.adapter())?;
        let tensors = if self.architecture == Architecture::Gpt2 {
            let config = Gpt2Config::from_file(&config_path)?;
            let model = Gpt2LanguageModel::new(&device, DType::F32, &config, adapter.as_ref(), source.as_ref(), 0)?;
            model.load_trained(&trained, &[])?;
            model.merge(self.rank)?
        } else {
            let config = EncoderConfig::from_file(&config_path)?;
            let labels = self.head()?.num_labels();
            let (source, dtype) = (source.as_ref(), DType::F32);
            let model = match settings.flop() {
                Some(flop) => SequenceClassifier::factorised(&device, dtype, &config, labels, &flop, source, 0)?,
                None => SequenceClassifier::new(&device, dtype, &config, labels, adapter.as_ref(), source, 0)?,
            };
            model.load_trained(&trained, &[])?;
            model.merge(self.rank)?
        };
        let mut files = vec![WEIGHTS.to_owned()];
        save_tensors(&out.join(WEIGHTS), &tensors, &[("format".to_owned(), "pt".to_owned())])?;
        for name in MODEL_FILES {
            let from = directory.join(name);
            if name == "config.json" {
                write_json(&out.join(name), &self.model_config(&from)?)?;
            } else if from.is_file() {
                fs::copy(&from, out.join(name)).map_err(Error::io("write", &out.join(name)))?;
            } else {
                continue;
            }
            files.push(name.to_owned());
        }
        Ok((files, WEIGHTS))
    }

    fn head(&self) -> Result<Head> {
        match &self.task {
            Some(task) => Ok(task.head),
            None => Ok(self.run.task()?.head),
        }
    }

    /// The base model's configuration with the head that the run gave it.
    fn model_config(&self, path: &Path) -> Result<Map<String, Value>> {
        let mut config: Map<String, Value> = read_json(path)?;
        let model_type = config.get("model_type").and_then(Value::as_str).unwrap_or_default();
        let class = match model_type {
            "bert" => "BertForSequenceClassification",
            "xlm-roberta" => "XLMRobertaForSequenceClassification",
            "camembert" => "CamembertForSequenceClassification",
            "gpt2" => "GPT2LMHeadModel",
            _ => "RobertaForSequenceClassification",
        };
        config.insert("architectures".to_owned(), json!([class]));
        // Older readers know the first name only, newer ones prefer the second.
        for name in ["torch_dtype", "dtype"] {
            config.insert(name.to_owned(), json!("float32"));
        }
        if self.architecture != Architecture::Gpt2 {
            let head = self.head()?;
            let names: Vec<String> = match (head, &self.task) {
                (Head::Classify(_), Some(task)) => task.labels.clone(),
                _ => vec!["score".to_owned()],
            };
            let by_id: Map<String, Value> = names
                .iter()
                .enumerate()
                .map(|(id, name)| (id.to_string(), json!(name)))
                .collect();
            let by_name: Map<String, Value> = names
                .iter()
                .enumerate()
                .map(|(id, name)| (name.clone(), json!(id)))
                .collect();
            config.insert("id2label".to_owned(), Value::Object(by_id));
            config.insert("label2id".to_owned(), Value::Object(by_name));
            let kind = match head {
                Head::Classify(_) => "single_label_classification",
                Head::Regress => "regression",
            };
            config.insert("problem_type".to_owned(), json!(kind));
        }
        Ok(config)
    }
}

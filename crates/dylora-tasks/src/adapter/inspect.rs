//! What is in a run, a model directory, an adapter or a checkpoint.

use std::path::{Path, PathBuf};

use dylora_nn::{Checkpoint, Method};
use serde::Serialize;
use serde_json::{Map, Value, json};

use super::{Architecture, OWN_KEY, PEFT_CONFIG, PEFT_WEIGHTS, PeftConfig};
use crate::checkpoint;
use crate::error::{Error, Result};
use crate::run_dir::{RunDir, read_json};

/// What [`inspect`] found.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Contents {
    /// `run`, `model`, `PEFT adapter`, `loralib adapter` or `tensors`.
    pub kind: &'static str,
    /// What is known about it, in the order to print it in.
    pub facts: Map<String, Value>,
    /// Its tensors by name, blocks taken together.
    pub tensors: Vec<TensorKind>,
}

/// Tensors whose names differ in the number of their block.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TensorKind {
    /// The name with `*` for the block's number.
    pub name: String,
    /// How many there are.
    pub count: usize,
    /// Dimensions.
    pub shape: Vec<usize>,
    /// Type of the elements, as safetensors writes it.
    pub dtype: String,
    /// Bytes of all of them.
    pub bytes: usize,
}

/// Looks at a run's directory, a model's directory, a PEFT directory or a safetensors file. No tensor is read.
///
/// # Errors
/// If nothing of that kind is there, or it is damaged.
pub fn inspect(path: &Path) -> Result<Contents> {
    if path.join("settings.json").is_file() {
        return run(path);
    }
    if path.join(PEFT_CONFIG).is_file() {
        return peft(path);
    }
    if path.is_dir() && !path.join("config.json").is_file() {
        return Err(Error::file(
            path,
            format!("holds no run (settings.json), model (config.json) or PEFT adapter ({PEFT_CONFIG})"),
        ));
    }
    if path.is_dir() {
        return model(path);
    }
    let file = Checkpoint::open(path)?;
    let mut facts = Map::new();
    for (key, text) in file.metadata() {
        facts.insert(key.clone(), serde_json::from_str(text).unwrap_or_else(|_| json!(text)));
    }
    let is_loralib = file.names().any(|name| name.ends_with(".lora_A"));
    Ok(with_tensors(
        if is_loralib { "loralib adapter" } else { "tensors" },
        facts,
        &file,
    ))
}

fn run(path: &Path) -> Result<Contents> {
    let run = RunDir::open(path)?;
    let settings = run.settings()?;
    let mut facts = Map::new();
    let mut fact = |name: &str, value: Value| {
        facts.insert(name.to_owned(), value);
    };
    fact("task", json!(settings.task));
    if let Ok(task) = run.task() {
        fact("head", json!(task.head));
        fact("labels", json!(task.labels));
    }
    fact("method", json!(settings.method));
    if !settings.method.learns_base() {
        fact("ranks", json!(format!("{}..{}", settings.rank_min, settings.rank)));
        fact("alpha", json!(settings.alpha));
        fact("scale", json!(settings.scale));
        fact("targets", json!(settings.targets));
    }
    if settings.method == Method::Flop {
        fact("target sparsity", json!(settings.target_sparsity));
    }
    fact("base model", json!(settings.model));
    fact(
        "base model is there",
        json!(settings.model.join("config.json").is_file()),
    );
    if run.is_finished() {
        let record = run.record()?;
        fact("state", json!("finished"));
        fact("steps", json!(record.steps));
        fact("training rows", json!(record.train_rows));
        if settings.method == Method::Flop {
            fact("remaining parameters", json!(record.trainable.first()));
        }
        for row in &record.ranks {
            fact(&format!("rank {}", row.rank), json!(row.scores));
        }
    } else {
        let steps = checkpoint::steps_done(&run.checkpoint())?;
        fact(
            "state",
            json!(format!("stopped after step {steps}; go on with train --resume")),
        );
    }
    let weights = [run.adapter(), run.checkpoint()]
        .into_iter()
        .find(|file| file.is_file());
    match weights {
        Some(file) => Ok(with_tensors("run", facts, &Checkpoint::open(&file)?)),
        None => Ok(Contents {
            kind: "run",
            facts,
            tensors: Vec::new(),
        }),
    }
}

fn peft(path: &Path) -> Result<Contents> {
    let config: PeftConfig = read_json(&path.join(PEFT_CONFIG))?;
    let mut facts = Map::new();
    let mut fact = |name: &str, value: Value| {
        facts.insert(name.to_owned(), value);
    };
    fact("kind", json!(config.peft_type));
    fact("task_type", json!(config.task_type));
    fact("base model", json!(config.base_model_name_or_path));
    fact("r", json!(config.r));
    fact("lora_alpha", json!(config.lora_alpha));
    if config.use_rslora {
        fact("use_rslora", json!(true));
    }
    fact("target_modules", config.target_modules.clone());
    fact("modules_to_save", json!(config.modules_to_save));
    if let Err(error) = PeftConfig::read(&path.join(PEFT_CONFIG)) {
        fact("not usable here", json!(error.to_string()));
    }
    let weights: PathBuf = path.join(PEFT_WEIGHTS);
    if !weights.is_file() {
        return Err(Error::file(path, format!("holds no {PEFT_WEIGHTS}")));
    }
    let file = Checkpoint::open(&weights)?;
    if let Some(own) = file.note(OWN_KEY) {
        fact(OWN_KEY, serde_json::from_str(&own).unwrap_or(Value::String(own)));
    }
    Ok(with_tensors("PEFT adapter", facts, &file))
}

fn model(path: &Path) -> Result<Contents> {
    let config: Map<String, Value> = read_json(&path.join("config.json"))?;
    let mut facts = Map::new();
    const SHOWN: [&str; 14] = [
        "model_type",
        "architectures",
        "hidden_size",
        "n_embd",
        "num_hidden_layers",
        "n_layer",
        "num_attention_heads",
        "n_head",
        "intermediate_size",
        "vocab_size",
        "max_position_embeddings",
        "n_positions",
        "id2label",
        "problem_type",
    ];
    for name in SHOWN {
        if let Some(value) = config.get(name) {
            facts.insert(name.to_owned(), value.clone());
        }
    }
    let supported = Architecture::of(&path.join("config.json"));
    facts.insert(
        "usable as --model".to_owned(),
        supported.map_or_else(|error| json!(error.to_string()), |_| json!(true)),
    );
    Ok(with_tensors("model", facts, &Checkpoint::open(path)?))
}

fn with_tensors(kind: &'static str, mut facts: Map<String, Value>, file: &Checkpoint) -> Contents {
    let mut kinds: Vec<TensorKind> = Vec::new();
    let (mut count, mut numbers, mut bytes) = (0, 0, 0);
    for name in file.names() {
        let (Some(shape), Some((dtype, size))) = (file.shape(name), file.stored_as(name)) else {
            continue;
        };
        let words = name
            .split('.')
            .map(|word| if word.parse::<usize>().is_ok() { "*" } else { word });
        let pattern = words.collect::<Vec<_>>().join(".");
        count += 1;
        numbers += shape.iter().product::<usize>();
        bytes += size;
        match kinds
            .iter_mut()
            .find(|k| k.name == pattern && k.shape == shape && k.dtype == dtype)
        {
            Some(kind) => {
                kind.count += 1;
                kind.bytes += size;
            }
            None => kinds.push(TensorKind {
                name: pattern,
                count: 1,
                shape: shape.to_vec(),
                dtype,
                bytes: size,
            }),
        }
    }
    for (name, value) in [("tensors", count), ("numbers", numbers), ("bytes", bytes)] {
        facts.insert(name.to_owned(), json!(value));
    }
    Contents {
        kind,
        facts,
        tensors: kinds,
    }
}

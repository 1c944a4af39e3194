//! Settings of a training run: every number that decides its result, in one struct that the run directory keeps.

mod flop;
#[cfg(test)]
mod tests;
mod writing;

use std::path::{Path, PathBuf};
use std::str::FromStr;

use dylora_nn::{
    AdapterInit, AdapterSettings, Distribution, FlopSettings, Method, Objective, RankSampler, ScaleRule, Target, Update,
};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::error::{Error, Result};
use crate::generation::GenerationTask;
use crate::tabular::Columns;

pub use writing::Writing;

/// Precision of weights, activations and gradients.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// 32-bit floats.
    F32,
    /// 64-bit floats: slower, for comparisons; on the CPU only.
    F64,
    /// 32-bit floats whose matrix products round their inputs to 10 bits of mantissa; on a GPU only.
    Tf32,
    /// Frozen weights and activations in bfloat16, what learns in f32; on a GPU only.
    Bf16,
}

/// Which published form of AdamW moves the weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Optimizer {
    /// `torch.optim.AdamW`: decay before the update, epsilon inside the bias correction.
    Torch,
    /// `transformers` 4's `AdamW`, which the paper's scripts used: decay after the update, epsilon outside.
    HuggingFace4,
}

impl Precision {
    /// The precision itself, or tf32 for bf16 where a method learns every weight: bf16 needs a frozen base.
    pub fn that_learns(self, method: Method) -> Self {
        match (self, method) {
            (Precision::Bf16, method) if method.learns_base() => Precision::Tf32,
            _ => self,
        }
    }
}

impl FromStr for Precision {
    type Err = Error;

    fn from_str(word: &str) -> Result<Self> {
        match word {
            "f32" => Ok(Precision::F32),
            "f64" => Ok(Precision::F64),
            "tf32" => Ok(Precision::Tf32),
            "bf16" => Ok(Precision::Bf16),
            _ => Err(Error::argument(
                "--precision",
                format!("{word:?} is not f32, f64, tf32 or bf16"),
            )),
        }
    }
}

impl FromStr for Optimizer {
    type Err = Error;

    fn from_str(word: &str) -> Result<Self> {
        match word {
            "torch" => Ok(Optimizer::Torch),
            "huggingface4" => Ok(Optimizer::HuggingFace4),
            _ => Err(Error::argument(
                "--optimizer",
                format!("{word:?} is not torch or huggingface4"),
            )),
        }
    }
}

/// Where the texts come from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase", deny_unknown_fields)]
pub enum DataSource {
    /// The folder that holds `CoLA/`, `MRPC/`, ... as the GLUE download lays them out.
    Glue {
        /// The folder.
        dir: PathBuf,
    },
    /// A user's own csv, tsv or jsonl files (the task name says which).
    Files {
        /// Rows to learn from.
        train: PathBuf,
        /// Rows to evaluate on.
        dev: PathBuf,
        /// Which columns hold what.
        columns: Columns,
    },
    /// The folder that holds `e2e/`, `dart/` or `webnlg_challenge_2017/`, or is it, for a language model.
    Generation {
        /// The folder.
        dir: PathBuf,
    },
    /// Two jsonl files with contexts and completions, for a language model.
    Pairs {
        /// Pairs to learn from.
        train: PathBuf,
        /// Pairs to measure the loss on.
        dev: PathBuf,
    },
}

impl DataSource {
    /// Whether it gives pairs of texts for a language model, not rows with labels for an encoder.
    pub fn is_text(&self) -> bool {
        match self {
            DataSource::Glue { .. } | DataSource::Files { .. } => false,
            DataSource::Generation { .. } | DataSource::Pairs { .. } => true,
        }
    }
}

/// Everything that decides the bits of a run. Defaults ([`TrainSettings::new`]) are the paper's Table 8 for GLUE.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrainSettings {
    /// Lower-case name of a GLUE task or a generation task, or `csv`, `tsv`, `jsonl`, `text` for own files.
    pub task: String,
    /// Directory with the pretrained encoder in Hugging Face's layout.
    pub model: PathBuf,
    /// Where the texts come from.
    pub data: DataSource,
    /// The PEFT directory or loralib file that adapters, and a head that fits, start from; new ones if there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub initial_adapter: Option<PathBuf>,
    /// `lora`, `dylora`, `dylora-frozen`, `full` or `flop`.
    pub method: Method,
    /// Largest rank `r` of the adapters.
    pub rank: usize,
    /// Smallest rank that training draws.
    pub rank_min: usize,
    /// Numerator of the adapters' scale.
    pub alpha: f64,
    /// The adapters' scale at each rank; not written where it is `alpha/b`, the paper's.
    #[serde(default, skip_serializing_if = "is_default")]
    pub scale: ScaleRule,
    /// Linear layers that get an adapter.
    pub targets: Vec<Target>,
    /// How adapters start.
    pub adapter_init: AdapterInit,
    /// Dropout on the input of the adapters.
    pub adapter_dropout: f64,
    /// How training draws a rank.
    pub distribution: Distribution,
    /// Of `flop`: the share of the numbers of the encoder's linear layers that is to be gone at the end. This and the four
    /// below are not written where they have their defaults.
    #[serde(default = "flop::sparsity", skip_serializing_if = "flop::is_sparsity")]
    pub target_sparsity: f64,
    /// Of `flop`: the share of all steps over which the target rises, from that of all components.
    #[serde(default = "flop::warmup", skip_serializing_if = "flop::is_warmup")]
    pub sparsity_warmup: f64,
    /// Of `flop`: gates start around log alpha = ln((1 - x) / x).
    #[serde(default = "flop::init", skip_serializing_if = "flop::is_init")]
    pub gate_init: f64,
    /// Of `flop`: learning rate of the gates; `None` is 40 over the number of steps.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gate_lr: Option<f64>,
    /// Of `flop`: rate at which the penalty's multipliers rise; `None` is 12 over the number of steps.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lambda_lr: Option<f64>,
    /// Whether the optimizer moves only the slice that was used, or the whole matrices.
    pub update: Update,
    /// One rank per step, or all ranks in every step.
    pub objective: Objective,
    /// Form of AdamW.
    pub optimizer: Optimizer,
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// Added to the root of the second moment.
    pub epsilon: f64,
    /// Decoupled decay of everything but biases and layer norms.
    pub weight_decay: f64,
    /// Peak learning rate.
    pub lr: f64,
    /// Share of all steps over which the learning rate rises; rounded up to whole steps.
    pub warmup_ratio: f64,
    /// Steps over which the learning rate rises; replaces `warmup_ratio`.
    pub warmup_steps: Option<u64>,
    /// Largest norm of all gradients together; 0 switches clipping off.
    pub clip: f64,
    /// Passes over the training rows.
    pub epochs: u32,
    /// Rows per optimizer step; the last step of an epoch takes what is left.
    pub batch_size: usize,
    /// Most tokens of one forward pass: a batch with more is split and its gradients are summed. Part of the settings
    /// because the order of a floating-point sum shows in the last bit.
    pub token_budget: usize,
    /// Most tokens of one row, special tokens included; the model's own limit applies too.
    pub max_length: usize,
    /// Only the first so many training rows.
    pub max_train_rows: Option<usize>,
    /// Dropout of hidden states and attention; `None` keeps the model's own configuration.
    pub dropout: Option<f64>,
    /// Share of each target that a language model's loss spreads over the vocabulary; 0, and not written, for classifiers.
    #[serde(default, skip_serializing_if = "is_default")]
    pub label_smoothing: f64,
    /// The texts that a run of a generation task is judged by; without it the loss on the dev split is its measure.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub writing: Option<Writing>,
    /// The ranks that are evaluated at the end, rising; `None`, and not written, for all of `rank_min..=rank`. Of no
    /// consequence to `full`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub eval_ranks: Option<Vec<usize>>,
    /// Seed of every random stream.
    pub seed: u64,
    /// Precision of weights and activations.
    pub precision: Precision,
}

/// `name = value` for a flag of this name; nothing for a setting that keeps its default.
pub(crate) fn toml_line(name: &str, value: &Value) -> Option<String> {
    let text = match value {
        Value::Null => return None,
        // Larger than TOML's integers.
        Value::Number(number) if number.as_i64().is_none() && number.is_u64() => format!("\"{number}\""),
        // JSON's strings, numbers and lists of strings are TOML's too.
        other => other.to_string(),
    };
    Some(format!("{} = {text}", name.replace('_', "-")))
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

impl TrainSettings {
    /// Table 8's settings for GLUE, with this library's defaults where the table is silent: `slice` updates, AdamW as
    /// PyTorch has it, seed 10.
    pub fn new(task: &str, model: &Path, data: DataSource) -> Self {
        TrainSettings {
            task: task.to_owned(),
            model: model.to_owned(),
            data,
            initial_adapter: None,
            method: Method::DyLora,
            rank: 8,
            rank_min: 1,
            alpha: 16.0,
            scale: ScaleRule::OverB,
            targets: vec![Target::Query, Target::Value],
            adapter_init: AdapterInit::KaimingUniform,
            adapter_dropout: 0.0,
            distribution: Distribution::Uniform,
            target_sparsity: flop::SPARSITY,
            sparsity_warmup: flop::WARMUP,
            gate_init: flop::INIT,
            gate_lr: None,
            lambda_lr: None,
            update: Update::Slice,
            objective: Objective::Individual,
            optimizer: Optimizer::Torch,
            beta1: 0.9,
            beta2: 0.999,
            epsilon: 1e-8,
            weight_decay: 0.1,
            lr: 4e-4,
            warmup_ratio: 0.06,
            warmup_steps: None,
            clip: 1.0,
            epochs: 30,
            batch_size: 32,
            token_budget: 8192,
            max_length: 512,
            max_train_rows: None,
            dropout: None,
            label_smoothing: 0.0,
            writing: None,
            eval_ranks: None,
            seed: 10,
            precision: crate::device::default_precision(),
        }
    }

    /// The recipe behind the paper's numbers: as [`TrainSettings::new`], with the optimizer of the released code, which
    /// walks over whole matrices (`dense`) in the form of `transformers` 4.
    pub fn paper(task: &str, model: &Path, data: DataSource) -> Self {
        TrainSettings {
            update: Update::Dense,
            optimizer: Optimizer::HuggingFace4,
            ..Self::new(task, model, data)
        }
    }

    /// Table 8's settings for text generation with GPT-2.
    pub fn text(model: &Path, train: &Path, dev: &Path) -> Self {
        let data = DataSource::Pairs {
            train: train.to_owned(),
            dev: dev.to_owned(),
        };
        TrainSettings {
            rank: 4,
            alpha: 32.0,
            adapter_dropout: 0.1,
            weight_decay: 0.01,
            lr: 2e-4,
            warmup_steps: Some(500),
            clip: 0.0,
            epochs: 5,
            batch_size: 8,
            label_smoothing: 0.1,
            ..Self::new(crate::text2text::TASK, model, data)
        }
    }

    /// Table 8's settings for a generation task whose official files are in `dir`. A run is measured by its loss on the dev
    /// split; [`TrainSettings::writing`] has it write instead.
    pub fn generation(task: GenerationTask, model: &Path, dir: &Path) -> Self {
        TrainSettings {
            task: task.name().to_owned(),
            data: DataSource::Generation { dir: dir.to_owned() },
            ..Self::text(model, dir, dir)
        }
    }

    /// The recipe behind the paper's numbers for generation: as [`TrainSettings::generation`], judged by the texts of
    /// [`Writing::paper`], with the optimizer of the released code (see [`TrainSettings::paper`]).
    pub fn paper_generation(task: GenerationTask, model: &Path, dir: &Path) -> Self {
        TrainSettings {
            update: Update::Dense,
            optimizer: Optimizer::HuggingFace4,
            writing: Some(Writing::paper()),
            ..Self::generation(task, model, dir)
        }
    }

    /// Checks what can be checked without a file.
    ///
    /// # Errors
    /// One sentence that names the setting.
    pub fn validate(&self) -> Result<()> {
        let check = |ok: bool, flag: &str, message: String| {
            if ok {
                Ok(())
            } else {
                Err(Error::argument(format!("--{flag}"), message))
            }
        };
        let finite = |flag: &str, value: f64| {
            check(
                value.is_finite() && value >= 0.0,
                flag,
                format!("{value} is not a number of 0 or more"),
            )
        };
        let share =
            |flag: &str, value: f64| check((0.0..1.0).contains(&value), flag, format!("{value} is not in 0..1"));
        if !self.method.learns_base() {
            check(self.rank >= 1, "rank", "0 is not a rank; the smallest is 1".into())?;
            check(
                self.rank_min >= 1,
                "rank-min",
                "0 is not a rank; the smallest is 1".into(),
            )?;
            check(
                self.rank_min <= self.rank,
                "rank-min",
                format!("{} is above the rank {}", self.rank_min, self.rank),
            )?;
            check(!self.targets.is_empty(), "targets", "no layer is named".into())?;
            for (index, target) in self.targets.iter().enumerate() {
                check(
                    !self.targets[..index].contains(target),
                    "targets",
                    format!("{target} is named twice"),
                )?;
            }
            self.sampler()?;
            check(
                self.alpha.is_finite() && self.alpha > 0.0,
                "alpha",
                format!("{} is not a number above 0", self.alpha),
            )?;
            share("adapter-dropout", self.adapter_dropout)?;
            self.check_eval_ranks()?;
        }
        if self.method == Method::Flop {
            check(
                !self.data.is_text(),
                "method",
                "flop prunes an encoder; a language model takes lora, dylora, dylora-frozen or full".into(),
            )?;
            check(
                self.gate_init > 0.0 && self.gate_init < 1.0,
                "gate-init",
                format!("{} is not between 0 and 1", self.gate_init),
            )?;
            share("target-sparsity", self.target_sparsity)?;
            check(
                (0.0..=1.0).contains(&self.sparsity_warmup),
                "sparsity-warmup",
                format!("{} is not in 0..=1", self.sparsity_warmup),
            )?;
            finite("gate-lr", self.gate_lr.unwrap_or(0.0))?;
            finite("lambda-lr", self.lambda_lr.unwrap_or(0.0))?;
        }
        check(self.epochs >= 1, "epochs", "0 epochs train nothing".into())?;
        check(self.batch_size >= 1, "batch-size", "0 rows a step train nothing".into())?;
        check(self.token_budget >= 1, "token-budget", "0 tokens hold no row".into())?;
        check(self.max_length >= 1, "max-length", "0 tokens hold no text".into())?;
        check(
            self.max_train_rows != Some(0),
            "max-train-rows",
            "0 rows train nothing".into(),
        )?;
        finite("lr", self.lr)?;
        finite("weight-decay", self.weight_decay)?;
        finite("clip", self.clip)?;
        share("beta1", self.beta1)?;
        share("beta2", self.beta2)?;
        finite("epsilon", self.epsilon)?;
        share("label-smoothing", self.label_smoothing)?;
        check(
            (0.0..=1.0).contains(&self.warmup_ratio),
            "warmup-ratio",
            format!("{} is not in 0..=1", self.warmup_ratio),
        )?;
        if let Some(dropout) = self.dropout {
            share("dropout", dropout)?;
        }
        if let Some(writing) = &self.writing {
            check(
                matches!(self.data, DataSource::Generation { .. }),
                "task",
                format!("{} has no prompts and references to write texts for", self.task),
            )?;
            writing.validate(self.max_length)?;
        }
        Ok(())
    }

    fn check_eval_ranks(&self) -> Result<()> {
        let Some(ranks) = &self.eval_ranks else { return Ok(()) };
        let fail = |message: String| Err(Error::argument("--eval-ranks", message));
        if ranks.is_empty() {
            return fail("no rank is named".to_owned());
        }
        if let Some(rank) = ranks.iter().find(|rank| !(self.rank_min..=self.rank).contains(rank)) {
            return fail(format!("{rank} is not in {}..={}", self.rank_min, self.rank));
        }
        match ranks.windows(2).find(|pair| pair[0] >= pair[1]) {
            Some(pair) => fail(format!("{} stands before {}; ranks rise", pair[0], pair[1])),
            None => Ok(()),
        }
    }

    /// Where the base model's weights are: in `moved`, if somebody says so, else where training read them.
    ///
    /// # Errors
    /// If there is no such directory.
    pub fn base(&self, moved: Option<&Path>) -> Result<PathBuf> {
        let dir = moved.unwrap_or(&self.model);
        if !dir.exists() {
            return Err(Error::argument(
                "--model",
                format!("the base model is not in {}; say where it is", dir.display()),
            ));
        }
        Ok(dir.to_owned())
    }

    /// The text of a file for `dylora train --config` that repeats a run: a flag's name and its value on each line.
    pub fn to_toml(&self) -> String {
        let mut lines = vec!["# dylora train --config THIS_FILE --out NEW_RUN".to_owned()];
        let mut line = |name: &str, value: &Value| lines.extend(toml_line(name, value));
        let Ok(Value::Object(fields)) = serde_json::to_value(self) else {
            return String::new();
        };
        for (name, value) in &fields {
            match (name.as_str(), value) {
                ("data", Value::Object(source)) => {
                    for (name, value) in source {
                        match name.as_str() {
                            "kind" => {}
                            "dir" => line("data", value),
                            "columns" => {}
                            other => line(other, value),
                        }
                    }
                }
                ("initial_adapter", path) => line("adapter", path),
                // What is written once a run is trained is `eval`'s matter.
                ("label_smoothing" | "writing", _) => {}
                (name, value) => line(name, value),
            }
        }
        if let DataSource::Files { columns, .. } = &self.data {
            let texts: Vec<&str> = std::iter::once(&columns.text_a)
                .chain(&columns.text_b)
                .map(String::as_str)
                .collect();
            line("text", &texts.join(",").into());
            line("label", &columns.label.clone().into());
            line("regression", &columns.regression.into());
        }
        // 0 is not the default of every task, and is not among the fields.
        line("label_smoothing", &self.label_smoothing.into());
        lines.push(String::new());
        lines.join("\n")
    }

    /// Draws ranks as these settings say.
    ///
    /// # Errors
    /// If the distribution has no rank in `rank_min..=rank`.
    pub fn sampler(&self) -> Result<RankSampler> {
        Ok(RankSampler::new(self.distribution, self.rank_min, self.rank)?)
    }

    /// How a factorised model starts; none but for `flop`.
    pub fn flop(&self) -> Option<FlopSettings> {
        (self.method == Method::Flop).then_some(FlopSettings {
            gate_init: self.gate_init,
        })
    }

    /// The rates of `flop`'s gates and multipliers in a run of `total` steps.
    pub fn gate_rates(&self, total: u64) -> (f64, f64) {
        let over = |distance: f64| distance / total.max(1) as f64;
        (
            self.gate_lr.unwrap_or_else(|| over(flop::GATE_RATE)),
            self.lambda_lr.unwrap_or_else(|| over(flop::LAMBDA_RATE)),
        )
    }

    /// The adapters' settings; none for `full` and `flop`.
    pub fn adapter(&self) -> Option<AdapterSettings> {
        (!self.method.learns_base()).then(|| AdapterSettings {
            rank: self.rank,
            alpha: self.alpha,
            scale: self.scale,
            targets: self.targets.clone(),
            dropout: self.adapter_dropout,
            init: self.adapter_init,
        })
    }

    /// Ranks that a run of these settings is evaluated at; `None` stands for `full` and `flop`, which have no rank.
    pub fn ranks(&self) -> Vec<Option<usize>> {
        match self.method.learns_base() {
            true => vec![None],
            false => match &self.eval_ranks {
                Some(ranks) => ranks.iter().copied().map(Some).collect(),
                None => (self.rank_min..=self.rank).map(Some).collect(),
            },
        }
    }

    /// Warm-up steps of `total`, as `transformers` counts them: the given number, or the share rounded up.
    pub fn warmup(&self, total: u64) -> u64 {
        self.warmup_steps
            .unwrap_or_else(|| (total as f64 * self.warmup_ratio).ceil() as u64)
    }

    /// The first setting in which two runs differ: its name, its value here and there, as JSON.
    pub fn difference(&self, other: &TrainSettings) -> Option<(String, String, String)> {
        first_difference(self, other)
    }
}

/// The first field in which two settings of one type differ: its name, its value in each, as JSON.
pub(crate) fn first_difference<T: Serialize>(ours: &T, theirs: &T) -> Option<(String, String, String)> {
    let (Ok(serde_json::Value::Object(ours)), Ok(serde_json::Value::Object(theirs))) =
        (serde_json::to_value(ours), serde_json::to_value(theirs))
    else {
        return None;
    };
    // A field that is not written, because it has its default, is null here.
    let value = |of: &serde_json::Map<String, serde_json::Value>, name: &str| {
        of.get(name).cloned().unwrap_or(serde_json::Value::Null)
    };
    let names = ours.keys().chain(theirs.keys());
    names
        .map(|name| (name.clone(), value(&ours, name), value(&theirs, name)))
        .find(|(_, ours, theirs)| ours != theirs)
        .map(|(name, ours, theirs)| (name, ours.to_string(), theirs.to_string()))
}

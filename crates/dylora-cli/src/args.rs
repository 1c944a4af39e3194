//! Flags that several commands share.

use std::fmt::Display;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use dylora_tasks::device::{self, DeviceChoice};
use dylora_tasks::metric::text::meteor::Data;
use dylora_tasks::nn::{AdapterInit, Distribution, Objective, ScaleRule, Target, Update};
use dylora_tasks::settings::{Optimizer, Precision, TrainSettings, Writing};

use crate::failure::Failure;
use crate::fetch;

/// A value by its word; the error says which words there are.
pub(crate) fn word<T>(text: &str) -> Result<T, String>
where
    T: FromStr,
    T::Err: Display,
{
    text.parse().map_err(|error: T::Err| error.to_string())
}

/// One of some words; the error says which there are and which is nearest, and completions know them.
pub(crate) fn choice<T>(words: impl IntoIterator<Item = &'static str>) -> impl TypedValueParser<Value = T>
where
    T: FromStr + Clone + Send + Sync + 'static,
    T::Err: Display,
{
    PossibleValuesParser::new(words).try_map(|text| word::<T>(&text))
}

/// Settings of training, under the names of the fields. What is not given keeps its default.
#[derive(clap::Args)]
#[command(next_help_heading = "Settings")]
pub(crate) struct SettingsArgs {
    /// Largest rank r [default: 8; text tasks: 4]
    #[arg(long, value_name = "R")]
    rank: Option<usize>,
    /// Smallest rank that training draws [default: 1]
    #[arg(long, value_name = "R")]
    rank_min: Option<usize>,
    /// Adapters are scaled by alpha / b at rank b [default: 16; text tasks: 32]
    #[arg(long, value_name = "X")]
    alpha: Option<f64>,
    /// The scale at rank b of r: alpha/b, alpha/r or alpha/sqrt-b [default: alpha/b]
    #[arg(long, value_name = "RULE", value_parser = choice::<ScaleRule>(ScaleRule::ALL.iter().map(|word| word.name())))]
    scale: Option<ScaleRule>,
    /// Layers with an adapter, of query,key,value,attention_output,intermediate,output [default: query,value]
    #[arg(long, value_name = "LIST", value_delimiter = ',', value_parser = choice::<Target>(Target::ALL.iter().map(|word| word.name())))]
    targets: Option<Vec<Target>>,
    /// How adapters start: kaiming-uniform or gaussian [default: kaiming-uniform]
    #[arg(long, value_name = "WORD", value_parser = choice::<AdapterInit>(AdapterInit::ALL.iter().map(|word| word.name())))]
    adapter_init: Option<AdapterInit>,
    /// Dropout on the input of adapters [default: 0; text tasks: 0.1]
    #[arg(long, value_name = "P")]
    adapter_dropout: Option<f64>,
    /// How ranks are drawn: uniform, geometric:P or fixed:RANK [default: uniform]
    #[arg(long, value_name = "WORD", value_parser = word::<Distribution>)]
    distribution: Option<Distribution>,
    /// Of --method flop: the share of the numbers of the encoder's linear layers that is to go [default: 0.55]
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    target_sparsity: Option<f64>,
    /// Of --method flop: the share of the steps over which the target sparsity rises [default: 0.4]
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    sparsity_warmup: Option<f64>,
    /// Of --method flop: gates start around log alpha = ln((1 - X) / X); a smaller X opens more of them [default: 0.05]
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    gate_init: Option<f64>,
    /// Of --method flop: learning rate of the gates [default: 40 / steps]
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    gate_lr: Option<f64>,
    /// Of --method flop: rate at which the multipliers of the sparsity's penalty rise [default: 12 / steps]
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    lambda_lr: Option<f64>,
    /// What the optimizer moves: slice (the ranks in use) or dense (whole matrices) [default: slice; reproduce: dense]
    #[arg(long, value_name = "WORD", value_parser = choice::<Update>(Update::ALL.iter().map(|word| word.name())))]
    update: Option<Update>,
    /// individual (one rank a step) or summation (all ranks in every step) [default: individual]
    #[arg(long, value_name = "WORD", value_parser = choice::<Objective>(Objective::ALL.iter().map(|word| word.name())))]
    objective: Option<Objective>,
    /// Form of AdamW: torch or huggingface4 [default: torch; reproduce: huggingface4]
    #[arg(long, value_name = "WORD", value_parser = choice::<Optimizer>(["torch", "huggingface4"]))]
    optimizer: Option<Optimizer>,
    /// Decay of AdamW's first moment [default: 0.9]
    #[arg(long, value_name = "X")]
    beta1: Option<f64>,
    /// Decay of AdamW's second moment [default: 0.999]
    #[arg(long, value_name = "X")]
    beta2: Option<f64>,
    /// AdamW's epsilon [default: 1e-8]
    #[arg(long, value_name = "X")]
    epsilon: Option<f64>,
    /// Passes over the training rows [default: 30; text tasks: 5]
    #[arg(long, value_name = "N")]
    epochs: Option<u32>,
    /// Rows per optimizer step [default: 32; text tasks: 8]
    #[arg(long, value_name = "N")]
    batch_size: Option<usize>,
    /// Peak learning rate [default: 4e-4; text tasks: 2e-4]
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    lr: Option<f64>,
    /// Weight decay [default: 0.1; text tasks: 0.01]
    #[arg(long, value_name = "X")]
    weight_decay: Option<f64>,
    /// Share of the steps over which the learning rate rises [default: 0.06]
    #[arg(long, value_name = "X")]
    warmup_ratio: Option<f64>,
    /// Steps over which the learning rate rises, in place of --warmup-ratio [default: text tasks: 500]
    #[arg(long, value_name = "N")]
    warmup_steps: Option<u64>,
    /// Largest norm of the gradients; 0 = no clipping [default: 1; text tasks: 0]
    #[arg(long, value_name = "X")]
    clip: Option<f64>,
    /// Dropout of hidden states and attention [default: the model's own]
    #[arg(long, value_name = "P")]
    dropout: Option<f64>,
    /// Share of each target that a language model's loss spreads over the vocabulary [default: 0; text tasks: 0.1]
    #[arg(long, value_name = "P")]
    label_smoothing: Option<f64>,
    /// Most tokens of a row [default: 512]
    #[arg(long, value_name = "N")]
    max_length: Option<usize>,
    /// Most tokens of one pass; larger batches are split and their gradients summed [default: 8192]
    #[arg(long, value_name = "N")]
    token_budget: Option<usize>,
    /// Only the first N training rows
    #[arg(long, value_name = "N")]
    max_train_rows: Option<usize>,
    /// Ranks that are evaluated at the end, as 1,4,8 or 1..8 [default: every rank]
    #[arg(long, value_name = "RANKS")]
    eval_ranks: Option<Ranks>,
    /// f32 or f64; on a GPU f32, tf32 or bf16 [default: f32; on a GPU bf16, and tf32 for --method full and flop]
    #[arg(long, value_name = "WORD", value_parser = choice::<Precision>(["f32", "f64", "tf32", "bf16"]))]
    precision: Option<Precision>,
}

impl SettingsArgs {
    /// Whether `--precision` was given.
    pub(crate) fn names_precision(&self) -> bool {
        self.precision.is_some()
    }

    /// Puts what was given into `settings`.
    pub(crate) fn apply(&self, settings: &mut TrainSettings) {
        macro_rules! take {
            ($($field:ident),*) => {
                $(if let Some(value) = &self.$field { settings.$field = value.clone(); })*
            };
        }
        take!(
            rank,
            rank_min,
            alpha,
            scale,
            targets,
            adapter_init,
            adapter_dropout,
            distribution,
            update,
            objective
        );
        take!(
            optimizer,
            beta1,
            beta2,
            epsilon,
            epochs,
            batch_size,
            lr,
            weight_decay,
            warmup_ratio,
            clip
        );
        take!(target_sparsity, sparsity_warmup, gate_init);
        take!(max_length, token_budget, precision, label_smoothing);
        if let Some(Ranks(ranks)) = &self.eval_ranks {
            settings.eval_ranks = Some(ranks.clone());
        }
        settings.warmup_steps = self.warmup_steps.or(settings.warmup_steps);
        settings.gate_lr = self.gate_lr.or(settings.gate_lr);
        settings.lambda_lr = self.lambda_lr.or(settings.lambda_lr);
        settings.dropout = self.dropout.or(settings.dropout);
        settings.max_train_rows = self.max_train_rows.or(settings.max_train_rows);
    }
}

/// How texts are written at every rank, under the names of the fields. What is not given keeps its default.
#[derive(clap::Args)]
#[command(next_help_heading = "Writing")]
pub(crate) struct WritingArgs {
    /// Beams of the search [default: 10]
    #[arg(long, value_name = "N")]
    beams: Option<usize>,
    /// A text's score is its log-probability over its length to this power [default: 0.8]
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    length_penalty: Option<f64>,
    /// No sequence of N tokens stands twice in a text; 0 = allowed [default: 4]
    #[arg(long, value_name = "N")]
    no_repeat_ngram: Option<usize>,
    /// Most tokens of a text, its end included [default: 64]
    #[arg(long, value_name = "N")]
    max_new_tokens: Option<usize>,
    /// Only the first N prompts
    #[arg(long, value_name = "N")]
    max_prompts: Option<usize>,
}

impl WritingArgs {
    /// Puts what was given into `writing`.
    pub(crate) fn apply(&self, writing: &mut Writing) {
        macro_rules! take {
            ($($field:ident),*) => {
                $(if let Some(value) = self.$field { writing.$field = value; })*
            };
        }
        take!(beams, length_penalty, no_repeat_ngram, max_new_tokens);
        writing.max_prompts = self.max_prompts.or(writing.max_prompts);
    }

    /// Whether any was given.
    pub(crate) fn any(&self) -> bool {
        let counts = [self.beams, self.no_repeat_ngram, self.max_new_tokens, self.max_prompts];
        counts.iter().any(Option::is_some) || self.length_penalty.is_some()
    }
}

/// METEOR's lists: from the directory that was given, else from what `dylora data fetch meteor` made, if it is there.
///
/// # Errors
/// If they cannot be read.
pub(crate) fn meteor(dir: Option<&Path>) -> Result<Option<Arc<Data>>, Failure> {
    let dir = dir.map(Path::to_owned).or_else(fetch::meteor_here);
    Ok(dir.as_deref().map(Data::open).transpose()?.map(Arc::new))
}

/// Where to compute.
#[derive(clap::Args)]
pub(crate) struct DeviceArgs {
    /// auto, cpu or cuda:N
    #[arg(long, value_name = "DEVICE", default_value = "auto")]
    device: String,
}

impl DeviceArgs {
    /// Chooses the device for everything that follows.
    pub(crate) fn check(&self) -> Result<(), Failure> {
        let choice: DeviceChoice = self
            .device
            .parse()
            .map_err(|_| Failure::Message(format!("--device {} is not auto, cpu or cuda:N", self.device)))?;
        device::select(choice, kernel_cache().as_deref())
            .map_err(|error| Failure::Message(format!("--device {}: {error}", self.device)))
    }
}

/// Where compiled GPU kernels are kept: in the user's cache directory.
fn kernel_cache() -> Option<PathBuf> {
    let variable = |name| {
        std::env::var_os(name)
            .filter(|value| !value.is_empty())
            .map(PathBuf::from)
    };
    variable("XDG_CACHE_HOME")
        .or_else(|| Some(variable("HOME")?.join(".cache")))
        .map(|cache| cache.join("dylora").join("kernels"))
}

/// A path that still means the same when the run is taken up from another directory.
pub(crate) fn absolute(path: &Path) -> Result<PathBuf, Failure> {
    std::path::absolute(path).map_err(|error| Failure::Message(format!("{}: {error}", path.display())))
}

/// Runs side by side: `auto` or a number from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Jobs {
    Auto,
    Count(usize),
}

impl FromStr for Jobs {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.parse() {
            _ if text == "auto" => Ok(Jobs::Auto),
            Ok(count) if count > 0 => Ok(Jobs::Count(count)),
            _ => Err(format!("{text:?} is not auto or a number from 1")),
        }
    }
}

/// Ranks as `4`, `1,2,8` or `1..8` (both ends included).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Ranks(pub(crate) Vec<usize>);

impl FromStr for Ranks {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number = |word: &str| {
            word.trim()
                .parse::<usize>()
                .map_err(|_| format!("{word:?} is not a rank; write 4, 1,2,8 or 1..8"))
        };
        let mut ranks = Vec::new();
        for part in text.split(',') {
            match part.split_once("..") {
                Some((first, last)) => {
                    let (first, last) = (number(first)?, number(last.trim_start_matches('='))?);
                    if first > last {
                        return Err(format!("{part} holds no rank"));
                    }
                    ranks.extend(first..=last);
                }
                None => ranks.push(number(part)?),
            }
        }
        Ok(Ranks(ranks))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jobs_are_a_number_from_1_or_left_to_the_program() {
        assert_eq!("auto".parse(), Ok(Jobs::Auto));
        assert_eq!("2".parse(), Ok(Jobs::Count(2)));
        for bad in ["", "0", "-1", "two", "1.5"] {
            assert!(bad.parse::<Jobs>().is_err(), "{bad}");
        }
    }

    #[test]
    fn ranks_are_numbers_lists_and_ranges_with_both_ends() {
        assert_eq!("4".parse(), Ok(Ranks(vec![4])));
        assert_eq!("1,2,8".parse(), Ok(Ranks(vec![1, 2, 8])));
        assert_eq!("1..3,8".parse(), Ok(Ranks(vec![1, 2, 3, 8])));
        for bad in ["", "x", "3..1", "1..", "-1"] {
            assert!(bad.parse::<Ranks>().is_err(), "{bad}");
        }
    }
}

//! `dylora pretrain`.

use std::path::PathBuf;

use dylora_tasks::nn::WeightFormat;
use dylora_tasks::pretrain::{Architecture, PretrainRecord, PretrainSettings, pretrain, resume, settings_of};
use dylora_tasks::train::{Outcome, RunOptions};

use crate::args::{DeviceArgs, absolute, word};
use crate::failure::{Failure, print, print_json};
use crate::progress::Progress;

/// Flags of `dylora pretrain`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Text to learn from: one text a line, or a pair with one tab between
    #[arg(long, value_name = "FILE", required_unless_present = "resume")]
    text: Option<PathBuf>,
    /// Directory for the model; it must be new or empty
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Go on with the pre-training in --out that was stopped; flags given beside it must agree with its settings
    #[arg(long)]
    resume: bool,
    /// Write a checkpoint every N steps
    #[arg(long, value_name = "N", default_value_t = 1000)]
    checkpoint_every: u64,
    /// A TOML file with flags of this command, as a pre-training leaves in its pretrain.toml; flags win over it
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Print the record as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    device: DeviceArgs,
    #[command(flatten)]
    settings: PretrainArgs,
}

/// Settings of a pre-training. What is not given keeps its default.
#[derive(clap::Args)]
#[command(next_help_heading = "Settings")]
struct PretrainArgs {
    /// roberta (guesses hidden tokens) or gpt2 (predicts every next token) [default: roberta]
    #[arg(long, value_name = "WORD", value_parser = word::<Architecture>)]
    model_type: Option<Architecture>,
    /// Most tokens of the vocabulary, which is learned from the text [default: 2048]
    #[arg(long, value_name = "N")]
    vocab_size: Option<usize>,
    /// Transformer blocks [default: 4]
    #[arg(long, value_name = "N")]
    layers: Option<usize>,
    /// Width of the hidden states [default: 128]
    #[arg(long, value_name = "N")]
    hidden_size: Option<usize>,
    /// Attention heads per block [default: 4]
    #[arg(long, value_name = "N")]
    heads: Option<usize>,
    /// Width inside the feed-forward part [default: 512]
    #[arg(long, value_name = "N")]
    intermediate_size: Option<usize>,
    /// Most tokens of a row; longer ones are cut [default: 128]
    #[arg(long, value_name = "N")]
    max_positions: Option<usize>,
    /// Optimizer steps [default: 10000]
    #[arg(long, value_name = "N")]
    steps: Option<u64>,
    /// Texts or pairs per optimizer step [default: 128]
    #[arg(long, value_name = "N")]
    batch_size: Option<usize>,
    /// Most tokens of one pass; larger batches are split and their gradients summed [default: 8192]
    #[arg(long, value_name = "N")]
    token_budget: Option<usize>,
    /// Peak learning rate [default: 1e-3]
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    lr: Option<f64>,
    /// Steps over which the learning rate rises [default: 6 % of the steps]
    #[arg(long, value_name = "N")]
    warmup_steps: Option<u64>,
    /// Weight decay [default: 0.01]
    #[arg(long, value_name = "X")]
    weight_decay: Option<f64>,
    /// Decay of AdamW's first moment [default: 0.9]
    #[arg(long, value_name = "X")]
    beta1: Option<f64>,
    /// Decay of AdamW's second moment [default: 0.98]
    #[arg(long, value_name = "X")]
    beta2: Option<f64>,
    /// AdamW's epsilon [default: 1e-6]
    #[arg(long, value_name = "X")]
    epsilon: Option<f64>,
    /// Largest norm of the gradients; 0 = no clipping [default: 1]
    #[arg(long, value_name = "X")]
    clip: Option<f64>,
    /// Dropout of hidden states and attention [default: 0.1]
    #[arg(long, value_name = "P")]
    dropout: Option<f64>,
    /// Share of the tokens that roberta has to guess [default: 0.15]
    #[arg(long, value_name = "P")]
    mask_share: Option<f64>,
    /// Seed of everything random [default: 10]
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// Evaluate the held-out texts every N steps, besides the end [default: 1000]
    #[arg(long, value_name = "N")]
    eval_every: Option<u64>,
    /// How the model's file stores its weights: f16, bf16 or f32 [default: f16]
    #[arg(long, value_name = "WORD", value_parser = word::<WeightFormat>)]
    weights: Option<WeightFormat>,
}

pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    args.device.check()?;
    let options = RunOptions {
        checkpoint_every: Some(args.checkpoint_every),
        ..RunOptions::default()
    };
    let mut progress = Progress::new()?;
    let dir = &args.out;
    let outcome = match &args.text {
        _ if args.resume => {
            let mut settings = settings_of(dir)?;
            args.apply(&mut settings)?;
            resume(dir, Some(&settings), options, &mut progress)?
        }
        Some(text) => {
            let mut settings = PretrainSettings::new(text);
            args.apply(&mut settings)?;
            pretrain(&settings, dir, options, &mut progress)?
        }
        None => return Err(Failure::Message("--text or --resume is needed".to_owned())),
    };
    progress.clear();
    match outcome {
        Outcome::Interrupted { step, of } => Err(Failure::Interrupted(format!(
            "stopped after step {step} of {of}; go on with: dylora pretrain --resume --out {}",
            dir.display()
        ))),
        Outcome::Finished(record) if args.json => print_json(&record),
        Outcome::Finished(record) => print(&as_text(&record)),
    }
}

fn as_text(record: &PretrainRecord) -> String {
    match record.evaluations.last() {
        Some(last) => format!(
            "held-out loss {:.4}, accuracy {:.4} ({} predicted tokens)",
            last.loss, last.accuracy, last.hidden
        ),
        None => format!("loss {:.4}", record.last_loss),
    }
}

impl Args {
    /// Puts what was given into `settings`.
    fn apply(&self, settings: &mut PretrainSettings) -> Result<(), Failure> {
        if let Some(text) = &self.text {
            settings.text = absolute(text)?;
        }
        let given = &self.settings;
        macro_rules! take {
            ($($field:ident),*) => {
                $(if let Some(value) = given.$field { settings.$field = value; })*
            };
        }
        take!(
            model_type,
            vocab_size,
            layers,
            hidden_size,
            heads,
            intermediate_size,
            max_positions
        );
        take!(steps, batch_size, token_budget, lr, weight_decay, beta1, beta2, epsilon);
        take!(clip, dropout, mask_share, seed, eval_every, weights);
        settings.warmup_steps = given.warmup_steps.or(settings.warmup_steps);
        Ok(())
    }
}

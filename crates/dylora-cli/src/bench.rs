//! `dylora bench`.

use std::path::{Path, PathBuf};

use dylora_tasks::bench::{Shape, StepBench};
use dylora_tasks::generate::{EarlyStopping, GenerateBench, GenerateSettings, Strategy};
use dylora_tasks::nn::{Gpt2Config, Method};
use dylora_tasks::run_dir::read_json;
use dylora_tasks::settings::{DataSource, Precision, TrainSettings};

use crate::args::{DeviceArgs, SettingsArgs, word};
use crate::failure::{Failure, print_json};

/// Flags of `dylora bench`.
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(clap::Subcommand)]
enum What {
    /// Training steps with random weights, a rank drawn anew for each; prints JSON
    Step(Box<StepArgs>),
    /// Texts from prompts, with random weights; prints JSON
    Generate(GenerateArgs),
}

#[derive(clap::Args)]
struct StepArgs {
    /// roberta-base, gpt2, gpt2-medium, gpt2-large, gpt2-xl, or a model directory whose config.json gives the shape
    #[arg(long, value_name = "SHAPE", default_value = "roberta-base")]
    shape: String,
    /// Rows of a step
    #[arg(long, value_name = "N", default_value_t = 8, conflicts_with = "batch_size")]
    batch: usize,
    /// Tokens of a row; a GPT-2 predicts the token behind each
    #[arg(long, value_name = "N", default_value_t = 128)]
    seq: usize,
    /// JSON file with real rows as lists of token ids, in place of --seq
    #[arg(long, value_name = "FILE", conflicts_with = "seq")]
    rows_file: Option<PathBuf>,
    /// Steps to time
    #[arg(long, value_name = "N", default_value_t = 10)]
    steps: usize,
    /// Steps before those
    #[arg(long, value_name = "N", default_value_t = 2)]
    warm_up: usize,
    /// lora, dylora, dylora-frozen or full
    #[arg(long, value_name = "WORD", value_parser = word::<Method>, default_value = "dylora")]
    method: Method,
    #[command(flatten)]
    device: DeviceArgs,
    #[command(flatten)]
    settings: SettingsArgs,
}

#[derive(clap::Args)]
struct GenerateArgs {
    /// gpt2, gpt2-medium, or a model directory whose config.json gives the shape
    #[arg(long, value_name = "SHAPE", default_value = "gpt2")]
    shape: String,
    /// Prompts
    #[arg(long, value_name = "N", default_value_t = 16)]
    prompts: usize,
    /// Tokens of a prompt
    #[arg(long, value_name = "N", default_value_t = 32)]
    prompt_tokens: usize,
    /// Tokens of a text
    #[arg(long, value_name = "N", default_value_t = 32)]
    max_new_tokens: usize,
    /// Texts that are continued side by side; 1 is greedy
    #[arg(long, value_name = "N", default_value_t = 10)]
    beams: usize,
    /// Prompts that are worked on at a time
    #[arg(long, value_name = "N", default_value_t = 16)]
    batch_size: usize,
    /// Rank of adapters on query and value; 0 = none
    #[arg(long, value_name = "R", default_value_t = 4)]
    rank: usize,
    /// Passes over the prompts to time, after one that is not
    #[arg(long, value_name = "N", default_value_t = 3)]
    runs: usize,
    /// f32 or f64; on a GPU f32, tf32 or bf16 [default: f32; on a GPU bf16]
    #[arg(long, value_name = "WORD", value_parser = word::<Precision>)]
    precision: Option<Precision>,
    #[command(flatten)]
    device: DeviceArgs,
}

pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    match &args.what {
        What::Step(args) => step(args),
        What::Generate(args) => generate(args),
    }
}

fn generate(args: &GenerateArgs) -> Result<(), Failure> {
    args.device.check()?;
    let config = match args.shape.as_str() {
        "gpt2" => Gpt2Config::small(),
        "gpt2-medium" => Gpt2Config::medium(),
        dir => Gpt2Config::from_file(&Path::new(dir).join("config.json")).map_err(dylora_tasks::Error::from)?,
    };
    let mut adapted = TrainSettings::text(Path::new(""), Path::new(""), Path::new(""));
    adapted.rank = args.rank;
    let eos = i32::try_from(config.eos_token_id).map_err(|error| Failure::Message(error.to_string()))?;
    let strategy = match args.beams {
        1 => Strategy::Greedy,
        beams => Strategy::Beam {
            beams,
            length_penalty: 0.8,
            early_stopping: EarlyStopping::Heuristic,
        },
    };
    let bench = GenerateBench {
        prompts: GenerateBench::uniform_prompts(config.vocab_size, args.prompts, args.prompt_tokens),
        adapter: adapted.adapter().filter(|_| args.rank > 0),
        precision: args.precision.unwrap_or(adapted.precision),
        settings: GenerateSettings {
            strategy,
            batch: args.batch_size,
            ..GenerateSettings::paper(eos, args.max_new_tokens)
        },
        runs: args.runs,
        seed: adapted.seed,
        config,
    };
    print_json(&bench.run()?)
}

fn step(args: &StepArgs) -> Result<(), Failure> {
    args.device.check()?;
    let shape = Shape::of(&args.shape)?;
    let mut settings = TrainSettings::new("bench", Path::new(""), DataSource::Glue { dir: PathBuf::new() });
    settings.batch_size = args.batch;
    settings.method = args.method;
    settings.dropout = Some(0.1);
    args.settings.apply(&mut settings);
    if !args.settings.names_precision() {
        settings.precision = settings.precision.that_learns(settings.method);
    }
    let rows = match &args.rows_file {
        Some(path) => read_json(path)?,
        None => shape.uniform_rows(settings.batch_size, args.seq),
    };
    let bench = StepBench {
        shape,
        settings,
        rows,
        steps: args.steps,
        warm_up: args.warm_up,
    };
    let report = bench.run(|_| ())?;
    print_json(&report)
}

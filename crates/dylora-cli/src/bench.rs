//! `dylora bench`.

use std::path::{Path, PathBuf};

use dylora_tasks::bench::StepBench;
use dylora_tasks::nn::{EncoderConfig, Method};
use dylora_tasks::run_dir::read_json;
use dylora_tasks::settings::{DataSource, TrainSettings};

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
}

#[derive(clap::Args)]
struct StepArgs {
    /// roberta-base, or a model directory whose config.json gives the shape
    #[arg(long, value_name = "SHAPE", default_value = "roberta-base")]
    shape: String,
    /// Rows of a step
    #[arg(long, value_name = "N", default_value_t = 8, conflicts_with = "batch_size")]
    batch: usize,
    /// Tokens of a row
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

pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    let What::Step(args) = &args.what;
    args.device.check()?;
    let config = match args.shape.as_str() {
        "roberta-base" => EncoderConfig::roberta_base(),
        dir => EncoderConfig::from_file(&Path::new(dir).join("config.json")).map_err(dylora_tasks::Error::from)?,
    };
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
        None => StepBench::uniform_rows(config.vocab_size, settings.batch_size, args.seq),
    };
    let bench = StepBench {
        config,
        settings,
        rows,
        steps: args.steps,
        warm_up: args.warm_up,
    };
    let report = bench.run(|_| ())?;
    print_json(&report)
}

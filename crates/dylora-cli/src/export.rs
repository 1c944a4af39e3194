//! `dylora export`.

use std::path::PathBuf;

use clap::ValueEnum;
use dylora_tasks::adapter::{self, ExportFormat};

use crate::failure::{Failure, print, print_json};

/// What to write.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    /// adapter_config.json and adapter_model.safetensors for PEFT, beside the base model
    Peft,
    /// A Hugging Face model directory with the adapter added to the weights
    Merged,
}

/// Flags of `dylora export`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Directory of a finished run
    #[arg(long, value_name = "RUN")]
    run: PathBuf,
    /// Rank to cut the adapter to [default: the largest; a run of `full` has none]
    #[arg(long, value_name = "B")]
    rank: Option<usize>,
    /// What to write
    #[arg(long, value_enum, value_name = "WORD")]
    format: Format,
    /// Keep every rank in one adapter; PEFT reads the largest
    #[arg(long)]
    all_ranks: bool,
    /// Directory to write; it must be new or empty
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Where the base model is now, if it has moved
    #[arg(long, value_name = "DIR")]
    model: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    let format = match args.format {
        Format::Peft => ExportFormat::Peft,
        Format::Merged => ExportFormat::Merged,
    };
    let base = args.model.as_deref();
    let exported = adapter::export(&args.run, base, &args.out, format, args.rank, args.all_ranks)?;
    if args.json {
        return print_json(&exported);
    }
    let rank = match exported.rank {
        Some(rank) if args.all_ranks => format!("every rank up to {rank}"),
        Some(rank) => format!("rank {rank}"),
        None => "every weight".to_owned(),
    };
    print(&format!(
        "{}: {rank}, {} bytes of weights; {}",
        exported.dir.display(),
        exported.weight_bytes,
        exported.files.join(", ")
    ))
}

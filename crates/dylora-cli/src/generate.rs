//! `dylora generate`.

use std::path::PathBuf;

use clap::ArgGroup;
use dylora_tasks::generate::{GenerateSettings, Sampling, Strategy};
use dylora_tasks::generation::GenerationTask;
use dylora_tasks::progress::{Event, Observer as _};
use dylora_tasks::settings::Writing;
use dylora_tasks::task::Split;
use dylora_tasks::text2text::{TrainedText, read_contexts, write_lines};

use crate::args::{DeviceArgs, word};
use crate::failure::{Failure, print};
use crate::progress::Progress;

/// Flags of `dylora generate`.
#[derive(clap::Args)]
#[command(group = ArgGroup::new("how").args(["beams", "greedy", "sample"]))]
pub(crate) struct Args {
    /// Directory of a finished run of --task text, e2e, dart or webnlg
    #[arg(long, value_name = "RUN")]
    run: PathBuf,
    /// Rank to write at [default: the largest; a run of `full` has none]
    #[arg(long, value_name = "B")]
    rank: Option<usize>,
    /// A jsonl file with a context on each line
    #[arg(long, value_name = "FILE", conflicts_with_all = ["task", "split"])]
    contexts: Option<PathBuf>,
    /// e2e, dart or webnlg: write from the task's official files, one text for each group of references in file order
    #[arg(long, value_name = "TASK", value_parser = generation_task)]
    task: Option<GenerationTask>,
    /// The split to write from: train, dev or test [default: test]
    #[arg(long, value_name = "SPLIT", value_parser = word::<Split>)]
    split: Option<Split>,
    /// The folder of the task's files, if it has moved or the run is of --task text
    #[arg(long, value_name = "DIR", conflicts_with = "contexts")]
    data: Option<PathBuf>,
    /// One file, laid out as the split is, in place of that folder
    #[arg(long, value_name = "FILE", conflicts_with_all = ["contexts", "data"])]
    file: Option<PathBuf>,
    /// Where the texts go, one a line [default: stdout]
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Where the base model is now, if it has moved
    #[arg(long, value_name = "DIR")]
    model: Option<PathBuf>,
    /// Beam search with so many beams [default: 10]
    #[arg(long, value_name = "N")]
    beams: Option<usize>,
    /// A text's score is its log-probability over its length to this power [default: 0.8]
    #[arg(long, value_name = "X", allow_negative_numbers = true, conflicts_with_all = ["greedy", "sample"])]
    length_penalty: Option<f64>,
    /// Always the likeliest token
    #[arg(long)]
    greedy: bool,
    /// Draw tokens
    #[arg(long)]
    sample: bool,
    /// Logits are divided by it before drawing
    #[arg(long, value_name = "X", default_value_t = 1.0, requires = "sample")]
    temperature: f64,
    /// Draw from the K likeliest tokens; 0 = all
    #[arg(long, value_name = "K", default_value_t = 0, requires = "sample")]
    top_k: usize,
    /// Draw from the likeliest tokens that have this share of the probability
    #[arg(long, value_name = "P", default_value_t = 1.0, requires = "sample")]
    top_p: f64,
    /// Seed of what is drawn
    #[arg(long, value_name = "N", default_value_t = 10, requires = "sample")]
    seed: u64,
    /// Most tokens of a text, its end included
    #[arg(long, value_name = "N", default_value_t = 64)]
    max_new_tokens: usize,
    /// No sequence of N tokens stands twice in a text; 0 = allowed
    #[arg(long, value_name = "N", default_value_t = 4)]
    no_repeat_ngram: usize,
    /// Contexts that are worked on at a time
    #[arg(long, value_name = "N", default_value_t = 16)]
    batch_size: usize,
    #[command(flatten)]
    device: DeviceArgs,
}

pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    args.device.check()?;
    let contexts = args.contexts.as_deref().map(read_contexts).transpose()?;
    let trained = TrainedText::open(&args.run, args.model.as_deref())?;
    let paper = GenerateSettings::paper(trained.codec().eos(), args.max_new_tokens);
    let strategy = match paper.strategy {
        _ if args.greedy => Strategy::Greedy,
        _ if args.sample => Strategy::Sample(Sampling {
            temperature: args.temperature,
            top_k: args.top_k,
            top_p: args.top_p,
            seed: args.seed,
        }),
        Strategy::Beam {
            beams,
            length_penalty,
            early_stopping,
        } => Strategy::Beam {
            beams: args.beams.unwrap_or(beams),
            length_penalty: args.length_penalty.unwrap_or(length_penalty),
            early_stopping,
        },
        other => other,
    };
    let settings = GenerateSettings {
        strategy,
        no_repeat_ngram: args.no_repeat_ngram,
        batch: args.batch_size,
        ..paper
    };
    let (texts, cut) = match contexts {
        Some(contexts) => trained.write(&contexts, args.rank, &settings, &mut |_| ())?,
        None => write_split(args, &trained, &settings)?,
    };
    if cut > 0 {
        anstream::eprintln!(
            "{cut} contexts were cut to leave room for {} tokens",
            args.max_new_tokens
        );
    }
    // A line break inside a text would make two texts of it.
    let lines: Vec<String> = texts.iter().map(|text| text.replace(['\n', '\r'], " ")).collect();
    match &args.out {
        Some(path) => Ok(write_lines(path, &lines)?),
        None => print(&lines.join("\n")),
    }
}

/// A generation task's name.
fn generation_task(name: &str) -> Result<GenerationTask, String> {
    GenerationTask::find(name).map_err(|error| error.to_string())
}

/// Texts for the prompts of a generation task's split, and how many prompts were cut.
fn write_split(
    args: &Args,
    trained: &TrainedText,
    settings: &GenerateSettings,
) -> Result<(Vec<String>, usize), Failure> {
    if args.task.is_none() && args.split.is_none() && args.file.is_none() {
        return Err(Failure::Message(
            "--contexts FILE is needed, or --task with --split for a generation task's own files".to_owned(),
        ));
    }
    // A rank that the run does not have is found before any file is read.
    trained.rank(args.rank)?;
    let split = args.split.unwrap_or(Split::Test);
    let corpus = trained.corpus(args.task, split, args.data.as_deref(), args.file.as_deref())?;
    let writing = Writing {
        max_new_tokens: args.max_new_tokens,
        ..Writing::paper()
    };
    let prompts = trained.prompts(&corpus, &writing)?;
    let mut progress = Progress::new()?;
    progress.event(&Event::Evaluating {
        ranks: 1,
        rows: prompts.len(),
    });
    let written = trained.write_all(&prompts, args.rank, settings, &mut progress)?;
    progress.clear();
    let texts = written.ok_or_else(|| Failure::Interrupted("stopped; nothing was written".to_owned()))?;
    Ok((texts, prompts.truncated.prompts))
}

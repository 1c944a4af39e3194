//! `dylora score`: metrics of predictions in a file.

use std::path::{Path, PathBuf};

use dylora_tasks::Error;
use dylora_tasks::glue;
use dylora_tasks::metric::text::chain::{Chain, Report};
use dylora_tasks::metric::text::files::{read_hypotheses, read_references};
use dylora_tasks::metric::text::meteor::Stage;
use dylora_tasks::metric::{Predictions, score};
use dylora_tasks::record::Scores;
use dylora_tasks::task::{Head, Task};
use dylora_tasks::tsv::read_text;

use crate::args::meteor;
use crate::failure::{Failure, print, print_json};

/// Flags of `dylora score`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// A GLUE task, or e2e, webnlg or dart for generated text
    #[arg(long)]
    task: String,
    /// Predictions of a GLUE task: one value a line, or a file that `dylora predict` wrote
    #[arg(long, value_name = "FILE", conflicts_with = "hypotheses")]
    predictions: Option<PathBuf>,
    /// Generated texts, one a line
    #[arg(long, value_name = "FILE")]
    hypotheses: Option<PathBuf>,
    /// True values, in the form and order of the predictions; or references of the texts: one file with an empty line between
    /// groups, one .json file with a list of lists, or several files of which line N belongs to text N
    #[arg(long, value_name = "FILE", required = true, num_args = 1..)]
    references: Vec<PathBuf>,
    /// Directory of METEOR's files: the official release, or the Python package pycocoevalcap [default: what `dylora data fetch
    /// meteor` got, if it is there]
    #[arg(long, value_name = "DIR", requires = "hypotheses")]
    meteor_data: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    match Chain::ALL.into_iter().find(|chain| chain.name() == args.task) {
        Some(chain) => score_texts(args, chain),
        None => score_predictions(args),
    }
}

/// Generated text: what the task's official script prints, or JSON with everything.
fn score_texts(args: &Args, chain: Chain) -> Result<(), Failure> {
    let Some(path) = &args.hypotheses else {
        return Err(Failure::Message(format!(
            "--task {} needs --hypotheses FILE",
            chain.name()
        )));
    };
    let hypotheses = read_hypotheses(path)?;
    let references = read_references(&args.references, hypotheses.len())?;
    let data = meteor(args.meteor_data.as_deref())?;
    let report = chain.score(&hypotheses, &references, data.as_deref())?;
    if args.json {
        return print_json(&json(&report));
    }
    if let Some(note) = report.meteor_note() {
        anstream::eprintln!("note: {note}");
    }
    print(&report.to_string())
}

/// Metrics by their official names, then how METEOR came about.
fn json(report: &Report) -> serde_json::Value {
    let mut object = serde_json::Map::new();
    object.insert("task".to_owned(), report.chain.name().into());
    object.insert("segments".to_owned(), report.segments.into());
    for (name, value) in &report.values {
        object.insert((*name).to_owned(), (*value).into());
    }
    let stages: Vec<&str> = report.meteor_stages.iter().copied().map(Stage::name).collect();
    object.insert("meteor_stages".to_owned(), stages.into());
    let missing: serde_json::Map<_, _> = report
        .meteor_missing
        .iter()
        .map(|(stage, file)| (stage.to_string(), file.as_str().into()))
        .collect();
    object.insert("meteor_missing".to_owned(), missing.into());
    if let Some(note) = report.meteor_note() {
        object.insert("note".to_owned(), note.into());
    }
    object.into()
}

fn score_predictions(args: &Args) -> Result<(), Failure> {
    let task = glue::find(&args.task).map_err(with_chains)?.task();
    let (Some(predictions), [references]) = (&args.predictions, &args.references[..]) else {
        let message = format!(
            "--task {} needs --predictions FILE and one file of --references",
            args.task
        );
        return Err(Failure::Message(message));
    };
    let predictions = match task.head {
        Head::Classify(classes) => {
            let class = |value: &str| read_class(&task, classes, value);
            Predictions::Classes {
                labels: read(references, class)?,
                predictions: read(predictions, class)?,
            }
        }
        Head::Regress => {
            let number = |value: &str| value.trim().parse().map_err(|_| "is not a number".to_owned());
            Predictions::Scores {
                labels: read(references, number)?,
                predictions: read(predictions, number)?,
            }
        }
    };
    let mut scores = Scores::default();
    for &metric in &task.metrics {
        scores.0.push((metric.name().to_owned(), score(metric, &predictions)?));
    }
    if args.json {
        return print_json(&scores);
    }
    let lines: Vec<_> = scores.0.iter().map(|(name, value)| format!("{name} {value}")).collect();
    print(&lines.join("\n"))
}

/// An unknown task is told all names that `score` knows.
fn with_chains(error: Error) -> Error {
    match error {
        Error::UnknownTask { name, known } => Error::UnknownTask {
            name,
            known: format!("{known}, {}", Chain::ALL.map(Chain::name).join(", ")),
        },
        other => other,
    }
}

/// A class by its name in the task's files, or by its number.
fn read_class(task: &Task, classes: usize, value: &str) -> Result<usize, String> {
    let named = task.labels.iter().position(|label| label == value);
    let numbered = || value.parse().ok().filter(|&class| class < classes);
    named
        .or_else(numbered)
        .ok_or_else(|| format!("is not one of {} or a number below {classes}", task.labels.join(", ")))
}

/// One value a line, or the second column of a file that begins with `index` and `prediction`.
fn read<T>(path: &Path, value: impl Fn(&str) -> Result<T, String>) -> Result<Vec<T>, Failure> {
    let text = read_text(path)?;
    let text = text.trim_start_matches('\u{feff}');
    let is_table = text.starts_with("index\tprediction");
    let mut values = Vec::new();
    for (index, line) in text.split_terminator('\n').enumerate().skip(usize::from(is_table)) {
        let line = line.strip_suffix('\r').unwrap_or(line);
        let field = if is_table {
            line.split('\t').nth(1).unwrap_or_default()
        } else {
            line
        };
        values.push(value(field).map_err(|message| Error::Malformed {
            path: path.to_owned(),
            line: index + 1,
            message: format!("{field:?} {message}"),
        })?);
    }
    Ok(values)
}

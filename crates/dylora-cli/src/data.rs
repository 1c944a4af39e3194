//! `dylora data`.

use std::path::PathBuf;
use std::str::FromStr;

use dylora_tasks::check::{self, Lengths};
use dylora_tasks::generation::{self, GenerationTask, SplitReport};
use dylora_tasks::glue;
use dylora_tasks::mini;
use dylora_tasks::prepare::{OWN_TASKS, Prepared};
use dylora_tasks::pretrain::Architecture;
use dylora_tasks::tabular::{self, Columns};
use dylora_tasks::task::Split;
use dylora_tasks::text2text::{self, TextPair};
use dylora_tasks::tokens::TokenizerSource;

use crate::args::word;
use crate::failure::{Failure, print, print_json};
use crate::fetch::{self, Bar};
use crate::progress::percent;

/// Flags of `dylora data`.
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand)]
enum Command {
    /// Count rows and labels, or texts and inputs of every split, or name the first bad line
    Check(CheckArgs),
    /// Get the paper's models and data, from the caches or from where they are published, and say where they are
    ///
    /// Without names, --tasks and --model: everything that the paper's GLUE table needs. HF_HOME, HF_HUB_CACHE, HF_ENDPOINT,
    /// HF_TOKEN and HF_HUB_OFFLINE are heeded; DYLORA_MIRROR is asked in place of other servers, with their names as folders.
    Fetch(FetchArgs),
    /// Write the generated tasks of the embedded profile, or text of their kind to pre-train on
    MakeMini(MakeMiniArgs),
}

#[derive(clap::Args)]
struct CheckArgs {
    /// A GLUE task; e2e, dart or webnlg; or csv, tsv, jsonl, parquet for your own file; text for pairs in jsonl
    #[arg(long)]
    task: String,
    /// train, dev, dev-mismatched or test; without it train, or every split of e2e, dart and webnlg
    #[arg(long, value_name = "SPLIT", value_parser = word::<Split>)]
    split: Option<Split>,
    /// The folder that holds CoLA/, MRPC/, ... as the GLUE download lays them out; or e2e/, dart/, webnlg_challenge_2017/
    #[arg(long, value_name = "DIR", required_unless_present = "file")]
    data: Option<PathBuf>,
    /// One file, laid out as the split is
    #[arg(long, value_name = "FILE", conflicts_with = "data")]
    file: Option<PathBuf>,
    /// Own files: one or two columns with the text, as a or a,b
    #[arg(long, value_name = "COLUMNS", requires = "file")]
    text: Option<String>,
    /// Own files: the column with the label
    #[arg(long, value_name = "COLUMN", requires = "file")]
    label: Option<String>,
    /// Own files: labels are numbers to predict, not classes
    #[arg(long, requires = "file")]
    regression: bool,
    /// Count lengths in the tokens of this model directory, not in words
    #[arg(long, value_name = "DIR")]
    model: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(clap::Args)]
struct FetchArgs {
    /// What to get: gpt2, gpt2-medium or roberta-base; e2e, dart, webnlg or a GLUE task; meteor, METEOR's files
    #[arg(value_name = "NAME", conflicts_with_all = ["tasks", "model"])]
    names: Vec<String>,
    /// Only these GLUE tasks, separated by commas
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    tasks: Option<Vec<String>>,
    /// RoBERTa-base; without --tasks only this
    #[arg(long)]
    model: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(clap::Args)]
struct MakeMiniArgs {
    /// Folder for CoLA/, MRPC/, ... as the GLUE download lays them out, and e2e/, dart/, webnlg_challenge_2017/
    #[arg(long, value_name = "DIR", required_unless_present = "text")]
    out: Option<PathBuf>,
    /// Only these, separated by commas: glue (all eight tasks), e2e, dart, webnlg
    #[arg(long, value_name = "LIST", value_delimiter = ',', requires = "out", value_parser = word::<Made>)]
    tasks: Vec<Made>,
    /// Write a text to pre-train on to this file
    #[arg(long, value_name = "FILE")]
    text: Option<PathBuf>,
    /// Lines of that text
    #[arg(long, value_name = "N", default_value_t = 300_000, requires = "text")]
    text_lines: usize,
    /// The kind of model that the text is for: roberta or gpt2
    #[arg(long, value_name = "WORD", default_value = "roberta", requires = "text", value_parser = word::<Architecture>)]
    model_type: Architecture,
    /// Equal seeds write equal bytes
    #[arg(long, value_name = "N", default_value_t = mini::SEED)]
    seed: u64,
}

/// What can be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Made {
    Glue,
    Generation(GenerationTask),
}

impl FromStr for Made {
    type Err = dylora_tasks::Error;

    fn from_str(word: &str) -> dylora_tasks::Result<Self> {
        match word {
            "glue" => Ok(Made::Glue),
            _ => GenerationTask::find(word).map(Made::Generation),
        }
    }
}

/// Where things are.
#[derive(serde::Serialize)]
struct Fetched {
    #[serde(skip_serializing_if = "Option::is_none")]
    model: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    meteor_data: Option<PathBuf>,
}

/// What names on the command line stand for.
#[derive(Default)]
struct Wanted<'a> {
    model: Option<fetch::Published>,
    glue: Vec<&'a str>,
    texts: Vec<GenerationTask>,
    meteor: bool,
}

impl<'a> Wanted<'a> {
    fn new(names: &'a [String]) -> Result<Self, Failure> {
        let mut wanted = Wanted::default();
        for name in names {
            let model = fetch::MODELS.iter().find(|(known, _)| known == name);
            match (model, GenerationTask::find(name)) {
                (Some((_, model)), _) => {
                    if wanted.model.replace(*model).is_some() {
                        return Err(Failure::Message("one model at a time".to_owned()));
                    }
                }
                (None, Ok(task)) => wanted.texts.push(task),
                (None, Err(_)) if name == "meteor" => wanted.meteor = true,
                (None, Err(_)) => wanted.glue.push(glue::find(name).map_err(with_others)?.name),
            }
        }
        if !wanted.glue.is_empty() && !wanted.texts.is_empty() {
            return Err(Failure::Message(
                "GLUE tasks and generation tasks lie in different directories; fetch them one after the other"
                    .to_owned(),
            ));
        }
        Ok(wanted)
    }
}

/// An unknown name is told all that there are.
fn with_others(error: dylora_tasks::Error) -> dylora_tasks::Error {
    match error {
        dylora_tasks::Error::UnknownTask { name, known } => {
            let models = fetch::MODELS.iter().map(|(name, _)| *name);
            let texts = generation::TASKS.iter().map(|task| task.name());
            let others: Vec<&str> = models.chain(texts).chain(["meteor"]).collect();
            dylora_tasks::Error::UnknownTask {
                name,
                known: format!("{known}; {}", others.join(", ")),
            }
        }
        other => other,
    }
}

pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    match &args.command {
        Command::Check(args) => run_check(args),
        Command::Fetch(args) => run_fetch(args),
        Command::MakeMini(args) => make_mini(args),
    }
}

fn make_mini(args: &MakeMiniArgs) -> Result<(), Failure> {
    if let Some(dir) = &args.out {
        let wanted = |made: Made| args.tasks.is_empty() || args.tasks.contains(&made);
        let mut names = Vec::new();
        if wanted(Made::Glue) {
            mini::write_tasks(dir, args.seed)?;
            names.extend(glue::TASKS.iter().map(|task| task.name));
        }
        for &task in generation::TASKS.iter().filter(|task| wanted(Made::Generation(**task))) {
            mini::write_generation_task(task, dir, args.seed)?;
            names.push(task.name());
        }
        print(&format!("{}: {}", dir.display(), names.join(", ")))?;
    }
    if let Some(path) = &args.text {
        mini::write_text(args.model_type, path, args.seed, args.text_lines)?;
        print(&format!("{}: {} lines", path.display(), args.text_lines))?;
    }
    Ok(())
}

fn run_fetch(args: &FetchArgs) -> Result<(), Failure> {
    let mut wanted = Wanted::new(&args.names)?;
    if args.names.is_empty() {
        wanted.glue = match &args.tasks {
            Some(names) => names.iter().map(String::as_str).collect(),
            None if args.model => Vec::new(),
            None => glue::TASKS.iter().map(|task| task.name).collect(),
        };
        wanted.model = (args.model || args.tasks.is_none()).then_some(fetch::ROBERTA_BASE);
    }
    let mut bar = Bar::new();
    let mut report = |event: fetch::Event<'_>| bar.show(event);
    let mut fetched = Fetched {
        model: None,
        data: None,
        meteor_data: None,
    };
    if !wanted.glue.is_empty() {
        fetched.data = Some(fetch::glue(None, &wanted.glue, &mut report)?);
    }
    for task in wanted.texts {
        fetched.data = Some(fetch::text_task(task, &mut report)?);
    }
    if let Some(model) = wanted.model {
        fetched.model = Some(fetch::model(model, None, &mut report)?);
    }
    if wanted.meteor {
        fetched.meteor_data = Some(fetch::meteor(&mut report)?);
    }
    drop(bar);
    if args.json {
        return print_json(&fetched);
    }
    let line = |flag: &str, path: &Option<PathBuf>| path.as_ref().map(|path| format!("{flag} {}", path.display()));
    let lines = [
        line("--model", &fetched.model),
        line("--data", &fetched.data),
        line("--meteor-data", &fetched.meteor_data),
    ];
    print(&lines.into_iter().flatten().collect::<Vec<_>>().join("\n"))
}

/// Every split that is there, or the one asked for.
#[derive(serde::Serialize)]
struct Generation {
    task: GenerationTask,
    splits: Vec<SplitReport>,
}

fn check_generation(task: GenerationTask, args: &CheckArgs) -> Result<(), Failure> {
    let mut checked = Generation {
        task,
        splits: Vec::new(),
    };
    let mut absent = Vec::new();
    if let Some(file) = &args.file {
        let corpus = task.load_file(file, args.split.unwrap_or(Split::Train))?;
        checked.splits.push(generation::inspect(&corpus, None));
    } else if let Some(data) = &args.data {
        let mut train = None;
        let all = [Split::Train, Split::Dev, Split::Test];
        for split in args.split.map_or(all.to_vec(), |only| vec![only]) {
            if args.split.is_none() && task.files(data, split)?.is_none() {
                absent.push(split);
                continue;
            }
            let corpus = task.load(data, split)?;
            checked.splits.push(generation::inspect(&corpus, train.as_ref()));
            if split == Split::Train {
                train = Some(corpus);
            }
        }
        if checked.splits.is_empty() {
            // Says what was looked for.
            task.load(data, Split::Train)?;
        }
    } else {
        return Err(Failure::Message("--data or --file is needed".to_owned()));
    }
    if args.json {
        return print_json(&checked);
    }
    let mut lines = vec![task.to_string()];
    for report in &checked.splits {
        describe(report, &mut lines);
    }
    lines.extend(absent.iter().map(|split| format!("  {split}: not there")));
    print(&lines.join("\n"))
}

/// The lines of one split.
fn describe(report: &SplitReport, lines: &mut Vec<String>) {
    let number = |count: usize, what: &str| format!("{count} {what}{}", if count == 1 { "" } else { "s" });
    lines.push(format!(
        "  {}: {} for {}, from {}; {}",
        report.split,
        number(report.counts.texts, "text"),
        number(report.counts.meanings, "input"),
        number(report.files, "file"),
        report.coverage(),
    ));
    lines.push(format!(
        "    {} to train on, {} to write from",
        number(report.pairs, "row"),
        number(report.prompts, "prompt")
    ));
    for (category, found) in &report.categories {
        let counts = found.counts;
        let unseen = if found.seen { "" } else { ", unseen in training" };
        let (texts, inputs) = (number(counts.texts, "text"), number(counts.meanings, "input"));
        lines.push(format!("    {category}: {texts} for {inputs}{unseen}"));
    }
    for (comment, &texts) in &report.comments {
        lines.push(format!("    comment {comment:?}: {}", number(texts, "text")));
    }
    if let Some(unknown) = report.unknown_relations.as_ref().filter(|unknown| !unknown.is_empty()) {
        let some: Vec<&str> = unknown.iter().take(5).map(String::as_str).collect();
        let rest = if unknown.len() > some.len() { ", ..." } else { "" };
        lines.push(format!(
            "    {} that train does not have: {}{rest}",
            number(unknown.len(), "relation"),
            some.join(", ")
        ));
    }
    lines.extend(report.remarks.iter().map(|remark| format!("    {remark}")));
}

/// Pairs of texts for a language model.
#[derive(serde::Serialize)]
struct Pairs {
    task: &'static str,
    rows: usize,
    contexts: Option<Lengths>,
    completions: Option<Lengths>,
}

fn check_pairs(args: &CheckArgs) -> Result<(), Failure> {
    let Some(file) = &args.file else {
        return Err(Failure::Message(
            "--file is needed: a jsonl file with a context and a completion on each line".to_owned(),
        ));
    };
    let pairs = text2text::read_pairs(file)?;
    let lengths = |text: fn(&TextPair) -> &str| -> Result<Option<Lengths>, Failure> {
        let texts = pairs.iter().map(text);
        let Some(model) = &args.model else {
            return Ok(Lengths::new("words", texts.map(|text| text.split_whitespace().count())));
        };
        let tokenizer = TokenizerSource::from_model_dir(model)?;
        let texts: Vec<_> = texts.map(|text| (text, None)).collect();
        let encoded = tokenizer.encode_batch(&texts, usize::MAX)?;
        Ok(Lengths::new("tokens", encoded.iter().map(|text| text.ids.len())))
    };
    let found = Pairs {
        task: text2text::TASK,
        rows: pairs.len(),
        contexts: lengths(|pair| &pair.context)?,
        completions: lengths(|pair| &pair.completion)?,
    };
    if args.json {
        return print_json(&found);
    }
    let mut text = format!("{}: {} rows", found.task, found.rows);
    for (name, lengths) in [("contexts", &found.contexts), ("completions", &found.completions)] {
        if let Some(lengths) = lengths {
            text.push_str(&format!("\n  {name}: {lengths}"));
        }
    }
    print(&text)
}

/// A report, with lengths where a tokenizer was given.
#[derive(serde::Serialize)]
struct Checked {
    #[serde(flatten)]
    report: check::CheckReport,
    #[serde(skip_serializing_if = "Option::is_none")]
    lengths: Option<Lengths>,
}

fn run_check(args: &CheckArgs) -> Result<(), Failure> {
    if let Some(&task) = generation::TASKS
        .iter()
        .find(|task| task.name() == args.task.to_ascii_lowercase())
    {
        return check_generation(task, args);
    }
    if args.task.eq_ignore_ascii_case(text2text::TASK) {
        return check_pairs(args);
    }
    let split = args.split.unwrap_or(Split::Train);
    let (task, rows) = if OWN_TASKS.contains(&args.task.as_str()) {
        let (Some(file), Some(text)) = (&args.file, &args.text) else {
            return Err(Failure::Message(
                "--file and --text are needed for your own files".to_owned(),
            ));
        };
        tabular::load_train(file, &Columns::parse(text, args.label.as_deref(), args.regression)?)?
    } else {
        let task = glue::find(&args.task)?;
        let path = match (&args.file, &args.data) {
            (Some(file), _) => file.clone(),
            (None, Some(data)) => task.path(data, split)?,
            (None, None) => return Err(Failure::Message("--data or --file is needed".to_owned())),
        };
        (task.task(), task.load_file(&path, split)?)
    };
    let report = check::report(&task, &rows);
    // In words without a tokenizer, and in no JSON: its shape is fixed.
    let lengths = match &args.model {
        Some(model) => {
            let tokenizer = TokenizerSource::from_model_dir(model)?;
            Lengths::in_tokens(&Prepared::new(&rows, &tokenizer, usize::MAX)?)
        }
        None => Lengths::in_words(&rows),
    };
    if args.json {
        let lengths = lengths.filter(|_| args.model.is_some());
        return print_json(&Checked { report, lengths });
    }
    let mut text = format!("{}: {} rows", report.task, report.rows);
    for (label, rows) in &report.labels {
        text.push_str(&format!("\n  {label}: {rows} ({})", percent(*rows, report.rows)));
    }
    if let Some(lengths) = lengths {
        text.push_str(&format!("\n  {lengths}"));
    }
    print(&text)
}

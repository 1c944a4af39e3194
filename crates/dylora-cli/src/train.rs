//! `dylora train`.

use std::path::{Path, PathBuf};

use dylora_tasks::adapter::StartingAdapter;
use dylora_tasks::generation::GenerationTask;
use dylora_tasks::nn::Method;
use dylora_tasks::prepare::task_name;
use dylora_tasks::run_dir::RunDir;
use dylora_tasks::settings::{DataSource, TrainSettings};
use dylora_tasks::tabular::Columns;
use dylora_tasks::text2text;
use dylora_tasks::train::{Outcome, RunOptions, resume, train};

use crate::args::{DeviceArgs, SettingsArgs, absolute, choice};
use crate::failure::{Failure, print, print_json};
use crate::progress::Progress;

/// Flags of `dylora train`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// A GLUE task (mrpc, rte, cola, ...); e2e, dart or webnlg for a GPT-2 that learns to write; csv, tsv, jsonl, parquet for
    /// your own files, text for your own pairs of texts
    #[arg(long, required_unless_present = "resume")]
    task: Option<String>,
    /// Directory of the pretrained model: config.json, model.safetensors, tokenizer files
    #[arg(long, value_name = "DIR", required_unless_present = "resume")]
    model: Option<PathBuf>,
    /// The folder that holds CoLA/, MRPC/, ... as the GLUE download lays them out; or e2e/, dart/, webnlg_challenge_2017/
    #[arg(long, value_name = "DIR", conflicts_with_all = ["train", "dev", "text", "label", "regression"])]
    data: Option<PathBuf>,
    /// Your own file of training rows; for --task text a jsonl file with context and completion
    #[arg(long, value_name = "FILE", requires = "dev", conflicts_with = "data")]
    train: Option<PathBuf>,
    /// Your own file of rows to evaluate on
    #[arg(long, value_name = "FILE", requires = "train")]
    dev: Option<PathBuf>,
    /// One or two columns with the text, as a or a,b
    #[arg(long, value_name = "COLUMNS", requires = "train")]
    text: Option<String>,
    /// The column with the label
    #[arg(long, value_name = "COLUMN", requires = "train")]
    label: Option<String>,
    /// Labels are numbers to predict, not classes
    #[arg(long, requires = "train")]
    regression: bool,
    /// Start from this adapter, a PEFT directory or a loralib .safetensors file; rank, alpha, scale and targets are its own unless given
    #[arg(long, value_name = "DIR")]
    adapter: Option<PathBuf>,
    /// lora, dylora, dylora-frozen, full, or flop (encoders only: linear layers are factorised and pruned) [default: dylora]
    #[arg(long, value_name = "WORD", value_parser = choice::<Method>(Method::ALL.iter().map(|method| method.name())))]
    method: Option<Method>,
    /// Directory for the run; it must be new or empty
    #[arg(long, value_name = "RUN", required_unless_present = "resume")]
    out: Option<PathBuf>,
    /// Go on with a run that was stopped; flags given beside it must agree with the run's settings
    #[arg(long, value_name = "RUN", conflicts_with = "out")]
    resume: Option<PathBuf>,
    /// Write a checkpoint every N steps, besides the end of every epoch
    #[arg(long, value_name = "N")]
    checkpoint_every: Option<u64>,
    /// A TOML file with flags of this command, as a run leaves in its run.toml; flags win over it
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Print the record as JSON
    #[arg(long)]
    json: bool,
    /// Seed of everything random [default: 10]
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    #[command(flatten)]
    device: DeviceArgs,
    #[command(flatten)]
    settings: SettingsArgs,
}

pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    args.device.check()?;
    let options = RunOptions {
        checkpoint_every: args.checkpoint_every,
        ..RunOptions::default()
    };
    let mut progress = Progress::new()?;
    let (outcome, dir) = match (&args.resume, &args.out) {
        (Some(dir), _) => {
            let mut settings = RunDir::open(dir)?.settings()?;
            args.apply(&mut settings)?;
            (resume(dir, Some(&settings), options, &mut progress)?, dir)
        }
        (None, Some(dir)) => {
            let (Some(task), Some(model)) = (&args.task, &args.model) else {
                return Err(Failure::Message("--task and --model are needed".to_owned()));
            };
            let mut settings = args.defaults(task, model)?;
            if let Some(adapter) = &args.adapter {
                StartingAdapter::read(&absolute(adapter)?, model)?.suggest(&mut settings);
            }
            args.apply(&mut settings)?;
            if !args.settings.names_precision() {
                settings.precision = settings.precision.that_learns(settings.method);
            }
            (train(&settings, dir, options, &mut progress)?, dir)
        }
        (None, None) => return Err(Failure::Message("--out or --resume is needed".to_owned())),
    };
    progress.clear();
    match outcome {
        Outcome::Interrupted { step, of } => Err(Failure::Interrupted(format!(
            "stopped after step {step} of {of}; go on with: dylora train --resume {}",
            dir.display()
        ))),
        Outcome::Finished(record) if args.json => print_json(&record),
        Outcome::Finished(record) => print(&crate::eval::as_text(&record.ranks)),
    }
}

impl Args {
    /// A task's settings before what was given.
    fn defaults(&self, task: &str, model: &Path) -> Result<TrainSettings, Failure> {
        let name = task_name(task)?;
        let data = self.data(&name)?;
        if let (Ok(task), Some(DataSource::Generation { dir })) = (GenerationTask::find(&name), &data) {
            return Ok(TrainSettings::generation(task, model, dir));
        }
        if name == text2text::TASK {
            return match (&self.train, &self.dev) {
                (Some(train), Some(dev)) => Ok(TrainSettings::text(model, train, dev)),
                _ => Err(Failure::Message(
                    "--task text needs --train and --dev, two jsonl files".to_owned(),
                )),
            };
        }
        let data = data.ok_or_else(|| {
            Failure::Message(
                "--data DIR is needed, or --train, --dev, --text and --label for your own files".to_owned(),
            )
        })?;
        Ok(TrainSettings::new(task, model, data))
    }

    /// Puts what was given into `settings`.
    fn apply(&self, settings: &mut TrainSettings) -> Result<(), Failure> {
        if let Some(task) = &self.task {
            // The run keeps the table's own spelling: `sst2` is `sst-2`.
            settings.task = task_name(task)?;
        }
        if let Some(model) = &self.model {
            settings.model = absolute(model)?;
        }
        if let Some(data) = self.data(&settings.task)? {
            settings.data = data;
        }
        if let Some(adapter) = &self.adapter {
            settings.initial_adapter = Some(absolute(adapter)?);
        }
        settings.method = self.method.unwrap_or(settings.method);
        settings.seed = self.seed.unwrap_or(settings.seed);
        self.settings.apply(settings);
        Ok(())
    }

    /// Where the texts of a task come from, as far as that was given.
    fn data(&self, task: &str) -> Result<Option<DataSource>, Failure> {
        Ok(match (&self.data, &self.train, &self.dev, &self.text) {
            (Some(dir), ..) if GenerationTask::find(task).is_ok() => {
                Some(DataSource::Generation { dir: absolute(dir)? })
            }
            (Some(dir), ..) => Some(DataSource::Glue { dir: absolute(dir)? }),
            (None, Some(train), Some(dev), None) if task == text2text::TASK => Some(DataSource::Pairs {
                train: absolute(train)?,
                dev: absolute(dev)?,
            }),
            (None, Some(train), Some(dev), Some(text)) if self.label.is_some() => Some(DataSource::Files {
                train: absolute(train)?,
                dev: absolute(dev)?,
                columns: Columns::parse(text, self.label.as_deref(), self.regression)?,
            }),
            _ => None,
        })
    }
}

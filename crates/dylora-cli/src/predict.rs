//! `dylora predict`.

use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::time::Instant;

use dylora_tasks::evaluate::{Prediction, TrainedModel};
use dylora_tasks::prepare::task_name;
use dylora_tasks::run_dir::write_text;
use dylora_tasks::settings::DataSource;
use dylora_tasks::task::Split;

use crate::args::{DeviceArgs, word};
use crate::failure::Failure;

/// The most rows of a pipe that are predicted at a time.
const BLOCK: usize = 1024;

/// Flags of `dylora predict`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Directory of a finished run
    #[arg(long, value_name = "RUN")]
    run: PathBuf,
    /// Rank to predict at [default: the largest; a run of `full` has none]
    #[arg(long, value_name = "B")]
    rank: Option<usize>,
    /// The run's task, to be sure that it is the one you mean
    #[arg(long)]
    task: Option<String>,
    /// train, dev, dev-mismatched or test [default: dev; test, which has no labels, for --file - and for your own files]
    #[arg(long, value_name = "SPLIT", value_parser = word::<Split>)]
    split: Option<Split>,
    /// A file with rows laid out as the split is, in place of the data that the run was trained on; - reads a pipe and answers as rows come
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// Where the base model is now, if it has moved
    #[arg(long, value_name = "DIR")]
    model: Option<PathBuf>,
    /// Where the predictions go [default: stdout]
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    #[command(flatten)]
    device: DeviceArgs,
}

pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    args.device.check()?;
    let model = TrainedModel::open(&args.run, args.model.as_deref())?;
    if let Some(task) = &args.task
        && task_name(task)? != model.task.name
    {
        return Err(Failure::Message(format!(
            "the run's task is {}, not {task}",
            model.task.name
        )));
    }
    // Before anything is read.
    model.ranks(args.rank.as_slice())?;
    let mut table = Table::default();
    match args.file.as_deref() {
        Some(file) if file == Path::new("-") => {
            let split = args.split.unwrap_or(Split::Test);
            let mut rows = model.stream(split, Box::new(io::stdin()))?;
            let mut out = args.out.is_none().then(|| io::stdout().lock());
            loop {
                let rows = rows.next_rows(BLOCK)?;
                if rows.is_empty() {
                    break;
                }
                table.timed(rows.len(), || Ok(model.predict(&rows, args.rank)?))?;
                if let Some(out) = &mut out {
                    out.write_all(std::mem::take(&mut table.text).as_bytes())?;
                    out.flush()?;
                }
            }
        }
        file => {
            // Labels of one's own file are of no use here, and need not be there.
            let own = file.is_some() && matches!(model.settings.data, DataSource::Files { .. });
            let default = if own { Split::Test } else { Split::Dev };
            let rows = model.rows(args.split.unwrap_or(default), file)?;
            table.timed(rows.len(), || Ok(model.predict(&rows, args.rank)?))?;
        }
    }
    match &args.out {
        Some(path) => write_text(path, &table.text)?,
        None => {
            let mut out = io::stdout().lock();
            out.write_all(table.text.as_bytes())?;
            out.flush()?;
        }
    }
    anstream::eprintln!(
        "{} rows in {:.3} s, {:.1} rows a second",
        table.rows,
        table.seconds,
        table.rows as f64 / table.seconds.max(f64::MIN_POSITIVE)
    );
    Ok(())
}

/// Predictions as lines, and how long they took without reading the model.
#[derive(Default)]
struct Table {
    text: String,
    rows: usize,
    seconds: f64,
}

impl Table {
    fn timed(
        &mut self,
        rows: usize,
        predict: impl FnOnce() -> Result<Vec<Prediction>, Failure>,
    ) -> Result<(), Failure> {
        let started = Instant::now();
        let predictions = predict()?;
        self.seconds += started.elapsed().as_secs_f64();
        if self.rows == 0 {
            self.text.push_str("index\tprediction\tlogits\n");
        }
        for (index, row) in predictions.iter().enumerate() {
            let logits: Vec<_> = row.logits.iter().map(f64::to_string).collect();
            // Writing to a string cannot fail.
            let _ = writeln!(self.text, "{}\t{}\t{}", self.rows + index, row.label, logits.join(" "));
        }
        self.rows += rows;
        Ok(())
    }
}

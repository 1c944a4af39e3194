//! `dylora reproduce`.

use std::path::{Path, PathBuf};

use dylora_tasks::estimate::Estimate;
use dylora_tasks::experiment::{FULL_LR, GluePlan, PAPER_SEEDS, PlanOptions, Summary};
use dylora_tasks::glue;
use dylora_tasks::nn::Method;
use dylora_tasks::run_dir::{write_json, write_text};
use dylora_tasks::settings::{DataSource, TrainSettings};
use dylora_tasks::table::Caption;
use dylora_tasks::train::RunOptions;

use crate::args::{DeviceArgs, Jobs, SettingsArgs, absolute, word};
use crate::failure::{Failure, print, print_json};
use crate::plan_progress::PlanProgress;
use crate::progress::duration;

/// Flags of `dylora reproduce`.
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(clap::Subcommand)]
enum What {
    /// Table 2: the GLUE tasks
    Glue(Box<GlueArgs>),
}

#[derive(clap::Args)]
struct GlueArgs {
    /// Directory of the pretrained encoder: config.json, model.safetensors, tokenizer files
    #[arg(long, value_name = "DIR")]
    model: PathBuf,
    /// The folder that holds CoLA/, MRPC/, ... as the GLUE download lays them out
    #[arg(long, value_name = "DIR")]
    data: PathBuf,
    /// Tasks, separated by commas [default: all eight]
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    tasks: Option<Vec<String>>,
    /// Methods, separated by commas: lora, dylora, dylora-frozen, full
    #[arg(
        long,
        value_name = "LIST",
        value_delimiter = ',',
        value_parser = word::<Method>,
        default_value = "lora,dylora,dylora-frozen"
    )]
    methods: Vec<Method>,
    /// Seeds, separated by commas; 10,42,4242,100,1010 are the paper's
    #[arg(long, value_name = "LIST", value_delimiter = ',', default_values_t = PAPER_SEEDS)]
    seeds: Vec<u64>,
    /// Peak learning rate of the method `full`
    #[arg(long, value_name = "X", default_value_t = FULL_LR)]
    full_lr: f64,
    /// Directory for runs and table [default: runs/glue/NAME-OF-MODEL-DIR]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Write a checkpoint every N steps, besides the end of every epoch
    #[arg(long, value_name = "N")]
    checkpoint_every: Option<u64>,
    /// Runs side by side, each on its share of the cores; auto: one per core for a narrow encoder (hidden size up to 256),
    /// else one. Results are the same
    #[arg(long, value_name = "N", default_value = "auto")]
    jobs: Jobs,
    /// Print the table as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    device: DeviceArgs,
    #[command(flatten)]
    settings: SettingsArgs,
}

pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    let What::Glue(args) = &args.what;
    args.device.check()?;
    let plan = args.plan()?;
    let experiments = plan.experiments()?;
    let missing = plan.unfinished()?;
    anstream::eprintln!(
        "reproduce glue: {} runs ({} tasks x {} methods x {} seeds), {} to do, in {}; profile: given model and data \
         directories ({}, {})",
        experiments.len(),
        plan.tasks.len(),
        plan.methods.len(),
        plan.seeds.len(),
        missing.len(),
        plan.out.display(),
        plan.recipe.model.display(),
        args.data.display(),
    );
    let summary = if missing.is_empty() {
        Summary::default()
    } else {
        let jobs = match args.jobs {
            Jobs::Auto => plan.auto_jobs()?,
            Jobs::Count(jobs) => jobs,
        };
        let sizes = plan.check_data()?;
        let estimate = plan.measure(&sizes, jobs)?;
        anstream::eprintln!("{}", as_text(&estimate));
        let progress = PlanProgress::new(&estimate)?;
        let run = RunOptions {
            checkpoint_every: args.checkpoint_every,
        };
        let summary = plan.run(PlanOptions { jobs, run }, &progress)?;
        progress.clear();
        summary
    };
    if summary.interrupted {
        return Err(Failure::Interrupted(
            "stopped; the same command goes on where it was".to_owned(),
        ));
    }
    let table = plan.table()?.with_caption(args.caption());
    if !table.rows.is_empty() {
        write_json(&plan.out.join("table.json"), &table)?;
        write_text(&plan.out.join("table.md"), &table.to_markdown())?;
        write_text(&plan.out.join("table.html"), &table.to_html()?)?;
        if args.json {
            print_json(&table)?;
        } else {
            print(table.to_text().trim_end())?;
        }
    }
    match summary.failed.as_slice() {
        [] => Ok(()),
        failed => {
            let names: Vec<_> = failed.iter().map(|(name, error)| format!("{name} ({error})")).collect();
            Err(Failure::Message(format!(
                "{} of {} runs failed: {}",
                failed.len(),
                experiments.len(),
                names.join("; ")
            )))
        }
    }
}

/// `about 3 h 20 min for 120 runs, 2 side by side (measured: 1,234 tokens a second in training, 4,321 in evaluation)`.
fn as_text(estimate: &Estimate) -> String {
    let beside = match estimate.jobs {
        1 => String::new(),
        jobs => format!(", {jobs} side by side"),
    };
    format!(
        "about {} for {} runs{beside} (measured: {} tokens a second in training, {} in evaluation)",
        duration(estimate.seconds),
        estimate.runs.len(),
        grouped(estimate.train_tokens_per_second),
        grouped(estimate.eval_tokens_per_second)
    )
}

/// A number without a fraction, with commas: `1,234`.
fn grouped(number: f64) -> String {
    let digits = format!("{number:.0}");
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

impl GlueArgs {
    /// A directory's name does not prove what it holds, so the paper's setting is never claimed.
    fn caption(&self) -> Caption {
        let name = |dir: &Path| {
            dir.file_name()
                .unwrap_or(dir.as_os_str())
                .to_string_lossy()
                .into_owned()
        };
        Caption {
            model: name(&self.model),
            data: name(&self.data),
            notes: vec!["Model and data are called by the names of their directories.".to_owned()],
            same_setting_as_paper: false,
        }
    }

    fn plan(&self) -> Result<GluePlan, Failure> {
        let model = absolute(&self.model)?;
        let mut recipe = TrainSettings::paper(
            "",
            &model,
            DataSource::Glue {
                dir: absolute(&self.data)?,
            },
        );
        self.settings.apply(&mut recipe);
        let tasks = match &self.tasks {
            Some(names) => names
                .iter()
                .map(|name| Ok(glue::find(name)?.name.to_owned()))
                .collect::<Result<_, Failure>>()?,
            None => glue::TASKS.iter().map(|task| task.name.to_owned()).collect(),
        };
        Ok(GluePlan {
            out: self.out.clone().unwrap_or_else(|| default_out(&model)),
            recipe,
            full_lr: self.full_lr,
            tasks,
            methods: self.methods.clone(),
            seeds: self.seeds.clone(),
            profile: "given".to_owned(),
        })
    }
}

fn default_out(model: &Path) -> PathBuf {
    let name = model.file_name().map_or_else(|| "given".into(), ToOwned::to_owned);
    Path::new("runs").join("glue").join(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_grouped_by_thousands() {
        for (number, text) in [
            (0.4, "0"),
            (999.4, "999"),
            (1234.0, "1,234"),
            (1_234_567.0, "1,234,567"),
        ] {
            assert_eq!(grouped(number), text);
        }
    }
}

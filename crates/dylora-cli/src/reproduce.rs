//! `dylora reproduce`.

use std::path::PathBuf;

use dylora_tasks::estimate::Estimate;
use dylora_tasks::experiment::{GluePlan, PlanOptions, Summary};
use dylora_tasks::glue;
use dylora_tasks::nn::Method;
use dylora_tasks::run_dir::{write_json, write_text};
use dylora_tasks::train::RunOptions;

use crate::args::{DeviceArgs, Jobs, SettingsArgs, word};
use crate::failure::{Failure, print, print_json};
use crate::plan_progress::PlanProgress;
use crate::profile::{Name, Profile};
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
    ///
    /// Without --profile, --model and --data this is the profile mini: a small RoBERTa and generated tasks, both part of this
    /// program, with seeds, epochs, learning rates and length of its own; the table says which. With --model and --data it is
    /// the paper's recipe on these directories.
    Glue(Box<GlueArgs>),
}

#[derive(clap::Args)]
struct GlueArgs {
    /// What to run
    #[arg(long, value_name = "WORD")]
    profile: Option<Name>,
    /// Directory of the pretrained encoder: config.json, model.safetensors, tokenizer files
    #[arg(long, value_name = "DIR")]
    model: Option<PathBuf>,
    /// The folder that holds CoLA/, MRPC/, ... as the GLUE download lays them out
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Tasks, separated by commas [default: all eight]
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    tasks: Option<Vec<String>>,
    /// Methods, separated by commas: lora, dylora, dylora-frozen, full [default: all; with --model and --data without full]
    #[arg(long, value_name = "LIST", value_delimiter = ',', value_parser = word::<Method>)]
    methods: Option<Vec<Method>>,
    /// Seeds, separated by commas [default: the paper's 10,42,4242,100,1010; mini: the first two]
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    seeds: Option<Vec<u64>>,
    /// Peak learning rate of the method `full` [default: 2e-5; mini has its own]
    #[arg(long, value_name = "X")]
    full_lr: Option<f64>,
    /// Directory for runs and table [default: runs/glue/PROFILE, or runs/glue/NAME-OF-MODEL-DIR]
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
    let profile = Profile::choose(args.profile, args.model.as_deref(), args.data.as_deref())?;
    let mut plan = args.plan(&profile)?;
    // Settings that cannot be used are found before anything is written or downloaded.
    let runs = plan.experiments()?.len();
    anstream::eprintln!(
        "reproduce glue: {runs} runs ({} tasks x {} methods x {} seeds); profile: {}",
        plan.tasks.len(),
        plan.methods.len(),
        plan.seeds.len(),
        profile.about()
    );
    profile.provide(&mut plan)?;
    let missing = plan.unfinished()?;
    anstream::eprintln!("{} of {runs} runs to do, in {}", missing.len(), plan.out.display());
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
    let table = plan.table()?.with_caption(profile.caption(&plan));
    if !table.rows.is_empty() {
        write_json(&plan.out.join("table.json"), &table)?;
        write_text(&plan.out.join("table.md"), &table.to_markdown())?;
        write_text(&plan.out.join("table.html"), &table.to_html()?)?;
        if args.json {
            print_json(&table)?;
        } else {
            print(table.to_text().trim_end())?;
        }
        anstream::eprintln!("the table, with charts: {}", plan.out.join("table.html").display());
    }
    match summary.failed.as_slice() {
        [] => Ok(()),
        failed => {
            let names: Vec<_> = failed.iter().map(|(name, error)| format!("{name} ({error})")).collect();
            Err(Failure::Message(format!(
                "{} of {runs} runs failed: {}",
                failed.len(),
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
    /// The plan, but for the directories of model and data.
    fn plan(&self, profile: &Profile) -> Result<GluePlan, Failure> {
        let mut recipe = profile.recipe();
        self.settings.apply(&mut recipe);
        let tasks = match &self.tasks {
            Some(names) => names
                .iter()
                .map(|name| Ok(glue::find(name)?.name.to_owned()))
                .collect::<Result<_, Failure>>()?,
            None => glue::TASKS.iter().map(|task| task.name.to_owned()).collect(),
        };
        Ok(GluePlan {
            out: self.out.clone().unwrap_or_else(|| profile.default_out()),
            recipe,
            full_lr: self.full_lr.unwrap_or_else(|| profile.full_lr()),
            tasks,
            methods: self.methods.clone().unwrap_or_else(|| profile.methods().to_vec()),
            seeds: self.seeds.clone().unwrap_or_else(|| profile.seeds().to_vec()),
            profile: profile.name().to_owned(),
        })
    }
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

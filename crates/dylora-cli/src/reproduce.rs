//! `dylora reproduce`.

use std::path::PathBuf;
use std::sync::Arc;

use dylora_tasks::estimate::Estimate;
use dylora_tasks::experiment::{Plan, PlanOptions, Summary};
use dylora_tasks::generation::GenerationTask;
use dylora_tasks::glue;
use dylora_tasks::metric::text::meteor::Data;
use dylora_tasks::nn::Method;
use dylora_tasks::run_dir::{write_json, write_text};
use dylora_tasks::train::RunOptions;

use crate::args::{DeviceArgs, Jobs, SettingsArgs, WritingArgs, meteor, word};
use crate::failure::{Failure, print, print_json};
use crate::plan_progress::PlanProgress;
use crate::profile::{Name, Profile, Subject};
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
    /// Table 6: E2E, restaurants described in a sentence
    ///
    /// Adapters of a GPT-2 are trained, texts written at every rank by beam search, and scored as the official scripts score
    /// them. Without --profile, --model and --data this is the profile mini: a small GPT-2 and generated texts, both part of
    /// this program; with --model and --data it is the paper's recipe on these directories.
    E2e(Box<TextArgs>),
    /// Table 9: DART, sentences from triples of tables; otherwise as e2e
    Dart(Box<TextArgs>),
    /// Table 9: WebNLG 2017, texts from DBpedia's triples; otherwise as e2e
    Webnlg(Box<TextArgs>),
}

#[derive(clap::Args)]
struct GlueArgs {
    /// Tasks, separated by commas [default: all eight]
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    tasks: Option<Vec<String>>,
    #[command(flatten)]
    plan: PlanArgs,
}

#[derive(clap::Args)]
struct TextArgs {
    /// Directory of METEOR's files [default: what `dylora data fetch meteor` got, if it is there]; without them METEOR is not
    /// computed. Given later, it is added to the records' numbers without a new run
    #[arg(long, value_name = "DIR")]
    meteor_data: Option<PathBuf>,
    #[command(flatten)]
    plan: PlanArgs,
    #[command(flatten)]
    writing: WritingArgs,
}

#[derive(clap::Args)]
struct PlanArgs {
    /// What to run
    #[arg(long, value_name = "WORD")]
    profile: Option<Name>,
    /// Directory of the pretrained model: config.json, model.safetensors, tokenizer files
    #[arg(long, value_name = "DIR")]
    model: Option<PathBuf>,
    /// The folder that holds CoLA/, MRPC/, ... as the GLUE download lays them out; or e2e/, dart/, webnlg_challenge_2017/
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Methods, separated by commas: lora, dylora, dylora-frozen, full [default: all; without full for texts, and with --model
    /// and --data]
    #[arg(long, value_name = "LIST", value_delimiter = ',', value_parser = word::<Method>)]
    methods: Option<Vec<Method>>,
    /// Seeds, separated by commas [default: the paper's, 10,42,4242,100,1010 for glue, of which mini takes two, and 10,42,4242
    /// for texts]
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    seeds: Option<Vec<u64>>,
    /// Peak learning rate of the method `full` [default: 2e-5; mini has its own]
    #[arg(long, value_name = "X")]
    full_lr: Option<f64>,
    /// Directory for runs and table [default: runs/TABLE/PROFILE, or runs/TABLE/NAME-OF-MODEL-DIR]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Write a checkpoint every N steps, besides the end of every epoch
    #[arg(long, value_name = "N")]
    checkpoint_every: Option<u64>,
    /// Runs side by side, each on its share of the cores; auto: one per core for a narrow model (hidden size up to 256),
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
    match &args.what {
        What::Glue(args) => {
            let tasks = match &args.tasks {
                Some(names) => names
                    .iter()
                    .map(|name| Ok(glue::find(name)?.name.to_owned()))
                    .collect::<Result<_, Failure>>()?,
                None => glue::TASKS.iter().map(|task| task.name.to_owned()).collect(),
            };
            args.plan.run(Subject::Glue, tasks, None, None)
        }
        What::E2e(args) => args.run(GenerationTask::E2e),
        What::Dart(args) => args.run(GenerationTask::Dart),
        What::Webnlg(args) => args.run(GenerationTask::WebNlg),
    }
}

impl TextArgs {
    fn run(&self, task: GenerationTask) -> Result<(), Failure> {
        let meteor = meteor(self.meteor_data.as_deref())?;
        let tasks = vec![task.name().to_owned()];
        self.plan.run(Subject::Text(task), tasks, Some(&self.writing), meteor)
    }
}

impl PlanArgs {
    fn run(
        &self,
        subject: Subject,
        tasks: Vec<String>,
        writing: Option<&WritingArgs>,
        meteor: Option<Arc<Data>>,
    ) -> Result<(), Failure> {
        self.device.check()?;
        let profile = Profile::choose(self.profile, self.model.as_deref(), self.data.as_deref())?;
        let mut plan = self.plan(&profile, subject, tasks);
        if let (Some(writing), Some(settings)) = (writing, &mut plan.recipe.writing) {
            writing.apply(settings);
        }
        // Settings that cannot be used are found before anything is written or downloaded.
        let runs = plan.experiments()?.len();
        anstream::eprintln!(
            "reproduce {}: {runs} runs ({} tasks x {} methods x {} seeds); profile: {}",
            subject.name(),
            plan.tasks.len(),
            plan.methods.len(),
            plan.seeds.len(),
            profile.about(subject)
        );
        profile.provide(subject, &mut plan)?;
        let missing = plan.unfinished()?;
        anstream::eprintln!("{} of {runs} runs to do, in {}", missing.len(), plan.out.display());
        let summary = if missing.is_empty() {
            Summary::default()
        } else {
            self.run_missing(&plan, meteor.clone())?
        };
        if summary.interrupted {
            return Err(Failure::Interrupted(
                "stopped; the same command goes on where it was".to_owned(),
            ));
        }
        let records = plan.records(meteor.as_deref())?;
        let table = plan.table_of(&records)?.with_caption(profile.caption(subject, &plan));
        if !table.rows.is_empty() {
            write_json(&plan.out.join("table.json"), &table)?;
            write_text(&plan.out.join("table.md"), &table.to_markdown())?;
            write_text(&plan.out.join("table.html"), &table.to_html()?)?;
            if self.json {
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

    /// Says how long the runs without a record will take, and does them.
    fn run_missing(&self, plan: &Plan, meteor: Option<Arc<Data>>) -> Result<Summary, Failure> {
        let jobs = match self.jobs {
            Jobs::Auto => plan.auto_jobs()?,
            Jobs::Count(jobs) => jobs,
        };
        let sizes = plan.check_data()?;
        let estimate = plan.measure(&sizes, jobs)?;
        anstream::eprintln!("{}", as_text(&estimate));
        let progress = PlanProgress::new(&estimate)?;
        let run = RunOptions {
            checkpoint_every: self.checkpoint_every,
            meteor,
        };
        let summary = plan.run(PlanOptions { jobs, run }, &progress)?;
        progress.clear();
        Ok(summary)
    }

    /// The plan, but for the directories of model and data.
    fn plan(&self, profile: &Profile, subject: Subject, tasks: Vec<String>) -> Plan {
        let mut recipe = profile.recipe(subject);
        self.settings.apply(&mut recipe);
        Plan {
            out: self.out.clone().unwrap_or_else(|| profile.default_out(subject)),
            recipe,
            full_lr: self.full_lr.unwrap_or_else(|| profile.full_lr()),
            tasks,
            methods: self
                .methods
                .clone()
                .unwrap_or_else(|| profile.methods(subject).to_vec()),
            seeds: self.seeds.clone().unwrap_or_else(|| profile.seeds(subject).to_vec()),
            profile: profile.name().to_owned(),
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
        match estimate.eval_unit {
            "tokens" => grouped(estimate.eval_per_second),
            unit => format!("{:.3} {unit}", estimate.eval_per_second),
        }
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

//! `dylora reproduce`.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::builder::{PossibleValue, PossibleValuesParser};
use dylora_tasks::checkpoint::steps_done;
use dylora_tasks::dir_lock::DirLock;
use dylora_tasks::estimate::Estimate;
use dylora_tasks::experiment::{Experiment, PlanOptions, Runs, Summary};
use dylora_tasks::metric::text::meteor::Data;
use dylora_tasks::nn::Method;
use dylora_tasks::paper::Published;
use dylora_tasks::report::Report;
use dylora_tasks::run_dir::{RunDir, sweep, write_json, write_text};
use dylora_tasks::study::{Recipe, Sheet, Study};
use dylora_tasks::table::Table;
use dylora_tasks::tables::{self, Kind};
use dylora_tasks::train::RunOptions;

use crate::args::{DeviceArgs, Jobs, SettingsArgs, WritingArgs, meteor, word};
use crate::collected::Collected;
use crate::failure::{Failure, print, print_json};
use crate::plan_progress::PlanProgress;
use crate::profile::{Name, Profile};
use crate::progress::duration;
use crate::slurm::LauncherArgs;

/// Every table that is part of this program.
const ALL: &str = "all";

/// Flags of `dylora reproduce`.
///
/// Without --profile, --model and --data this is the profile mini: small models and generated data, both part of this program,
/// with seeds, epochs, learning rates and length of its own; the tables say which. With --model and --data it is the paper's
/// recipe on these directories. Runs that several tables need are trained once; what has a record is not trained again.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Tables: their names, or `all`
    #[arg(value_name = "TABLE", required_unless_present = "file", value_parser = names())]
    tables: Vec<String>,
    /// A description of a table of your own, in the form of this program's own (docs/src/tables.md); may be given several
    /// times
    #[arg(long, value_name = "FILE")]
    file: Vec<PathBuf>,
    /// Only these tasks, separated by commas [default: the table's]
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    tasks: Option<Vec<String>>,
    /// What to run
    #[arg(long, value_name = "WORD")]
    profile: Option<Name>,
    /// Directory of the pretrained model: config.json, model.safetensors, tokenizer files
    #[arg(long, value_name = "DIR")]
    model: Option<PathBuf>,
    /// The folder that holds CoLA/, MRPC/, ... as the GLUE download lays them out; or e2e/, dart/, webnlg_challenge_2017/
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Only rows of these methods, separated by commas: lora, dylora, dylora-frozen, full, flop [default: the table's; glue without
    /// full with --model and --data]
    #[arg(long, value_name = "LIST", value_delimiter = ',', value_parser = word::<Method>)]
    methods: Option<Vec<Method>>,
    /// Seeds, separated by commas [default: the paper's, 10,42,4242,100,1010 for GLUE, of which mini takes one or two, and
    /// 10,42,4242 for texts]
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    seeds: Option<Vec<u64>>,
    /// Peak learning rate of the methods `full` and `flop` [default: 2e-5; mini has its own]
    #[arg(long, value_name = "X")]
    full_lr: Option<f64>,
    /// Directory for runs and tables [default: runs/PROFILE, or runs/NAME-OF-MODEL-DIR]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Directory for the report of all tables: index.html, report.md, report.tex, tables/*.csv [default: runs/report, or
    /// OUT/report]
    #[arg(long, value_name = "DIR")]
    report: Option<PathBuf>,
    /// A csv file with numbers of the paper, to stand beside these: columns table, row, rank, task, metric, published, as
    /// tables/NAME.csv of a report has them [default: those that are part of this program]
    #[arg(long, value_name = "FILE")]
    published: Option<PathBuf>,
    /// Print the runs, what exists of them, and how long the rest will take; train nothing
    #[arg(long)]
    dry_run: bool,
    /// Train nothing: make the tables from the records that are there
    #[arg(long, conflicts_with = "dry_run")]
    collect: bool,
    /// Directory of METEOR's files [default: what `dylora data fetch meteor` got, if it is there]; without them METEOR is not
    /// computed. Given later, it is added to the records' numbers without a new run
    #[arg(long, value_name = "DIR")]
    meteor_data: Option<PathBuf>,
    /// Write a checkpoint every N steps, besides the end of every epoch
    #[arg(long, value_name = "N")]
    checkpoint_every: Option<u64>,
    /// Runs side by side, each on its share of the cores; auto: one per core for a narrow model (hidden size up to 256),
    /// else one. Results are the same
    #[arg(long, value_name = "N", default_value = "auto")]
    jobs: Jobs,
    /// A TOML file with flags of this command; flags win over it
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Print the table as JSON, several as a list
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    device: DeviceArgs,
    #[command(flatten)]
    settings: SettingsArgs,
    #[command(flatten)]
    writing: WritingArgs,
    #[command(flatten)]
    launcher: LauncherArgs,
}

fn names() -> PossibleValuesParser {
    let about = |name: &'static str| {
        let about = tables::find(name).map(|spec| spec.to_string()).unwrap_or_default();
        PossibleValue::new(name).help(about)
    };
    let all = PossibleValue::new(ALL).help("Every table, each run once");
    PossibleValuesParser::new(tables::names().map(about).chain([all]))
}

pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    args.device.check()?;
    let launch = args.launcher.check(args.dry_run)?;
    let profile = Profile::choose(args.profile, args.model.as_deref(), args.data.as_deref())?;
    let mut study = args.study(&profile)?;
    let meteor = match study.text {
        Some(_) => meteor(args.meteor_data.as_deref())?,
        None => None,
    };
    // Settings that cannot be used are found before anything is written or downloaded.
    let only = &args.launcher.only;
    let count = study.runs()?.only(only)?.experiments().len();
    let words = args.words();
    let kinds: Vec<Kind> = [(Kind::Glue, &study.glue), (Kind::Text, &study.text)]
        .into_iter()
        .filter_map(|(kind, recipe)| recipe.as_ref().map(|_| kind))
        .collect();
    anstream::eprintln!(
        "reproduce {words}: {count} runs; profile: {}",
        profile.about(&kinds, &words)
    );
    profile.provide(&mut study)?;
    let runs = study.runs()?.only(only)?;
    let unfinished = runs.unfinished()?;
    let missing = unfinished.len();
    anstream::eprintln!("{missing} of {count} runs to do, in {}", study.out.display());
    if args.collect {
        for experiment in &unfinished {
            anstream::eprintln!("missing: {}: {}", experiment.name, state(experiment)?);
        }
    }
    if launch {
        // A file that cannot be read is better found here than by every element.
        runs.check_data()?;
        return args.launcher.launch(&unfinished, &study.out, &words, args.dry_run);
    }
    if args.dry_run {
        return args.show(&runs);
    }
    let summary = if missing == 0 || args.collect {
        Summary::default()
    } else {
        args.run_missing(&runs, meteor.clone())?
    };
    if summary.interrupted {
        return Err(Failure::Interrupted(
            "stopped; the same command goes on where it was".to_owned(),
        ));
    }
    anstream::eprint!("{}", elsewhere(&summary));
    if only.is_empty() {
        args.show_tables(&study, &profile, meteor.as_deref(), &summary)?;
    }
    match summary.failed.as_slice() {
        [] => Ok(()),
        failed => {
            let names: Vec<_> = failed.iter().map(|(name, error)| format!("{name} ({error})")).collect();
            Err(Failure::Message(format!(
                "{} of {count} runs failed: {}",
                failed.len(),
                names.join("; ")
            )))
        }
    }
}

impl Args {
    /// The tables as they were named.
    fn words(&self) -> String {
        let files = self.file.iter().map(|file| format!("--file {}", file.display()));
        let words: Vec<String> = self.tables.iter().cloned().chain(files).collect();
        words.join(" ")
    }

    /// The tables and recipes, but for the directories of models and data.
    fn study(&self, profile: &Profile) -> Result<Study, Failure> {
        let mut specs = Vec::new();
        for name in &self.tables {
            if name == ALL {
                specs.extend(tables::all()?);
            } else {
                specs.push(tables::find(name)?);
            }
        }
        for file in &self.file {
            specs.push(tables::read(file)?);
        }
        let mut sheets: Vec<Sheet> = Vec::new();
        for spec in specs {
            if sheets.iter().all(|sheet| sheet.spec.name != spec.name) {
                sheets.push(profile.sheet(spec));
            }
        }
        if let Some(methods) = &self.methods {
            // A method that the profile leaves out of a table is back if it is asked for.
            for sheet in &mut sheets {
                if let Ok(whole) = tables::find(&sheet.spec.name) {
                    sheet.spec.rows = whole.rows;
                }
                sheet.spec.rows.retain(|row| methods.contains(&row.method));
            }
            if sheets.len() > 1 {
                sheets.retain(|sheet| !sheet.spec.rows.is_empty());
            }
        }
        if let Some(tasks) = &self.tasks {
            let kinds: Vec<Kind> = sheets.iter().map(|sheet| sheet.spec.kind).collect();
            for sheet in &mut sheets {
                let kind = sheet.spec.kind;
                let own = tasks
                    .iter()
                    .filter(|task| kind.has(task) || kinds.iter().all(|each| *each == kind));
                sheet.spec.tasks = own.cloned().collect();
            }
            sheets.retain(|sheet| !sheet.spec.tasks.is_empty());
        }
        if let Some(seeds) = &self.seeds {
            for sheet in &mut sheets {
                sheet.seeds.clone_from(seeds);
            }
        }
        if sheets.is_empty() {
            return Err(Failure::Message(
                "no table that was named has rows of these --tasks and --methods".to_owned(),
            ));
        }
        let recipe = |kind: Kind| {
            sheets.iter().any(|sheet| sheet.spec.kind == kind).then(|| {
                let mut settings = profile.recipe(kind);
                self.settings.apply(&mut settings);
                if let Some(writing) = &mut settings.writing {
                    self.writing.apply(writing);
                }
                let full_lr = self.full_lr.unwrap_or_else(|| profile.full_lr());
                Recipe { settings, full_lr }
            })
        };
        let (glue, text) = (recipe(Kind::Glue), recipe(Kind::Text));
        if let (Some(_), Some(_), Profile::Given { .. }) = (&glue, &text, profile) {
            return Err(Failure::Message(
                "--model is an encoder or a GPT-2: name tables of one kind, or a --profile".to_owned(),
            ));
        }
        if text.is_none() && (self.writing.any() || self.meteor_data.is_some()) {
            return Err(Failure::Message(
                "the flags of writing and --meteor-data are for generation tasks, and no table that was named has any"
                    .to_owned(),
            ));
        }
        Ok(Study {
            glue,
            text,
            out: self.out.clone().unwrap_or_else(|| profile.default_out()),
            profile: profile.name().to_owned(),
            published: match &self.published {
                Some(file) => Published::read(file)?,
                None => Published::embedded(),
            },
            sheets,
        })
    }

    fn jobs(&self, runs: &Runs) -> Result<usize, Failure> {
        Ok(match self.jobs {
            Jobs::Auto => runs.auto_jobs()?,
            Jobs::Count(jobs) => jobs,
        })
    }

    fn estimate(&self, runs: &Runs) -> Result<(Estimate, usize), Failure> {
        let jobs = self.jobs(runs)?;
        let sizes = runs.check_data()?;
        Ok((runs.measure(&sizes, jobs)?, jobs))
    }

    /// Says how long the runs without a record will take, and does them.
    fn run_missing(&self, runs: &Runs, meteor: Option<Arc<Data>>) -> Result<Summary, Failure> {
        let (estimate, jobs) = self.estimate(runs)?;
        anstream::eprintln!("{}", as_text(&estimate));
        let progress = PlanProgress::new(&estimate)?;
        let run = RunOptions {
            checkpoint_every: self.checkpoint_every,
            meteor,
        };
        let summary = runs.run(PlanOptions { jobs, run }, &progress)?;
        progress.clear();
        Ok(summary)
    }

    /// What `--dry-run` prints: a line for each run.
    fn show(&self, runs: &Runs) -> Result<(), Failure> {
        let (estimate, _) = self.estimate(runs)?;
        let mut lines = Vec::new();
        for experiment in runs.experiments() {
            let left = estimate.runs.iter().find(|run| run.name == experiment.name);
            let state = match left {
                None => "done".to_owned(),
                Some(left) => format!("{}, about {}", state(experiment)?, duration(left.seconds())),
            };
            lines.push(format!("{}: {state}", experiment.name));
        }
        lines.push(as_text(&estimate));
        print(&lines.join("\n"))
    }

    /// Writes every table and the report, and prints what was asked for.
    fn show_tables(
        &self,
        study: &Study,
        profile: &Profile,
        meteor: Option<&Data>,
        summary: &Summary,
    ) -> Result<(), Failure> {
        if !self.collect {
            for sheet in &study.sheets {
                study.measure_costs(sheet)?;
            }
        }
        // Of several processes the last to write has read the records of all.
        let alone = DirLock::wait(&study.out)?;
        sweep(&study.out)?;
        let mut collected = Collected::default();
        for sheet in &study.sheets {
            collected.add(study, sheet, profile, meteor, summary)?;
        }
        let named = collected.tables.len();
        collected.add_others(study, profile);
        let made: Vec<Table> = collected.tables[..named].to_vec();
        for table in &made {
            let place = study.out.join("tables");
            std::fs::create_dir_all(&place)
                .map_err(|error| Failure::Message(format!("cannot create {}: {error}", place.display())))?;
            sweep(&place)?;
            write_json(&place.join(format!("{}.json", table.table)), table)?;
            write_text(&place.join(format!("{}.md", table.table)), &table.to_markdown())?;
        }
        if let [table] = made.as_slice() {
            self.write_alone(&study.out, table)?;
        }
        let report = self.report_dir(study);
        if !collected.tables.is_empty() {
            Report::new(collected.tables, collected.unrun).write(&report)?;
        }
        // Whoever reads the output may take their time.
        drop(alone);
        match made.as_slice() {
            [] => anstream::eprintln!("no run has a record, so there is no table"),
            [table] if self.json => print_json(table)?,
            tables if self.json => print_json(&tables)?,
            tables => {
                let texts: Vec<String> = tables.iter().map(Table::to_text).collect();
                print(texts.join("\n").trim_end())?;
            }
        }
        if !made.is_empty() {
            anstream::eprintln!("the report, with charts: {}", report.join("index.html").display());
        }
        Ok(())
    }

    /// Where the report goes.
    fn report_dir(&self, study: &Study) -> PathBuf {
        match (&self.report, &self.out) {
            (Some(dir), _) => dir.clone(),
            (None, Some(out)) => out.join("report"),
            (None, None) => study.out.parent().unwrap_or(&study.out).join("report"),
        }
    }

    /// The table of a command that asked for no other.
    fn write_alone(&self, out: &Path, table: &Table) -> Result<(), Failure> {
        write_json(&out.join("table.json"), table)?;
        write_text(&out.join("table.md"), &table.to_markdown())?;
        Ok(write_text(&out.join("table.html"), &table.to_html()?)?)
    }
}

/// How far a run is that has no record.
fn state(experiment: &Experiment) -> Result<String, Failure> {
    if let Some(by) = DirLock::holder(&experiment.dir)? {
        return Ok(format!("{by} is at it"));
    }
    let steps = match RunDir::open(&experiment.dir) {
        Ok(run) => steps_done(&run.checkpoint())?,
        Err(_) => 0,
    };
    Ok(match steps {
        0 => "to do".to_owned(),
        steps => format!("begun, step {steps}"),
    })
}

/// What other processes have done or are doing, a line each; empty if there is none.
fn elsewhere(summary: &Summary) -> String {
    let mut text = String::new();
    let others = summary.ended_elsewhere + summary.elsewhere.len();
    if others > 0 {
        text += &format!(
            "{} runs ended here, {} elsewhere, {} running elsewhere\n",
            summary.ran,
            summary.ended_elsewhere,
            summary.elsewhere.len()
        );
    }
    if !summary.elsewhere.is_empty() {
        text += &format!(
            "not in the table yet: {}; the same command adds them once they have ended\n",
            summary.elsewhere.join(", ")
        );
    }
    text
}

/// `about 3 h 20 min for 120 runs, 2 side by side (measured: 1,234 tokens a second in training, 4,321 in evaluation)`.
fn as_text(estimate: &Estimate) -> String {
    let beside = match estimate.jobs {
        1 => String::new(),
        jobs => format!(", {jobs} side by side"),
    };
    if estimate.runs.is_empty() {
        return "nothing to do".to_owned();
    }
    let evaluation = estimate.eval_per_second.iter().map(|&(unit, speed)| match unit {
        "tokens" => grouped(speed),
        unit => format!("{speed:.3} {unit}"),
    });
    format!(
        "about {} for {} runs{beside} (measured: {} tokens a second in training, {} in evaluation)",
        duration(estimate.seconds),
        estimate.runs.len(),
        grouped(estimate.train_tokens_per_second),
        evaluation.collect::<Vec<_>>().join(" and "),
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

//! `dylora reproduce`.

use std::path::{Path, PathBuf};

use dylora_tasks::experiment::{FULL_LR, GluePlan, PAPER_SEEDS};
use dylora_tasks::glue;
use dylora_tasks::nn::Method;
use dylora_tasks::run_dir::{write_json, write_text};
use dylora_tasks::settings::{DataSource, TrainSettings};
use dylora_tasks::table::Caption;
use dylora_tasks::train::RunOptions;

use crate::args::{DeviceArgs, SettingsArgs, absolute, word};
use crate::failure::{Failure, print, print_json};
use crate::progress::Progress;

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
    let mut missing = Vec::new();
    for experiment in &experiments {
        if experiment.record()?.is_none() {
            missing.push(experiment.settings.task.clone());
        }
    }
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
    let mut progress = Progress::new()?;
    if !missing.is_empty() {
        progress.expect_work(&plan.check_data()?, &missing);
    }
    let summary = plan.run(
        RunOptions {
            checkpoint_every: args.checkpoint_every,
        },
        &mut progress,
    )?;
    progress.clear();
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

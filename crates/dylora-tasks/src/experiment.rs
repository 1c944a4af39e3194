//! A list of runs: tasks times methods times seeds, each in its own directory, run once, resumed if it was stopped.
//!
//! Several of them may run side by side, each on its share of the threads: a small encoder's kernels are too short to be
//! cut over many. No bit of a result depends on that.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use dylora_nn::{EncoderConfig, Gpt2Config, Method};

use crate::error::{Error, Result};
use crate::generation::GenerationTask;
use crate::glue;
use crate::metric::text::meteor::Data;
use crate::prepare::{DataKey, RunData};
use crate::progress::{Event, Observer, Observers};
use crate::record::Record;
use crate::run_dir::RunDir;
use crate::settings::{DataSource, TrainSettings};
use crate::table::{Layout, Table};
use crate::text2text;
use crate::train::{Outcome, RunOptions, resume_on, train_on};
use crate::workers::{Shared, lock, on_workers, panicked};

/// Peak learning rate of `full`, which Table 8 does not give: the middle of those RoBERTa's authors searched for GLUE.
pub const FULL_LR: f64 = 2e-5;

/// The paper's seeds. Table 8 prints 10 twice; 100 stands for the second.
pub const PAPER_SEEDS: [u64; 5] = [10, 42, 4242, 100, 1010];

/// The paper's seeds of the generation tasks.
pub const PAPER_TEXT_SEEDS: [u64; 3] = [10, 42, 4242];

/// Up to this width of the hidden states one run does not keep several threads busy.
const NARROW: usize = 256;

/// Runs that make up a table: of GLUE tasks, or of generation tasks, as the recipe's data says.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// Settings of every run; task, method and seed are filled in.
    pub recipe: TrainSettings,
    /// Peak learning rate of `full` runs.
    pub full_lr: f64,
    /// Names of tasks, in the order of the table's columns.
    pub tasks: Vec<String>,
    /// Methods.
    pub methods: Vec<Method>,
    /// Seeds.
    pub seeds: Vec<u64>,
    /// Where the runs' directories and the table go.
    pub out: PathBuf,
    /// Name of the profile, for the table.
    pub profile: String,
}

/// What does not change the results of a plan's runs.
#[derive(Clone, Debug)]
pub struct PlanOptions {
    /// Runs side by side; each has its share of the threads, and at least one.
    pub jobs: usize,
    /// Options of each run.
    pub run: RunOptions,
}

impl Default for PlanOptions {
    fn default() -> Self {
        PlanOptions {
            jobs: 1,
            run: RunOptions::default(),
        }
    }
}

/// One run of a plan.
#[derive(Clone, Debug, PartialEq)]
pub struct Experiment {
    /// Its number in the plan, from 1.
    pub number: usize,
    /// `mrpc dylora seed 10`.
    pub name: String,
    /// Its settings.
    pub settings: TrainSettings,
    /// Its directory: `OUT/mrpc/dylora/seed-10`.
    pub dir: PathBuf,
}

/// What [`Plan::run`] did.
#[derive(Debug, Default)]
pub struct Summary {
    /// Runs that ended now.
    pub ran: usize,
    /// Runs whose record was there.
    pub skipped: usize,
    /// Runs that failed, by name.
    pub failed: Vec<(String, Error)>,
    /// Whether the observer asked to stop.
    pub interrupted: bool,
}

impl Plan {
    /// The runs, task by task.
    ///
    /// # Errors
    /// An unknown task (all names are listed), a list without entries or with one twice, settings that cannot be used.
    pub fn experiments(&self) -> Result<Vec<Experiment>> {
        check_list("--tasks", &self.tasks)?;
        check_list("--methods", &self.methods)?;
        check_list("--seeds", &self.seeds)?;
        let mut all = Vec::new();
        for task in &self.tasks {
            let task = self.known(task)?;
            for &method in &self.methods {
                for &seed in &self.seeds {
                    let settings = TrainSettings {
                        task: task.to_owned(),
                        method,
                        seed,
                        lr: if method == Method::Full {
                            self.full_lr
                        } else {
                            self.recipe.lr
                        },
                        precision: self.recipe.precision.that_learns(method),
                        ..self.recipe.clone()
                    };
                    settings.validate()?;
                    all.push(Experiment {
                        number: all.len() + 1,
                        name: format!("{task} {method} seed {seed}"),
                        dir: self
                            .out
                            .join(task)
                            .join(method.to_string())
                            .join(format!("seed-{seed}")),
                        settings,
                    });
                }
            }
        }
        Ok(all)
    }

    /// The runs that have no record, in the plan's order.
    ///
    /// # Errors
    /// As [`Plan::experiments`], or a directory that holds a run with other settings.
    pub fn unfinished(&self) -> Result<Vec<Experiment>> {
        let mut left = Vec::new();
        for experiment in self.experiments()? {
            experiment.check_settings()?;
            if experiment.record()?.is_none() {
                left.push(experiment);
            }
        }
        Ok(left)
    }

    /// How many runs to put side by side: as many as there are threads if the encoder is too narrow for one run to use
    /// them, else one.
    ///
    /// # Errors
    /// If the model's `config.json` cannot be read.
    pub fn auto_jobs(&self) -> Result<usize> {
        let config = self.recipe.model.join("config.json");
        let width = if self.recipe.data.is_text() {
            Gpt2Config::from_file(&config)?.hidden_size
        } else {
            EncoderConfig::from_file(&config)?.hidden_size
        };
        Ok(if width <= NARROW {
            rayon::current_num_threads()
        } else {
            1
        })
    }

    /// Runs what is not there yet, `jobs` at a time, begun in the plan's order. Rows are read once per task and dropped
    /// after its last run. A run that fails, or panics, is reported and the others go on. A run that its observer stops is
    /// the last of its worker, and no other worker begins another.
    ///
    /// # Errors
    /// Before anything runs: as [`Plan::unfinished`], no jobs, or threads that the system does not give.
    pub fn run(&self, options: PlanOptions, observers: &dyn Observers) -> Result<Summary> {
        let all = self.experiments()?.len();
        let todo = self.unfinished()?;
        let data = Shared::new(todo.iter().map(|experiment| DataKey::new(&experiment.settings)));
        let (next, stop) = (AtomicUsize::new(0), AtomicBool::new(false));
        let ended = Mutex::new(Vec::with_capacity(todo.len()));
        let work = || {
            while !stop.load(Ordering::Relaxed) && !observers.should_stop() {
                let index = next.fetch_add(1, Ordering::Relaxed);
                let Some(experiment) = todo.get(index) else { break };
                let mut observer = observers.of_run();
                // After a panic nothing of the run is used again but its files, and those are whole at any time.
                let result = catch_unwind(AssertUnwindSafe(|| {
                    observer.event(&Event::Experiment {
                        number: experiment.number,
                        of: all,
                        name: &experiment.name,
                    });
                    experiment.run(&options.run, &data, &mut *observer)
                }))
                .unwrap_or_else(|panic| Err(panicked(&*panic)));
                data.done(&DataKey::new(&experiment.settings));
                match &result {
                    Ok(Outcome::Finished(_)) => {}
                    Ok(Outcome::Interrupted { .. }) => stop.store(true, Ordering::Relaxed),
                    Err(error) => observer.event(&Event::ExperimentFailed {
                        name: &experiment.name,
                        error,
                    }),
                }
                lock(&ended).push((index, result));
            }
        };
        // Where fewer runs are left than jobs, each may use more threads.
        on_workers(options.jobs.min(todo.len().max(1)), work)?;
        let mut ended = ended.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
        ended.sort_by_key(|(index, _)| *index);
        let mut summary = Summary {
            skipped: all - todo.len(),
            interrupted: ended.len() < todo.len(),
            ..Summary::default()
        };
        for (index, result) in ended {
            match result {
                Ok(Outcome::Finished(_)) => summary.ran += 1,
                Ok(Outcome::Interrupted { .. }) => summary.interrupted = true,
                Err(error) => summary.failed.push((todo[index].name.clone(), error)),
            }
        }
        Ok(summary)
    }

    /// The records that are there, in the plan's order. Those of runs that are judged by their texts get METEOR if they lack
    /// it and `meteor` is given: the texts are kept, so nothing has to be written again.
    ///
    /// # Errors
    /// If a record, or what METEOR is computed from, cannot be read.
    pub fn records(&self, meteor: Option<&Data>) -> Result<Vec<Record>> {
        let (mut records, mut prompts) = (Vec::new(), None);
        for experiment in self.experiments()? {
            let Some(mut record) = experiment.record()? else {
                continue;
            };
            if let Some(data) = meteor {
                text2text::add_meteor(&RunDir::open(&experiment.dir)?, &mut record, data, &mut prompts)?;
            }
            records.push(record);
        }
        Ok(records)
    }

    /// The table of records.
    ///
    /// # Errors
    /// An unknown task, or several of a table that has one.
    pub fn table_of(&self, records: &[Record]) -> Result<Table> {
        let layout = match (&self.recipe.data, self.tasks.as_slice()) {
            (DataSource::Generation { .. }, [task]) => Layout::generation(GenerationTask::find(task)?, records),
            (DataSource::Generation { .. }, _) => {
                return Err(Error::argument(
                    "--tasks",
                    "each generation task has a table of its own",
                ));
            }
            (_, tasks) => {
                let tasks = tasks.iter().map(|task| glue::find(task)).collect::<Result<Vec<_>>>()?;
                Layout::glue(&tasks)
            }
        };
        Ok(Table::new(layout, &self.profile, &self.methods, records))
    }

    /// The table of all records that are there.
    ///
    /// # Errors
    /// As [`Plan::records`] and [`Plan::table_of`].
    pub fn table(&self) -> Result<Table> {
        self.table_of(&self.records(None)?)
    }

    /// A task's own spelling.
    ///
    /// # Errors
    /// An unknown task; all names are listed.
    pub(crate) fn known(&self, task: &str) -> Result<&'static str> {
        match self.recipe.data {
            DataSource::Generation { .. } => GenerationTask::find(task).map(GenerationTask::name),
            _ => glue::find(task).map(|task| task.name),
        }
    }
}

impl Experiment {
    /// The record, if the run has ended.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn record(&self) -> Result<Option<Record>> {
        match RunDir::open(&self.dir) {
            Ok(run) if run.is_finished() => run.record().map(Some),
            _ => Ok(None),
        }
    }

    /// A directory with a run of other settings must not pass for this one.
    fn check_settings(&self) -> Result<()> {
        let Ok(run) = RunDir::open(&self.dir) else {
            return Ok(());
        };
        match run.settings()?.difference(&self.settings) {
            None => Ok(()),
            Some((name, there, wanted)) => Err(Error::file(
                &self.dir,
                format!("holds a run with {name} {there}, not {wanted}; choose another --out or remove it"),
            )),
        }
    }

    fn run(
        &self,
        options: &RunOptions,
        data: &Shared<DataKey, RunData>,
        observer: &mut dyn Observer,
    ) -> Result<Outcome> {
        let load = |settings: &TrainSettings| data.get(&DataKey::new(settings), || RunData::load(settings));
        if RunDir::open(&self.dir).is_ok() {
            resume_on(&self.dir, Some(&self.settings), options, observer, load)
        } else {
            train_on(&self.settings, &self.dir, options, observer, load)
        }
    }
}

/// Something, and nothing twice.
fn check_list<T: PartialEq + std::fmt::Display>(flag: &str, list: &[T]) -> Result<()> {
    if list.is_empty() {
        return Err(Error::argument(flag, "nothing is named"));
    }
    for (index, item) in list.iter().enumerate() {
        if list[..index].contains(item) {
            return Err(Error::argument(flag, format!("{item} is named twice")));
        }
    }
    Ok(())
}

//! A list of runs, each in its own directory, run once, resumed if it was stopped.
//!
//! Several of them may run side by side, each on its share of the threads: a small encoder's kernels are too short to be
//! cut over many. No bit of a result depends on that.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use dylora_nn::{EncoderConfig, Gpt2Config};

use crate::error::{Error, Result};
use crate::nearest::hint;
use crate::prepare::{DataKey, RunData};
use crate::progress::{Event, Observer, Observers};
use crate::record::Record;
use crate::run_dir::RunDir;
use crate::settings::TrainSettings;
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

/// What does not change the results of the runs.
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

/// One run.
#[derive(Clone, Debug, PartialEq)]
pub struct Experiment {
    /// Its number among the runs, from 1.
    pub number: usize,
    /// `mrpc dylora seed 10`, `mrpc lora rank 16 seed 10`; no other run has it.
    pub name: String,
    /// Its settings.
    pub settings: TrainSettings,
    /// Its directory: `OUT/mrpc/dylora/seed-10`, `OUT/mrpc/lora/rank-16/seed-10`.
    pub dir: PathBuf,
}

/// What [`Runs::run`] did.
#[derive(Debug, Default)]
pub struct Summary {
    /// Runs that ended now.
    pub ran: usize,
    /// Runs whose record was there.
    pub skipped: usize,
    /// Runs that another process ended meanwhile.
    pub ended_elsewhere: usize,
    /// Runs that another process is at, by name.
    pub elsewhere: Vec<String>,
    /// Runs that failed, by name.
    pub failed: Vec<(String, Error)>,
    /// Whether the observer asked to stop.
    pub interrupted: bool,
}

/// Runs, in the order in which they are begun. Which they are, [`crate::study::Study`] says.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Runs {
    all: Vec<Experiment>,
}

impl Runs {
    /// These runs; their numbers are given anew.
    pub fn new(experiments: impl IntoIterator<Item = Experiment>) -> Self {
        let numbered = experiments.into_iter().enumerate();
        Runs {
            all: numbered
                .map(|(index, experiment)| Experiment {
                    number: index + 1,
                    ..experiment
                })
                .collect(),
        }
    }

    /// Those with these names; all if none is named.
    ///
    /// # Errors
    /// A name that no run has.
    pub fn only(self, names: &[String]) -> Result<Self> {
        if names.is_empty() {
            return Ok(self);
        }
        for name in names {
            if self.all.iter().all(|experiment| experiment.name != *name) {
                let all = self.all.iter().map(|experiment| experiment.name.as_str());
                return Err(Error::argument(
                    "--only",
                    format!("no run is called {name:?}{}", hint(name, all)),
                ));
            }
        }
        let named = self
            .all
            .into_iter()
            .filter(|experiment| names.contains(&experiment.name));
        Ok(Runs::new(named))
    }

    /// All of them.
    pub fn experiments(&self) -> &[Experiment] {
        &self.all
    }

    /// The runs that have no record, in order.
    ///
    /// # Errors
    /// A directory that holds a run with other settings.
    pub fn unfinished(&self) -> Result<Vec<&Experiment>> {
        let mut left = Vec::new();
        for experiment in &self.all {
            experiment.check_settings()?;
            if experiment.record()?.is_none() {
                left.push(experiment);
            }
        }
        Ok(left)
    }

    /// How many runs to put side by side: as many as there are threads if every model is too narrow for one run to use them,
    /// else one.
    ///
    /// # Errors
    /// If a model's `config.json` cannot be read.
    pub fn auto_jobs(&self) -> Result<usize> {
        let mut models: Vec<(&Path, bool)> = Vec::new();
        for experiment in &self.all {
            let model = (experiment.settings.model.as_path(), experiment.settings.data.is_text());
            if !models.contains(&model) {
                models.push(model);
            }
        }
        for (model, is_text) in models {
            let config = model.join("config.json");
            let width = if is_text {
                Gpt2Config::from_file(&config)?.hidden_size
            } else {
                EncoderConfig::from_file(&config)?.hidden_size
            };
            if width > NARROW {
                return Ok(1);
            }
        }
        Ok(rayon::current_num_threads())
    }

    /// Runs what is not there yet, `jobs` at a time, begun in order. Rows are read once per task and dropped
    /// after its last run. A run that fails, or panics, is reported and the others go on. A run that its observer stops is
    /// the last of its worker, and no other worker begins another.
    ///
    /// A run that another process is at is passed over, and looked at again when the others are done: it may have been killed.
    ///
    /// # Errors
    /// Before anything runs: as [`Runs::unfinished`], no jobs, or threads that the system does not give.
    pub fn run(&self, options: PlanOptions, observers: &dyn Observers) -> Result<Summary> {
        let all = self.all.len();
        let todo = self.unfinished()?;
        let mut summary = Summary {
            skipped: all - todo.len(),
            ..Summary::default()
        };
        let mut turn = todo;
        loop {
            let (mut busy, mut worked) = (Vec::new(), false);
            let ended = run_all(&turn, all, &options, observers)?;
            summary.interrupted |= ended.len() < turn.len();
            for (experiment, result) in ended {
                worked |= !matches!(result, Ok(Ended::Busy));
                match result {
                    Ok(Ended::Here(Outcome::Finished(_))) => summary.ran += 1,
                    Ok(Ended::Here(Outcome::Interrupted { .. })) => summary.interrupted = true,
                    Ok(Ended::Elsewhere) => summary.ended_elsewhere += 1,
                    Ok(Ended::Busy) => busy.push(experiment),
                    Err(error) => summary.failed.push((experiment.name.clone(), error)),
                }
            }
            if busy.is_empty() || summary.interrupted || !worked {
                summary.elsewhere = busy.into_iter().map(|experiment| experiment.name.clone()).collect();
                return Ok(summary);
            }
            turn = busy;
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
    ///
    /// # Errors
    /// If there is such a run, or its settings cannot be read.
    pub fn check_settings(&self) -> Result<()> {
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
        all: usize,
        options: &RunOptions,
        data: &Shared<DataKey, RunData>,
        observer: &mut dyn Observer,
    ) -> Result<Ended> {
        let name = self.name.as_str();
        let run = match RunDir::claim(&self.dir) {
            Err(Error::Busy { by, .. }) => {
                observer.event(&Event::ExperimentElsewhere { name, by: Some(&by) });
                return Ok(Ended::Busy);
            }
            claimed => claimed?,
        };
        // What was missing when the plan began may have been done since.
        if run.is_finished() {
            run.check_settings(Some(&self.settings))?;
            observer.event(&Event::ExperimentElsewhere { name, by: None });
            return Ok(Ended::Elsewhere);
        }
        observer.event(&Event::Experiment {
            number: self.number,
            of: all,
            name,
        });
        let load = |settings: &TrainSettings| data.get(&DataKey::new(settings), || RunData::load(settings));
        let outcome = if run.holds_run() {
            resume_on(&run, Some(&self.settings), options, observer, load)
        } else {
            train_on(&self.settings, run, options, observer, load)
        };
        outcome.map(Ended::Here)
    }
}

/// What became of a run.
enum Ended {
    Here(Outcome),
    /// Another process has ended it.
    Elsewhere,
    /// Another process is at it.
    Busy,
}

/// Does these runs, of `all` in the plan, and gives those that were begun, in their order.
fn run_all<'a>(
    turn: &[&'a Experiment],
    all: usize,
    options: &PlanOptions,
    observers: &dyn Observers,
) -> Result<Vec<(&'a Experiment, Result<Ended>)>> {
    let data = Shared::new(turn.iter().map(|experiment| DataKey::new(&experiment.settings)));
    let (next, stop) = (AtomicUsize::new(0), AtomicBool::new(false));
    let ended = Mutex::new(Vec::with_capacity(turn.len()));
    let work = || {
        while !stop.load(Ordering::Relaxed) && !observers.should_stop() {
            let index = next.fetch_add(1, Ordering::Relaxed);
            let Some(&experiment) = turn.get(index) else { break };
            let mut observer = observers.of_run();
            // After a panic nothing of the run is used again but its files, and those are whole at any time.
            let result = catch_unwind(AssertUnwindSafe(|| {
                experiment.run(all, &options.run, &data, &mut *observer)
            }))
            .unwrap_or_else(|panic| Err(panicked(&*panic)));
            data.done(&DataKey::new(&experiment.settings));
            match &result {
                Ok(Ended::Here(Outcome::Interrupted { .. })) => stop.store(true, Ordering::Relaxed),
                Ok(_) => {}
                Err(error) => observer.event(&Event::ExperimentFailed {
                    name: &experiment.name,
                    error,
                }),
            }
            lock(&ended).push((index, result));
        }
    };
    // Where fewer runs are left than jobs, each may use more threads.
    on_workers(options.jobs.min(turn.len().max(1)), work)?;
    let mut ended = ended.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    ended.sort_by_key(|(index, _)| *index);
    Ok(ended.into_iter().map(|(index, result)| (turn[index], result)).collect())
}

//! How long a plan will take: the size of its data, and a few steps with the actual model.

use std::time::Instant;

use dylora_nn::{Method, Objective};

use crate::checkpoint;
use crate::classifier::Classifier;
use crate::error::{Error, Result};
use crate::experiment::{Experiment, GluePlan};
use crate::glue;
use crate::pack::pack;
use crate::prepare::{Prepared, reader};
use crate::run_dir::RunDir;
use crate::settings::{DataSource, TrainSettings};
use crate::task::{Example, Head, Label, Split};
use crate::tokens::TokenizerSource;
use crate::trainer::Trainer;
use crate::workers::on_workers;

/// Rows of a split that are tokenised to know the mean length.
const SAMPLE: usize = 512;
/// Rows that one measured evaluation goes through.
const EVALUATED: usize = 64;
/// A measurement is repeated until it took so many seconds.
const ENOUGH_SECONDS: f64 = 0.2;
/// Or so many times.
const ENOUGH_TIMES: usize = 50;

/// How much a task has to train and to evaluate on.
#[derive(Clone, Debug)]
pub struct TaskSize {
    /// Name of the task.
    pub task: String,
    /// What an epoch goes through.
    pub train: SplitSize,
    /// What an evaluation at one rank goes through; all splits together.
    pub eval: SplitSize,
}

/// Rows, and about how many tokens they are.
#[derive(Clone, Debug)]
pub struct SplitSize {
    /// Number of rows.
    pub rows: usize,
    /// Tokens of all rows: exact up to 512 rows, else from the mean of 512 that are spread evenly.
    pub tokens: f64,
    sample: Prepared,
}

/// How long the rest of a plan will take.
#[derive(Clone, Debug)]
pub struct Estimate {
    /// The runs without a record, in the plan's order.
    pub runs: Vec<RunEstimate>,
    /// Runs side by side.
    pub jobs: usize,
    /// Seconds from the first run's start to the last one's end, without the reading of files.
    pub seconds: f64,
    /// Tokens that all jobs together train on in a second. No token is padding.
    pub train_tokens_per_second: f64,
    /// Tokens that all jobs together evaluate in a second, each rank counted.
    pub eval_tokens_per_second: f64,
}

/// How long one run will take.
#[derive(Clone, Debug, PartialEq)]
pub struct RunEstimate {
    /// `mrpc dylora seed 10`.
    pub name: String,
    /// Seconds of training that are left.
    pub train_seconds: f64,
    /// Seconds of evaluation at every rank.
    pub eval_seconds: f64,
}

impl RunEstimate {
    /// Training and evaluation.
    pub fn seconds(&self) -> f64 {
        self.train_seconds + self.eval_seconds
    }
}

impl SplitSize {
    /// The first `used` rows of `rows`.
    fn new(rows: &[Example], used: usize, tokenizer: &TokenizerSource, max_length: usize) -> Result<Self> {
        let used = used.min(rows.len());
        let taken = used.min(SAMPLE);
        let spread: Vec<Example> = (0..taken).map(|index| rows[index * used / taken].clone()).collect();
        let mut sample = Prepared::new(&spread, tokenizer, max_length)?;
        // Labels cost nothing, so one head of two classes measures every task.
        sample.labels = (0..taken).map(|row| Label::Class(row % 2)).collect();
        Ok(SplitSize {
            rows: used,
            tokens: sample.tokens() as f64 * used as f64 / taken.max(1) as f64,
            sample,
        })
    }

    fn add(&mut self, other: SplitSize) {
        self.rows += other.rows;
        self.tokens += other.tokens;
        self.sample.encoded.extend(other.sample.encoded);
        self.sample.labels.extend(other.sample.labels);
    }
}

/// What runs of nearly the same cost per token have in common.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Kind {
    /// Gradients of all weights.
    full: bool,
    /// Every rank in every step.
    summation: bool,
}

impl Kind {
    fn of(settings: &TrainSettings) -> Self {
        Kind {
            full: settings.method == Method::Full,
            summation: settings.method.is_dynamic() && settings.objective == Objective::Summation,
        }
    }
}

/// Tokens and the seconds they took.
#[derive(Clone, Copy, Debug, Default)]
struct Pace {
    tokens: f64,
    seconds: f64,
}

impl Pace {
    fn add(&mut self, other: Pace) {
        self.tokens += other.tokens;
        self.seconds += other.seconds;
    }

    fn seconds_for(self, tokens: f64) -> f64 {
        if tokens > 0.0 {
            tokens * self.seconds / self.tokens
        } else {
            0.0
        }
    }

    fn per_second(self) -> f64 {
        self.tokens / self.seconds.max(f64::MIN_POSITIVE)
    }
}

/// What was measured for the runs of one kind on one task.
#[derive(Clone, Copy, Debug)]
struct Measured {
    train: Pace,
    eval: Pace,
}

impl GluePlan {
    /// Reads every file that the runs will read, so that a bad line is found before the first step, and says how much
    /// there is to do for each task of the plan, in its order.
    ///
    /// # Errors
    /// The first thing wrong with a file, with its line.
    pub fn check_data(&self) -> Result<Vec<TaskSize>> {
        let DataSource::Glue { dir } = &self.recipe.data else {
            return Err(Error::argument(
                "--data",
                "Table 2 is made of GLUE tasks; give their folder",
            ));
        };
        let (config, tokenizer) = reader(&self.recipe.model)?;
        let max_length = self.recipe.max_length.min(config.max_positions);
        let mut sizes = Vec::with_capacity(self.tasks.len());
        for task in &self.tasks {
            let source = glue::find(task)?;
            let load = |split, most: usize| SplitSize::new(&source.load(dir, split)?, most, &tokenizer, max_length);
            let mut eval = load(Split::Dev, usize::MAX)?;
            for split in source.task().eval_splits {
                if split != Split::Dev {
                    eval.add(load(split, usize::MAX)?);
                }
            }
            sizes.push(TaskSize {
                task: source.name.to_owned(),
                train: load(Split::Train, self.recipe.max_train_rows.unwrap_or(usize::MAX))?,
                eval,
            });
        }
        Ok(sizes)
    }

    /// Measures a few training steps and evaluations of each task, with the actual model, `jobs` side by side, and says how
    /// long the runs without a record will take. `sizes` are [`GluePlan::check_data`]'s.
    ///
    /// # Errors
    /// As [`GluePlan::unfinished`]; a model that cannot be loaded; no jobs.
    pub fn measure(&self, sizes: &[TaskSize], jobs: usize) -> Result<Estimate> {
        let todo = self.unfinished()?;
        let jobs = jobs.min(todo.len().max(1));
        let mut works: Vec<Work<'_>> = Vec::new();
        for experiment in &todo {
            let kind = Kind::of(&experiment.settings);
            let size = size_of(sizes, &experiment.settings.task)?;
            let known = works.iter().position(|work| work.kind == kind);
            let place = known.unwrap_or(works.len());
            if known.is_none() {
                works.push(Work {
                    kind,
                    settings: &experiment.settings,
                    sizes: Vec::new(),
                });
            }
            let work = &mut works[place];
            if work.sizes.iter().all(|known| known.task != size.task) {
                work.sizes.push(size);
            }
        }
        let mut measured: Option<Vec<Measured>> = None;
        for worker in on_workers(jobs, || measure_all(&works))? {
            let worker = worker?;
            match &mut measured {
                None => measured = Some(worker),
                Some(sum) => {
                    for (sum, one) in sum.iter_mut().zip(worker) {
                        sum.train.add(one.train);
                        sum.eval.add(one.eval);
                    }
                }
            }
        }
        let measured = measured.unwrap_or_default();
        let places: Vec<(Kind, &str)> = works
            .iter()
            .flat_map(|work| work.sizes.iter().map(|size| (work.kind, size.task.as_str())))
            .collect();
        let mut runs = Vec::with_capacity(todo.len());
        for experiment in &todo {
            let place = (Kind::of(&experiment.settings), experiment.settings.task.as_str());
            let Some((_, pace)) = places.iter().zip(&measured).find(|(known, _)| **known == place) else {
                continue;
            };
            runs.push(experiment.estimate(size_of(sizes, place.1)?, *pace)?);
        }
        let (mut train, mut eval) = (Pace::default(), Pace::default());
        for one in &measured {
            train.add(one.train);
            eval.add(one.eval);
        }
        Ok(Estimate {
            seconds: makespan(runs.iter().map(RunEstimate::seconds), jobs),
            runs,
            jobs,
            train_tokens_per_second: train.per_second() * jobs as f64,
            eval_tokens_per_second: eval.per_second() * jobs as f64,
        })
    }
}

impl Experiment {
    fn estimate(&self, size: &TaskSize, pace: Measured) -> Result<RunEstimate> {
        let settings = &self.settings;
        let steps = size.train.rows.div_ceil(settings.batch_size) as f64 * f64::from(settings.epochs);
        let done = match RunDir::open(&self.dir) {
            Ok(run) => checkpoint::steps_done(&run.checkpoint())? as f64,
            Err(_) => 0.0,
        };
        let left = 1.0 - (done / steps.max(1.0)).min(1.0);
        let tokens = size.train.tokens * f64::from(settings.epochs) * left;
        Ok(RunEstimate {
            name: self.name.clone(),
            train_seconds: pace.train.seconds_for(tokens),
            eval_seconds: pace.eval.seconds_for(size.eval.tokens * settings.ranks().len() as f64),
        })
    }
}

fn size_of<'a>(sizes: &'a [TaskSize], task: &str) -> Result<&'a TaskSize> {
    sizes
        .iter()
        .find(|size| size.task == task)
        .ok_or_else(|| Error::argument("sizes", format!("{task} is not among them")))
}

/// What is measured with one model.
struct Work<'a> {
    kind: Kind,
    settings: &'a TrainSettings,
    sizes: Vec<&'a TaskSize>,
}

/// One measurement for each kind and task, in the order of `works`.
fn measure_all(works: &[Work<'_>]) -> Result<Vec<Measured>> {
    let mut all = Vec::new();
    for work in works {
        // A rate of 0 keeps the weights, and with them the time of a step, where they are.
        let settings = TrainSettings {
            lr: 0.0,
            ..work.settings.clone()
        };
        let (mut config, _) = reader(&settings.model)?;
        if let Some(dropout) = settings.dropout {
            config = config.with_dropout(dropout);
        }
        let adapter = settings.adapter();
        let classifier = Classifier::new(
            &config,
            Head::Classify(2),
            adapter.as_ref(),
            Some(&settings.model),
            settings.precision,
            settings.seed,
        )?;
        let mut trainer = Trainer::new(classifier, &settings, ENOUGH_TIMES as u64)?;
        for (index, size) in work.sizes.iter().enumerate() {
            if index == 0 {
                // What comes first allocates its buffers.
                train_step(&mut trainer, &settings, &size.train.sample, 0)?;
                evaluate_some(&trainer.classifier, &settings, &size.eval.sample)?;
            }
            all.push(Measured {
                train: repeat(|time| train_step(&mut trainer, &settings, &size.train.sample, time))?,
                eval: repeat(|_| evaluate_some(&trainer.classifier, &settings, &size.eval.sample))?,
            });
        }
    }
    Ok(all)
}

/// Does something that says how many tokens it went through until the clock has something to show.
fn repeat(mut once: impl FnMut(usize) -> Result<usize>) -> Result<Pace> {
    let started = Instant::now();
    let mut pace = Pace::default();
    for time in 0..ENOUGH_TIMES {
        pace.tokens += once(time)? as f64;
        pace.seconds = started.elapsed().as_secs_f64();
        if pace.seconds >= ENOUGH_SECONDS {
            break;
        }
    }
    Ok(pace)
}

/// A step on some rows of `sample`, others each time.
fn train_step(trainer: &mut Trainer, settings: &TrainSettings, sample: &Prepared, time: usize) -> Result<usize> {
    let count = settings.batch_size.min(sample.len());
    let rows: Vec<usize> = (0..count).map(|row| (time * count + row) % sample.len()).collect();
    let offset = trainer.classifier.position_offset();
    let batches = pack(&sample.encoded, &sample.labels, &rows, offset, settings.token_budget)?;
    trainer.step(&batches)?;
    Ok(batches.iter().map(|batch| batch.tokens()).sum())
}

/// An evaluation at the largest rank.
fn evaluate_some(classifier: &Classifier, settings: &TrainSettings, sample: &Prepared) -> Result<usize> {
    let count = sample.len().min(EVALUATED);
    // Spread over the sample, which may be of two splits.
    let rows = (0..count).map(|row| row * sample.len() / count);
    let some = Prepared {
        encoded: rows.clone().map(|row| sample.encoded[row].clone()).collect(),
        labels: rows.map(|row| sample.labels[row]).collect(),
    };
    let rank = settings.ranks().last().copied().flatten();
    classifier.logits(&some, rank, settings.token_budget, |_| ())?;
    Ok(some.tokens())
}

/// When the last of `jobs` workers ends that take runs of these lengths from one queue.
fn makespan(lengths: impl Iterator<Item = f64>, jobs: usize) -> f64 {
    let mut busy = vec![0.0f64; jobs];
    for length in lengths {
        if let Some(first) = busy.iter_mut().min_by(|a, b| a.total_cmp(b)) {
            *first += length;
        }
    }
    busy.into_iter().fold(0.0, f64::max)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_grows_with_epochs_and_ranks() -> Result<()> {
        let split = |rows, tokens| SplitSize {
            rows,
            tokens,
            sample: Prepared::default(),
        };
        let size = TaskSize {
            task: "mrpc".to_owned(),
            train: split(100, 3000.0),
            eval: split(10, 400.0),
        };
        let pace = |tokens, seconds| Pace { tokens, seconds };
        let measured = Measured {
            train: pace(1000.0, 2.0),
            eval: pace(1000.0, 0.5),
        };
        let run = |method, rank, epochs| {
            let data = DataSource::Glue { dir: "data".into() };
            let experiment = Experiment {
                number: 1,
                name: "run".to_owned(),
                settings: TrainSettings {
                    method,
                    rank,
                    epochs,
                    ..TrainSettings::new("mrpc", "model".as_ref(), data)
                },
                dir: "nowhere".into(),
            };
            experiment
                .estimate(&size, measured)
                .map(|run| (run.train_seconds, run.eval_seconds))
        };
        assert_eq!(run(Method::DyLora, 1, 1)?, (6.0, 0.2));
        assert_eq!(run(Method::DyLora, 8, 5)?, (30.0, 1.6));
        assert_eq!(run(Method::Full, 8, 5)?, (30.0, 0.2));
        Ok(())
    }

    #[test]
    fn workers_take_the_next_run_when_they_are_free() {
        let lengths = [4.0, 1.0, 1.0, 3.0];
        assert_eq!(makespan(lengths.into_iter(), 1), 9.0);
        // 4, then nothing; 1, 1 and 3 beside it.
        assert_eq!(makespan(lengths.into_iter(), 2), 5.0);
        assert_eq!(makespan(lengths.into_iter(), 9), 4.0);
        assert_eq!(makespan([].into_iter(), 2), 0.0);
    }
}

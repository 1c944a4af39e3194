//! How long runs will take: the size of its data, and a few steps with the actual model.

use std::time::Instant;

use dylora_nn::{Checkpoint, Gpt2Config, Method, Objective};

use crate::checkpoint;
use crate::classifier::Classifier;
use crate::error::{Error, Result};
use crate::experiment::{Experiment, Runs};
use crate::generate::generate;
use crate::glue;
use crate::pack::pack;
use crate::prepare::{DataKey, Prepared, reader};
use crate::run_dir::RunDir;
use crate::settings::{DataSource, TrainSettings};
use crate::task::{Example, Head, Label, Split};
use crate::text2text::{EncodedPair, TextData, TextTrainer, mean_loss};
use crate::tokens::TokenizerSource;
use crate::trainer::Trainer;
use crate::workers::on_workers;

/// Rows of a split that are tokenised to know the mean length.
const SAMPLE: usize = 512;
/// Rows that one measured evaluation goes through.
const EVALUATED: usize = 64;
/// Texts that one measurement writes.
const WRITTEN: usize = 8;
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
    key: DataKey,
}

/// Rows, and about how many tokens they are.
#[derive(Clone, Debug)]
pub struct SplitSize {
    /// Number of rows.
    pub rows: usize,
    /// Tokens of all rows: exact up to 512 rows, else from the mean of 512 that are spread evenly. Of prompts that texts are
    /// written for, their number.
    pub tokens: f64,
    sample: Sample,
}

/// Some rows of a split.
#[derive(Clone, Debug)]
enum Sample {
    Rows(Prepared),
    Pairs(Vec<EncodedPair>),
    Prompts(Vec<Vec<i32>>),
}

/// How long the rest of the runs will take.
#[derive(Clone, Debug)]
pub struct Estimate {
    /// The runs without a record, in order.
    pub runs: Vec<RunEstimate>,
    /// Runs side by side.
    pub jobs: usize,
    /// Seconds from the first run's start to the last one's end, without the reading of files.
    pub seconds: f64,
    /// Tokens that all jobs together train on in a second. No token is padding.
    pub train_tokens_per_second: f64,
    /// What all jobs together evaluate in a second, each rank counted, in `tokens`, and in `texts` where texts are written.
    pub eval_per_second: Vec<(&'static str, f64)>,
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

impl TaskSize {
    /// Reads what a run reads.
    fn new(key: DataKey, settings: &TrainSettings) -> Result<Self> {
        let (train, eval) = match &settings.data {
            DataSource::Glue { dir } => {
                let (config, tokenizer) = reader(&settings.model)?;
                let max_length = settings.max_length.min(config.max_positions);
                let source = glue::find(&settings.task)?;
                let load = |split, most: usize| SplitSize::new(&source.load(dir, split)?, most, &tokenizer, max_length);
                let mut eval = load(Split::Dev, usize::MAX)?;
                for split in source.task().eval_splits {
                    if split != Split::Dev {
                        eval.add(load(split, usize::MAX)?);
                    }
                }
                (load(Split::Train, settings.max_train_rows.unwrap_or(usize::MAX))?, eval)
            }
            DataSource::Generation { .. } => {
                let data = TextData::load(settings)?;
                let eval = match data.prompts {
                    Some(prompts) => SplitSize::of_prompts(prompts.ids),
                    None => SplitSize::of_pairs(data.dev),
                };
                (SplitSize::of_pairs(data.train), eval)
            }
            DataSource::Files { .. } | DataSource::Pairs { .. } => {
                return Err(Error::argument(
                    "--data",
                    "a table is made of GLUE tasks or generation tasks; give their folder",
                ));
            }
        };
        Ok(TaskSize {
            task: settings.task.clone(),
            key,
            train,
            eval,
        })
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
            sample: Sample::Rows(sample),
        })
    }

    /// Pairs of texts, all of them.
    fn of_pairs(pairs: Vec<EncodedPair>) -> Self {
        SplitSize {
            rows: pairs.len(),
            tokens: pairs.iter().map(|pair| pair.ids.len() as f64).sum(),
            sample: Sample::Pairs(pairs),
        }
    }

    /// Prompts, all of them.
    fn of_prompts(prompts: Vec<Vec<i32>>) -> Self {
        SplitSize {
            rows: prompts.len(),
            tokens: prompts.len() as f64,
            sample: Sample::Prompts(prompts),
        }
    }

    fn add(&mut self, other: SplitSize) {
        self.rows += other.rows;
        self.tokens += other.tokens;
        if let (Sample::Rows(own), Sample::Rows(other)) = (&mut self.sample, other.sample) {
            own.encoded.extend(other.encoded);
            own.labels.extend(other.labels);
        }
    }
}

/// What runs of nearly the same cost per token have in common.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Kind {
    /// Gradients of all weights.
    full: bool,
    /// Factors in place of matrices.
    flop: bool,
    /// Every rank in every step.
    summation: bool,
    /// Of a language model.
    text: bool,
}

impl Kind {
    fn of(settings: &TrainSettings) -> Self {
        Kind {
            full: settings.method == Method::Full,
            flop: settings.method == Method::Flop,
            summation: settings.method.is_dynamic() && settings.objective == Objective::Summation,
            text: settings.data.is_text(),
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

impl Runs {
    /// Reads every file that the runs will read, so that a bad line is found before the first step, and says how much
    /// there is to do for each task, in the order of the runs.
    ///
    /// # Errors
    /// The first thing wrong with a file, with its line.
    pub fn check_data(&self) -> Result<Vec<TaskSize>> {
        let mut sizes: Vec<TaskSize> = Vec::new();
        for experiment in self.experiments() {
            let key = DataKey::new(&experiment.settings);
            if sizes.iter().all(|size| size.key != key) {
                sizes.push(TaskSize::new(key, &experiment.settings)?);
            }
        }
        Ok(sizes)
    }

    /// Measures a few training steps and evaluations of each task, with the actual model, `jobs` side by side, and says how
    /// long the runs without a record will take. `sizes` are [`Runs::check_data`]'s.
    ///
    /// # Errors
    /// As [`Runs::unfinished`]; a model that cannot be loaded; no jobs.
    pub fn measure(&self, sizes: &[TaskSize], jobs: usize) -> Result<Estimate> {
        let todo = self.unfinished()?;
        let jobs = jobs.min(todo.len().max(1));
        let mut works: Vec<Work<'_>> = Vec::new();
        for experiment in &todo {
            let kind = Kind::of(&experiment.settings);
            let size = size_of(sizes, &experiment.settings)?;
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
            if work.sizes.iter().all(|known| known.key != size.key) {
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
        let places: Vec<(Kind, &DataKey)> = works
            .iter()
            .flat_map(|work| work.sizes.iter().map(|size| (work.kind, &size.key)))
            .collect();
        let mut runs = Vec::with_capacity(todo.len());
        for experiment in &todo {
            let size = size_of(sizes, &experiment.settings)?;
            let place = (Kind::of(&experiment.settings), &size.key);
            let Some((_, pace)) = places.iter().zip(&measured).find(|(known, _)| **known == place) else {
                continue;
            };
            runs.push(experiment.estimate(size, *pace)?);
        }
        let mut train = Pace::default();
        let mut eval: Vec<(&'static str, Pace)> = Vec::new();
        for (size, one) in works.iter().flat_map(|work| &work.sizes).zip(&measured) {
            train.add(one.train);
            let unit = match size.eval.sample {
                Sample::Prompts(_) => "texts",
                Sample::Rows(_) | Sample::Pairs(_) => "tokens",
            };
            match eval.iter_mut().find(|(known, _)| *known == unit) {
                Some((_, pace)) => pace.add(one.eval),
                None => eval.push((unit, one.eval)),
            }
        }
        Ok(Estimate {
            seconds: makespan(runs.iter().map(RunEstimate::seconds), jobs),
            runs,
            jobs,
            train_tokens_per_second: train.per_second() * jobs as f64,
            eval_per_second: eval
                .into_iter()
                .map(|(unit, pace)| (unit, pace.per_second() * jobs as f64))
                .collect(),
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

fn size_of<'a>(sizes: &'a [TaskSize], settings: &TrainSettings) -> Result<&'a TaskSize> {
    let key = DataKey::new(settings);
    sizes
        .iter()
        .find(|size| size.key == key)
        .ok_or_else(|| Error::argument("sizes", format!("{} is not among them", settings.task)))
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
            gate_lr: Some(0.0),
            lambda_lr: Some(0.0),
            ..work.settings.clone()
        };
        let mut bench = bench(&settings)?;
        for (index, size) in work.sizes.iter().enumerate() {
            let (train, eval) = (&size.train.sample, &size.eval.sample);
            if index == 0 {
                // What comes first allocates its buffers.
                bench.train(train, 0)?;
                bench.evaluate(eval)?;
            }
            all.push(Measured {
                train: repeat(|time| bench.train(train, time))?,
                eval: repeat(|_| bench.evaluate(eval))?,
            });
        }
    }
    Ok(all)
}

/// A model that is measured. What it does is counted in tokens, or in texts that it writes.
trait Bench {
    /// A step on some rows of `sample`, others each time.
    fn train(&mut self, sample: &Sample, time: usize) -> Result<usize>;

    /// An evaluation of some rows at the largest rank.
    fn evaluate(&self, sample: &Sample) -> Result<usize>;
}

fn bench(settings: &TrainSettings) -> Result<Box<dyn Bench>> {
    if settings.data.is_text() {
        let config = Gpt2Config::from_file(&settings.model.join("config.json"))?;
        let config = match settings.dropout {
            Some(dropout) => config.with_dropout(dropout),
            None => config,
        };
        return Ok(Box::new(TextBench {
            trainer: TextTrainer::new(settings, &config, ENOUGH_TIMES as u64)?,
            eos: config.eos_token_id as i32,
            settings: settings.clone(),
        }));
    }
    let (mut config, _) = reader(&settings.model)?;
    if let Some(dropout) = settings.dropout {
        config = config.with_dropout(dropout);
    }
    let source = Checkpoint::open(&settings.model)?;
    let classifier = Classifier::of(settings, &config, Head::Classify(2), Some(&source), settings.precision)?;
    Ok(Box::new(RowBench {
        trainer: Trainer::new(classifier, settings, ENOUGH_TIMES as u64)?,
        settings: settings.clone(),
    }))
}

/// The `count` places of a sample that are taken the `time`-th time.
fn places(count: usize, of: usize, time: usize) -> impl Iterator<Item = usize> {
    let count = count.min(of);
    (0..count).map(move |row| (time * count + row) % of)
}

struct RowBench {
    trainer: Trainer,
    settings: TrainSettings,
}

impl Bench for RowBench {
    fn train(&mut self, sample: &Sample, time: usize) -> Result<usize> {
        let Sample::Rows(sample) = sample else { return Ok(0) };
        let rows: Vec<usize> = places(self.settings.batch_size, sample.len(), time).collect();
        let offset = self.trainer.classifier.position_offset();
        let budget = self.settings.token_budget;
        let batches = pack(&sample.encoded, &sample.labels, &rows, offset, budget)?;
        self.trainer.step(&batches)?;
        Ok(batches.iter().map(|batch| batch.tokens()).sum())
    }

    fn evaluate(&self, sample: &Sample) -> Result<usize> {
        let Sample::Rows(sample) = sample else { return Ok(0) };
        let count = sample.len().min(EVALUATED);
        // Spread over the sample, which may be of two splits.
        let rows = (0..count).map(|row| row * sample.len() / count);
        let some = Prepared {
            encoded: rows.clone().map(|row| sample.encoded[row].clone()).collect(),
            labels: rows.map(|row| sample.labels[row]).collect(),
        };
        let rank = self.settings.ranks().last().copied().flatten();
        let budget = self.settings.token_budget;
        self.trainer.classifier.logits(&some, rank, budget, |_| ())?;
        Ok(some.tokens())
    }
}

struct TextBench {
    trainer: TextTrainer,
    settings: TrainSettings,
    eos: i32,
}

impl Bench for TextBench {
    fn train(&mut self, sample: &Sample, time: usize) -> Result<usize> {
        let Sample::Pairs(pairs) = sample else { return Ok(0) };
        let rows = places(self.settings.batch_size, pairs.len(), time);
        let texts: Vec<&EncodedPair> = rows.map(|row| &pairs[row]).collect();
        let trainer = &mut self.trainer;
        rayon::scope(|_| trainer.step(&texts))?;
        Ok(texts.iter().map(|text| text.ids.len()).sum())
    }

    fn evaluate(&self, sample: &Sample) -> Result<usize> {
        let model = &self.trainer.model;
        match (sample, &self.settings.writing) {
            (Sample::Prompts(prompts), Some(writing)) => {
                // Before it is trained, a model writes until it has no room: the estimate is on the safe side.
                let some = &prompts[..prompts.len().min(WRITTEN)];
                generate(model, model.rank(), some, &writing.generate(self.eos), &mut |_| ())?;
                Ok(some.len())
            }
            (Sample::Pairs(pairs), _) => {
                let some = &pairs[..pairs.len().min(EVALUATED)];
                let rank = self.settings.ranks().last().copied().flatten();
                let budget = self.settings.token_budget;
                mean_loss(model, self.trainer.device(), some, rank, budget, &mut |_| ())?;
                Ok(some.iter().map(|pair| pair.ids.len()).sum())
            }
            _ => Ok(0),
        }
    }
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
            sample: Sample::Rows(Prepared::default()),
        };
        let data = || DataSource::Glue { dir: "data".into() };
        let size = TaskSize {
            key: DataKey::new(&TrainSettings::new("mrpc", "model".as_ref(), data())),
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
            let experiment = Experiment {
                number: 1,
                name: "run".to_owned(),
                settings: TrainSettings {
                    method,
                    rank,
                    epochs,
                    ..TrainSettings::new("mrpc", "model".as_ref(), data())
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

//! Text to text: a causal language model learns to write a completion after a context, and a finished run writes them.
//!
//! A run's directory, its records and how it is taken up again are those of [`crate::train`]; `task.json` says that it is of
//! this kind. After the last step the loss on the dev pairs is measured at every rank.

mod data;
mod trained;
mod trainer;

use std::path::Path;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use dylora_nn::{Gpt2Config, save_tensors};
use serde::Serialize;

use crate::checkpoint::{Position, load_state, save_state};
use crate::error::{Error, Result};
use crate::progress::{Event, Observer};
use crate::record::{CodeVersion, RECORD_FORMAT, RankName, RankScores, Record, Scores, Timing};
use crate::run_dir::RunDir;
use crate::settings::{DataSource, TrainSettings};
use crate::tokens::TokenizerSource;
use crate::train::{Outcome, RunOptions, epoch_order};

pub use data::{EncodedPair, TextCodec, TextPair, read_contexts, read_pairs};
pub use trained::TrainedText;
pub use trainer::TextTrainer;

/// The task's name in settings and on the command line.
pub const TASK: &str = "text";

/// What `task.json` of such a run says.
#[derive(Serialize)]
struct TextTask {
    name: &'static str,
    head: &'static str,
    metrics: [&'static str; 2],
}

const TEXT_TASK: TextTask = TextTask {
    name: TASK,
    head: "language-model",
    metrics: METRICS,
};

/// Mean loss of a predicted token in nats, and its exponential.
const METRICS: [&str; 2] = ["loss", "perplexity"];

/// Trains in a new directory.
///
/// # Errors
/// As [`crate::train::train`].
pub fn train(
    settings: &TrainSettings,
    dir: &Path,
    options: RunOptions,
    observer: &mut dyn Observer,
) -> Result<Outcome> {
    settings.validate()?;
    let run = RunDir::create(dir)?;
    match Session::new(settings, observer) {
        Ok(session) => {
            run.begin(settings, &TEXT_TASK)?;
            session.run(&run, Position::default(), options, observer)
        }
        Err(error) => {
            run.abandon();
            Err(error)
        }
    }
}

/// Goes on with a run that was stopped or killed, to the same bytes as if it had not been. A finished run is only read.
///
/// # Errors
/// As [`crate::train::resume`].
pub fn resume(
    dir: &Path,
    settings: Option<&TrainSettings>,
    options: RunOptions,
    observer: &mut dyn Observer,
) -> Result<Outcome> {
    let run = RunDir::open(dir)?;
    let own = run.settings()?;
    if let Some((name, ours, theirs)) = settings.and_then(|wanted| own.difference(wanted)) {
        return Err(Error::file(
            dir,
            format!("the run was started with {name} {ours} and cannot go on with {name} {theirs}"),
        ));
    }
    if run.is_finished() {
        return Ok(Outcome::Finished(Box::new(run.record()?)));
    }
    run.sweep()?;
    own.validate()?;
    let mut session = Session::new(&own, observer)?;
    let trainer = &mut session.trainer;
    let named = trainer.model.named_trained();
    let stored: Option<Position> = load_state(&run.checkpoint(), &named, &mut trainer.optimizer)?;
    let mut position = stored.unwrap_or_default();
    trainer.set_done(position.step);
    position.resumed += 1;
    session.run(&run, position, options, observer)
}

/// Everything a run needs in memory.
struct Session {
    settings: TrainSettings,
    train: Vec<EncodedPair>,
    dev: Vec<EncodedPair>,
    trainer: TextTrainer,
    steps_per_epoch: u64,
    steps: u64,
}

/// The model's sizes with the dropout that the settings ask for.
fn config(settings: &TrainSettings, dir: &Path) -> Result<Gpt2Config> {
    let config = Gpt2Config::from_file(&dir.join("config.json"))?;
    Ok(match settings.dropout {
        Some(dropout) => config.with_dropout(dropout),
        None => config,
    })
}

impl Session {
    fn new(settings: &TrainSettings, observer: &mut dyn Observer) -> Result<Self> {
        let DataSource::Pairs { train, dev } = &settings.data else {
            return Err(Error::argument(
                "--task",
                "text needs --train and --dev, two jsonl files",
            ));
        };
        let config = config(settings, &settings.model)?;
        let tokenizer = TokenizerSource::from_model_dir(&settings.model)?;
        let codec = TextCodec::new(tokenizer, &config, settings.max_length)?;
        let mut encode = |path: &Path, most: Option<usize>| -> Result<Vec<EncodedPair>> {
            let mut pairs = read_pairs(path)?;
            pairs.truncate(most.unwrap_or(usize::MAX));
            let (encoded, cut) = codec.encode(&pairs)?;
            if cut > 0 {
                observer.event(&Event::Cut { path, texts: cut });
            }
            Ok(encoded)
        };
        let (train, dev) = (encode(train, settings.max_train_rows)?, encode(dev, None)?);
        let steps_per_epoch = train.len().div_ceil(settings.batch_size) as u64;
        let steps = steps_per_epoch * u64::from(settings.epochs);
        Ok(Session {
            trainer: TextTrainer::new(settings, &config, steps)?,
            settings: settings.clone(),
            train,
            dev,
            steps_per_epoch,
            steps,
        })
    }

    fn run(
        mut self,
        run: &RunDir,
        mut position: Position,
        options: RunOptions,
        observer: &mut dyn Observer,
    ) -> Result<Outcome> {
        observer.event(&Event::Started {
            settings: &self.settings,
            run: run.path(),
            steps: self.steps,
            done: position.step,
            rows: self.train.len(),
            tokens: self.train.iter().map(|text| text.ids.len()).sum(),
        });
        while position.step < self.steps {
            let epoch = (position.step / self.steps_per_epoch) as u32;
            let order = epoch_order(self.settings.seed, epoch, self.train.len());
            let skip = (position.step % self.steps_per_epoch) as usize;
            for rows in order.chunks(self.settings.batch_size).skip(skip) {
                let started = Instant::now();
                self.step(rows, epoch + 1, &mut position, observer)?;
                position.seconds += started.elapsed().as_secs_f64();
                let epoch_ends = position.step.is_multiple_of(self.steps_per_epoch);
                if epoch_ends {
                    let loss = position.loss.end_epoch();
                    observer.event(&Event::EpochEnd { epoch: epoch + 1, loss });
                }
                let stop = observer.should_stop() && position.step < self.steps;
                let due = options
                    .checkpoint_every
                    .is_some_and(|every| position.step.is_multiple_of(every.max(1)));
                if epoch_ends || stop || due {
                    let path = run.checkpoint();
                    let trained = self.trainer.model.named_trained();
                    save_state(&path, trained, &self.trainer.optimizer, &position)?;
                    observer.event(&Event::Checkpoint {
                        step: position.step,
                        path: &path,
                    });
                }
                if stop {
                    return Ok(Outcome::Interrupted {
                        step: position.step,
                        of: self.steps,
                    });
                }
            }
        }
        self.finish(run, position, observer)
    }

    fn step(&mut self, rows: &[usize], epoch: u32, position: &mut Position, observer: &mut dyn Observer) -> Result<()> {
        let texts: Vec<&EncodedPair> = rows.iter().map(|row| &self.train[*row]).collect();
        // From inside the thread pool, so that no kernel has to wait for a thread to be woken.
        let report = rayon::scope(|_| self.trainer.step(&texts)).map_err(|error| match error {
            Error::Diverged { what, value, step, .. } => Error::Diverged {
                what,
                value,
                step,
                epoch: Some(epoch),
            },
            other => other,
        })?;
        let tokens = texts.iter().map(|text| text.ids.len()).sum();
        position.step += 1;
        position.loss.add(report.loss, rows.len());
        position.rows += rows.len() as u64;
        position.tokens += tokens as u64;
        observer.event(&Event::Step {
            step: position.step,
            epoch,
            loss: report.loss,
            grad_norm: report.grad_norm,
            lr: report.lr,
            rank: report.rank,
            rows: rows.len(),
            tokens,
        });
        Ok(())
    }

    fn finish(self, run: &RunDir, position: Position, observer: &mut dyn Observer) -> Result<Outcome> {
        let model = &self.trainer.model;
        save_tensors(&run.adapter(), &model.named_trained(), &[])?;
        let started = Instant::now();
        let ranks = self.settings.ranks();
        observer.event(&Event::Evaluating {
            ranks: ranks.len(),
            rows: self.dev.len(),
        });
        let mut scores = Vec::with_capacity(ranks.len());
        for rank in &ranks {
            let budget = self.settings.token_budget;
            let mut done = |rows| observer.event(&Event::EvaluatedRows(rows));
            let loss = trained::mean_loss(model, self.trainer.device(), &self.dev, *rank, budget, &mut done)?;
            let named = METRICS.iter().zip([loss, loss.exp()]);
            let found = RankScores {
                rank: RankName::new(*rank),
                scores: Scores(named.map(|(name, value)| ((*name).to_owned(), value)).collect()),
            };
            observer.event(&Event::Evaluated {
                rank: found.rank,
                scores: &found.scores,
            });
            scores.push(found);
        }
        let per_second = |count: u64| count as f64 / position.seconds.max(f64::MIN_POSITIVE);
        let record = Record {
            format: RECORD_FORMAT,
            code: CodeVersion::current(),
            device: self.trainer.device().describe(),
            train_rows: self.train.len(),
            steps: self.steps,
            trainable: ranks
                .iter()
                .map(|rank| model.num_trainable(rank.unwrap_or(0)))
                .collect(),
            ranks: scores,
            timing: Timing {
                train_seconds: position.seconds,
                eval_seconds: started.elapsed().as_secs_f64(),
                rows_per_second: per_second(position.rows),
                tokens_per_second: per_second(position.tokens),
                resumed: position.resumed,
                finished_unix: SystemTime::now()
                    .duration_since(UNIX_EPOCH)
                    .map_or(0, |since| since.as_secs()),
            },
            loss: position.loss,
            settings: self.settings,
        };
        run.write_record(&record)?;
        // The record and the trained tensors hold all that a finished run is asked for; moments are twice their size.
        let _ = std::fs::remove_file(run.checkpoint());
        observer.event(&Event::Finished { record: &record });
        Ok(Outcome::Finished(Box::new(record)))
    }
}

//! Pre-training of an encoder (masked) or a causal model: from a text file to a model directory that everything else here, and
//! transformers, can load.
//!
//! | file | what | written |
//! | --- | --- | --- |
//! | `tokenizer.json`, `tokenizer_config.json` | byte-level BPE learned from the text | before the first step |
//! | `config.json` | the encoder's sizes | before the first step |
//! | `pretrain.toml` | the same as flags of `dylora pretrain`, for one that repeats it | before the first step |
//! | `pretrain-settings.json` | [`PretrainSettings`] and what the text is | before the first step; removed at the end |
//! | `checkpoint.safetensors` | weights, both moments, position | now and then; removed at the end |
//! | `model.safetensors` | encoder and language-model head | at the end |
//! | `pretrain.json` | [`PretrainRecord`] | at the end, once |
//!
//! Rows of a step, hidden tokens and dropout are functions of seed and step, so a run that is stopped and taken up again
//! ends with the same bytes.

mod mask;
mod record;
mod settings;
mod step;
mod text;
mod vocabulary;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use dylora_nn::save_tensors_as;
use serde::{Deserialize, Serialize};

use crate::checkpoint::{load_state, save_state};
use crate::error::{Error, Result};
use crate::pack::{PackedBatch, pack};
use crate::progress::{Event, Observer, PretrainEvent};
use crate::record::{CodeVersion, Timing};
use crate::run_dir::{prepare_new, read_json, sweep, write_json, write_text};
use crate::session::epoch_order;
use crate::task::Label;
use crate::tokens::{Encoded, TokenizerSource};
use crate::train::{Outcome, RunOptions};

pub use mask::{Hidden, Masking};
pub use record::{Evaluation, PRETRAIN_FORMAT, PretrainRecord};
pub use settings::{Architecture, PretrainSettings};
pub use step::StepReport;
pub use text::TextFacts;
pub use vocabulary::{END, MASK, SPECIAL};

use step::{LanguageTrainer, ModelConfig};
use text::{Rows, Texts};

/// Pre-trains a model in a new directory.
///
/// # Errors
/// One sentence about the first thing that is wrong: a setting, the text with its line, a directory that cannot be written
/// (all before the first step), or [`Error::Diverged`].
pub fn pretrain(
    settings: &PretrainSettings,
    dir: &Path,
    options: RunOptions,
    observer: &mut dyn Observer,
) -> Result<Outcome<PretrainRecord>> {
    settings.validate()?;
    let dir = ModelDir::create(dir)?;
    match Session::begin(settings, &dir) {
        Ok(session) => session.run(&dir, Position::default(), options, observer),
        Err(error) => {
            // Fails where something was written, which is what is wanted.
            let _ = fs::remove_dir(&dir.0);
            Err(error)
        }
    }
}

/// Goes on with a pre-training that was stopped or killed, to the same bytes as if it had not been. A finished one is only
/// read.
///
/// `settings` are those the caller wants, to be held against the run's own; `None` takes the run's.
///
/// # Errors
/// If there is none, its settings or its text are others (the first difference is named), or as [`pretrain`].
pub fn resume(
    dir: &Path,
    settings: Option<&PretrainSettings>,
    options: RunOptions,
    observer: &mut dyn Observer,
) -> Result<Outcome<PretrainRecord>> {
    let dir = ModelDir(dir.to_owned());
    let own = settings_of(&dir.0)?;
    if let Some((name, ours, theirs)) = settings.and_then(|wanted| own.difference(wanted)) {
        return Err(Error::file(
            &dir.0,
            format!("the pre-training was started with {name} {ours} and cannot go on with {name} {theirs}"),
        ));
    }
    if dir.is_finished() {
        return Ok(Outcome::Finished(Box::new(read_json(&dir.record())?)));
    }
    sweep(&dir.0)?;
    let (session, position) = Session::take_up(&dir)?;
    session.run(&dir, position, options, observer)
}

/// The settings of the pre-training in a directory, finished or not.
///
/// # Errors
/// If there is none, or its file cannot be read.
pub fn settings_of(dir: &Path) -> Result<PretrainSettings> {
    let dir = ModelDir(dir.to_owned());
    if dir.is_finished() {
        return Ok(read_json::<PretrainRecord>(&dir.record())?.settings);
    }
    if !dir.begun().is_file() {
        return Err(Error::file(
            &dir.0,
            "holds no pre-training (neither pretrain-settings.json nor pretrain.json)",
        ));
    }
    Ok(read_json::<Begun>(&dir.begun())?.settings)
}

/// The model directory of a pre-training.
struct ModelDir(PathBuf);

impl ModelDir {
    fn create(path: &Path) -> Result<Self> {
        let dir = ModelDir(path.to_owned());
        if dir.begun().is_file() || dir.is_finished() {
            return Err(Error::file(
                path,
                "already holds a pre-training; continue it with --resume, or choose another directory",
            ));
        }
        prepare_new(
            path,
            &[
                "tokenizer.json",
                "tokenizer_config.json",
                "config.json",
                "pretrain.toml",
            ],
        )?;
        Ok(dir)
    }

    fn begun(&self) -> PathBuf {
        self.0.join("pretrain-settings.json")
    }

    fn record(&self) -> PathBuf {
        self.0.join("pretrain.json")
    }

    fn checkpoint(&self) -> PathBuf {
        self.0.join("checkpoint.safetensors")
    }

    fn is_finished(&self) -> bool {
        self.record().is_file()
    }
}

/// What a pre-training is, while it is not finished.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Begun {
    settings: PretrainSettings,
    text: TextFacts,
}

/// Where a pre-training is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Position {
    step: u64,
    tokens: u64,
    hidden: u64,
    first_loss: f64,
    last_loss: f64,
    /// Loss over all hidden tokens since the last evaluation, and their number.
    running: (f64, u64),
    evaluations: Vec<Evaluation>,
    train_seconds: f64,
    eval_seconds: f64,
    resumed: u32,
}

/// Everything a pre-training needs in memory.
struct Session {
    settings: PretrainSettings,
    facts: TextFacts,
    config: ModelConfig,
    rows: Rows,
    order: Order,
    trainer: LanguageTrainer,
}

impl Session {
    /// Learns the vocabulary and writes everything but the weights.
    fn begin(settings: &PretrainSettings, dir: &ModelDir) -> Result<Self> {
        let texts = Texts::read(&settings.text)?;
        let learned = vocabulary::learn(settings.model_type, texts.train(), settings.vocab_size)?;
        let path = dir.0.join("tokenizer.json");
        let mut file = learned
            .to_string(true)
            .map_err(|error| Error::file(&path, error.to_string()))?;
        file.push('\n');
        let session = Self::new(settings, texts, &TokenizerSource::new(learned))?;
        write_text(&path, &file)?;
        write_json(
            &dir.0.join("tokenizer_config.json"),
            &vocabulary::tokenizer_config(settings.model_type, settings.max_positions),
        )?;
        write_text(&dir.0.join("config.json"), &(session.config.to_json() + "\n"))?;
        write_text(&dir.0.join("pretrain.toml"), &settings.to_toml())?;
        let begun = Begun {
            settings: settings.clone(),
            text: session.facts.clone(),
        };
        // Last: a directory with settings has everything else.
        write_json(&dir.begun(), &begun)?;
        Ok(session)
    }

    /// Reads everything again and restores the checkpoint.
    fn take_up(dir: &ModelDir) -> Result<(Self, Position)> {
        let Begun { settings, text } = read_json(&dir.begun())?;
        settings.validate()?;
        let texts = Texts::read(&settings.text)?;
        if (texts.facts.bytes, &texts.facts.fingerprint) != (text.bytes, &text.fingerprint) {
            return Err(Error::file(
                &settings.text,
                "is not the text that the pre-training was started with",
            ));
        }
        let mut session = Self::new(&settings, texts, &TokenizerSource::from_model_dir(&dir.0)?)?;
        let named = session.trainer.named();
        let stored: Option<Position> = load_state(&dir.checkpoint(), &named, &mut session.trainer.optimizer)?;
        let mut position = stored.unwrap_or_default();
        session.trainer.set_done(position.step);
        position.resumed += 1;
        Ok((session, position))
    }

    fn new(settings: &PretrainSettings, texts: Texts, tokenizer: &TokenizerSource) -> Result<Self> {
        let (size, length) = (tokenizer.vocab_size(), settings.max_positions);
        let (config, (rows, facts)) = match settings.model_type {
            Architecture::Roberta => (
                ModelConfig::Encoder(settings.config(size)),
                texts.encode(tokenizer, length)?,
            ),
            Architecture::Gpt2 => {
                let end = tokenizer
                    .token_id(END)
                    .ok_or_else(|| Error::argument("--out", format!("the tokenizer there has no {END}")))?;
                (
                    ModelConfig::Causal(settings.causal_config(size, end)),
                    texts.encode_causal(tokenizer, end, length)?,
                )
            }
        };
        Ok(Session {
            trainer: LanguageTrainer::new(settings, &config)?,
            order: Order::new(settings.seed, rows.train.len()),
            settings: settings.clone(),
            facts,
            config,
            rows,
        })
    }

    fn run(
        mut self,
        dir: &ModelDir,
        mut position: Position,
        options: RunOptions,
        observer: &mut dyn Observer,
    ) -> Result<Outcome<PretrainRecord>> {
        let parameters = self.trainer.named().iter().map(|(_, tensor)| tensor.len()).sum();
        observer.event(&Event::Pretrain(PretrainEvent::Started {
            settings: &self.settings,
            dir: &dir.0,
            text: &self.facts,
            vocab_size: self.config.vocab_size(),
            parameters,
            done: position.step,
        }));
        let steps = self.settings.steps;
        while position.step < steps {
            self.step(&mut position, observer)?;
            if position.step.is_multiple_of(self.settings.eval_every) || position.step == steps {
                self.evaluate(&mut position, observer)?;
            }
            let stop = observer.should_stop() && position.step < steps;
            let due = options
                .checkpoint_every
                .is_some_and(|every| position.step.is_multiple_of(every.max(1)));
            if stop || due {
                let path = dir.checkpoint();
                save_state(&path, self.trainer.named(), &self.trainer.optimizer, &position)?;
                observer.event(&Event::Checkpoint {
                    step: position.step,
                    path: &path,
                });
            }
            if stop {
                return Ok(Outcome::Interrupted {
                    step: position.step,
                    of: steps,
                });
            }
        }
        self.finish(dir, position, parameters, observer)
    }

    fn step(&mut self, position: &mut Position, observer: &mut dyn Observer) -> Result<()> {
        let started = Instant::now();
        let rows = self.order.batch(position.step, self.settings.batch_size);
        let batches = self.pack(&self.rows.train, &rows)?;
        let tokens = batches.iter().map(PackedBatch::tokens).sum();
        // From inside the thread pool, so that no kernel has to wait for a thread to be woken.
        let report = rayon::scope(|_| self.trainer.step(batches))?;
        if position.step == 0 {
            position.first_loss = report.loss;
        }
        position.step += 1;
        position.tokens += tokens as u64;
        position.hidden += report.hidden as u64;
        position.last_loss = report.loss;
        position.running.0 += report.loss * report.hidden as f64;
        position.running.1 += report.hidden as u64;
        position.train_seconds += started.elapsed().as_secs_f64();
        observer.event(&Event::Pretrain(PretrainEvent::Step {
            step: position.step,
            loss: report.loss,
            grad_norm: report.grad_norm,
            lr: report.lr,
            tokens,
        }));
        Ok(())
    }

    fn evaluate(&self, position: &mut Position, observer: &mut dyn Observer) -> Result<()> {
        let started = Instant::now();
        let rows: Vec<usize> = (0..self.rows.held_out.len()).collect();
        let (loss, accuracy, hidden) = self.trainer.evaluate(self.pack(&self.rows.held_out, &rows)?)?;
        let (sum, count) = std::mem::take(&mut position.running);
        let evaluation = Evaluation {
            step: position.step,
            train_loss: sum / count.max(1) as f64,
            loss,
            accuracy,
            hidden,
        };
        position.eval_seconds += started.elapsed().as_secs_f64();
        observer.event(&Event::Pretrain(PretrainEvent::Evaluated(&evaluation)));
        position.evaluations.push(evaluation);
        Ok(())
    }

    fn pack(&self, examples: &[Encoded], rows: &[usize]) -> Result<Vec<PackedBatch>> {
        let labels = vec![Label::None; examples.len()];
        pack(
            examples,
            &labels,
            rows,
            self.config.position_offset(),
            self.settings.token_budget,
        )
    }

    fn finish(
        self,
        dir: &ModelDir,
        position: Position,
        parameters: usize,
        observer: &mut dyn Observer,
    ) -> Result<Outcome<PretrainRecord>> {
        // transformers refuses a file that does not say whose layout its tensors have.
        let layout = [("format".to_owned(), "pt".to_owned())];
        save_tensors_as(
            &dir.0.join("model.safetensors"),
            &self.trainer.published()?,
            &layout,
            self.settings.weights,
        )?;
        let rows_seen = position.step as f64 * self.settings.batch_size as f64;
        let per_second = |count: f64| count / position.train_seconds.max(f64::MIN_POSITIVE);
        let record = PretrainRecord {
            format: PRETRAIN_FORMAT,
            code: CodeVersion::current(),
            device: self.trainer.device().describe(),
            vocab_size: self.config.vocab_size(),
            parameters,
            steps: position.step,
            epochs: rows_seen / self.rows.train.len() as f64,
            tokens_seen: position.tokens,
            hidden_seen: position.hidden,
            first_loss: position.first_loss,
            last_loss: position.last_loss,
            timing: Timing {
                train_seconds: position.train_seconds,
                eval_seconds: position.eval_seconds,
                rows_per_second: per_second(rows_seen),
                tokens_per_second: per_second(position.tokens as f64),
                resumed: position.resumed,
                finished_unix: SystemTime::now()
                    .duration_since(UNIX_EPOCH)
                    .map_or(0, |since| since.as_secs()),
            },
            evaluations: position.evaluations,
            text: self.facts,
            settings: self.settings,
        };
        write_json(&dir.record(), &record)?;
        // The record and the model hold all that is asked for afterwards.
        let _ = fs::remove_file(dir.checkpoint());
        let _ = fs::remove_file(dir.begun());
        observer.event(&Event::Pretrain(PretrainEvent::Finished { record: &record }));
        Ok(Outcome::Finished(Box::new(record)))
    }
}

/// The rows of every step: all rows in a new order, again and again; a step may reach from one round into the next.
struct Order {
    seed: u64,
    rows: usize,
    round: Option<u32>,
    order: Vec<usize>,
}

impl Order {
    fn new(seed: u64, rows: usize) -> Self {
        Order {
            seed,
            rows,
            round: None,
            order: Vec::new(),
        }
    }

    /// The rows of a step, counted from 0.
    fn batch(&mut self, step: u64, size: usize) -> Vec<usize> {
        let rows = self.rows.max(1) as u128;
        let first = u128::from(step) * size as u128;
        (first..first + size as u128)
            .map(|at| {
                // After 2^32 rounds the orders come again.
                let round = (at / rows) as u32;
                if self.round != Some(round) {
                    self.order = epoch_order(self.seed, round, self.rows);
                    self.round = Some(round);
                }
                self.order[(at % rows) as usize]
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_round_has_all_rows_wherever_it_is_begun() {
        let mut order = Order::new(3, 7);
        let steps: Vec<Vec<usize>> = (0..7).map(|step| order.batch(step, 4)).collect();
        for round in steps.concat().chunks(7) {
            let mut sorted = round.to_vec();
            sorted.sort_unstable();
            assert_eq!(sorted, (0..7).collect::<Vec<_>>());
        }
        assert_eq!(Order::new(3, 7).batch(5, 4), steps[5]);
        assert_ne!(Order::new(4, 7).batch(5, 4), steps[5]);
    }
}

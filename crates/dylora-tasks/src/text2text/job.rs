//! A language model in training, as the run loop takes it.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use dylora_nn::tensor::Tensor;
use dylora_nn::{AdamW, Gpt2Config};

use super::data::{EncodedPair, TextCodec, read_pairs};
use super::judge::{Prompts, encoder};
use super::trainer::TextTrainer;
use super::{METRICS, TextTask, trained, write};
use crate::error::{Error, Result};
use crate::generation::{Corpus, GenerationTask};
use crate::progress::{Event, Observer};
use crate::record::{RankName, RankScores, Scores};
use crate::run_dir::RunDir;
use crate::session::{Evaluated, Job, total_steps};
use crate::settings::{DataSource, TrainSettings, Writing};
use crate::task::Split;
use crate::tokens::TokenizerSource;
use crate::train::RunOptions;
use crate::trainer::Submitted;

/// What a text-to-text run reads besides weights.
#[derive(Clone, Debug)]
pub struct TextData {
    /// The model's sizes, as its directory says them.
    pub config: Gpt2Config,
    /// Texts to ids and back.
    pub codec: TextCodec,
    /// Pairs to learn from, in file order.
    pub train: Vec<EncodedPair>,
    /// Pairs to measure the loss on; none where the run is judged by texts.
    pub dev: Vec<EncodedPair>,
    /// What is written from, where the run is judged by texts.
    pub prompts: Option<Prompts>,
    /// Files of which so many texts had to be cut.
    pub cut: Vec<(PathBuf, usize)>,
    /// What a person should know of the files.
    pub remarks: Vec<String>,
}

impl TextData {
    /// Reads and tokenises everything that the settings name.
    ///
    /// # Errors
    /// If the model directory's files do not fit each other, or the first thing wrong with a data file, with its line; a
    /// training split without a row.
    pub fn load(settings: &TrainSettings) -> Result<Self> {
        let config = Gpt2Config::from_file(&settings.model.join("config.json"))?;
        let tokenizer = TokenizerSource::from_model_dir(&settings.model)?;
        let mut data = TextData {
            codec: TextCodec::new(tokenizer, &config, settings.max_length)?,
            train: Vec::new(),
            dev: Vec::new(),
            prompts: None,
            cut: Vec::new(),
            remarks: Vec::new(),
            config,
        };
        match &settings.data {
            DataSource::Pairs { train, dev } => {
                data.train = data.pairs(train, settings.max_train_rows)?;
                data.dev = data.pairs(dev, None)?;
            }
            DataSource::Generation { dir } => {
                let task = GenerationTask::find(&settings.task)?;
                let max_length = settings.max_length.min(data.config.max_positions);
                let train = data.corpus(task, dir, Split::Train)?;
                data.train = data.encode(&train, max_length, settings.max_train_rows)?;
                match &settings.writing {
                    Some(writing) => data.prompts = Some(data.prompts(task, dir, max_length, writing)?),
                    None => {
                        let dev = data.corpus(task, dir, Split::Dev)?;
                        data.dev = data.encode(&dev, max_length, None)?;
                    }
                }
            }
            DataSource::Glue { .. } | DataSource::Files { .. } => {
                return Err(Error::argument("--task", "has labels and no texts to learn to write"));
            }
        }
        Ok(data)
    }

    /// Pairs of a jsonl file.
    fn pairs(&mut self, path: &Path, most: Option<usize>) -> Result<Vec<EncodedPair>> {
        let mut pairs = read_pairs(path)?;
        pairs.truncate(most.unwrap_or(usize::MAX));
        let (encoded, cut) = self.codec.encode(&pairs)?;
        self.count_cut(path.to_owned(), cut);
        Ok(encoded)
    }

    /// A split of a generation task's files; what is odd about it is remarked on.
    fn corpus(&mut self, task: GenerationTask, dir: &Path, split: Split) -> Result<Corpus> {
        let corpus = task.load(dir, split)?;
        let coverage = corpus.coverage();
        if !coverage.is_whole() {
            self.remarks.push(format!("the {split} split of {task} is {coverage}"));
        }
        self.remarks.extend(corpus.remarks.iter().cloned());
        Ok(corpus)
    }

    /// The training rows of a corpus.
    fn encode(&mut self, corpus: &Corpus, max_length: usize, most: Option<usize>) -> Result<Vec<EncodedPair>> {
        let mut pairs = corpus.pairs();
        pairs.truncate(most.unwrap_or(usize::MAX));
        if pairs.is_empty() {
            return Err(Error::file(&place(&corpus.files), "holds no text to learn"));
        }
        let (encoded, truncated) = encoder(&self.codec, max_length)?.pairs(&pairs)?;
        self.count_cut(place(&corpus.files), truncated.prompts + truncated.targets);
        Ok(encoded)
    }

    fn prompts(&mut self, task: GenerationTask, dir: &Path, max_length: usize, writing: &Writing) -> Result<Prompts> {
        let corpus = self.corpus(task, dir, writing.split)?;
        let prompts = Prompts::new(&corpus, &self.codec, max_length, writing)?;
        if let Some(bare) = prompts.references.iter().position(Vec::is_empty) {
            let what = format!("prompt {} has no reference to be judged by", bare + 1);
            return Err(Error::file(&place(&corpus.files), what));
        }
        if prompts.is_empty() {
            return Err(Error::file(&place(&corpus.files), "holds no prompt to write from"));
        }
        self.count_cut(place(&corpus.files), prompts.truncated.prompts);
        Ok(prompts)
    }

    fn count_cut(&mut self, path: PathBuf, texts: usize) {
        if texts > 0 {
            self.cut.push((path, texts));
        }
    }
}

/// A split's file, or the folder of its files.
fn place(files: &[PathBuf]) -> PathBuf {
    match files {
        [file] => file.clone(),
        [first, ..] => first.parent().and_then(Path::parent).unwrap_or(first).to_owned(),
        [] => PathBuf::new(),
    }
}

/// A language model in training with its pairs.
pub(crate) struct TextJob {
    settings: TrainSettings,
    data: Arc<TextData>,
    trainer: TextTrainer,
}

impl TextJob {
    pub(crate) fn new(settings: &TrainSettings, data: Arc<TextData>) -> Result<Self> {
        let config = super::with_dropout(data.config.clone(), settings);
        let steps = total_steps(settings, data.train.len());
        Ok(TextJob {
            trainer: TextTrainer::new(settings, &config, steps)?,
            settings: settings.clone(),
            data,
        })
    }

    /// The loss on the dev pairs at every rank.
    fn losses(&self, observer: &mut dyn Observer) -> Result<Evaluated> {
        let ranks = self.settings.ranks();
        observer.event(&Event::Evaluating {
            ranks: ranks.len(),
            rows: self.data.dev.len(),
        });
        let mut scores = Vec::with_capacity(ranks.len());
        for rank in ranks {
            let mut done = |rows| observer.event(&Event::EvaluatedRows(rows));
            let (model, device) = (&self.trainer.model, self.trainer.device());
            let budget = self.settings.token_budget;
            let loss = trained::mean_loss(model, device, &self.data.dev, rank, budget, &mut done)?;
            let named = METRICS.iter().zip([loss, loss.exp()]);
            let named = Scores(named.map(|(name, value)| ((*name).to_owned(), value)).collect());
            scores.push(found(rank, named, observer));
        }
        Ok(Evaluated {
            ranks: scores,
            notes: Vec::new(),
        })
    }

    /// Texts at every rank, kept in the run's directory, and their metrics.
    fn judge(
        &self,
        run: &RunDir,
        prompts: &Prompts,
        writing: &Writing,
        options: &RunOptions,
        observer: &mut dyn Observer,
    ) -> Result<Option<Evaluated>> {
        let ranks = self.settings.ranks();
        let (model, codec) = (&self.trainer.model, &self.data.codec);
        let settings = writing.generate(codec.eos());
        observer.event(&Event::Evaluating {
            ranks: ranks.len(),
            rows: prompts.len(),
        });
        let mut evaluated = Evaluated {
            ranks: Vec::with_capacity(ranks.len()),
            notes: Vec::new(),
        };
        for rank in ranks {
            let path = write::file(run, rank);
            let begun = write::unfinished(&path);
            let there = match write::read(&path)? {
                // Of a run that was stopped in the middle.
                none if none.is_empty() => write::read(&begun)?,
                whole => whole,
            };
            let mut keep = |texts: &[String]| write::write_lines(&begun, texts);
            let writer = write::Writer {
                model,
                codec,
                rank: rank.unwrap_or(0),
                settings: &settings,
            };
            let texts = writer.write(prompts, there, observer, &mut keep)?;
            let Some(texts) = texts else { return Ok(None) };
            if begun.is_file() {
                std::fs::rename(&begun, &path).map_err(Error::io("write", &path))?;
            }
            let judgement = prompts.judge(&texts, options.meteor.as_deref())?;
            for note in judgement.notes {
                if !evaluated.notes.contains(&note) {
                    evaluated.notes.push(note);
                }
            }
            evaluated.ranks.push(found(rank, judgement.scores, observer));
        }
        Ok(Some(evaluated))
    }
}

/// The metrics of a rank, which the observer hears of.
fn found(rank: Option<usize>, scores: Scores, observer: &mut dyn Observer) -> RankScores {
    let rank = RankName::new(rank);
    observer.event(&Event::Evaluated { rank, scores: &scores });
    RankScores { rank, scores }
}

impl Job for TextJob {
    fn settings(&self) -> &TrainSettings {
        &self.settings
    }

    fn begin(&self, run: &RunDir) -> Result<()> {
        run.begin(&self.settings, &TextTask::of(&self.settings)?)
    }

    fn announce(&self, observer: &mut dyn Observer) {
        for (path, texts) in &self.data.cut {
            observer.event(&Event::Cut { path, texts: *texts });
        }
        for remark in &self.data.remarks {
            observer.event(&Event::Remark(remark));
        }
    }

    fn rows(&self) -> usize {
        self.data.train.len()
    }

    fn tokens(&self) -> usize {
        self.data.train.iter().map(|text| text.ids.len()).sum()
    }

    fn submit(&mut self, rows: &[usize]) -> Result<(Submitted, usize)> {
        let texts: Vec<&EncodedPair> = rows.iter().map(|row| &self.data.train[*row]).collect();
        let tokens = texts.iter().map(|text| text.ids.len()).sum();
        let trainer = &mut self.trainer;
        // From inside the thread pool, so that no kernel has to wait for a thread to be woken.
        let submitted = rayon::scope(|_| trainer.submit(&texts))?;
        Ok((submitted, tokens))
    }

    fn set_done(&mut self, done: u64) {
        self.trainer.set_done(done);
    }

    fn trained(&self) -> Vec<(String, Tensor)> {
        self.trainer.model.named_trained()
    }

    fn optimizer(&self) -> &AdamW {
        &self.trainer.optimizer
    }

    fn optimizer_mut(&mut self) -> &mut AdamW {
        &mut self.trainer.optimizer
    }

    fn num_trainable(&self, rank: usize) -> Result<usize> {
        Ok(self.trainer.model.num_trainable(rank))
    }

    fn device(&self) -> String {
        self.trainer.device().describe()
    }

    fn evaluate(&self, run: &RunDir, options: &RunOptions, observer: &mut dyn Observer) -> Result<Option<Evaluated>> {
        match (&self.data.prompts, &self.settings.writing) {
            (Some(prompts), Some(writing)) => self.judge(run, prompts, writing, options, observer),
            _ => self.losses(observer).map(Some),
        }
    }
}

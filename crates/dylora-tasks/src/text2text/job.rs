//! A language model in training, as the run loop takes it.

use std::path::PathBuf;
use std::sync::Arc;

use dylora_nn::tensor::Tensor;
use dylora_nn::{AdamW, Gpt2Config};

use super::data::{EncodedPair, TextCodec, read_pairs};
use super::trainer::TextTrainer;
use super::{METRICS, TextTask, trained};
use crate::error::{Error, Result};
use crate::progress::{Event, Observer};
use crate::record::{RankName, RankScores, Scores};
use crate::run_dir::RunDir;
use crate::session::{Job, total_steps};
use crate::settings::{DataSource, TrainSettings};
use crate::tokens::TokenizerSource;
use crate::train::RunOptions;
use crate::trainer::Submitted;

/// What a text-to-text run reads besides weights.
#[derive(Clone, Debug)]
pub struct TextData {
    /// The model's sizes, as its directory says them.
    pub config: Gpt2Config,
    /// Pairs to learn from, in file order.
    pub train: Vec<EncodedPair>,
    /// Pairs to measure the loss on.
    pub dev: Vec<EncodedPair>,
    /// Files of which so many texts had to be cut.
    pub cut: Vec<(PathBuf, usize)>,
}

impl TextData {
    /// Reads and tokenises everything that the settings name.
    ///
    /// # Errors
    /// If the model directory's files do not fit each other, or the first thing wrong with a data file, with its line.
    pub(crate) fn load(settings: &TrainSettings) -> Result<Self> {
        let DataSource::Pairs { train, dev } = &settings.data else {
            return Err(Error::argument(
                "--task",
                "text needs --train and --dev, two jsonl files",
            ));
        };
        let config = Gpt2Config::from_file(&settings.model.join("config.json"))?;
        let tokenizer = TokenizerSource::from_model_dir(&settings.model)?;
        let codec = TextCodec::new(tokenizer, &config, settings.max_length)?;
        let mut all_cut = Vec::new();
        let mut encode = |path: &PathBuf, most: Option<usize>| -> Result<Vec<EncodedPair>> {
            let mut pairs = read_pairs(path)?;
            pairs.truncate(most.unwrap_or(usize::MAX));
            let (encoded, cut) = codec.encode(&pairs)?;
            if cut > 0 {
                all_cut.push((path.clone(), cut));
            }
            Ok(encoded)
        };
        Ok(TextData {
            train: encode(train, settings.max_train_rows)?,
            dev: encode(dev, None)?,
            cut: all_cut,
            config,
        })
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
    fn losses(&self, observer: &mut dyn Observer) -> Result<Vec<RankScores>> {
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
            let found = RankScores {
                rank: RankName::new(rank),
                scores: Scores(named.map(|(name, value)| ((*name).to_owned(), value)).collect()),
            };
            observer.event(&Event::Evaluated {
                rank: found.rank,
                scores: &found.scores,
            });
            scores.push(found);
        }
        Ok(scores)
    }
}

impl Job for TextJob {
    fn settings(&self) -> &TrainSettings {
        &self.settings
    }

    fn begin(&self, run: &RunDir) -> Result<()> {
        run.begin(&self.settings, &TextTask::of(&self.settings))
    }

    fn announce(&self, observer: &mut dyn Observer) {
        for (path, texts) in &self.data.cut {
            observer.event(&Event::Cut { path, texts: *texts });
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

    fn num_trainable(&self, rank: usize) -> usize {
        self.trainer.model.num_trainable(rank)
    }

    fn device(&self) -> String {
        self.trainer.device().describe()
    }

    fn evaluate(
        &self,
        _run: &RunDir,
        _options: &RunOptions,
        observer: &mut dyn Observer,
    ) -> Result<Option<Vec<RankScores>>> {
        self.losses(observer).map(Some)
    }
}

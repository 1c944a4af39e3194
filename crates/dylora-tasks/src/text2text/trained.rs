//! A finished text-to-text run: its loss on texts, and what it writes.

use std::path::Path;

use dylora_nn::autograd::{RankSlice, Tape};
use dylora_nn::tensor::Device;
use dylora_nn::{Checkpoint, Ctx, Gpt2Config, Gpt2LanguageModel};

use super::data::{EncodedPair, TextCodec};
use super::judge::Prompts;
use super::trainer::{batch, build, within_budget};
use super::write;
use crate::device;
use crate::error::{Error, Result};
use crate::generate::{GenerateSettings, generate};
use crate::generation::{Corpus, GenerationTask};
use crate::progress::Observer;
use crate::run_dir::RunDir;
use crate::settings::{DataSource, TrainSettings, Writing};
use crate::task::Split;
use crate::tokens::TokenizerSource;

/// The mean loss of a predicted token at a rank, in nats, without dropout and smoothing. `done` hears of every text.
pub(crate) fn mean_loss(
    model: &Gpt2LanguageModel,
    device: &Device,
    texts: &[EncodedPair],
    rank: Option<usize>,
    budget: usize,
    done: &mut dyn FnMut(usize),
) -> Result<f64> {
    let texts: Vec<&EncodedPair> = texts.iter().collect();
    let predicted: usize = texts.iter().map(|text| text.predicted).sum();
    let mut loss = 0.0;
    for part in within_budget(&texts, budget) {
        let (inputs, targets) = batch(device, part)?;
        let mut tape = Tape::inference();
        let mut ctx = Ctx {
            tape: &mut tape,
            slice: RankSlice::full(rank.unwrap_or(0)),
            dropout: None,
        };
        let sum = model.loss(&mut ctx, &inputs, &targets, 0.0, 1.0)?;
        loss += sum.value().to_f64_vec()?.iter().sum::<f64>();
        done(part.len());
    }
    Ok(loss / predicted.max(1) as f64)
}

/// The model of a finished run.
pub struct TrainedText {
    /// The run's settings.
    pub settings: TrainSettings,
    /// The model.
    pub model: Gpt2LanguageModel,
    codec: TextCodec,
    device: Device,
}

impl TrainedText {
    /// Opens a run; `model` is where the base model is now, if it has moved.
    ///
    /// # Errors
    /// If there is no finished run of this kind, or the base model does not fit.
    pub fn open(dir: &Path, model: Option<&Path>) -> Result<Self> {
        let run = RunDir::open(dir)?;
        let mut settings = run.settings()?;
        if !settings.data.is_text() {
            return Err(Error::file(
                dir,
                "is not a run of --task text, e2e, dart or webnlg; only those write texts",
            ));
        }
        if !run.adapter().is_file() {
            return Err(Error::file(dir, "has not finished; continue it with --resume"));
        }
        if let Some(model) = model {
            settings.model = model.to_owned();
        }
        // What was read with at training time is in the run; the weights are where the base model is.
        let config = Gpt2Config::from_file(&run.model().join("config.json"))?;
        let config = super::with_dropout(config, &settings);
        let tokenizer = TokenizerSource::from_model_dir(&run.model())?;
        let codec = TextCodec::new(tokenizer, &config, config.max_positions)?;
        let here = TrainSettings {
            precision: device::to_use(settings.precision),
            ..settings.clone()
        };
        let (device, model) = build(&here, &config, Some(&Checkpoint::map(&here.model)?))?;
        model.load_trained(&Checkpoint::open(&run.adapter())?, &[])?;
        Ok(TrainedText {
            settings,
            model,
            codec,
            device,
        })
    }

    /// Where the model is.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// The texts' ids and back.
    pub fn codec(&self) -> &TextCodec {
        &self.codec
    }

    /// The rank that is meant: the largest where none is given.
    ///
    /// # Errors
    /// If it is not one of the run's.
    pub fn rank(&self, rank: Option<usize>) -> Result<usize> {
        let largest = self.model.rank();
        match rank {
            None => Ok(largest),
            Some(_) if largest == 0 => Err(Error::argument(
                "--rank",
                "the run trained every weight and has no ranks",
            )),
            Some(rank) if rank == 0 || rank > largest => {
                Err(Error::argument("--rank", format!("{rank} is not in 1..={largest}")))
            }
            Some(rank) => Ok(rank),
        }
    }

    /// A text for each context, and how many contexts had to be cut to leave room for it. `done` hears how many are
    /// finished.
    ///
    /// # Errors
    /// If the settings are not usable or the rank is not one of the run's.
    pub fn write(
        &self,
        contexts: &[String],
        rank: Option<usize>,
        settings: &GenerateSettings,
        done: &mut dyn FnMut(usize),
    ) -> Result<(Vec<String>, usize)> {
        let rank = self.rank(rank)?;
        let (prompts, cut) = self.codec.prompts(contexts, settings.max_new_tokens)?;
        let found = generate(&self.model, rank, &prompts, settings, done)?;
        let best = found.iter().map(|hypotheses| match hypotheses.first() {
            Some(best) => self.codec.decode(&best.tokens),
            None => Ok(String::new()),
        });
        Ok((best.collect::<Result<_>>()?, cut))
    }

    /// A split of a generation task: from `file` or under `data` if one is given, else from the files of the run. `task` is
    /// for a run that was trained on other pairs.
    ///
    /// # Errors
    /// If the run and `task` do not agree or neither names a task; the first thing wrong with the files, with its line.
    pub fn corpus(
        &self,
        task: Option<GenerationTask>,
        split: Split,
        data: Option<&Path>,
        file: Option<&Path>,
    ) -> Result<Corpus> {
        let (own, dir) = match &self.settings.data {
            DataSource::Generation { dir } => (Some(GenerationTask::find(&self.settings.task)?), Some(dir.as_path())),
            _ => (None, None),
        };
        let task = match (own, task) {
            (Some(own), Some(task)) if own != task => {
                return Err(Error::argument("--task", format!("the run is of {own}, not of {task}")));
            }
            (own, task) => own
                .or(task)
                .ok_or_else(|| Error::argument("--task", "e2e, dart or webnlg is needed for this run"))?,
        };
        match (file, data.or(dir)) {
            (Some(file), _) => task.load_file(file, split),
            (None, Some(dir)) => task.load(dir, split),
            (None, None) => Err(Error::argument("--data", "a directory is needed for this run")),
        }
    }

    /// The prompts of a corpus for this model, with room for the texts of `writing`.
    ///
    /// # Errors
    /// If there is no room for a prompt.
    pub fn prompts(&self, corpus: &Corpus, writing: &Writing) -> Result<Prompts> {
        let max_length = self.settings.max_length.min(self.model.config().max_positions);
        writing.validate(max_length)?;
        Prompts::new(corpus, &self.codec, max_length, writing)
    }

    /// A text for each prompt at a rank, one line each; `None` if the observer asked to stop.
    ///
    /// # Errors
    /// If the settings are not usable or the rank is not one of the run's.
    pub fn write_all(
        &self,
        prompts: &Prompts,
        rank: Option<usize>,
        settings: &GenerateSettings,
        observer: &mut dyn Observer,
    ) -> Result<Option<Vec<String>>> {
        let rank = self.rank(rank)?;
        let mut keep = |_: &[String]| Ok(());
        let writer = write::Writer {
            model: &self.model,
            codec: &self.codec,
            rank,
            settings,
        };
        writer.write(prompts, Vec::new(), observer, &mut keep)
    }
}

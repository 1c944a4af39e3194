//! Texts of a generation task: what they are written from, and what they are worth.

use std::path::PathBuf;

use dylora_nn::Gpt2Config;

use super::data::TextCodec;
use super::write;
use crate::error::{Error, Result};
use crate::generation::prompt::{PromptEncoder, Truncated};
use crate::generation::{Corpus, GenerationTask, webnlg};
use crate::metric::text::chain::Chain;
use crate::metric::text::meteor::Data;
use crate::prepare::DataKey;
use crate::record::{RankName, RankScores, Record, Scores};
use crate::run_dir::RunDir;
use crate::settings::{DataSource, Writing};
use crate::task::Split;
use crate::tokens::TokenizerSource;

/// Prompts of a split, each with all that people wrote for it, in file order.
#[derive(Clone, Debug)]
pub struct Prompts {
    /// The task.
    pub task: GenerationTask,
    /// The split.
    pub split: Split,
    /// Token ids of each prompt with its end.
    pub ids: Vec<Vec<i32>>,
    /// References of each prompt, as the file has them.
    pub references: Vec<Vec<String>>,
    /// Whether the train set has a prompt's category (WebNLG); none elsewhere.
    pub seen: Vec<Option<bool>>,
    /// What did not fit into the context.
    pub truncated: Truncated,
    /// The files that it was read from.
    pub files: Vec<PathBuf>,
}

/// The metrics of texts, and what a person must know to read them.
#[derive(Clone, Debug, PartialEq)]
pub struct Judgement {
    /// Metrics by their official names in the official order and units; WebNLG's also of the `seen` and `unseen` categories.
    /// METEOR is absent where its data was not given; what the official script does not define is not a number.
    pub scores: Scores,
    /// A sentence each.
    pub notes: Vec<String>,
}

impl Prompts {
    /// The prompts of a corpus for a model, as `writing` says, in at most `max_length` tokens with what is written.
    ///
    /// # Errors
    /// If the tokenizer and the model disagree on the end token, or there is no room for a prompt.
    pub fn new(corpus: &Corpus, codec: &TextCodec, max_length: usize, writing: &Writing) -> Result<Self> {
        let encoder = encoder(codec, max_length)?;
        let mut groups = corpus.groups();
        groups.truncate(writing.max_prompts.unwrap_or(usize::MAX));
        let (ids, truncated) = encoder.prompts(&groups, writing.max_new_tokens)?;
        let is_seen = |category: &str| corpus.edition.and_then(|edition| webnlg::is_seen(edition, category));
        Ok(Prompts {
            task: corpus.task,
            split: corpus.split,
            ids,
            truncated,
            files: corpus.files.clone(),
            seen: groups.iter().map(|group| group.category.and_then(is_seen)).collect(),
            references: groups
                .iter()
                .map(|group| group.references.iter().map(|text| (*text).to_owned()).collect())
                .collect(),
        })
    }

    /// Number of prompts.
    pub fn len(&self) -> usize {
        self.ids.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }

    /// Every metric of the task, of one text for each prompt.
    ///
    /// # Errors
    /// Another number of texts than prompts; a prompt without a reference; METEOR data that cannot be read.
    pub fn judge(&self, texts: &[String], meteor: Option<&Data>) -> Result<Judgement> {
        let mut judgement = Judgement {
            scores: Scores::default(),
            notes: Vec::new(),
        };
        if self.truncated.prompts > 0 {
            judgement.notes.push(format!(
                "of the {} split, {} of {} prompts did not fit into the context and lost {} tokens at their beginning",
                self.split,
                self.truncated.prompts,
                self.len(),
                self.truncated.tokens
            ));
        }
        self.judge_part(&mut judgement, texts, meteor, None)?;
        let has = |seen: bool| self.seen.contains(&Some(seen));
        if has(true) && has(false) {
            for seen in [false, true] {
                self.judge_part(&mut judgement, texts, meteor, Some(seen))?;
            }
        }
        Ok(judgement)
    }

    fn judge_part(
        &self,
        judgement: &mut Judgement,
        texts: &[String],
        meteor: Option<&Data>,
        seen: Option<bool>,
    ) -> Result<()> {
        if texts.len() != self.len() {
            return Err(Error::argument(
                "texts",
                format!("{} for {} prompts of the split", texts.len(), self.len()),
            ));
        }
        let taken = |index: &usize| seen.is_none() || self.seen[*index] == seen;
        let rows: Vec<usize> = (0..self.len()).filter(taken).collect();
        let texts: Vec<&str> = rows.iter().map(|row| texts[*row].as_str()).collect();
        let references: Vec<Vec<&str>> = rows
            .iter()
            .map(|row| self.references[*row].iter().map(String::as_str).collect())
            .collect();
        let report = Chain::of(self.task).judge(&texts, &references, meteor)?;
        let suffix = match seen {
            None => "",
            Some(true) => "_seen",
            Some(false) => "_unseen",
        };
        for (name, value) in &report.values {
            if let Some(value) = value {
                judgement.scores.0.push((format!("{name}{suffix}"), *value));
            }
        }
        let undefined = report.undefined.iter().map(Error::to_string);
        for note in report.meteor_note().into_iter().chain(undefined) {
            if !judgement.notes.contains(&note) {
                judgement.notes.push(note);
            }
        }
        Ok(())
    }
}

/// Adds METEOR to a record of texts that lacks it, and replaces what the record says of it; any other record, and one whose
/// texts are not there any more, stays as it is.
/// `cache` keeps the prompts for the next record of the same data.
///
/// # Errors
/// If the run's texts, its tokenizer or the task's files cannot be read.
pub(crate) fn add_meteor(
    run: &RunDir,
    record: &mut Record,
    data: &Data,
    cache: &mut Option<(DataKey, Prompts)>,
) -> Result<()> {
    let settings = &record.settings;
    let has_meteor = |row: &RankScores| row.scores.get("METEOR").is_some();
    let (Some(writing), DataSource::Generation { dir }) = (&settings.writing, &settings.data) else {
        return Ok(());
    };
    // What was computed with a part of the lists is computed again once all of them are there.
    let is_partial = record.notes.iter().any(|note| note.starts_with("METEOR"));
    if record.ranks.iter().all(has_meteor) && !(is_partial && data.missing().is_empty()) {
        return Ok(());
    }
    let texts = |row: &RankScores| {
        write::file(
            run,
            match row.rank {
                RankName::At(rank) => Some(rank),
                _ => None,
            },
        )
    };
    if record.ranks.iter().any(|row| !texts(row).is_file()) {
        return Ok(());
    }
    let key = DataKey::new(settings);
    if cache.as_ref().is_none_or(|(known, _)| *known != key) {
        let config = Gpt2Config::from_file(&run.model().join("config.json"))?;
        let tokenizer = TokenizerSource::from_model_dir(&run.model())?;
        let codec = TextCodec::new(tokenizer, &config, settings.max_length)?;
        let corpus = GenerationTask::find(&settings.task)?.load(dir, writing.split)?;
        let max_length = settings.max_length.min(config.max_positions);
        *cache = Some((key, Prompts::new(&corpus, &codec, max_length, writing)?));
    }
    let Some((_, prompts)) = cache else { return Ok(()) };
    record.notes.clear();
    for row in &mut record.ranks {
        let judgement = prompts.judge(&write::read(&texts(row))?, Some(data))?;
        row.scores = judgement.scores;
        for note in judgement.notes {
            if !record.notes.contains(&note) {
                record.notes.push(note);
            }
        }
    }
    Ok(())
}

/// The encoder of a model's prompts; its end token must be the model's.
pub(super) fn encoder(codec: &TextCodec, max_length: usize) -> Result<PromptEncoder<'_>> {
    let encoder = PromptEncoder::new(codec.tokenizer(), max_length)?;
    if encoder.end() != codec.eos() {
        return Err(Error::argument(
            "--model",
            format!(
                "<|endoftext|> is token {} of the tokenizer, but config.json ends texts with token {}",
                encoder.end(),
                codec.eos()
            ),
        ));
    }
    Ok(encoder)
}

//! Writing a text for every prompt, in parts, so that a stop or a kill loses little.

use std::path::{Path, PathBuf};

use dylora_nn::Gpt2LanguageModel;

use super::data::TextCodec;
use super::judge::Prompts;
use crate::error::{Error, Result};
use crate::generate::{GenerateSettings, generate};
use crate::metric::text::files::read_hypotheses;
use crate::progress::{Event, Observer};
use crate::run_dir::{RunDir, write_text};

/// Prompts of a part, in units of those that are worked on at a time.
const PART: usize = 4;

/// What writes.
pub(super) struct Writer<'a> {
    pub(super) model: &'a Gpt2LanguageModel,
    pub(super) codec: &'a TextCodec,
    pub(super) rank: usize,
    pub(super) settings: &'a GenerateSettings,
}

impl Writer<'_> {
    /// One text for each prompt; `None` if the observer asked to stop. `written` are the texts of the first prompts where
    /// there are some, and `keep` is given all texts so far after every part.
    ///
    /// Parts are the same whether or not one begins in the middle, and so are the texts.
    pub(super) fn write(
        &self,
        prompts: &Prompts,
        mut written: Vec<String>,
        observer: &mut dyn Observer,
        keep: &mut dyn FnMut(&[String]) -> Result<()>,
    ) -> Result<Option<Vec<String>>> {
        let part = self.settings.batch.saturating_mul(PART).max(1);
        // What does not end with a part was not written here.
        let whole = written.len() >= prompts.len();
        written.truncate(if whole {
            prompts.len()
        } else {
            written.len() / part * part
        });
        observer.event(&Event::EvaluatedRows(written.len()));
        while written.len() < prompts.len() {
            if observer.should_stop() {
                return Ok(None);
            }
            let end = prompts.len().min(written.len() + part);
            let mut heard = 0;
            let mut done = |finished: usize| {
                observer.event(&Event::EvaluatedRows(finished - heard));
                heard = finished;
            };
            let ids = &prompts.ids[written.len()..end];
            for hypotheses in generate(self.model, self.rank, ids, self.settings, &mut done)? {
                written.push(match hypotheses.first() {
                    Some(best) => self.codec.decode_line(&best.tokens)?,
                    None => String::new(),
                });
            }
            keep(&written)?;
        }
        Ok(Some(written))
    }
}

/// Where a run keeps the texts of a rank.
pub(crate) fn file(run: &RunDir, rank: Option<usize>) -> PathBuf {
    let name = rank.map_or("full".to_owned(), |rank| format!("rank-{rank}"));
    run.texts().join(format!("{name}.txt"))
}

/// What [`file()`] is called until it is whole. Its ending is not that of a leftover, which is swept away.
pub(super) fn unfinished(path: &Path) -> PathBuf {
    path.with_extension("begun")
}

/// The texts that a file has; none without it.
pub(super) fn read(path: &Path) -> Result<Vec<String>> {
    if path.is_file() {
        read_hypotheses(path)
    } else {
        Ok(Vec::new())
    }
}

/// Writes texts, one a line.
///
/// # Errors
/// If the file cannot be written.
pub fn write_lines(path: &Path, texts: &[String]) -> Result<()> {
    let folder = path.parent().unwrap_or(path);
    if folder != Path::new("") {
        std::fs::create_dir_all(folder).map_err(Error::io("create", folder))?;
    }
    write_text(path, &(texts.join("\n") + "\n"))
}

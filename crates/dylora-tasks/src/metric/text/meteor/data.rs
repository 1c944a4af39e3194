//! METEOR's own files: where they are in its release, and reading the small ones.

use std::fs::{self, File};
use std::io::Read as _;
use std::path::{Path, PathBuf};

use flate2::read::MultiGzDecoder;
use rustc_hash::FxHashSet;
use zip::ZipArchive;

use super::Stage;
use super::synonym::Synonyms;
use crate::error::{Error, Result};
use crate::metric::text::tokenise::Normaliser;

/// The archive of the official release, which holds the small files.
const ARCHIVE: &str = "meteor-1.5.jar";
const TABLE: &str = "paraphrase-en.gz";
const FUNCTION_WORDS: &str = "function/english.words";
const PREFIXES: &str = "nonbreaking/english.prefixes";
const EXCEPTIONS: &str = "synonym/english.exceptions";
const SYNSETS: &str = "synonym/english.synsets";

/// What was found in a directory of METEOR's files.
#[derive(Clone, Debug)]
pub struct Data {
    normaliser: Normaliser,
    function_words: FxHashSet<String>,
    synonyms: Option<Synonyms>,
    paraphrases: Option<PathBuf>,
    missing: Vec<(Stage, String)>,
}

impl Data {
    /// Reads a directory: `meteor-1.5.jar` with `data/paraphrase-en.gz`, as in METEOR's release and in the `meteor` folder of the
    /// Python package pycocoevalcap (or that package's own folder). In place of the archive its files may lie there unpacked,
    /// gzipped (`.gz`) or not, with their folders or without, and the table may lie beside them.
    ///
    /// # Errors
    /// No such directory; neither archive nor unpacked lists of function words and prefixes, without which no stage runs; a file
    /// that cannot be read.
    pub fn open(dir: &Path) -> Result<Self> {
        let dir = match dir.join("meteor") {
            inner if inner.is_dir() => inner,
            _ => dir.to_owned(),
        };
        fs::read_dir(&dir).map_err(Error::io("read", &dir))?;
        let files = Files::new(&dir)?;
        let needed = |name| {
            let text = files.text(name)?;
            text.ok_or_else(|| {
                Error::file(
                    &dir,
                    format!("holds neither {ARCHIVE} nor {name}, which METEOR cannot do without"),
                )
            })
        };
        let (function_words, prefixes) = (needed(FUNCTION_WORDS)?, needed(PREFIXES)?);
        let mut missing = Vec::new();
        let synonyms = match (files.text(EXCEPTIONS)?, files.text(SYNSETS)?) {
            (Some(exceptions), Some(synsets)) => {
                let parsed = Synonyms::parse(&exceptions, &synsets);
                Some(parsed.map_err(|message| Error::file(&dir, format!("METEOR's synonyms, {message}")))?)
            }
            (exceptions, _) => {
                let name = if exceptions.is_none() { EXCEPTIONS } else { SYNSETS };
                missing.push((Stage::Synonym, dir.join(name).display().to_string()));
                None
            }
        };
        let table = [dir.join("data").join(TABLE), dir.join(TABLE)];
        let paraphrases = table.iter().find(|path| path.is_file()).cloned();
        if paraphrases.is_none() {
            missing.push((Stage::Paraphrase, table[0].display().to_string()));
        }
        Ok(Self {
            normaliser: Normaliser::new(&prefixes),
            function_words: function_words.lines().map(|line| line.trim().to_owned()).collect(),
            synonyms,
            paraphrases,
            missing,
        })
    }

    /// The normaliser that makes a corpus' words.
    pub fn normaliser(&self) -> &Normaliser {
        &self.normaliser
    }

    /// The stages that can run with what was found.
    pub fn stages(&self) -> Vec<Stage> {
        let is_missing = |stage: &Stage| self.missing.iter().any(|(other, _)| other == stage);
        Stage::ALL.into_iter().filter(|stage| !is_missing(stage)).collect()
    }

    /// The stages that cannot run, each with the file that it lacks.
    pub fn missing(&self) -> &[(Stage, String)] {
        &self.missing
    }

    pub(super) fn is_function_word(&self, word: &str) -> bool {
        self.function_words.contains(word)
    }

    pub(super) fn synonyms(&self) -> Option<&Synonyms> {
        self.synonyms.as_ref()
    }

    pub(super) fn paraphrases(&self) -> Option<&Path> {
        self.paraphrases.as_deref()
    }
}

/// A directory, with or without the archive.
struct Files<'a> {
    dir: &'a Path,
    archive: Option<PathBuf>,
}

impl<'a> Files<'a> {
    fn new(dir: &'a Path) -> Result<Self> {
        let archive = Some(dir.join(ARCHIVE)).filter(|path| path.is_file());
        Ok(Self { dir, archive })
    }

    /// A file's text, from the archive if there is one.
    fn text(&self, name: &str) -> Result<Option<String>> {
        if let Some(path) = &self.archive {
            return from_archive(path, name).map(Some);
        }
        let base = name.rsplit('/').next().unwrap_or(name);
        for name in [name, base] {
            let plain = self.dir.join(name);
            if plain.is_file() {
                return fs::read_to_string(&plain).map(Some).map_err(Error::io("read", &plain));
            }
            let packed = self.dir.join(format!("{name}.gz"));
            if packed.is_file() {
                let file = File::open(&packed).map_err(Error::io("read", &packed))?;
                let mut text = String::new();
                MultiGzDecoder::new(file)
                    .read_to_string(&mut text)
                    .map_err(Error::io("read", &packed))?;
                return Ok(Some(text));
            }
        }
        Ok(None)
    }
}

fn from_archive(path: &Path, name: &str) -> Result<String> {
    let broken = |message: String| Error::file(path, message);
    let file = File::open(path).map_err(Error::io("read", path))?;
    let mut archive = ZipArchive::new(file).map_err(|error| broken(error.to_string()))?;
    let mut entry = archive
        .by_name(name)
        .map_err(|error| broken(format!("{name}: {error}")))?;
    let mut text = String::new();
    entry.read_to_string(&mut text).map_err(Error::io("read", path))?;
    Ok(text)
}

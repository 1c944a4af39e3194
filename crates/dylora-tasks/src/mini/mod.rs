//! The embedded default of `reproduce`: generated tasks and two small pre-trained models, so that the main jobs run on a fresh
//! machine without a download.
//!
//! Nothing else in this crate knows about it. What it writes are files as anybody's: the eight tasks as the GLUE download lays
//! them out, E2E, DART and WebNLG as they are published, and model directories as transformers saves them. A few hundred
//! words and a grammar make up the tasks; three labels in a hundred are wrong on purpose, so no task can be solved to the last
//! row, and every input of a generation task has several references. The models come out of [`pretrain`](crate::pretrain)
//! over [`write_text`]'s lines; `assets/mini/README.md` and `assets/mini-gpt2/README.md` have the commands.

mod acceptability;
mod describe;
mod draw;
mod entities;
mod event;
mod generation;
mod inference;
mod lexicon;
mod pairs;
mod prose;
mod restaurants;
mod sentiment;
mod tables;
mod text;

use std::fs;
use std::io::{BufWriter, Write};
use std::path::Path;

use crate::error::{Error, Result};
use crate::generation::GenerationTask;
use crate::glue::TASKS;
use crate::pretrain::Architecture;
use crate::run_dir;
use draw::Draw;

/// The seed of the embedded tasks.
pub const SEED: u64 = 2210;

/// The number of the generator that draws the encoder's pre-training text; the tasks' files have the numbers below.
const TEXT: u32 = 1000;
/// The same for the causal model's text; the generation tasks' files have the numbers from 2000.
const PROSE: u32 = 1001;

/// A model directory's files.
type Files = [(&'static str, &'static [u8]); 4];

macro_rules! files_of {
    ($folder:literal) => {
        [
            (
                "config.json",
                include_bytes!(concat!("../../assets/", $folder, "/config.json")),
            ),
            (
                "model.safetensors",
                include_bytes!(concat!("../../assets/", $folder, "/model.safetensors")),
            ),
            (
                "tokenizer.json",
                include_bytes!(concat!("../../assets/", $folder, "/tokenizer.json")),
            ),
            (
                "tokenizer_config.json",
                include_bytes!(concat!("../../assets/", $folder, "/tokenizer_config.json")),
            ),
        ]
    };
}

/// The embedded encoder.
const ENCODER: Files = files_of!("mini");
/// The embedded causal model.
const CAUSAL: Files = files_of!("mini-gpt2");

/// Writes the eight tasks under `dir`, which is made if it is not there: `CoLA/train.tsv`, `MNLI/dev_matched.tsv`, ... with
/// 4,000 training, 1,000 dev and 500 unlabelled test rows each. Equal seeds write equal bytes.
///
/// # Errors
/// [`Error::Io`] with the path that could not be written.
pub fn write_tasks(dir: &Path, seed: u64) -> Result<()> {
    for (number, task) in (0..).zip(TASKS) {
        let folder = dir.join(task.folder);
        fs::create_dir_all(&folder).map_err(Error::io("create", &folder))?;
        for (name, text) in tables::files(task, number, seed) {
            run_dir::write_text(&folder.join(name), &text)?;
        }
    }
    Ok(())
}

/// Writes a generation task under `dir` as it is published: `e2e/trainset.csv`, `dart/dart-v1.1.1-full-train.json`,
/// `webnlg_challenge_2017/train/1triples/..`, with several references for each input. Equal seeds write equal bytes.
///
/// # Errors
/// [`Error::Io`] with the path that could not be written.
pub fn write_generation_task(task: GenerationTask, dir: &Path, seed: u64) -> Result<()> {
    for (name, text) in generation::files(task, seed) {
        let path = dir.join(name);
        let folder = path.parent().unwrap_or(dir);
        fs::create_dir_all(folder).map_err(Error::io("create", folder))?;
        run_dir::write_text(&path, &text)?;
    }
    Ok(())
}

/// Writes `lines` lines of text to pre-train a kind of model on: one text a line, or a pair with a tab between. No labels.
///
/// # Errors
/// [`Error::Io`] with the path that could not be written.
pub fn write_text(kind: Architecture, path: &Path, seed: u64, lines: usize) -> Result<()> {
    let (number, line): (u32, fn(&mut Draw) -> String) = match kind {
        Architecture::Roberta => (TEXT, text::line),
        Architecture::Gpt2 => (PROSE, prose::line),
    };
    write(path, |file| {
        let mut draw = Draw::new(seed, number);
        (0..lines).try_for_each(|_| writeln!(file, "{}", line(&mut draw)))
    })
}

/// Writes the embedded encoder as a model directory: config, weights (f16), tokenizer.
///
/// # Errors
/// [`Error::Io`] with the path that could not be written.
pub fn write_model(dir: &Path) -> Result<()> {
    write_files(&ENCODER, dir)
}

/// Writes the embedded GPT-2 as a model directory: config, weights (f16), tokenizer.
///
/// # Errors
/// [`Error::Io`] with the path that could not be written.
pub fn write_causal_model(dir: &Path) -> Result<()> {
    write_files(&CAUSAL, dir)
}

fn write_files(files: &Files, dir: &Path) -> Result<()> {
    fs::create_dir_all(dir).map_err(Error::io("create", dir))?;
    files
        .iter()
        .try_for_each(|(name, bytes)| write(&dir.join(name), |file| file.write_all(bytes)))
}

/// Writes a file under another name first.
fn write(path: &Path, content: impl FnOnce(&mut dyn Write) -> std::io::Result<()>) -> Result<()> {
    let folder = match path.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    };
    let written = tempfile::NamedTempFile::new_in(folder).and_then(|mut file| {
        let mut buffer = BufWriter::new(file.as_file_mut());
        content(&mut buffer)?;
        buffer.flush()?;
        drop(buffer);
        file.as_file().sync_all()?;
        file.persist(path).map_err(std::io::Error::from)
    });
    written.map(drop).map_err(Error::io("write", path))
}

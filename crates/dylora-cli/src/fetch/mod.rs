//! The paper's models and data: from a directory that was given, from the caches, or from where they are published.
//!
//! What a hub sends goes into the Hugging Face cache, where every other tool finds it too. GLUE comes as parquet files;
//! they are written once more, as the tab-separated files that [`dylora_tasks::glue`] reads, into a cache of our own.
//!
//! | file | what |
//! | --- | --- |
//! | `place.rs` | what the environment says: folders, endpoint, token |
//! | `cache.rs` | the layout of the Hugging Face cache |
//! | `hub.rs` | the protocol: one request, one answer |
//! | `download.rs` | one whole file: resumed, checked, renamed |
//! | `sources.rs` | which file of the data set is which file of GLUE, and its rows |
//! | `convert.rs` | parquet to tab-separated |
//! | `plain.rs` | one file of another server than a hub |
//! | `texts.rs` | the generation tasks' files and METEOR's, which lie on such servers |
//! | `bar.rs` | shows it |

mod bar;
mod cache;
mod convert;
mod download;
mod error;
mod hub;
#[cfg(test)]
#[path = "../../tests/hub/mod.rs"]
mod loopback;
mod place;
mod plain;
mod sources;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod text_tests;
mod texts;

use std::fs;
use std::path::{Path, PathBuf};

use dylora_tasks::generation::GenerationTask;
use dylora_tasks::glue::{self, GlueTask};
use dylora_tasks::task::Split;

pub(crate) use self::bar::Bar;
use self::cache::{CachedRepo, Repo};
use self::error::{Error, Missing, Result};
use self::hub::{Hub, Remote};
use self::place::Place;
use self::sources::Source;
use crate::failure::Failure;

/// A published model.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Published {
    /// What it is called in a sentence.
    title: &'static str,
    repo: Repo,
    /// The name it had before; caches of that time have it.
    before: Repo,
}

pub(crate) const ROBERTA_BASE: Published = Published {
    title: "RoBERTa-base",
    repo: Repo::Model("FacebookAI/roberta-base"),
    before: Repo::Model("roberta-base"),
};
const GPT2: Published = Published {
    title: "GPT-2",
    repo: Repo::Model("openai-community/gpt2"),
    before: Repo::Model("gpt2"),
};
const GPT2_MEDIUM: Published = Published {
    title: "GPT-2 Medium",
    repo: Repo::Model("openai-community/gpt2-medium"),
    before: Repo::Model("gpt2-medium"),
};
/// The models by the names that `data fetch` takes.
pub(crate) const MODELS: [(&str, Published); 3] = [
    ("roberta-base", ROBERTA_BASE),
    ("gpt2", GPT2),
    ("gpt2-medium", GPT2_MEDIUM),
];

const GLUE: Repo = Repo::Dataset("nyu-mll/glue");
const REVISION: &str = "main";

/// What a fetch tells while it works.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Event<'a> {
    /// Bytes of a file that are here, and that there are.
    Download {
        repo: &'a str,
        file: &'a str,
        done: u64,
        total: u64,
    },
    /// A task's files are being written.
    Convert { task: &'a str },
    /// An archive is being unpacked.
    Unpack { file: &'a str },
    /// Tabs and line breaks inside so many texts became blanks, because the file has no way to write them.
    Blanked { file: &'a str, texts: usize },
}

/// A directory with a published model's configuration, weights and tokenizer.
///
/// `given` is the directory of `--model`; without it the Hugging Face cache is looked in, then the hub is asked.
pub(crate) fn model(
    published: Published,
    given: Option<&Path>,
    report: &mut dyn FnMut(Event<'_>),
) -> std::result::Result<PathBuf, Failure> {
    Ok(model_at(&Place::from_env()?, published, given, report)?)
}

/// A directory with the official files of `tasks` (names of [`glue::TASKS`]): `CoLA/train.tsv` and so on.
///
/// `given` is the directory of `--data`; without it our cache and the Hugging Face cache are looked in, then the hub is
/// asked.
pub(crate) fn glue(
    given: Option<&Path>,
    tasks: &[&str],
    report: &mut dyn FnMut(Event<'_>),
) -> std::result::Result<PathBuf, Failure> {
    Ok(glue_at(&Place::from_env()?, given, &found(tasks)?, report)?)
}

/// What the paper's GLUE table needs: RoBERTa-base and [`glue()`]. Where neither is to be had, one sentence names both.
pub(crate) fn paper(
    model: Option<&Path>,
    data: Option<&Path>,
    tasks: &[&str],
    report: &mut dyn FnMut(Event<'_>),
) -> std::result::Result<(PathBuf, PathBuf), Failure> {
    Ok(paper_at(&Place::from_env()?, model, data, &found(tasks)?, report)?)
}

/// What the paper's table of a generation task needs: GPT-2 Medium and the task's files.
pub(crate) fn paper_text(
    model: Option<&Path>,
    data: Option<&Path>,
    task: GenerationTask,
    report: &mut dyn FnMut(Event<'_>),
) -> std::result::Result<(PathBuf, PathBuf), Failure> {
    let place = Place::from_env()?;
    // A directory that was given for nothing is found out before a gigabyte comes.
    let given = data.map(|_| texts::task_at(&place, data, task, report)).transpose()?;
    let model = model_at(&place, GPT2_MEDIUM, model, report)?;
    let data = match given {
        Some(dir) => dir,
        None => texts::task_at(&place, None, task, report)?,
    };
    Ok((model, data))
}

/// A directory that holds the official files of a generation task, in the task's own folder.
pub(crate) fn text_task(
    task: GenerationTask,
    report: &mut dyn FnMut(Event<'_>),
) -> std::result::Result<PathBuf, Failure> {
    Ok(texts::task_at(&Place::from_env()?, None, task, report)?)
}

/// A directory of METEOR's files, as `--meteor-data` takes it.
pub(crate) fn meteor(report: &mut dyn FnMut(Event<'_>)) -> std::result::Result<PathBuf, Failure> {
    Ok(texts::meteor_at(&Place::from_env()?, report)?)
}

/// The directory that [`meteor`] made, if it is there.
pub(crate) fn meteor_here() -> Option<PathBuf> {
    texts::meteor_in(&Place::from_env().ok()?)
}

/// Whether `dir` has the rows of GLUE's train and dev files of `tasks`.
///
/// One row in a thousand may be off: copies of the larger files differ in whether they kept the few malformed rows.
pub(crate) fn has_glue_rows(dir: &Path, tasks: &[&str]) -> bool {
    let matches = |task: &&GlueTask| {
        Source::of(task).is_ok_and(|source| {
            let labelled = source.parts.iter().filter(|part| part.split != Split::Test);
            labelled.into_iter().all(|part| {
                task.load(dir, part.split)
                    .is_ok_and(|rows| rows.len().abs_diff(part.rows) * 1000 <= part.rows)
            })
        })
    };
    found(tasks).is_ok_and(|tasks| tasks.iter().all(matches))
}

fn found(names: &[&str]) -> std::result::Result<Vec<&'static GlueTask>, dylora_tasks::Error> {
    names.iter().map(|name| glue::find(name)).collect()
}

fn paper_at(
    place: &Place,
    model: Option<&Path>,
    data: Option<&Path>,
    tasks: &[&GlueTask],
    report: &mut dyn FnMut(Event<'_>),
) -> Result<(PathBuf, PathBuf)> {
    // A directory that was given for nothing is found out before half a gigabyte comes.
    let data_dir = data.map(|_| glue_at(place, data, tasks, report)).transpose()?;
    let model_dir = model_at(place, ROBERTA_BASE, model, report).map_err(|error| match error {
        Error::Nowhere {
            mut missing,
            hub_cache,
            reason,
        } => {
            if data_dir.is_none() && !glue_is_here(place, tasks) {
                missing.push(missing_glue(tasks));
            }
            Error::Nowhere {
                missing,
                hub_cache,
                reason,
            }
        }
        other => other,
    })?;
    let data_dir = match data_dir {
        Some(dir) => dir,
        None => glue_at(place, None, tasks, report)?,
    };
    Ok((model_dir, data_dir))
}

fn model_at(
    place: &Place,
    published: Published,
    given: Option<&Path>,
    report: &mut dyn FnMut(Event<'_>),
) -> Result<PathBuf> {
    if let Some(dir) = given {
        return check_given("--model", dir, &missing_of_model(dir));
    }
    for repo in [published.repo, published.before] {
        let cached = CachedRepo::new(&place.hub_cache, repo);
        if let Some(dir) = cached.main().map(|commit| cached.snapshot(&commit))
            && missing_of_model(&dir).is_empty()
        {
            return Ok(dir);
        }
    }
    let missing = || Missing {
        what: published.title.to_owned(),
        flag: "--model",
    };
    download_model(place, published.repo, report).map_err(|error| nowhere(missing, place, error))
}

fn download_model(place: &Place, repo: Repo, report: &mut dyn FnMut(Event<'_>)) -> Result<PathBuf> {
    let hub = Hub::new(place)?;
    let cached = CachedRepo::new(&place.hub_cache, repo);
    let mut download = Download::new(&hub, &cached, repo);
    download.file("config.json", report)?;
    match download.file("tokenizer.json", report) {
        Err(Error::NotFound { .. }) => {
            download.file("vocab.json", report)?;
            download.file("merges.txt", report)?;
        }
        answer => answer?,
    }
    download.file("model.safetensors", report)?;
    download.finish()
}

/// Files without which no model can be read, in words.
fn missing_of_model(dir: &Path) -> Vec<String> {
    let has = |name: &str| dir.join(name).is_file();
    let mut missing = Vec::new();
    if !has("config.json") {
        missing.push("config.json".to_owned());
    }
    if !has("model.safetensors") && !has("model.safetensors.index.json") {
        missing.push("model.safetensors".to_owned());
    }
    let in_two = has("vocab.json") && has("merges.txt");
    if !in_two && !has("tokenizer.json") && !has("vocab.txt") {
        missing.push("tokenizer.json (or vocab.json with merges.txt, or vocab.txt)".to_owned());
    }
    missing
}

fn glue_at(
    place: &Place,
    given: Option<&Path>,
    tasks: &[&GlueTask],
    report: &mut dyn FnMut(Event<'_>),
) -> Result<PathBuf> {
    if let Some(dir) = given {
        let missing: Vec<_> = tasks.iter().flat_map(|task| missing_of_task(dir, task)).collect();
        return check_given("--data", dir, &missing);
    }
    if let Some(dir) = converted_glue(place, tasks) {
        return Ok(dir);
    }
    let sources: Vec<_> = tasks.iter().map(|task| Source::of(task)).collect::<Result<_>>()?;
    let snapshot = match cached_glue(place, &sources) {
        Some(dir) => dir,
        None => download_glue(place, &CachedRepo::new(&place.hub_cache, GLUE), &sources, report)
            .map_err(|error| nowhere(|| missing_glue(tasks), place, error))?,
    };
    let commit = snapshot.file_name().unwrap_or_default().to_string_lossy();
    let dir = place.own_cache.join(format!("glue-{commit}"));
    for (task, source) in tasks.iter().zip(sources) {
        if !missing_of_task(&dir, task).is_empty() {
            report(Event::Convert { task: task.name });
            convert::convert(task, source, &snapshot, &dir, report)?;
        }
    }
    Ok(dir)
}

/// A folder of ours that has the files of all `tasks`.
fn converted_glue(place: &Place, tasks: &[&GlueTask]) -> Option<PathBuf> {
    let commit = CachedRepo::new(&place.hub_cache, GLUE).main();
    let holds = |dir: &PathBuf| tasks.iter().all(|task| missing_of_task(dir, task).is_empty());
    converted(place, commit.as_deref()).into_iter().find(holds)
}

/// The snapshot in the Hugging Face cache, if it has all `sources`.
fn cached_glue(place: &Place, sources: &[&Source]) -> Option<PathBuf> {
    let cached = CachedRepo::new(&place.hub_cache, GLUE);
    let dir = cached.snapshot(&cached.main()?);
    sources.iter().all(|source| source.is_in(&dir)).then_some(dir)
}

fn glue_is_here(place: &Place, tasks: &[&GlueTask]) -> bool {
    let sources: Result<Vec<_>> = tasks.iter().map(|task| Source::of(task)).collect();
    converted_glue(place, tasks).is_some() || sources.is_ok_and(|sources| cached_glue(place, &sources).is_some())
}

fn missing_glue(tasks: &[&GlueTask]) -> Missing {
    let names: Vec<_> = tasks.iter().map(|task| task.name).collect();
    Missing {
        what: format!("GLUE ({})", names.join(", ")),
        flag: "--data",
    }
}

fn download_glue(
    place: &Place,
    cached: &CachedRepo,
    sources: &[&Source],
    report: &mut dyn FnMut(Event<'_>),
) -> Result<PathBuf> {
    let hub = Hub::new(place)?;
    let mut download = Download::new(&hub, cached, GLUE);
    for source in sources {
        for part in source.parts {
            download.file(&source.file(part), report)?;
        }
    }
    download.finish()
}

/// Our folders of earlier conversions, that of `commit` first.
fn converted(place: &Place, commit: Option<&str>) -> Vec<PathBuf> {
    let entries = fs::read_dir(&place.own_cache).into_iter().flatten().flatten();
    let mut dirs: Vec<_> = entries
        .map(|entry| entry.path())
        .filter(|path| {
            path.file_name()
                .is_some_and(|name| name.to_string_lossy().starts_with("glue-"))
        })
        .collect();
    dirs.sort();
    if let Some(commit) = commit {
        dirs.insert(0, place.own_cache.join(format!("glue-{commit}")));
    }
    dirs
}

/// Files that training and evaluation of a task need; the test split has no labels, and nothing here needs it.
fn missing_of_task(dir: &Path, task: &GlueTask) -> Vec<String> {
    let needed = task.files.iter().filter(|(split, _)| *split != Split::Test);
    needed
        .map(|(_, file)| format!("{}/{file}", task.folder))
        .filter(|file| !dir.join(file).is_file())
        .collect()
}

fn check_given(flag: &str, dir: &Path, missing: &[String]) -> Result<PathBuf> {
    if !dir.is_dir() {
        return Err(Error::data(dir, format!("{flag} is no directory")));
    }
    if !missing.is_empty() {
        return Err(Error::data(dir, format!("{flag} lacks {}", missing.join(", "))));
    }
    Ok(dir.to_owned())
}

/// Says what else can be done when there is no network.
fn nowhere(missing: impl FnOnce() -> Missing, place: &Place, error: Error) -> Error {
    match error {
        Error::Offline(reason) => Error::Nowhere {
            missing: vec![missing()],
            hub_cache: place.hub_cache.clone(),
            reason,
        },
        other => other,
    }
}

/// Files of one repository, all of the same commit.
struct Download<'a> {
    hub: &'a Hub<'a>,
    cached: &'a CachedRepo,
    repo: Repo,
    /// What the first answer said `main` is.
    commit: Option<String>,
}

impl<'a> Download<'a> {
    fn new(hub: &'a Hub<'a>, cached: &'a CachedRepo, repo: Repo) -> Self {
        Download {
            hub,
            cached,
            repo,
            commit: None,
        }
    }

    fn file(&mut self, file: &str, report: &mut dyn FnMut(Event<'_>)) -> Result<()> {
        if let Some(commit) = &self.commit
            && self.cached.snapshot(commit).join(file).is_file()
        {
            return Ok(());
        }
        let remote = Remote { repo: self.repo, file };
        let revision = self.commit.as_deref().unwrap_or(REVISION);
        let metadata = download::metadata(self.hub, remote, revision)?;
        download::download(self.hub, self.cached, remote, &metadata, report)?;
        self.commit.get_or_insert(metadata.commit);
        Ok(())
    }

    /// The snapshot's folder, which is `main` from now on.
    fn finish(self) -> Result<PathBuf> {
        let commit = self.commit.unwrap_or_default();
        self.cached.set_main(&commit)?;
        Ok(self.cached.snapshot(&commit))
    }
}

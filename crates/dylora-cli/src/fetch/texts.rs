//! The files of the generation tasks, and METEOR's: from a directory that was given, from our cache, or from where they are
//! published.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Component, Path, PathBuf};

use dylora_tasks::generation::GenerationTask;
use dylora_tasks::metric::text::meteor::Data;
use dylora_tasks::task::Split;
use flate2::read::GzDecoder;
use zip::ZipArchive;

use super::error::{Error, Missing, Result};
use super::place::Place;
use super::plain::{Address, download};
use super::{Event, check_given, nowhere};

/// The splits that a run and its table need.
const NEEDED: [Split; 3] = [Split::Train, Split::Dev, Split::Test];

/// A published file that lies as it is, at a commit.
const fn file(publisher: &'static str, url: &'static str, sha256: Option<&'static str>) -> Address {
    Address {
        publisher,
        url,
        size: None,
        sha256,
    }
}

const E2E: &str = "tuetschek/e2e-dataset";
const DART: &str = "Yale-LILY/dart";
const WEBNLG: &str = "shimorina/webnlg-dataset";

macro_rules! e2e {
    ($name:literal) => {
        concat!(
            "https://raw.githubusercontent.com/tuetschek/e2e-dataset/ab0d967dd5729ce455ef14ba9ffafc456a335264/",
            $name
        )
    };
}

macro_rules! dart {
    ($name:literal) => {
        concat!(
            "https://raw.githubusercontent.com/Yale-LILY/dart/bb644b12ec1d0264f96a31145534b9a94f6ff5f5/data/v1.1.1/",
            $name
        )
    };
}

const E2E_FILES: [Address; 3] = [
    file(
        E2E,
        e2e!("trainset.csv"),
        Some("f27d48df45815288ab15619d47a79028c300fbb7f42e373668aba0b98c1d57c6"),
    ),
    file(
        E2E,
        e2e!("devset.csv"),
        Some("fc26b78cdb849c80545f513b223d1e051138b43882eeb79e3eb153e689c864f9"),
    ),
    file(
        E2E,
        e2e!("testset_w_refs.csv"),
        Some("edc8db685e39bb9824d5bd70c18b1c9b0412d14b527aa960e2d1c8251ee15ccd"),
    ),
];

const DART_FILES: [Address; 3] = [
    file(DART, dart!("dart-v1.1.1-full-train.json"), None),
    file(
        DART,
        dart!("dart-v1.1.1-full-dev.json"),
        Some("56606eac12baa7f0ddb81c61890f9f1a95bace4df8f8989852786358fe5d2b88"),
    ),
    file(
        DART,
        dart!("dart-v1.1.1-full-test.xml"),
        Some("4f6994d633030278798c114555549a13202780fe0d78ee2e7ac7dcce45a8e233"),
    ),
];

/// The folder of the challenge of 2017, as the host packs it.
const WEBNLG_ARCHIVE: Address = file(
    WEBNLG,
    "https://gitlab.com/shimorina/webnlg-dataset/-/archive/master/webnlg-dataset-master.zip?path=webnlg_challenge_2017",
    None,
);

/// The folder in that archive, and what it is called here.
const WEBNLG_FOLDER: &str = "webnlg_challenge_2017";

/// METEOR 1.5's release.
const METEOR_ARCHIVE: Address = Address {
    publisher: "METEOR",
    url: "https://www.cs.cmu.edu/~alavie/METEOR/download/meteor-1.5.tar.gz",
    size: Some(223_646_468),
    sha256: None,
};

/// What of it is needed: the program, which holds the small lists, and the paraphrase table.
const METEOR_FILES: [&str; 2] = ["meteor-1.5.jar", "data/paraphrase-en.gz"];

/// A directory with the official files of `task`.
///
/// `given` is the directory of `--data`; without it our cache is looked in, then the publisher is asked.
pub(super) fn task_at(
    place: &Place,
    given: Option<&Path>,
    task: GenerationTask,
    report: &mut dyn FnMut(Event<'_>),
) -> Result<PathBuf> {
    if let Some(dir) = given {
        // A table is made without the development split.
        let missing: Vec<String> = missing_splits(task, dir)
            .iter()
            .filter(|split| **split != Split::Dev)
            .map(|split| format!("the {split} split of {task}"))
            .collect();
        return check_given("--data", dir, &missing);
    }
    let dir = place.own_cache.join("texts");
    if !missing_splits(task, &dir).is_empty() {
        let missing = || Missing {
            what: format!("{task}'s data"),
            flag: "--data",
        };
        fetch_task(place, task, &dir, report).map_err(|error| nowhere(missing, place, error))?;
    }
    Ok(dir)
}

fn missing_splits(task: GenerationTask, dir: &Path) -> Vec<Split> {
    let is_missing = |split: &Split| !matches!(task.files(dir, *split), Ok(Some(_)));
    NEEDED.into_iter().filter(is_missing).collect()
}

fn fetch_task(place: &Place, task: GenerationTask, dir: &Path, report: &mut dyn FnMut(Event<'_>)) -> Result<()> {
    let (folder, files) = match task {
        GenerationTask::E2e => ("e2e", &E2E_FILES[..]),
        GenerationTask::Dart => ("dart", &DART_FILES[..]),
        GenerationTask::WebNlg => (WEBNLG_FOLDER, &[][..]),
    };
    let target = dir.join(folder);
    for address in files {
        let name = address.url.rsplit('/').next().unwrap_or_default();
        download(place, address, &target.join(name), report)?;
    }
    if task == GenerationTask::WebNlg {
        let archive = place.own_cache.join("downloads").join("webnlg_challenge_2017.zip");
        download(place, &WEBNLG_ARCHIVE, &archive, report)?;
        report(Event::Unpack { file: "WebNLG 2017" });
        let unpacked = unpack_webnlg(&archive, &target);
        // Taken or spoilt, it is of no more use.
        fs::remove_file(&archive).map_err(Error::io("remove", &archive))?;
        unpacked?;
    }
    // What has no published sum is known by its numbers of rows.
    for split in NEEDED {
        let partial = match task.load(dir, split) {
            Ok(corpus) if corpus.coverage().is_whole() => continue,
            Ok(corpus) => format!("its {split} split is {}", corpus.coverage()),
            Err(error) => error.to_string(),
        };
        fs::remove_dir_all(&target).map_err(Error::io("remove", &target))?;
        return Err(Error::data(
            &target,
            format!("what came is not {task} as it was published, and was removed: {partial}"),
        ));
    }
    Ok(())
}

/// Writes the xml files of the three splits to `target`, which appears when it is whole.
pub(super) fn unpack_webnlg(archive: &Path, target: &Path) -> Result<()> {
    let broken = |error: &dyn std::fmt::Display| Error::data(archive, format!("is no usable archive: {error}"));
    let read = File::open(archive).map_err(Error::io("read", archive))?;
    let mut zip = ZipArchive::new(read).map_err(|error| broken(&error))?;
    let fresh = fresh_folder(target)?;
    for index in 0..zip.len() {
        let mut entry = zip.by_index(index).map_err(|error| broken(&error))?;
        let Some(path) = entry.enclosed_name().and_then(|path| below(&path, WEBNLG_FOLDER)) else {
            continue;
        };
        let is_split = ["train", "dev", "test"].iter().any(|split| path.starts_with(split));
        if entry.is_file() && is_split && path.extension().is_some_and(|ending| ending == "xml") {
            write_file(&mut entry, &fresh.join(path))?;
        }
    }
    replace(&fresh, target)
}

/// What follows the last `folder` of a path.
fn below(path: &Path, folder: &str) -> Option<PathBuf> {
    let parts: Vec<Component<'_>> = path.components().collect();
    let at = parts.iter().rposition(|part| part.as_os_str() == folder)?;
    Some(parts[at + 1..].iter().collect())
}

/// A directory of METEOR's files, as `--meteor-data` takes it: from our cache, else from METEOR's release.
pub(super) fn meteor_at(place: &Place, report: &mut dyn FnMut(Event<'_>)) -> Result<PathBuf> {
    if let Some(dir) = meteor_in(place) {
        return Ok(dir);
    }
    let archive = place.own_cache.join("downloads").join("meteor-1.5.tar.gz");
    let missing = || Missing {
        what: "METEOR's release".to_owned(),
        flag: "--meteor-data",
    };
    download(place, &METEOR_ARCHIVE, &archive, report).map_err(|error| nowhere(missing, place, error))?;
    report(Event::Unpack { file: "METEOR 1.5" });
    let target = place.own_cache.join("meteor");
    let unpacked = unpack_meteor(&archive, &target);
    // Taken or spoilt, it is of no more use.
    fs::remove_file(&archive).map_err(Error::io("remove", &archive))?;
    unpacked?;
    Ok(target)
}

/// The directory that [`meteor_at`] made, if it is there.
pub(super) fn meteor_in(place: &Place) -> Option<PathBuf> {
    let dir = place.own_cache.join("meteor");
    METEOR_FILES.iter().all(|name| dir.join(name).is_file()).then_some(dir)
}

pub(super) fn unpack_meteor(archive: &Path, target: &Path) -> Result<()> {
    let broken = |error: &dyn std::fmt::Display| Error::data(archive, format!("is no usable archive: {error}"));
    let read = File::open(archive).map_err(Error::io("read", archive))?;
    let mut tar = tar::Archive::new(GzDecoder::new(read));
    let fresh = fresh_folder(target)?;
    for entry in tar.entries().map_err(|error| broken(&error))? {
        let mut entry = entry.map_err(|error| broken(&error))?;
        let path = entry.path().map_err(|error| broken(&error))?.into_owned();
        if let Some(name) = METEOR_FILES.iter().find(|name| path.ends_with(name)) {
            write_file(&mut entry, &fresh.join(name))?;
        }
    }
    let lacking: Vec<&str> = METEOR_FILES
        .into_iter()
        .filter(|name| !fresh.join(name).is_file())
        .collect();
    if !lacking.is_empty() {
        return Err(Error::data(archive, format!("lacks {}", lacking.join(" and "))));
    }
    // Read once here, so that what cannot be read is found out now.
    Data::open(&fresh).map_err(|error| broken(&error))?;
    replace(&fresh, target)
}

/// An empty folder beside `target`.
fn fresh_folder(target: &Path) -> Result<PathBuf> {
    let name = target.file_name().unwrap_or_default().to_string_lossy();
    let fresh = target.with_file_name(format!(".{name}.tmp"));
    clear(&fresh)?;
    fs::create_dir_all(&fresh).map_err(Error::io("create", &fresh))?;
    Ok(fresh)
}

fn replace(fresh: &Path, target: &Path) -> Result<()> {
    clear(target)?;
    fs::rename(fresh, target).map_err(Error::io("write", target))
}

fn clear(dir: &Path) -> Result<()> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(Error::io("remove", dir)(error)),
        _ => Ok(()),
    }
}

fn write_file(source: &mut dyn Read, target: &Path) -> Result<()> {
    let parent = target.parent().unwrap_or(target);
    fs::create_dir_all(parent).map_err(Error::io("create", parent))?;
    let mut file = File::create(target).map_err(Error::io("write", target))?;
    io::copy(source, &mut file).map_err(Error::io("write", target))?;
    Ok(())
}

//! Files outside any hub: transfers from a server on the loopback interface, and what is unpacked from them.
#![allow(clippy::print_stdout)] // says what was not run

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};

use dylora_tasks::generation::GenerationTask;
use dylora_tasks::metric::text::meteor::{Data, Stage};
use flate2::Compression;
use flate2::write::GzEncoder;
use zip::ZipWriter;
use zip::write::SimpleFileOptions;

use super::loopback::{Fault, Hub, sha256};
use super::place::Place;
use super::plain::{Address, download};
use super::texts::{meteor_in, task_at, unpack_meteor, unpack_webnlg};

const URL: &str = "https://host.example/folder/file.csv?some=words";
const KEY: &str = "folder/file.csv";

struct World {
    dir: tempfile::TempDir,
    hub: Hub,
    bytes: Vec<u8>,
}

impl World {
    fn new() -> Self {
        let hub = Hub::start();
        let bytes: Vec<u8> = (0..200_000_u32)
            .map(|at| (at.wrapping_mul(2_654_435_761) >> 13) as u8)
            .collect();
        hub.put("host.example", KEY, bytes.clone(), false);
        World {
            dir: tempfile::tempdir().unwrap(),
            hub,
            bytes,
        }
    }

    fn place(&self) -> Place {
        Place {
            hub_cache: self.dir.path().join("hub"),
            own_cache: self.dir.path().join("own"),
            endpoint: self.hub.endpoint().to_owned(),
            mirror: Some(self.hub.endpoint().to_owned()),
            token: Some("secret".to_owned()),
            offline: false,
        }
    }

    fn target(&self) -> PathBuf {
        self.dir.path().join("own/folder/file.csv")
    }

    /// The sentence of a failure.
    fn get(&self, size: Option<u64>, sum: Option<&'static str>) -> Result<(), String> {
        let address = Address {
            publisher: "somebody",
            url: URL,
            size,
            sha256: sum,
        };
        download(&self.place(), &address, &self.target(), &mut |_| ()).map_err(|error| error.to_string())
    }

    fn fault(&self, fault: Fault) {
        self.hub.fault("host.example", KEY, Some(fault));
    }

    fn ranges(&self) -> Vec<Option<String>> {
        self.hub.requests().into_iter().map(|request| request.range).collect()
    }

    fn names(&self) -> Vec<String> {
        let folder = self.target().parent().unwrap().to_owned();
        let entries = fs::read_dir(folder).unwrap();
        entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect()
    }
}

#[test]
fn a_file_comes_once_and_the_token_stays_here() {
    let world = World::new();
    let sum: &'static str = Box::leak(sha256(&world.bytes).into_boxed_str());
    world.get(Some(200_000), Some(sum)).unwrap();
    assert_eq!(fs::read(world.target()).unwrap(), world.bytes);
    assert_eq!(world.names(), ["file.csv"]);
    let requests = world.hub.requests();
    assert_eq!(requests.len(), 1);
    assert_eq!(requests[0].authorization, None);
    world.get(None, None).unwrap();
    assert!(world.hub.requests().is_empty(), "it is there");
}

#[test]
fn a_transfer_that_breaks_goes_on_where_it_was() {
    let world = World::new();
    world.fault(Fault::Breaks {
        times: 2,
        after: 70_000,
    });
    world.get(None, None).unwrap();
    assert_eq!(fs::read(world.target()).unwrap(), world.bytes);
    assert_eq!(
        world.ranges(),
        [None, Some("bytes=70000-".to_owned()), Some("bytes=140000-".to_owned())]
    );
    // A server that forgets what it was asked for sends all of it once more.
    let world = World::new();
    world.fault(Fault::BreaksAndForgets { after: 70_000 });
    world.get(Some(200_000), None).unwrap();
    assert_eq!(fs::read(world.target()).unwrap(), world.bytes);
}

#[test]
fn what_is_not_the_published_file_is_removed_and_named() {
    let world = World::new();
    let sum: &'static str = Box::leak(sha256(&world.bytes).into_boxed_str());
    world.fault(Fault::Altered);
    let message = world.get(None, Some(sum)).unwrap_err();
    assert!(
        message.contains("file.csv of somebody has SHA-256") && message.contains(sum),
        "{message}"
    );
    assert!(world.names().is_empty());
    world.fault(Fault::Short(150_000));
    let message = world.get(Some(200_000), None).unwrap_err();
    assert!(message.contains("file.csv of somebody"), "{message}");
    assert!(!world.target().exists());
    world.fault(Fault::Status(404));
    let message = world.get(None, None).unwrap_err();
    assert!(message.contains("somebody has no file file.csv"), "{message}");
    world.fault(Fault::Busy(1));
    world.get(None, Some(sum)).unwrap();
    assert_eq!(fs::read(world.target()).unwrap(), world.bytes);
}

#[test]
fn without_a_network_one_sentence_says_what_else_there_is() {
    let world = World::new();
    let mut place = world.place();
    place.offline = true;
    let message = task_at(&place, None, GenerationTask::E2e, &mut |_| ())
        .unwrap_err()
        .to_string();
    for words in ["e2e's data is not in", "HF_HUB_OFFLINE", "--data DIR"] {
        assert!(message.contains(words), "{words:?} is not in {message}");
    }
    place.offline = false;
    place.mirror = Some("http://127.0.0.1:9".to_owned());
    let message = task_at(&place, None, GenerationTask::Dart, &mut |_| ())
        .unwrap_err()
        .to_string();
    assert!(
        message.contains("dart's data is not in") && message.contains("cannot be reached"),
        "{message}"
    );
    let given = world.dir.path().join("given");
    let message = task_at(&place, Some(&given), GenerationTask::Dart, &mut |_| ())
        .unwrap_err()
        .to_string();
    assert!(message.contains("--data is no directory"), "{message}");
    fs::create_dir_all(&given).unwrap();
    let message = task_at(&place, Some(&given), GenerationTask::Dart, &mut |_| ())
        .unwrap_err()
        .to_string();
    assert!(
        message.contains("--data lacks the train split of dart, the test split of dart"),
        "{message}"
    );
}

fn gz(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn zip(path: &Path, files: &[(&str, &str)]) {
    let mut writer = ZipWriter::new(File::create(path).unwrap());
    for (name, text) in files {
        writer.start_file(*name, SimpleFileOptions::default()).unwrap();
        writer.write_all(text.as_bytes()).unwrap();
    }
    writer.finish().unwrap();
}

fn tar_gz(path: &Path, files: &[(&str, Vec<u8>)]) {
    let mut builder = tar::Builder::new(Vec::new());
    for (name, bytes) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        header.set_cksum();
        builder.append_data(&mut header, name, bytes.as_slice()).unwrap();
    }
    fs::write(path, gz(&builder.into_inner().unwrap())).unwrap();
}

#[test]
fn of_meteors_release_two_files_are_taken() {
    let world = World::new();
    let jar = world.dir.path().join("made.jar");
    zip(
        &jar,
        &[
            ("function/english.words", "the\n"),
            ("nonbreaking/english.prefixes", "Mr\n"),
            ("synonym/english.exceptions", ""),
            ("synonym/english.synsets", ""),
        ],
    );
    let jar = fs::read(&jar).unwrap();
    let table = gz(b"0.5\na\nan\n");
    let archive = world.dir.path().join("meteor.tar.gz");
    let place = world.place();
    let target = place.own_cache.join("meteor");
    assert_eq!(meteor_in(&place), None);
    tar_gz(
        &archive,
        &[
            ("meteor-1.5/README", b"words".to_vec()),
            ("meteor-1.5/meteor-1.5.jar", jar.clone()),
            ("meteor-1.5/data/paraphrase-de.gz", table.clone()),
            ("meteor-1.5/data/paraphrase-en.gz", table.clone()),
        ],
    );
    unpack_meteor(&archive, &target).unwrap();
    assert_eq!(meteor_in(&place), Some(target.clone()));
    assert_eq!(Data::open(&target).unwrap().stages(), Stage::ALL);
    assert_eq!(fs::read(target.join("data/paraphrase-en.gz")).unwrap(), table);
    assert_eq!(fs::read_dir(target.join("data")).unwrap().count(), 1);

    // A release without the table is none, and what is there stays.
    tar_gz(&archive, &[("meteor-1.5/meteor-1.5.jar", jar)]);
    let message = unpack_meteor(&archive, &target).unwrap_err().to_string();
    assert!(message.contains("lacks data/paraphrase-en.gz"), "{message}");
    assert!(meteor_in(&place).is_some());
    fs::write(&archive, "no archive").unwrap();
    assert!(
        unpack_meteor(&archive, &target)
            .unwrap_err()
            .to_string()
            .contains("no usable archive")
    );
}

#[test]
fn of_webnlgs_archive_the_three_splits_are_taken() {
    let world = World::new();
    let archive = world.dir.path().join("webnlg.zip");
    let root = "webnlg-dataset-master-webnlg_challenge_2017/webnlg_challenge_2017";
    let names = [
        "train/1triples/a.xml",
        "dev/1triples/a.xml",
        "test/testdata_with_lex.xml",
        "test/other.xml",
    ];
    let paths: Vec<String> = names.iter().map(|name| format!("{root}/{name}")).collect();
    let others = [
        format!("{root}/README.md"),
        "../webnlg_challenge_2017/train/out.xml".to_owned(),
        "webnlg-dataset-master/release_v3.0/en/train/a.xml".to_owned(),
    ];
    let files: Vec<(&str, &str)> = paths
        .iter()
        .chain(&others)
        .map(|path| (path.as_str(), "<a/>"))
        .collect();
    zip(&archive, &files);
    let target = world.place().own_cache.join("texts/webnlg_challenge_2017");
    unpack_webnlg(&archive, &target).unwrap();
    for name in names {
        assert_eq!(fs::read_to_string(target.join(name)).unwrap(), "<a/>", "{name}");
    }
    assert_eq!(fs::read_dir(&target).unwrap().count(), 3);
    assert_eq!(fs::read_dir(target.join("train")).unwrap().count(), 1);
    assert_eq!(
        fs::read_dir(target.parent().unwrap()).unwrap().count(),
        1,
        "nothing is left behind"
    );
}

#[test]
fn a_task_that_is_not_whole_is_not_kept() {
    let world = World::new();
    let archive = world.dir.path().join("webnlg.zip");
    let root = "webnlg-dataset-master-webnlg_challenge_2017/webnlg_challenge_2017";
    let entry = "<benchmark><entries><entry category=\"Food\" eid=\"Id1\" size=\"1\"><modifiedtripleset><mtriple>a | b | c</mtriple>\
                 </modifiedtripleset><lex comment=\"good\" lid=\"Id1\">a</lex></entry></entries></benchmark>";
    let names = ["train/a.xml", "dev/a.xml", "test/testdata_with_lex.xml"].map(|name| format!("{root}/{name}"));
    let files: Vec<(&str, &str)> = names.iter().map(|name| (name.as_str(), entry)).collect();
    zip(&archive, &files);
    let path = "shimorina/webnlg-dataset/-/archive/master/webnlg-dataset-master.zip";
    world.hub.put("gitlab.com", path, fs::read(&archive).unwrap(), false);
    let message = task_at(&world.place(), None, GenerationTask::WebNlg, &mut |_| ())
        .unwrap_err()
        .to_string();
    for words in [
        "not webnlg as it was published",
        "train split is partial: 1 of 18102 texts",
    ] {
        assert!(message.contains(words), "{words:?} is not in {message}");
    }
    let own = world.place().own_cache;
    assert_eq!(fs::read_dir(own.join("texts")).unwrap().count(), 0);
    assert_eq!(fs::read_dir(own.join("downloads")).unwrap().count(), 0);
}

/// With the real files (`DYLORA_TEST_DATA`): what the publishers have is taken, and counted as whole.
#[test]
fn the_published_files_are_taken_for_what_they_are() {
    let Some(data) = std::env::var_os("DYLORA_TEST_DATA").map(PathBuf::from) else {
        println!("not run: the published files of E2E (DYLORA_TEST_DATA is not set)");
        return;
    };
    let world = World::new();
    let commit = "tuetschek/e2e-dataset/ab0d967dd5729ce455ef14ba9ffafc456a335264";
    for name in ["trainset.csv", "devset.csv", "testset_w_refs.csv"] {
        let bytes = fs::read(data.join("e2e").join(name)).unwrap();
        world
            .hub
            .put("raw.githubusercontent.com", &format!("{commit}/{name}"), bytes, false);
    }
    let dir = task_at(&world.place(), None, GenerationTask::E2e, &mut |_| ()).unwrap();
    assert_eq!(fs::read_dir(dir.join("e2e")).unwrap().count(), 3);
    world.hub.requests();
    task_at(&world.place(), None, GenerationTask::E2e, &mut |_| ()).unwrap();
    assert!(world.hub.requests().is_empty());
}

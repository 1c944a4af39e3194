//! `dylora data fetch` against a hub on the loopback interface, as a person meets it.

mod hub;
mod output;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use dylora_tasks::glue;
use dylora_tasks::task::Split;
use hub::parquet_file::{self, Column};
use hub::{COMMIT, DATA, Fault, Hub, MODEL, Request, sha256};
use output::sentence;
use serde_json::Value;

const WEIGHTS: &str = "model.safetensors";
/// Rows of RTE's files.
const RTE: [(&str, usize); 3] = [("train", 2490), ("validation", 277), ("test", 3000)];

/// Rows of STS-B's files.
const STS_B: [(&str, usize); 3] = [("train", 5749), ("validation", 1500), ("test", 1379)];

/// A home directory, and a hub that has RoBERTa-base.
struct World {
    home: tempfile::TempDir,
    hub: Hub,
    weights: Vec<u8>,
}

impl World {
    fn new() -> Self {
        let hub = Hub::start();
        // No byte of it is like the one a block away, so that a resumed file with a seam in the wrong place is another.
        let weights: Vec<u8> = (0..300_000_u32)
            .map(|at| (at.wrapping_mul(2_654_435_761) >> 13) as u8)
            .collect();
        hub.put(MODEL, "config.json", "{}", false);
        hub.put(MODEL, "tokenizer.json", "{\"version\": 1}", false);
        hub.put(MODEL, WEIGHTS, weights.clone(), true);
        World {
            home: tempfile::tempdir().unwrap(),
            hub,
            weights,
        }
    }

    /// Puts a task's three files on the hub.
    fn with(self, config: &str, rows: [(&str, usize); 3]) -> Self {
        for (name, rows) in rows {
            let path = self.home.path().join("made.parquet");
            let text = |word: &str| Column::Text((0..rows).map(|row| format!("{word} {row}")).collect());
            let test = name == "test";
            let class = |row: usize| if test { -1 } else { row as i64 % 2 };
            let score = |row: usize| if test { -1.0 } else { row as f32 % 6.0 };
            let columns = [
                ("sentence1", text("left")),
                ("sentence2", text("right")),
                match config {
                    "stsb" => ("label", Column::Score((0..rows).map(score).collect())),
                    _ => ("label", Column::Class((0..rows).map(class).collect())),
                },
            ];
            parquet_file::write(&path, &columns);
            let file = format!("{config}/{name}-00000-of-00001.parquet");
            self.hub.put(DATA, &file, fs::read(&path).unwrap(), true);
        }
        self
    }

    /// `dylora data fetch --json` with these flags and variables more, and no other variables.
    fn fetch(&self, flags: &[&str], variables: &[(&str, &str)]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_dylora"))
            .args(["data", "fetch", "--json"])
            .args(flags)
            .env_clear()
            .env("HOME", self.home.path())
            .env("HF_ENDPOINT", self.hub.endpoint())
            .envs(variables.iter().copied())
            .output()
            .unwrap()
    }

    fn model(&self) -> Output {
        self.fetch(&["--model"], &[])
    }

    fn repo(&self) -> PathBuf {
        self.home
            .path()
            .join(".cache/huggingface/hub/models--FacebookAI--roberta-base")
    }

    /// The whole model is where the cache's layout says.
    fn assert_model(&self, output: &Output) {
        let dir = self.repo().join("snapshots").join(COMMIT);
        assert_eq!(said(output)["model"], dir.to_str().unwrap());
        assert!(fs::read(dir.join(WEIGHTS)).unwrap() == self.weights);
        assert_eq!(fs::read_to_string(self.repo().join("refs/main")).unwrap(), COMMIT);
        assert_eq!(self.incomplete(), Vec::<PathBuf>::new());
    }

    fn incomplete(&self) -> Vec<PathBuf> {
        let blobs = fs::read_dir(self.repo().join("blobs")).unwrap();
        let paths = blobs.map(|entry| entry.unwrap().path());
        paths.filter(|path| path.extension().is_some()).collect()
    }

    /// Ranges of the transfers of the weights.
    fn ranges(&self) -> Vec<Option<String>> {
        let sent = |request: &Request| request.cdn && request.method == "GET";
        self.hub
            .requests()
            .into_iter()
            .filter(sent)
            .map(|request| request.range)
            .collect()
    }
}

fn said(output: &Output) -> Value {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn assert_words(output: &Output, words: &[&str]) {
    let sentence = sentence(output);
    for word in words {
        assert!(sentence.contains(word), "{word:?} is not in {sentence}");
    }
}

#[test]
fn a_model_comes_once() {
    let world = World::new();
    world.assert_model(&world.model());
    let requests = world.hub.requests();
    // A question for each file, and its bytes; redirections are requests too.
    assert_eq!(requests.iter().filter(|request| request.cdn).count(), 1);
    assert!(
        requests
            .iter()
            .all(|request| request.range.is_none() && request.authorization.is_none())
    );
    // All but the first question name the commit, so that no file is of another one.
    let main = |request: &&Request| request.path.contains("/resolve/main/");
    assert_eq!(requests.iter().filter(main).count(), 1);

    world.assert_model(&world.model());
    assert_eq!(world.hub.requests(), []);
}

#[cfg(unix)]
#[test]
fn the_cache_is_the_shared_one() {
    let world = World::new();
    world.assert_model(&world.model());
    let link = fs::read_link(world.repo().join("snapshots").join(COMMIT).join(WEIGHTS)).unwrap();
    assert_eq!(link, Path::new("../../blobs").join(sha256(&world.weights)));
}

#[test]
fn vocabulary_and_merges_serve_where_there_is_no_tokenizer_json() {
    let world = World::new();
    world.hub.remove(MODEL, "tokenizer.json");
    world.hub.put(MODEL, "vocab.json", "{}", false);
    world.hub.put(MODEL, "merges.txt", "#version", false);
    world.assert_model(&world.model());
    assert!(world.repo().join("snapshots").join(COMMIT).join("merges.txt").is_file());
}

#[test]
fn what_the_cache_has_needs_no_network() {
    for folder in ["models--FacebookAI--roberta-base", "models--roberta-base"] {
        let world = World::new();
        let repo = world.home.path().join("elsewhere").join(folder);
        let dir = repo.join("snapshots/abc");
        fs::create_dir_all(&dir).unwrap();
        fs::create_dir_all(repo.join("refs")).unwrap();
        fs::write(repo.join("refs/main"), "abc\n").unwrap();
        for file in ["config.json", "vocab.json", "merges.txt", WEIGHTS] {
            fs::write(dir.join(file), "x").unwrap();
        }
        let cache = world.home.path().join("elsewhere");
        let variables = [("HF_HUB_CACHE", cache.to_str().unwrap()), ("HF_HUB_OFFLINE", "1")];
        let output = world.fetch(&["--model"], &variables);
        assert_eq!(said(&output)["model"], dir.to_str().unwrap());
        assert_eq!(world.hub.requests(), []);
    }
}

#[test]
fn a_broken_transfer_goes_on_where_it_was() {
    let world = World::new();
    // More often than a transfer that brings nothing is tried.
    let (times, after) = (5, 50_000);
    world.hub.fault(MODEL, WEIGHTS, Some(Fault::Breaks { times, after }));
    world.assert_model(&world.model());
    let ranges = (0..=times).map(|part| (part > 0).then(|| format!("bytes={}-", part * after)));
    assert_eq!(world.ranges(), ranges.collect::<Vec<_>>());
}

#[test]
fn the_next_command_goes_on_where_the_last_one_was() {
    let world = World::new();
    let blobs = world.repo().join("blobs");
    fs::create_dir_all(&blobs).unwrap();
    let part = blobs.join(format!("{}.incomplete", sha256(&world.weights)));
    fs::write(&part, &world.weights[..100_000]).unwrap();
    world.assert_model(&world.model());
    assert_eq!(world.ranges(), [Some("bytes=100000-".to_owned())]);
}

#[test]
fn a_server_that_forgets_the_range_starts_the_file_anew() {
    let world = World::new();
    world
        .hub
        .fault(MODEL, WEIGHTS, Some(Fault::BreaksAndForgets { after: 70_000 }));
    world.assert_model(&world.model());
    assert_eq!(world.ranges(), [None, Some("bytes=70000-".to_owned())]);
}

#[test]
fn a_server_that_always_breaks_is_given_up() {
    let world = World::new();
    let fault = Fault::Breaks {
        times: usize::MAX,
        after: 0,
    };
    world.hub.fault(MODEL, WEIGHTS, Some(fault));
    assert_words(&world.model(), &[WEIGHTS, MODEL, "the transfer broke"]);
    assert_eq!(world.ranges().len(), 4);
}

#[test]
fn a_busy_server_is_asked_again() {
    let world = World::new();
    world.hub.fault(MODEL, "config.json", Some(Fault::Busy(1)));
    world.assert_model(&world.model());
    world.hub.fault(MODEL, "config.json", Some(Fault::Busy(usize::MAX)));
    fs::remove_dir_all(world.repo()).unwrap();
    assert_words(&world.model(), &["config.json", MODEL, "503"]);
}

#[test]
fn other_bytes_than_announced_are_removed_and_named() {
    let world = World::new();
    world.hub.fault(MODEL, WEIGHTS, Some(Fault::Altered));
    let altered: Vec<u8> = world.weights.iter().map(|byte| byte ^ 1).collect();
    let sums = [sha256(&world.weights), sha256(&altered)];
    assert_words(&world.model(), &[WEIGHTS, MODEL, &sums[0], &sums[1], "removed"]);
    assert_eq!(world.incomplete(), Vec::<PathBuf>::new());
    assert!(!world.repo().join("refs/main").exists());

    world.hub.fault(MODEL, WEIGHTS, None);
    world.assert_model(&world.model());
}

#[test]
fn a_file_shorter_than_announced_is_removed_and_named() {
    let world = World::new();
    world.hub.fault(MODEL, WEIGHTS, Some(Fault::Short(1000)));
    assert_words(&world.model(), &[WEIGHTS, MODEL, "300000 bytes", "holds 1000"]);
    assert_eq!(world.ranges().len(), 1);
    assert_eq!(world.incomplete(), Vec::<PathBuf>::new());
    world.hub.fault(MODEL, WEIGHTS, None);
    world.assert_model(&world.model());
}

#[test]
fn refusals_name_the_token() {
    let world = World::new();
    for status in [401, 403] {
        world.hub.fault(MODEL, "config.json", Some(Fault::Status(status)));
        let words = ["config.json", MODEL, &status.to_string(), "set HF_TOKEN"];
        assert_words(&world.model(), &words);
    }
    let output = world.fetch(&["--model"], &[("HF_TOKEN", "wrong")]);
    assert_words(&output, &["HF_TOKEN", "may not"]);
}

#[test]
fn the_token_goes_to_the_endpoint_and_to_no_other_host() {
    let world = World::new();
    for file in ["config.json", WEIGHTS] {
        world.hub.fault(MODEL, file, Some(Fault::Wants("secret")));
    }
    let home = world.home.path().join(".cache/huggingface");
    fs::create_dir_all(&home).unwrap();
    fs::write(home.join("token"), "secret\n").unwrap();
    world.assert_model(&world.model());
    let requests = world.hub.requests();
    for request in &requests {
        let token = (!request.cdn).then_some("Bearer secret");
        assert_eq!(request.authorization.as_deref(), token, "{request:?}");
    }
    assert!(requests.iter().any(|request| request.cdn));
}

#[test]
fn a_missing_file_is_named_with_its_repository() {
    let world = World::new();
    world.hub.remove(MODEL, WEIGHTS);
    assert_words(&world.model(), &[WEIGHTS, MODEL, "404", world.hub.endpoint()]);
}

#[test]
fn without_network_the_ways_out_are_named() {
    let world = World::new();
    // A port that was just free: nobody listens there.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let nobody = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    // A name that no one has, by its ending.
    let nowhere = "http://hub.invalid";
    let ways = [
        "HF_HOME",
        "HF_ENDPOINT",
        "cargo xtask reproduce glue",
        ".cache/huggingface/hub",
    ];
    for (variable, value, reason) in [
        ("HF_ENDPOINT", nobody.as_str(), nobody.as_str()),
        ("HF_ENDPOINT", nowhere, nowhere),
        ("HF_HUB_OFFLINE", "1", "HF_HUB_OFFLINE"),
    ] {
        let output = world.fetch(&["--model"], &[(variable, value)]);
        assert_words(&output, &["RoBERTa-base", "--model DIR", reason]);
        assert_words(&output, &ways);
        let output = world.fetch(&["--tasks", "rte,stsb"], &[(variable, value)]);
        assert_words(&output, &["GLUE (rte, sts-b)", "--data DIR", reason]);
        assert_words(&output, &ways);
    }
    assert_eq!(world.hub.requests(), []);
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_is_named() {
    let world = World::new();
    let blobs = world.repo().join("blobs");
    fs::create_dir_all(&blobs).unwrap();
    let part = blobs.join(format!("{}.incomplete", sha256(&world.weights)));
    std::os::unix::fs::symlink("/dev/full", part).unwrap();
    assert_words(
        &world.model(),
        &["full", WEIGHTS, "300000 bytes", blobs.to_str().unwrap()],
    );
}

#[test]
fn glue_comes_once_and_loads() {
    let world = World::new().with("rte", RTE).with("stsb", STS_B);
    let output = world.fetch(&["--tasks", "rte,stsb"], &[]);
    let data = said(&output)["data"].as_str().unwrap().to_owned();
    let dir = world.home.path().join(format!(".cache/dylora/glue-{COMMIT}"));
    assert_eq!(data, dir.to_str().unwrap());
    assert!(said(&output).get("model").is_none());
    for (name, parts) in [("rte", RTE), ("sts-b", STS_B)] {
        let task = glue::find(name).unwrap();
        for ((_, rows), split) in parts.into_iter().zip([Split::Train, Split::Dev, Split::Test]) {
            let loaded = task.load(&dir, split).unwrap();
            assert_eq!(loaded.len(), rows);
            assert_eq!(loaded[rows - 1].text_a, format!("left {}", rows - 1));
        }
    }
    assert_eq!(world.hub.requests().iter().filter(|request| request.cdn).count(), 6);

    said(&world.fetch(&["--tasks", "rte,stsb"], &[("HF_HUB_OFFLINE", "1")]));
    // What was written once serves without the files it was made from, and the other way round.
    let hub_cache = world.home.path().join(".cache/huggingface");
    let away = world.home.path().join("away");
    fs::rename(&hub_cache, &away).unwrap();
    said(&world.fetch(&["--tasks", "STS-B,RTE"], &[]));
    fs::rename(&away, &hub_cache).unwrap();
    fs::remove_dir_all(world.home.path().join(".cache/dylora")).unwrap();
    said(&world.fetch(&["--tasks", "rte,stsb"], &[("HF_HUB_OFFLINE", "1")]));
    assert!(dir.join("RTE/train.tsv").is_file());
    assert_eq!(world.hub.requests(), []);
}

#[test]
fn other_rows_than_glue_has_are_named() {
    let world = World::new().with("rte", [RTE[0], ("validation", 276), RTE[2]]);
    let output = world.fetch(&["--tasks", "rte"], &[]);
    assert_words(
        &output,
        &[
            "rte/validation-00000-of-00001.parquet",
            "276 rows",
            "rte validation has 277",
        ],
    );
    let folder = world.home.path().join(format!(".cache/dylora/glue-{COMMIT}"));
    assert_eq!(fs::read_dir(folder).unwrap().count(), 0);
}

#[test]
fn an_endpoint_that_is_no_hub_is_named() {
    let world = World::new();
    world.hub.fault(MODEL, WEIGHTS, Some(Fault::Sizeless));
    assert_words(&world.model(), &[WEIGHTS, MODEL, "no usable size", "HF_ENDPOINT"]);
    assert_words(
        &world.fetch(&["--model"], &[("HF_ENDPOINT", "nonsense")]),
        &["HF_ENDPOINT nonsense"],
    );
}

#[test]
fn other_models_come_by_their_names() {
    let world = World::new();
    for (name, repo) in [
        ("gpt2", "openai-community/gpt2"),
        ("gpt2-medium", "openai-community/gpt2-medium"),
    ] {
        world.hub.put(repo, "config.json", "{}", false);
        world.hub.put(repo, "tokenizer.json", "{\"version\": 1}", false);
        world.hub.put(repo, WEIGHTS, world.weights.clone(), true);
        let folder = format!(".cache/huggingface/hub/models--{}", repo.replace('/', "--"));
        let dir = world.home.path().join(folder).join("snapshots").join(COMMIT);
        assert_eq!(said(&world.fetch(&[name], &[]))["model"], dir.to_str().unwrap());
        assert!(fs::read(dir.join(WEIGHTS)).unwrap() == world.weights);
    }
    assert_words(
        &world.fetch(&["gpt3"], &[]),
        &["gpt3", "rte", "gpt2-medium", "webnlg", "meteor"],
    );
    assert_words(&world.fetch(&["rte", "e2e"], &[]), &["different directories"]);
    let offline = [("HF_HUB_OFFLINE", "1")];
    assert_words(
        &world.fetch(&["meteor"], &offline),
        &["METEOR's release is not in", "--meteor-data DIR"],
    );
}

#[test]
fn an_unknown_task_is_named() {
    let output = World::new().fetch(&["--tasks", "rte,wnli"], &[]);
    assert_words(&output, &["wnli"]);
}

//! `dylora reproduce --launcher slurm` with programs in Slurm's place that only write down what they are asked. A real Slurm is
//! asked by `tests/slurm/one-node.sh`.
#![cfg(unix)]

mod output;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use output::{sentence, stderr, stdout};

/// A directory that everything runs in, with a folder of programs.
struct World {
    dir: tempfile::TempDir,
}

impl World {
    /// `sbatch` says that it has job 7; `squeue` prints the file `queue`; `scontrol` notes what it is told.
    fn new() -> Self {
        let world = World {
            dir: tempfile::tempdir().unwrap(),
        };
        fs::create_dir(world.path("bin")).unwrap();
        world.program("sbatch", "echo \"$@\" >>../sbatch.txt; echo 7");
        world.program("squeue", "cat ../queue 2>/dev/null");
        world.program("scontrol", "echo \"$@\" >>../scontrol.txt");
        world
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A shell script that runs in the folder `bin`.
    fn program(&self, name: &str, body: &str) {
        let path = self.path("bin").join(name);
        fs::write(
            &path,
            format!("#!/bin/sh\nPATH=/usr/bin:/bin\ncd \"$(dirname \"$0\")\"\n{body}\n"),
        )
        .unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command
            .env_clear()
            // A Slurm that is really there is not asked.
            .env("PATH", self.path("bin"))
            .current_dir(self.dir.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    /// Two runs of RTE in a directory whose name has a blank.
    fn reproduce(&self, flags: &[&str]) -> Output {
        let plan = [
            "reproduce",
            "glue",
            "--tasks=rte",
            "--methods=dylora",
            "--seeds=10,42",
            "--out",
            "the runs",
        ];
        let size = [
            "--max-train-rows=64",
            "--rank=2",
            "--epochs=4",
            "--batch-size=4",
            "--checkpoint-every=1",
        ];
        let mut command = self.command(env!("CARGO_BIN_EXE_dylora"));
        command.args(plan).args(size).args(flags).output().unwrap()
    }

    /// An element of the first submission.
    fn element(&self, index: usize) -> Command {
        let mut command = self.command("/bin/bash");
        command
            .arg(self.path("the runs/slurm/1/batch.sh"))
            .env("PATH", format!("{}:/usr/bin:/bin", self.path("bin").display()))
            .env("SLURM_ARRAY_TASK_ID", index.to_string())
            .env("SLURM_JOB_ID", "8");
        command
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap_or_default()
    }
}

fn wait_for(file: &Path) {
    let begun = Instant::now();
    while !file.exists() {
        assert!(
            begun.elapsed() < Duration::from_secs(60),
            "{} does not come",
            file.display()
        );
        std::thread::sleep(Duration::from_millis(1));
    }
}

const SLURM: [&str; 3] = ["--launcher", "slurm", "--slurm-option=--partition=gpu"];

#[test]
fn an_array_has_an_element_for_each_run_that_is_missing() {
    let world = World::new();
    let said = stdout(&world.reproduce(&[&SLURM[..], &["--slurm-setup", "export SETUP='it ran'"]].concat()));
    assert!(said.starts_with("job 7: 2 runs, at most 16 at a time\n"), "{said}");
    assert!(
        said.contains("'the runs'") && said.contains(" --collect\n") && !said.contains("--launcher"),
        "{said}"
    );
    let script = world.path("the runs/slurm/1/batch.sh");
    assert_eq!(world.read("sbatch.txt"), format!("--parsable {}\n", script.display()));
    let names = world.read("the runs/slurm/1/runs.txt");
    assert_eq!(names, "rte dylora seed 10\nrte dylora seed 42\n");
    let text = fs::read_to_string(&script).unwrap();
    for line in [
        "#SBATCH --array=0-1%16",
        "#SBATCH --partition=gpu",
        "export SETUP='it ran'",
    ] {
        assert!(text.lines().any(|there| there == line), "{line:?} is not in {text}");
    }

    // Both wait; then one has run, one has failed.
    fs::write(world.path("queue"), "0\n1\n").unwrap();
    let output = world.reproduce(&SLURM);
    assert!(stdout(&output).is_empty());
    assert!(stderr(&output).contains("rte dylora seed 42: in the queue, job 7\nnothing to submit"));
    fs::remove_file(world.path("queue")).unwrap();
    let output = world.element(1).output().unwrap();
    assert!(stdout(&output).is_empty(), "an element makes no table");
    assert!(world.path("the runs/rte/dylora/seed-42/record.json").exists());
    assert!(!world.path("the runs/rte/dylora/seed-10").exists());
    let output = world.reproduce(&["--collect"]);
    assert!(
        stdout(&output).contains("Runs without a record: rte dylora seed 10."),
        "{}",
        stdout(&output)
    );
    assert!(
        stderr(&output).contains("\nmissing: rte dylora seed 10: to do\n"),
        "{}",
        stderr(&output)
    );

    assert!(stdout(&world.reproduce(&SLURM)).starts_with("job 7: 1 runs"));
    assert_eq!(world.read("the runs/slurm/2/runs.txt"), "rte dylora seed 10\n");
    // The first array's elements are what they were.
    stdout(&world.element(0).output().unwrap());
    let output = world.element(0).output().unwrap();
    assert!(stderr(&output).contains("0 of 1 runs to do"), "{}", stderr(&output));
    let collected = stdout(&world.reproduce(&["--collect"]));
    assert!(!collected.contains("without a record"), "{collected}");
    // In one process: the same table.
    fs::remove_dir_all(world.path("the runs")).unwrap();
    assert_eq!(stdout(&world.reproduce(&[])), collected);
}

#[test]
fn near_its_time_limit_a_run_is_put_back_into_the_queue() {
    let world = World::new();
    stdout(&world.reproduce(&SLURM));
    let run = world.path("the runs/rte/dylora/seed-10");
    let element = world.element(0).spawn().unwrap();
    wait_for(&run.join("checkpoint.safetensors"));
    let status = Command::new("kill").args(["-USR1", &element.id().to_string()]).status();
    assert!(status.unwrap().success());
    let output = element.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130), "{}", stderr(&output));
    assert_eq!(world.read("scontrol.txt"), "requeue 8\n");
    assert!(!run.join("record.json").exists());
    let output = world.reproduce(&["--collect"]);
    assert!(
        stderr(&output).contains("missing: rte dylora seed 10: begun, step "),
        "{}",
        stderr(&output)
    );
    stdout(&world.element(0).output().unwrap());
    assert!(
        fs::read_to_string(run.join("record.json"))
            .unwrap()
            .contains("\"resumed\": 1")
    );
    assert_eq!(world.read("scontrol.txt"), "requeue 8\n", "once");

    // A run that fails fails its element, and is not put back.
    fs::write(world.path("the runs/data/RTE/dev.tsv"), "").unwrap();
    let output = world.element(1).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(world.read("scontrol.txt"), "requeue 8\n");
}

#[test]
fn what_cannot_be_launched_is_said_in_a_sentence() {
    let world = World::new();
    for (flags, words) in [
        (["--slurm-option=partition"], "\"partition\" is no option"),
        (["--slurm-setup=a\nb"], "is more than one line"),
    ] {
        let message = sentence(&world.reproduce(&[&SLURM[..2], &flags].concat()));
        assert!(message.contains(words), "{message}");
    }
    fs::remove_file(world.path("bin/sbatch")).unwrap();
    let message = sentence(&world.reproduce(&SLURM));
    assert!(
        message.contains("sbatch, which is not on the PATH") && message.contains("--dry-run"),
        "{message}"
    );
    assert!(!world.path("the runs").exists(), "something was written");
    let script = stdout(&world.reproduce(&[&SLURM[..], &["--dry-run"]].concat()));
    assert!(
        script.starts_with("#!/bin/bash\n#SBATCH ") && script.contains("--only \"$run\""),
        "{script}"
    );
    assert!(!world.path("the runs/slurm").exists());
    // An element has what a file said, but for the launcher.
    fs::write(
        world.path("flags.toml"),
        "launcher = \"slurm\"\nslurm-limit = 3\nalpha = 7.0\n",
    )
    .unwrap();
    let script = stdout(&world.reproduce(&["--config", "flags.toml", "--dry-run"]));
    assert!(
        script.contains("#SBATCH --array=0-1%3\n") && script.contains(" --alpha=7"),
        "{script}"
    );
    assert!(
        !script.contains("flags.toml") && !script.contains("--launcher"),
        "{script}"
    );

    world.program("sbatch", "echo 'sbatch: error: invalid partition' >&2; exit 1");
    let message = sentence(&world.reproduce(&SLURM));
    assert_eq!(message, "error: sbatch refuses: sbatch: error: invalid partition");
    assert_eq!(fs::read_dir(world.path("the runs/slurm")).unwrap().count(), 0);

    let message = sentence(&world.reproduce(&["--only", "rte dylora seed 43"]));
    assert!(message.contains("no run is called \"rte dylora seed 43\""), "{message}");
}

//! `dylora reproduce --launcher slurm`: an array job with one element for each run that has no record.
//!
//! An element is this program once more, with the same flags and `--only NAME`. The names stand in a file that is written for one
//! submission and never changed, so an element means the same run however many have ended since.

use std::ffi::OsString;
use std::fs;
use std::io::ErrorKind;
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::process::Command;

use clap::CommandFactory as _;
use dylora_tasks::dir_lock::DirLock;
use dylora_tasks::experiment::Experiment;
use dylora_tasks::run_dir::write_text;

use crate::args::absolute;
use crate::config_file;
use crate::failure::{Failure, print};

/// Seconds before the time limit at which a run is asked to stop: its step, and a checkpoint.
const NOTICE: u32 = 120;

/// Flags that say where the runs are done.
#[derive(clap::Args)]
pub(crate) struct LauncherArgs {
    /// Hand the runs that have no record to a batch system, an element of an array job each; with --dry-run print the script
    #[arg(long, value_name = "WORD", conflicts_with_all = ["collect", "only", "json"])]
    pub(crate) launcher: Option<Launcher>,
    /// An option for sbatch, such as "--partition=gpu"; may be given several times
    #[arg(long, value_name = "OPTION", requires = "launcher", allow_hyphen_values = true)]
    slurm_option: Vec<String>,
    /// A line of shell before each run, such as "module load cuda"; may be given several times
    #[arg(long, value_name = "LINE", requires = "launcher", allow_hyphen_values = true)]
    slurm_setup: Vec<String>,
    /// Most runs of the array at the same time
    #[arg(long, value_name = "N", requires = "launcher", default_value = "16")]
    slurm_limit: NonZeroU32,
    /// Only the runs of these names, as --dry-run prints them, and no table; may be given several times
    #[arg(long, value_name = "NAME", conflicts_with = "collect")]
    pub(crate) only: Vec<String>,
}

/// Batch systems.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Launcher {
    /// Slurm's sbatch
    Slurm,
}

/// Flags of the launcher that have a value, and flags that an element must not have.
const VALUED: [&str; 5] = [
    "--launcher",
    "--slurm-option",
    "--slurm-setup",
    "--slurm-limit",
    "--config",
];
const BARE: [&str; 2] = ["--dry-run", "--json"];

impl LauncherArgs {
    /// Whether runs go elsewhere. Asked before anything is written.
    ///
    /// # Errors
    /// If they cannot.
    pub(crate) fn check(&self, dry_run: bool) -> Result<bool, Failure> {
        if self.launcher.is_none() {
            return Ok(false);
        }
        for (flag, lines) in [
            ("--slurm-option", &self.slurm_option),
            ("--slurm-setup", &self.slurm_setup),
        ] {
            if let Some(line) = lines.iter().find(|line| line.contains(['\n', '\r'])) {
                return Err(Failure::Message(format!("{flag}: {line:?} is more than one line")));
            }
        }
        if let Some(option) = self.slurm_option.iter().find(|option| !option.starts_with('-')) {
            return Err(Failure::Message(format!(
                "--slurm-option: {option:?} is no option; write it as in a script, --slurm-option=--partition=gpu"
            )));
        }
        if !dry_run && !on_path("sbatch") {
            return Err(Failure::Message(
                "--launcher slurm needs sbatch, which is not on the PATH: use it on a machine of the cluster; with --dry-run it \
                 prints the script"
                    .to_owned(),
            ));
        }
        Ok(true)
    }

    /// Submits runs that have no record, but for those that somebody is at or that wait in an earlier array.
    ///
    /// # Errors
    /// If a file cannot be written, or `sbatch` refuses.
    pub(crate) fn launch(&self, runs: &[&Experiment], out: &Path, words: &str, dry_run: bool) -> Result<(), Failure> {
        let out = absolute(out)?;
        let place = out.join("slurm");
        let queued = queued(&place)?;
        let mut names: Vec<&str> = Vec::new();
        for run in runs {
            if let Some(by) = DirLock::holder(&run.dir)? {
                anstream::eprintln!("{}: {by} is at it", run.name);
            } else if let Some((_, job)) = queued.iter().find(|(name, _)| *name == run.name) {
                anstream::eprintln!("{}: in the queue, job {job}", run.name);
            } else {
                names.push(&run.name);
            }
        }
        if names.is_empty() {
            anstream::eprintln!("nothing to submit");
            return Ok(());
        }
        if dry_run {
            let dir = place.join("1");
            return print(self.batch(words, &dir, names.len())?.script().trim_end());
        }
        let dir = new_place(&place)?;
        let submitted = self.batch(words, &dir, names.len()).and_then(|batch| {
            write_text(&dir.join("runs.txt"), &(names.join("\n") + "\n"))?;
            write_text(&dir.join("batch.sh"), &batch.script())?;
            Ok((submit(&dir.join("batch.sh"))?, batch))
        });
        let (job, batch) = match submitted {
            Ok(submitted) => submitted,
            Err(failure) => {
                let _ = fs::remove_dir_all(&dir);
                return Err(failure);
            }
        };
        write_text(&dir.join("job"), &format!("{job}\n"))?;
        let id = job.split(';').next().unwrap_or(&job);
        print(&format!(
            "job {id}: {} runs, at most {} at a time\n\
             queue:   squeue --jobs={id}\n\
             logs:    {}\n\
             table:   {} --collect\n\
             what failed or is missing: the same command again",
            names.len(),
            self.slurm_limit,
            dir.join(format!("{id}_*.log")).display(),
            batch.command(),
        ))
    }

    fn batch(&self, words: &str, dir: &Path, runs: usize) -> Result<Batch, Failure> {
        let program = std::env::current_exe()
            .map_err(|error| Failure::Message(format!("cannot tell where this program is: {error}")))?;
        let here = std::env::current_dir()
            .map_err(|error| Failure::Message(format!("cannot tell the working directory: {error}")))?;
        let dir = text(dir)?;
        if dir.contains(['"', '\\']) {
            return Err(Failure::Message(format!(
                "--out: a batch script cannot name {dir}; choose a directory without quotes and backslashes"
            )));
        }
        Ok(Batch {
            name: words.split_whitespace().next().unwrap_or("own").to_owned(),
            dir,
            runs,
            limit: self.slurm_limit,
            options: self.slurm_option.clone(),
            setup: self.slurm_setup.clone(),
            here: text(&here)?,
            program: text(&program)?,
            // What a file said is part of the command: the file may change, and may name the launcher.
            args: own_args(
                config_file::expand(std::env::args_os().collect(), &crate::Cli::command())?
                    .into_iter()
                    .skip(1),
            )?,
        })
    }
}

/// The arguments of this process, but for those of the launcher.
fn own_args(args: impl Iterator<Item = OsString>) -> Result<Vec<String>, Failure> {
    let mut kept = Vec::new();
    let mut args = args.map(|arg| text(Path::new(&arg)));
    while let Some(arg) = args.next().transpose()? {
        let name = arg.split_once('=').map_or(arg.as_str(), |(name, _)| name);
        if VALUED.contains(&name) {
            if name == arg {
                args.next();
            }
        } else if !BARE.contains(&name) {
            kept.push(arg);
        }
    }
    Ok(kept)
}

/// What a batch script is made from.
struct Batch {
    name: String,
    dir: String,
    runs: usize,
    limit: NonZeroU32,
    options: Vec<String>,
    setup: Vec<String>,
    here: String,
    program: String,
    args: Vec<String>,
}

impl Batch {
    /// This program with its arguments, for a shell.
    fn command(&self) -> String {
        let words = std::iter::once(&self.program).chain(&self.args);
        words.map(|word| quoted(word)).collect::<Vec<_>>().join(" ")
    }

    fn script(&self) -> String {
        let Batch {
            name,
            dir,
            runs,
            limit,
            here,
            ..
        } = self;
        let last = runs - 1;
        let log = dir.replace('%', "%%");
        let options: String = self
            .options
            .iter()
            .map(|option| format!("#SBATCH {option}\n"))
            .collect();
        let setup: String = self.setup.iter().map(|line| format!("{line}\n")).collect();
        let (here, list, command) = (quoted(here), quoted(&format!("{dir}/runs.txt")), self.command());
        format!(
            r#"#!/bin/bash
#SBATCH --job-name=dylora-{name}
#SBATCH --array=0-{last}%{limit}
#SBATCH --output="{log}/%A_%a.log"
#SBATCH --open-mode=append
#SBATCH --requeue
#SBATCH --signal=B:USR1@{NOTICE}
{options}
# The time limit is near: the run finishes its step, writes a checkpoint and waits for its next turn.
trap 'limit=1; [ -z "$child" ] || kill -TERM $child' USR1
# A cancelled or preempted job: the run has the signal as well, and the script waits for its checkpoint.
trap : TERM
set -e
{setup}cd {here}
run=$(sed -n "$((SLURM_ARRAY_TASK_ID + 1))p" {list})
set +e
if [ -n "$SLURM_CPUS_PER_TASK" ]; then export RAYON_NUM_THREADS=$SLURM_CPUS_PER_TASK; fi

{command} --only "$run" &
child=$!
while :; do
  wait $child
  status=$?
  kill -0 $child 2>/dev/null || break
done
if [ -n "$limit" ] && [ "$status" -eq 130 ]; then
  echo "the time limit is near: $run goes on when the job runs again"
  scontrol requeue "$SLURM_JOB_ID"
fi
exit $status
"#
        )
    }
}

/// A word as a shell reads it back.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_=+./,:@%".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

fn text(path: &Path) -> Result<String, Failure> {
    path.to_str()
        .filter(|text| !text.contains('\n'))
        .map(ToOwned::to_owned)
        .ok_or_else(|| Failure::Message(format!("{}: a batch script cannot hold this name", path.display())))
}

fn on_path(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|dir| dir.join(program).is_file())
}

/// A directory for one submission: the next number.
fn new_place(place: &Path) -> Result<PathBuf, Failure> {
    let cannot = |dir: &Path, error| Failure::Message(format!("cannot create {}: {error}", dir.display()));
    fs::create_dir_all(place).map_err(|error| cannot(place, error))?;
    let mut number = 1;
    loop {
        let dir = place.join(number.to_string());
        match fs::create_dir(&dir) {
            Ok(()) => return Ok(dir),
            Err(error) if error.kind() == ErrorKind::AlreadyExists => number += 1,
            Err(error) => return Err(cannot(&dir, error)),
        }
    }
}

/// Hands a script over; the job as `sbatch --parsable` names it, `ID` or `ID;CLUSTER`.
fn submit(script: &Path) -> Result<String, Failure> {
    let output = Command::new("sbatch")
        .arg("--parsable")
        .arg(script)
        .output()
        .map_err(|error| Failure::Message(format!("cannot start sbatch: {error}")))?;
    let job = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    if !output.status.success() || job.is_empty() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(Failure::Message(format!("sbatch refuses: {}", one_line(&said))));
    }
    Ok(job)
}

fn one_line(text: &str) -> String {
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    lines.join("; ")
}

/// Runs of earlier submissions that still wait or run, with their jobs. What Slurm no longer knows, or does not tell, counts
/// as gone: two elements of one run do no harm.
fn queued(place: &Path) -> Result<Vec<(String, String)>, Failure> {
    let mut found = Vec::new();
    let Ok(entries) = fs::read_dir(place) else {
        return Ok(found);
    };
    for entry in entries {
        let dir = entry?.path();
        let (Ok(job), Ok(list)) = (
            fs::read_to_string(dir.join("job")),
            fs::read_to_string(dir.join("runs.txt")),
        ) else {
            continue;
        };
        let (id, cluster) = job.trim().split_once(';').unwrap_or((job.trim(), ""));
        let mut command = Command::new("squeue");
        command.args(["--noheader", "--array", "--format=%K", "--states=PD,R,S,CF"]);
        command.arg(format!("--jobs={id}"));
        if !cluster.is_empty() {
            command.arg(format!("--clusters={cluster}"));
        }
        let Ok(output) = command.output() else { continue };
        let names: Vec<&str> = list.lines().collect();
        for index in String::from_utf8_lossy(&output.stdout).lines() {
            let name = index.trim().parse::<usize>().ok().and_then(|index| names.get(index));
            found.extend(name.map(|name| ((*name).to_owned(), id.to_owned())));
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_element_has_the_flags_of_the_command_but_for_the_launchers() {
        let given = "reproduce glue --launcher slurm --slurm-option=--gres=gpu:1 --slurm-option --partition=a --rank 4 \
                     --slurm-limit=3 --config a.toml --dry-run --json --tasks rte";
        let kept = own_args(given.split(' ').filter(|word| !word.is_empty()).map(OsString::from)).ok();
        assert_eq!(kept.unwrap().join(" "), "reproduce glue --rank 4 --tasks rte");
    }

    #[test]
    fn words_reach_the_shell_as_they_are() {
        for (word, there) in [
            ("--rank=4", "--rank=4"),
            ("a b", "'a b'"),
            ("it's", r"'it'\''s'"),
            ("$x", "'$x'"),
            ("", "''"),
        ] {
            assert_eq!(quoted(word), there);
        }
    }

    #[test]
    fn options_come_after_ours_and_so_win() {
        let batch = Batch {
            name: "glue".into(),
            dir: "/a 50%/slurm/1".into(),
            runs: 3,
            limit: NonZeroU32::MIN,
            options: vec!["--signal=B:USR1@9".into()],
            setup: vec!["module load x".into()],
            here: "/h".into(),
            program: "/p/dylora".into(),
            args: vec!["reproduce".into(), "glue".into()],
        };
        let script = batch.script();
        let place = |words: &str| {
            script
                .find(words)
                .unwrap_or_else(|| panic!("{words:?} is not in {script}"))
        };
        assert!(script.starts_with("#!/bin/bash\n#SBATCH "));
        assert!(place("@120\n") < place("#SBATCH --signal=B:USR1@9\n"));
        place("#SBATCH --array=0-2%1\n");
        place("#SBATCH --output=\"/a 50%%/slurm/1/%A_%a.log\"\n");
        assert!(place("module load x\n") < place("\n/p/dylora reproduce glue --only \"$run\" &\n"));
        place("'/a 50%/slurm/1/runs.txt'");
    }
}

//! Starting cargo and other programs.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

/// What a task gives: the exit status to pass on, or one sentence about why it could not start (exit status 2).
pub(crate) type Done = Result<ExitCode, String>;

/// Root of the repository.
pub(crate) fn root() -> PathBuf {
    // Cargo sets the variable for `cargo run`; the compile-time value serves a binary that is started by hand.
    let manifest_dir =
        std::env::var_os("CARGO_MANIFEST_DIR").map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from);
    manifest_dir
        .parent()
        .map_or_else(|| PathBuf::from("."), Path::to_path_buf)
}

/// `cargo SUBCOMMAND` on this workspace, in the caller's directory, so that relative paths in arguments keep their sense.
pub(crate) fn cargo(subcommand: &str) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command
        .arg(subcommand)
        .arg("--manifest-path")
        .arg(root().join("Cargo.toml"));
    command
}

/// Where cargo puts the release build of the `dylora` command.
pub(crate) fn release_binary() -> PathBuf {
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from);
    target.join("release/dylora")
}

/// Runs to the end and passes the exit status on.
pub(crate) fn status(mut command: Command) -> Done {
    let status = command.status().map_err(|error| sentence(&command, &error))?;
    // No code means a signal ended it.
    Ok(ExitCode::from(
        status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1),
    ))
}

/// Runs and passes output, input, exit status and signals on: on Unix this process becomes the other one, so that
/// Ctrl-C reaches exactly one program, which finishes its step.
pub(crate) fn become_program(mut command: Command) -> Done {
    #[cfg(unix)]
    {
        use std::os::unix::process::CommandExt;
        let error = command.exec();
        Err(sentence(&command, &error))
    }
    #[cfg(not(unix))]
    status(command)
}

fn sentence(command: &Command, error: &std::io::Error) -> String {
    format!("cannot start {}: {error}", Path::new(command.get_program()).display())
}

/// Builds the `dylora` command in release mode and becomes `dylora SUBCOMMAND ARGS`.
pub(crate) fn dylora(subcommand: &str, args: &[String]) -> Done {
    let binary = ["--release", "--package", "dylora-cli", "--bin", "dylora"];
    let mut build = cargo("build");
    build.args(binary);
    let built = status(build)?;
    if built != ExitCode::SUCCESS {
        return Ok(built);
    }
    let mut run = cargo("run");
    run.arg("--quiet").args(binary).arg("--").arg(subcommand).args(args);
    become_program(run)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_root_holds_the_workspace() {
        assert!(root().join("Cargo.toml").is_file());
        assert!(root().join("xtask").is_dir());
    }

    #[test]
    fn an_exit_status_is_passed_on() {
        let mut command = cargo("no-such-subcommand-of-cargo");
        command.stderr(std::process::Stdio::null());
        assert_ne!(status(command), Ok(ExitCode::SUCCESS));
        assert!(
            status(Command::new("no such program"))
                .unwrap_err()
                .starts_with("cannot start no such program")
        );
    }
}

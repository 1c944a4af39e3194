//! `dylora completions` and `dylora man`: both made from the definitions of the arguments.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use clap::Command;
use clap_complete::Shell;

use crate::failure::{Failure, print};

/// Flags of `dylora completions`.
#[derive(clap::Args)]
pub(crate) struct CompletionsArgs {
    /// The shell that the script is for
    #[arg(value_enum)]
    shell: Shell,
}

/// Flags of `dylora man`.
#[derive(clap::Args)]
pub(crate) struct ManArgs {
    /// Directory for the pages; it is made if it is not there
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
}

/// Prints a shell's completion script.
pub(crate) fn completions(args: &CompletionsArgs, mut command: Command) -> Result<(), Failure> {
    let name = command.get_name().to_owned();
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut command, name, &mut script);
    let mut out = std::io::stdout().lock();
    out.write_all(&script)?;
    Ok(out.flush()?)
}

/// Writes a manual page for the program and one for each of its commands.
pub(crate) fn man(args: &ManArgs, command: Command) -> Result<(), Failure> {
    let failed = |error: std::io::Error| Failure::Message(format!("cannot write {}: {error}", args.out.display()));
    fs::create_dir_all(&args.out).map_err(failed)?;
    let mut command = command;
    // Gives every command below its full name.
    command.build();
    let pages = pages(&command, &args.out).map_err(failed)?;
    print(&format!("{}: {pages} pages", args.out.display()))
}

/// The page of `command` and those of what is below it; how many there are.
fn pages(command: &Command, out: &Path) -> std::io::Result<usize> {
    let man = clap_mangen::Man::new(command.clone());
    let name = man.get_filename();
    let mut page = Vec::new();
    man.render(&mut page)?;
    let temporary = out.join(format!(".{name}.tmp"));
    fs::write(&temporary, page)?;
    fs::rename(temporary, out.join(name))?;
    let mut count = 1;
    for below in command.get_subcommands().filter(|below| below.get_name() != "help") {
        count += pages(below, out)?;
    }
    Ok(count)
}

//! `--config FILE`: flags from a file, beneath those of the command line.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::path::Path;

use clap::{Arg, ArgAction, Command};
use dylora_tasks::nearest::nearest;
use toml::{Table, Value};

use crate::failure::Failure;

/// The flag's name.
const CONFIG: &str = "config";
/// Flags that make no sense in a file.
const NEVER: [&str; 4] = [CONFIG, "help", "version", "resume"];

/// The arguments of the program with those of the file that `--config` names put before what was given, where the command
/// has such a flag. A flag that was given, or that excludes the file's, wins.
///
/// # Errors
/// If the file cannot be read, is not TOML, or has a key that is no flag of the command.
pub(crate) fn expand(mut args: Vec<OsString>, program: &Command) -> Result<Vec<OsString>, Failure> {
    let command = args.get(1).and_then(|word| program.find_subcommand(word));
    let Some(command) = command.filter(|command| flag(command, CONFIG).is_some()) else {
        return Ok(args);
    };
    let Some(path) = value_of(&args, CONFIG) else {
        return Ok(args);
    };
    let path = Path::new(&path);
    let fail = |message: String| Failure::Message(format!("{}: {message}", path.display()));
    let text = fs::read_to_string(path)
        .map_err(|error| Failure::Message(format!("cannot read {}: {error}", path.display())))?;
    let table: Table = text
        .parse()
        .map_err(|error: toml::de::Error| fail(error.to_string().trim_end().to_owned()))?;
    let keys: Vec<&str> = command
        .get_arguments()
        .filter_map(|arg| arg.get_long())
        .filter(|long| !NEVER.contains(long))
        .collect();
    let mut found = Vec::new();
    for (key, value) in &table {
        let name = key.replace('_', "-");
        let Some(arg) = flag(command, &name).filter(|_| keys.contains(&name.as_str())) else {
            return Err(fail(match nearest(&name, keys.iter().copied()) {
                Some(near) => format!("unknown key {key:?}; did you mean {near:?}?"),
                None => format!("unknown key {key:?}; the keys are {}", keys.join(", ")),
            }));
        };
        let excludes = |one: &Arg, other: &Arg| {
            let conflicts = command.get_arg_conflicts_with(one);
            conflicts.iter().any(|conflict| conflict.get_id() == other.get_id())
        };
        let excluded = command.get_arguments().any(|other| {
            other.get_long().is_some_and(|long| is_given(&args, long)) && (excludes(arg, other) || excludes(other, arg))
        });
        if excluded || is_given(&args, &name) {
            continue;
        }
        if let ArgAction::SetTrue = arg.get_action() {
            match value {
                Value::Boolean(true) => found.push(format!("--{name}").into()),
                Value::Boolean(false) => {}
                _ => return Err(fail(format!("{key} is not true or false"))),
            }
            continue;
        }
        // A flag that may be given several times is given for each value; any other takes a list at once.
        let values = match value {
            Value::Array(values)
                if arg.get_value_delimiter().is_none() && matches!(arg.get_action(), ArgAction::Append) =>
            {
                values.as_slice()
            }
            value => std::slice::from_ref(value),
        };
        for value in values {
            let words = words(value).ok_or_else(|| fail(format!("{key} is not a value or a list of them")))?;
            found.push(OsString::from(format!("--{name}={words}")));
        }
    }
    args.splice(2..2, found);
    Ok(args)
}

fn flag<'c>(command: &'c Command, long: &str) -> Option<&'c Arg> {
    command.get_arguments().find(|arg| arg.get_long() == Some(long))
}

/// What a flag is given as `--flag VALUE` or `--flag=VALUE`.
fn value_of(args: &[OsString], long: &str) -> Option<OsString> {
    let alone = format!("--{long}");
    let joined = format!("--{long}=");
    args.iter().enumerate().find_map(|(index, arg)| match arg.to_str() {
        Some(word) if word == alone => args.get(index + 1).cloned(),
        Some(word) => word.strip_prefix(&joined).map(|value| OsStr::new(value).to_owned()),
        None => None,
    })
}

fn is_given(args: &[OsString], long: &str) -> bool {
    let (alone, joined) = (format!("--{long}"), format!("--{long}="));
    args.iter()
        .filter_map(|arg| arg.to_str())
        .any(|arg| arg == alone || arg.starts_with(&joined))
}

/// A value as the command line writes it.
fn words(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Integer(number) => Some(number.to_string()),
        Value::Float(number) => Some(number.to_string()),
        Value::Boolean(truth) => Some(truth.to_string()),
        Value::Array(values) => {
            let words: Option<Vec<String>> = values.iter().map(words).collect();
            words.map(|words| words.join(","))
        }
        Value::Table(_) | Value::Datetime(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn program() -> Command {
        let arg = |name: &'static str| Arg::new(name).long(name);
        Command::new("dylora").subcommand(
            Command::new("train")
                .arg(arg("config"))
                .arg(arg("lr"))
                .arg(arg("targets"))
                .arg(arg("max-length"))
                .arg(arg("file").action(ArgAction::Append))
                .arg(arg("seeds").action(ArgAction::Append).value_delimiter(','))
                .arg(arg("data").conflicts_with("train"))
                .arg(arg("train"))
                .arg(arg("regression").action(ArgAction::SetTrue)),
        )
    }

    fn expanded(text: &str, more: &[&str]) -> Result<Vec<String>, String> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("run.toml");
        fs::write(&path, text).unwrap();
        let config = format!("--config={}", path.display());
        let args = ["dylora", "train", &config]
            .iter()
            .chain(more)
            .map(OsString::from)
            .collect();
        match expand(args, &program()) {
            Ok(args) => {
                let words = args.into_iter().map(|word| word.into_string().unwrap());
                Ok(words.filter(|word| !word.starts_with("--config")).skip(2).collect())
            }
            Err(Failure::Message(message)) => Err(message),
            Err(_) => Err(String::new()),
        }
    }

    #[test]
    fn the_file_comes_first_and_flags_win() {
        let text = "lr = 4e-4\ntargets = [\"query\", \"value\"]\nmax_length = 12\nregression = true\ndata = \"d\"\n";
        let all = expanded(text, &[]).unwrap();
        for word in [
            "--lr=0.0004",
            "--targets=query,value",
            "--max-length=12",
            "--regression",
            "--data=d",
        ] {
            assert!(all.iter().any(|known| known == word), "{word} of {all:?}");
        }
        assert_eq!(
            expanded("file = [\"a,b\", \"c\"]\nseeds = [1, 2]\n", &[]).unwrap(),
            ["--file=a,b", "--file=c", "--seeds=1,2"]
        );
        assert_eq!(expanded("lr = 1\n", &["--lr", "2"]).unwrap(), ["--lr", "2"]);
        assert_eq!(expanded("lr = 1\n", &["--lr=2"]).unwrap(), ["--lr=2"]);
        assert_eq!(expanded("data = \"d\"\n", &["--train", "t"]).unwrap(), ["--train", "t"]);
        assert_eq!(expanded("regression = false\n", &[]).unwrap(), [""; 0]);
    }

    #[test]
    fn an_unknown_key_is_an_error_with_the_nearest_one() {
        let message = expanded("max-lenght = 3\n", &[]).unwrap_err();
        assert!(
            message.ends_with("unknown key \"max-lenght\"; did you mean \"max-length\"?"),
            "{message}"
        );
        let message = expanded("zzz = 3\n", &[]).unwrap_err();
        assert!(message.contains("the keys are lr, targets"), "{message}");
        assert!(
            expanded("resume = \"x\"\n", &[])
                .unwrap_err()
                .contains("unknown key \"resume\"")
        );
        assert!(
            expanded("regression = 3\n", &[])
                .unwrap_err()
                .contains("regression is not true or false")
        );
        assert!(expanded("lr = \n", &[]).is_err());
    }
}

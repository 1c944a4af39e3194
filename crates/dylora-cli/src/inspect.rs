//! `dylora inspect`.

use std::path::PathBuf;

use dylora_tasks::adapter::{self, Contents};
use serde_json::Value;

use crate::failure::{Failure, print, print_json};

/// Flags of `dylora inspect`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// A run, a model directory, a PEFT directory or a safetensors file
    #[arg(value_name = "PATH")]
    path: PathBuf,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    let contents = adapter::inspect(&args.path)?;
    if args.json {
        return print_json(&contents);
    }
    print(&format!("{}: {}", args.path.display(), as_text(&contents)))
}

fn as_text(contents: &Contents) -> String {
    let mut lines = vec![contents.kind.to_owned()];
    for (name, value) in contents.facts.iter().filter(|(_, value)| !value.is_null()) {
        lines.push(format!("  {name}: {}", words(value)));
    }
    if !contents.tensors.is_empty() {
        let width = contents.tensors.iter().map(|kind| kind.name.len()).max().unwrap_or(0);
        lines.push(String::new());
        lines.extend(contents.tensors.iter().map(|kind| {
            format!(
                "  {:<width$}  {:>3} x {:?} {}",
                kind.name, kind.count, kind.shape, kind.dtype
            )
        }));
    }
    lines.join("\n")
}

/// A value without the signs of JSON.
fn words(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Array(values) => values.iter().map(words).collect::<Vec<_>>().join(", "),
        Value::Object(fields) => {
            let field = |(name, value): (&String, &Value)| format!("{name} {}", words(value));
            fields.iter().map(field).collect::<Vec<_>>().join(", ")
        }
        other => other.to_string(),
    }
}

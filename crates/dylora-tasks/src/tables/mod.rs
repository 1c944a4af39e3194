//! The tables as data: what runs, with which settings, and what stands in which line.
//!
//! A description is a TOML file: one for each table of the paper beside this one, or a person's own. It names tasks and rows;
//! a row is a method, the settings in which it differs from the recipe, and the ranks that it shows.
//!
//! ```
//! use dylora_tasks::tables;
//! let table = tables::find("table4")?;
//! assert_eq!((table.number.as_str(), table.rows.len()), ("Table 4", 4));
//! # Ok::<(), dylora_tasks::Error>(())
//! ```

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::path::Path;

use dylora_nn::Method;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::error::{Error, Result};
use crate::generation::GenerationTask;
use crate::glue;
use crate::nearest::nearest;

/// The descriptions that are part of this crate, in the order of the paper.
const EMBEDDED: [(&str, &str); 11] = [
    ("table1", include_str!("table1.toml")),
    ("table2", include_str!("table2.toml")),
    ("table3", include_str!("table3.toml")),
    ("table4", include_str!("table4.toml")),
    ("table5", include_str!("table5.toml")),
    ("table6", include_str!("table6.toml")),
    ("table7", include_str!("table7.toml")),
    ("table9", include_str!("table9.toml")),
    ("time", include_str!("time.toml")),
    ("beyond", include_str!("beyond.toml")),
    ("deployment", include_str!("deployment.toml")),
];

/// Other names: the table, and the one task of it where it is not all.
const ALIASES: [(&str, &str, Option<&str>); 4] = [
    ("glue", "table2", None),
    ("e2e", "table6", None),
    ("dart", "table9", Some("dart")),
    ("webnlg", "table9", Some("webnlg")),
];

/// What the tasks of a table are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// GLUE tasks, for an encoder.
    Glue,
    /// Generation tasks, for a language model.
    Text,
}

impl Kind {
    /// Whether it has a task of this name.
    pub fn has(self, task: &str) -> bool {
        match self {
            Kind::Glue => glue::find(task).is_ok(),
            Kind::Text => GenerationTask::find(task).is_ok(),
        }
    }
}

/// How the lines are put in order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Order {
    /// The lines of a row stand together.
    #[default]
    Row,
    /// The lines of a rank stand together; then those of best ranks, then those without a rank.
    Rank,
}

/// What a line shows beside the metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Measure {
    /// Trained numbers that the model uses at the line's rank, the head included; the most of any task.
    Parameters,
    /// Runs behind the line, for one task and seed.
    Runs,
    /// Seconds of training of these runs, all tasks together.
    Seconds,
    /// Those seconds over those of the block's line of reference.
    TimeRatio,
    /// Bytes of the adapter at the line's rank, without the head.
    AdapterBytes,
    /// Milliseconds for one text with the adapter beside the weights.
    LatencyUnmerged,
    /// Milliseconds for one text with the adapter added to the weights.
    LatencyMerged,
}

impl Measure {
    /// Its name in JSON.
    pub fn name(self) -> &'static str {
        match self {
            Measure::Parameters => "parameters",
            Measure::Runs => "runs",
            Measure::Seconds => "seconds",
            Measure::TimeRatio => "time-ratio",
            Measure::AdapterBytes => "adapter-bytes",
            Measure::LatencyUnmerged => "latency-unmerged",
            Measure::LatencyMerged => "latency-merged",
        }
    }

    /// What stands above its column.
    pub fn heading(self) -> &'static str {
        match self {
            Measure::Parameters => "Parameters",
            Measure::Runs => "Runs",
            Measure::Seconds => "Training, s",
            Measure::TimeRatio => "Time ratio",
            Measure::AdapterBytes => "Adapter, bytes",
            Measure::LatencyUnmerged => "Unmerged, ms",
            Measure::LatencyMerged => "Merged, ms",
        }
    }

    /// Digits after the point.
    pub fn decimals(self) -> usize {
        match self {
            Measure::Parameters | Measure::Runs | Measure::AdapterBytes => 0,
            Measure::Seconds => 1,
            Measure::TimeRatio | Measure::LatencyUnmerged | Measure::LatencyMerged => 2,
        }
    }

    /// Whether it is measured on a finished run, and not in its record.
    pub fn is_cost(self) -> bool {
        matches!(
            self,
            Measure::AdapterBytes | Measure::LatencyUnmerged | Measure::LatencyMerged
        )
    }
}

/// Which ranks of a row's runs become lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "Value")]
pub enum Pick {
    /// This rank.
    Rank(usize),
    /// The largest rank of the run.
    Own,
    /// Every rank that the runs are evaluated at, a line each.
    Each,
    /// The best rank of each column.
    Best,
    /// The worst rank of each column.
    Worst,
    /// The mean over the ranks.
    Mean,
    /// Fine-tuning and pruning, which have no ranks.
    Full,
}

impl TryFrom<Value> for Pick {
    type Error = String;

    fn try_from(value: Value) -> std::result::Result<Self, String> {
        let words = [
            ("own", Pick::Own),
            ("each", Pick::Each),
            ("best", Pick::Best),
            ("worst", Pick::Worst),
            ("mean", Pick::Mean),
            ("full", Pick::Full),
        ];
        let found = match &value {
            Value::Number(number) => number
                .as_u64()
                .filter(|&rank| rank > 0)
                .map(|rank| Pick::Rank(rank as usize)),
            Value::String(word) => words.iter().find(|(name, _)| name == word).map(|(_, pick)| *pick),
            _ => None,
        };
        found.ok_or_else(|| format!("{value} is not a rank from 1, own, each, best, worst, mean or full"))
    }
}

/// Runs of one method and what is shown of them.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct RowSpec {
    /// What the lines are called; the method's own name without it.
    pub label: Option<String>,
    /// Lines of a block share a line of reference.
    #[serde(default)]
    pub block: String,
    /// The method.
    pub method: Method,
    /// Settings that differ from the recipe, by the names of [`crate::settings::TrainSettings`]' fields.
    #[serde(default)]
    pub set: BTreeMap<String, Value>,
    /// A run for each of these ranks, of which each column takes the best.
    #[serde(default)]
    pub search: Vec<usize>,
    /// The lines.
    pub ranks: Vec<Pick>,
    /// Whether the block's times are divided by this row's.
    #[serde(default)]
    pub reference: bool,
}

/// What is taken of a table where minutes count, if that is not all.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Brief {
    /// Its tasks.
    pub tasks: Option<Vec<String>>,
    /// Its seeds.
    pub seeds: Option<Vec<u64>>,
}

/// One table.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TableSpec {
    /// Its name on the command line: `table4`.
    pub name: String,
    /// Its name in print: `Table 4`.
    pub number: String,
    /// What it shows, half a sentence.
    pub about: String,
    /// What its tasks are.
    pub kind: Kind,
    /// Its tasks, in the order of the columns.
    pub tasks: Vec<String>,
    /// How its lines are put in order.
    #[serde(default)]
    pub order: Order,
    /// Whether a last column has the mean over the tasks.
    #[serde(default)]
    pub average: bool,
    /// Whether the best and the worst number of a column are marked.
    #[serde(default)]
    pub mark: bool,
    /// What stands beside the metrics.
    #[serde(default)]
    pub measures: Vec<Measure>,
    /// What is taken of it where minutes count.
    #[serde(default)]
    pub brief: Brief,
    /// Its rows.
    pub rows: Vec<RowSpec>,
}

impl fmt::Display for TableSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.number, self.about)
    }
}

/// All names that [`find`] knows: the tables, then the other names.
pub fn names() -> impl Iterator<Item = &'static str> {
    let own = EMBEDDED.iter().map(|(name, _)| *name);
    own.chain(ALIASES.iter().map(|(name, ..)| *name))
}

/// All tables that are part of this crate, in the order of the paper.
///
/// # Errors
/// Never, as long as the files beside this one are well-formed, which a test checks.
pub fn all() -> Result<Vec<TableSpec>> {
    EMBEDDED.iter().map(|(name, _)| find(name)).collect()
}

/// The name of the table that this is another name of, or of a part of; the name itself if it is no other name.
pub fn own_name(name: &str) -> &str {
    let alias = ALIASES.iter().find(|(alias, ..)| *alias == name);
    alias.map_or(name, |(_, table, _)| table)
}

/// A table by its name.
///
/// # Errors
/// An unknown name; all names are listed.
pub fn find(name: &str) -> Result<TableSpec> {
    let table = own_name(name);
    let Some((_, text)) = EMBEDDED.iter().find(|(known, _)| *known == table) else {
        let known: Vec<&str> = names().collect();
        let meant = nearest(name, known.iter().copied())
            .map(|near| format!("; did you mean {near}?"))
            .unwrap_or_default();
        return Err(Error::argument(
            "TABLE",
            format!("{name:?} is not one of {}{meant}", known.join(", ")),
        ));
    };
    let mut spec = parse(text, Path::new(table))?;
    if let Some((alias, _, task)) = ALIASES.iter().find(|(alias, ..)| *alias == name) {
        spec.name = (*alias).to_owned();
        if let Some(task) = task {
            spec.tasks = vec![(*task).to_owned()];
        }
    }
    Ok(spec)
}

/// A table of a person's own.
///
/// # Errors
/// If the file cannot be read, with its line; as [`TableSpec::validate`].
pub fn read(path: &Path) -> Result<TableSpec> {
    let text = fs::read_to_string(path).map_err(Error::io("read", path))?;
    parse(&text, path)
}

fn parse(text: &str, path: &Path) -> Result<TableSpec> {
    let spec: TableSpec = toml::from_str(text).map_err(|error| Error::Malformed {
        path: path.to_owned(),
        line: error
            .span()
            .map_or(0, |span| text[..span.start.min(text.len())].matches('\n').count() + 1),
        message: error.message().to_owned(),
    })?;
    spec.validate().map_err(|error| Error::file(path, error.to_string()))?;
    Ok(spec)
}

impl TableSpec {
    /// Checks what can be checked without a recipe.
    ///
    /// # Errors
    /// One sentence that names the row or the entry.
    pub fn validate(&self) -> Result<()> {
        let wrong = |what: String, why: &str| Err(Error::argument(what, why));
        let plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        if self.name.is_empty() || !self.name.chars().all(plain) {
            return wrong("name".into(), "letters, digits, - and _ make a name");
        }
        let brief = self.brief.tasks.iter().flatten();
        for task in self.tasks.iter().chain(brief) {
            match self.kind {
                Kind::Glue => glue::find(task).map(|_| ())?,
                Kind::Text => GenerationTask::find(task).map(|_| ())?,
            }
        }
        if self.tasks.is_empty() || self.brief.tasks.as_ref().is_some_and(Vec::is_empty) {
            return wrong("tasks".into(), "nothing is named");
        }
        if self.rows.is_empty() {
            return wrong("rows".into(), "a table without rows");
        }
        for (index, row) in self.rows.iter().enumerate() {
            let place = format!("row {}", index + 1);
            if row.ranks.is_empty() {
                return wrong(place, "ranks: nothing is named, so it has no line");
            }
            if row.search.contains(&0) {
                return wrong(place, "search: 0 is not a rank; the smallest is 1");
            }
            if row.set.contains_key("rank") && !row.search.is_empty() {
                return wrong(place, "search and set both say the rank");
            }
            let searched = [Pick::Best, Pick::Worst, Pick::Mean];
            if !row.search.is_empty() && row.ranks.iter().any(|pick| !searched.contains(pick)) {
                return wrong(place, "of runs that are searched the ranks are best, worst or mean");
            }
            for name in ["task", "model", "data", "seed", "method"] {
                if row.set.contains_key(name) {
                    return wrong(place, &format!("set: {name} is not a setting of a row"));
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_description_is_well_formed_and_bears_its_name() -> Result<()> {
        for (name, _) in EMBEDDED {
            assert_eq!(find(name)?.name, name);
        }
        assert_eq!(find("webnlg")?.tasks, ["webnlg"]);
        assert_eq!(find("glue")?.number, "Table 2");
        assert_eq!(all()?.len(), EMBEDDED.len());
        let message = find("tabel4").err().map(|error| error.to_string()).unwrap_or_default();
        assert!(
            message.contains("table9") && message.contains("did you mean table4?"),
            "{message}"
        );
        Ok(())
    }

    #[test]
    fn a_bad_description_names_its_line_or_row() {
        let head = "name = \"own\"\nnumber = \"1\"\nabout = \"x\"\nkind = \"glue\"\n";
        for (text, words) in [
            ("tasks = [\"mrcp\"]\nrows = []", "mrpc"),
            ("tasks = [\"mrpc\"]\nrows = []", "without rows"),
            ("tasks = [\"mrpc\"]\ntask = 1\nrows = []", "unknown field"),
            (
                "tasks = [\"mrpc\"]\n[[rows]]\nmethod = \"lora\"\nranks = [0]",
                "not a rank",
            ),
            ("tasks = [\"mrpc\"]\n[[rows]]\nmethod = \"lora\"\nranks = []", "row 1"),
            (
                "tasks = [\"mrpc\"]\n[[rows]]\nmethod = \"lora\"\nsearch = [1]\nranks = [1]",
                "searched",
            ),
            (
                "tasks = [\"mrpc\"]\n[[rows]]\nmethod = \"lora\"\nset = { seed = 1 }\nranks = [1]",
                "seed",
            ),
        ] {
            let message = parse(&format!("{head}{text}"), Path::new("own.toml"))
                .err()
                .map(|e| e.to_string());
            let message = message.unwrap_or_default();
            assert!(message.contains(words) && message.contains("own.toml"), "{message}");
        }
    }
}

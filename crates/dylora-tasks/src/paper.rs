//! Numbers published in the DyLoRA paper, to stand beside ours in a table.
//!
//! "DyLoRA: Parameter-Efficient Tuning of Pretrained Models using Dynamic Search-Free Low-Rank Adaptation", Valipour,
//! Rezagholizadeh, Kobyzev, Ghodsi; EACL 2023, arXiv 2210.07558. Table 2: RoBERTa-base on GLUE. Table 6: GPT-2 Medium on
//! E2E; Table 9: on DART and WebNLG.
//!
//! **`published.csv` has no number yet.** The tables were not found in any text open to this project, and a number that nobody
//! read in the paper does not belong here; a table then leaves the paper's place blank. Whoever has the paper types its
//! numbers into a file of the same columns, for [`Published::read`]. Those columns are also in the values that a report writes of
//! each table, so such a file is a report's `tables/NAME.csv` with its column `published` filled in.
//!
//! ```
//! use dylora_tasks::paper::Published;
//! use dylora_tasks::record::RankName;
//! // Made up.
//! let text = "table,row,rank,task,metric,published\ntable2,DyLoRA,3,rte,accuracy,12.5\n";
//! let numbers = Published::parse(text, "numbers.csv".as_ref())?;
//! assert_eq!(numbers.at("table2", "DyLoRA", RankName::At(3), "rte", "accuracy"), Some(12.5));
//! # Ok::<(), dylora_tasks::Error>(())
//! ```

use std::fs;
use std::path::Path;

use crate::error::{Error, Result};
use crate::generation::GenerationTask;
use crate::glue;
use crate::metric::text::chain::Chain;
use crate::nearest::nearest;
use crate::record::RankName;
use crate::table::title;
use crate::tables::{self, Kind, TableSpec};

/// A table of the paper and what it is of.
#[derive(Debug)]
pub struct PaperTable {
    /// `Table 2`.
    pub number: &'static str,
    /// The model.
    pub model: &'static str,
    /// The data.
    pub data: &'static str,
    /// What was evaluated on.
    pub split: &'static str,
}

/// RoBERTa-base on GLUE.
pub const GLUE: PaperTable = glue_table("Table 2");

/// The other tables of RoBERTa-base on GLUE.
static GLUE_TABLES: [PaperTable; 6] = [
    glue_table("Table 1"),
    glue_table("Table 3"),
    glue_table("Table 4"),
    glue_table("Table 5"),
    glue_table("Table 7"),
    glue_table("Appendix A"),
];

/// GPT-2 Medium on DART and WebNLG 2017.
pub static DART_AND_WEBNLG: PaperTable = text_table("Table 9", "DART and WebNLG");

/// The paper's table of this number, or the part of it that is of one data set; `None` if the paper has no such table.
pub fn table(number: &str, tasks: &[&str]) -> Option<&'static PaperTable> {
    match (number, tasks) {
        ("Table 2", _) => Some(&GLUE),
        ("Table 6", _) => Some(&E2E),
        ("Table 9", ["dart"]) => Some(&DART),
        ("Table 9", ["webnlg"]) => Some(&WEBNLG),
        ("Table 9", _) => Some(&DART_AND_WEBNLG),
        _ => GLUE_TABLES.iter().find(|table| table.number == number),
    }
}

/// GPT-2 Medium on E2E.
pub const E2E: PaperTable = text_table("Table 6", "E2E");

/// GPT-2 Medium on DART.
pub const DART: PaperTable = text_table("Table 9", "DART");

/// GPT-2 Medium on WebNLG 2017.
pub const WEBNLG: PaperTable = text_table("Table 9", "WebNLG");

const fn glue_table(number: &'static str) -> PaperTable {
    PaperTable {
        number,
        model: "RoBERTa-base",
        data: "GLUE",
        split: "development sets",
    }
}

const fn text_table(number: &'static str, data: &'static str) -> PaperTable {
    PaperTable {
        number,
        model: "GPT-2 Medium",
        data,
        split: "test set",
    }
}

/// The metric of a mean over a table's tasks.
pub const AVERAGE: &str = "average";

/// One number and where it stands, in the words of a report's values.
#[derive(Clone, Debug, PartialEq)]
pub struct Number {
    /// Name of the table: `table2`.
    pub table: String,
    /// What the table calls the row: `DyLoRA (Frozen)`.
    pub row: String,
    /// The rank.
    pub rank: RankName,
    /// Name of the task; empty for what is of all of them.
    pub task: String,
    /// The metric, [`AVERAGE`], or the name of a [`tables::Measure`].
    pub metric: String,
    /// As printed: percent, seconds, ..
    pub value: f64,
}

impl Number {
    fn is_at(&self, other: &Number) -> bool {
        (&self.table, &self.row, self.rank, &self.task, &self.metric)
            == (&other.table, &other.row, other.rank, &other.task, &other.metric)
    }
}

/// What is known of the paper's numbers.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Published {
    numbers: Vec<Number>,
}

/// The columns that say where a number stands, and the number's own.
const COLUMNS: [&str; 6] = ["table", "row", "rank", "task", "metric", "published"];

impl Published {
    /// What is part of this crate.
    pub fn embedded() -> Self {
        // That it is well-formed is a test.
        Self::parse(include_str!("published.csv"), Path::new("published.csv")).unwrap_or_default()
    }

    /// Reads a csv file with the columns `table`, `row`, `rank`, `task`, `metric` and `published`; others are left alone, and so are
    /// lines without a published number.
    ///
    /// # Errors
    /// If the file cannot be read; as [`Published::parse`].
    pub fn read(path: &Path) -> Result<Self> {
        let text = fs::read_to_string(path).map_err(Error::io("read", path))?;
        Self::parse(&text, path)
    }

    /// As [`Published::read`], of a text; `path` is what errors call it.
    ///
    /// # Errors
    /// One sentence with the line: a column that is missing, a table that the paper does not have, a row, task or metric that the
    /// table does not have, something that is no number, or a place that has two.
    pub fn parse(text: &str, path: &Path) -> Result<Self> {
        let malformed = |line: u64, message: String| Error::Malformed {
            path: path.to_owned(),
            line: usize::try_from(line).unwrap_or(0),
            message,
        };
        let mut reader = csv::Reader::from_reader(text.as_bytes());
        let heads = reader
            .headers()
            .map_err(|error| malformed(1, error.to_string()))?
            .clone();
        let mut places = [0; COLUMNS.len()];
        for (place, column) in places.iter_mut().zip(COLUMNS) {
            *place = heads
                .iter()
                .position(|head| head == column)
                .ok_or_else(|| Error::MissingColumn {
                    path: path.to_owned(),
                    line: 1,
                    column: column.to_owned(),
                    found: heads.iter().map(str::to_owned).collect(),
                })?;
        }
        let mut numbers: Vec<Number> = Vec::new();
        for record in reader.records() {
            let record = record.map_err(|error| {
                let line = error.position().map_or(0, csv::Position::line);
                malformed(line, error.to_string())
            })?;
            let line = record.position().map_or(0, csv::Position::line);
            let [table, row, rank, task, metric, value] = places.map(|place| record.get(place).unwrap_or("").trim());
            if value.is_empty() {
                continue;
            }
            let number = Number {
                table: tables::own_name(table).to_owned(),
                row: row.to_owned(),
                rank: match rank {
                    // As a report's values have it.
                    "" => RankName::Full,
                    rank => rank.parse().map_err(|message| malformed(line, message))?,
                },
                task: task.to_owned(),
                metric: metric.to_owned(),
                value: value
                    .parse()
                    .ok()
                    .filter(|value: &f64| value.is_finite())
                    .ok_or_else(|| malformed(line, format!("published: {value:?} is not a number")))?,
            };
            check(&number).map_err(|message| malformed(line, message))?;
            if numbers.iter().any(|other| other.is_at(&number)) {
                return Err(malformed(line, "this place has a number already".to_owned()));
            }
            numbers.push(number);
        }
        Ok(Published { numbers })
    }

    /// The number at a place of the table of this name or other name.
    pub fn at(&self, table: &str, row: &str, rank: RankName, task: &str, metric: &str) -> Option<f64> {
        let table = tables::own_name(table);
        let found = self.numbers.iter().find(|number| {
            (number.table.as_str(), number.row.as_str(), number.rank) == (table, row, rank)
                && (number.task.as_str(), number.metric.as_str()) == (task, metric)
        });
        found.map(|number| number.value)
    }

    /// Whether any number of the table is known, so that a place for them is worth printing.
    pub fn is_known(&self, table: &str) -> bool {
        let table = tables::own_name(table);
        self.numbers.iter().any(|number| number.table == table)
    }
}

/// Whether the paper has such a table and the table such a place.
fn check(number: &Number) -> std::result::Result<(), String> {
    let of_paper = |spec: &TableSpec| table(&spec.number, &[]).is_some();
    let all: Vec<TableSpec> = tables::all().map_err(|error| error.to_string())?;
    let spec = all
        .iter()
        .filter(|spec| of_paper(spec))
        .find(|spec| spec.name == number.table);
    let Some(spec) = spec else {
        let names: Vec<&str> = all
            .iter()
            .filter(|spec| of_paper(spec))
            .map(|spec| spec.name.as_str())
            .collect();
        return Err(among("table", &number.table, &names));
    };
    let labels: Vec<&str> = spec
        .rows
        .iter()
        .map(|row| row.label.as_deref().unwrap_or(title(row.method)))
        .collect();
    if !labels.contains(&number.row.as_str()) {
        return Err(among("row", &number.row, &labels));
    }
    let tasks: Vec<&str> = spec.tasks.iter().map(String::as_str).collect();
    if !number.task.is_empty() && !tasks.contains(&number.task.as_str()) {
        return Err(among("task", &number.task, &tasks));
    }
    let metrics = metrics(spec, &number.task);
    if !metrics.contains(&number.metric) {
        let metrics: Vec<&str> = metrics.iter().map(String::as_str).collect();
        return Err(among("metric", &number.metric, &metrics));
    }
    Ok(())
}

/// The names of a task's metrics in a table, or of what is of all tasks.
fn metrics(spec: &TableSpec, task: &str) -> Vec<String> {
    if task.is_empty() {
        let average = spec.average.then(|| AVERAGE.to_owned());
        let measures = spec.measures.iter().map(|measure| measure.name().to_owned());
        return average.into_iter().chain(measures).collect();
    }
    match spec.kind {
        Kind::Glue => {
            let first = glue::find(task).ok().and_then(|task| task.metrics.first());
            first.map(|metric| metric.name().to_owned()).into_iter().collect()
        }
        Kind::Text => {
            let chain = GenerationTask::find(task).map(Chain::of);
            let names = chain.iter().flat_map(|chain| chain.metrics());
            names
                .flat_map(|metric| ["", "_seen", "_unseen"].map(|part| format!("{}{part}", metric.name)))
                .collect()
        }
    }
}

/// `row: "LORA" is not one of LoRA, DyLoRA; did you mean LoRA?`
fn among(what: &str, found: &str, names: &[&str]) -> String {
    let meant = nearest(found, names.iter().copied())
        .map(|near| format!("; did you mean {near}?"))
        .unwrap_or_default();
    format!("{what}: {found:?} is not one of {}{meant}", names.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADS: &str = "difference,published,metric,task,rank,row,table\n";

    fn parse(lines: &str) -> Result<Published> {
        Published::parse(&format!("{HEADS}{lines}"), Path::new("numbers.csv"))
    }

    // All numbers are made up: no test may depend on a number of the paper that nobody has read.

    #[test]
    fn what_is_part_of_this_crate_is_well_formed() -> Result<()> {
        let own = Published::parse(include_str!("published.csv"), Path::new("published.csv"))?;
        assert_eq!(own, Published::embedded());
        Ok(())
    }

    #[test]
    fn a_number_is_found_by_its_place() -> Result<()> {
        let numbers = parse(
            ",1.5,accuracy,rte,3,DyLoRA (Frozen),table2\n\
             ,,accuracy,rte,4,DyLoRA (Frozen),table2\n\
             ,2.5,average,,,Fine-tune,glue\n\
             ,3.5,BLEU_seen,webnlg,best,LoRA,webnlg\n\
             ,4.5,time-ratio,,best,\"LoRA, ranks 1 to 64 searched\",table5\n",
        )?;
        let frozen = |table, rank| numbers.at(table, "DyLoRA (Frozen)", rank, "rte", "accuracy");
        assert_eq!(frozen("table2", RankName::At(3)), Some(1.5));
        assert_eq!(frozen("glue", RankName::At(3)), Some(1.5));
        assert_eq!(frozen("table3", RankName::At(3)), None);
        assert_eq!(frozen("table2", RankName::At(4)), None, "an empty one is none");
        assert_eq!(
            numbers.at("table2", "Fine-tune", RankName::Full, "", AVERAGE),
            Some(2.5)
        );
        assert_eq!(
            numbers.at("table9", "LoRA", RankName::Best, "webnlg", "BLEU_seen"),
            Some(3.5)
        );
        assert!(numbers.is_known("dart") && numbers.is_known("table5") && !numbers.is_known("table1"));
        Ok(())
    }

    #[test]
    fn what_stands_nowhere_names_its_line_and_what_is_near() {
        for (line, words) in [
            (",1,accuracy,rte,1,DyLoRA,table22", "did you mean table2?"),
            (",1,accuracy,rte,1,DyLoRA,beyond", "is not one of table1"),
            (",1,accuracy,rte,1,DyLORA,table2", "did you mean DyLoRA?"),
            (",1,accuracy,RTE,1,DyLoRA,table2", "did you mean rte?"),
            (",1,f1,mrpc,1,DyLoRA,table2", "metric: \"f1\" is not one of accuracy"),
            (",1,accuracy,rte,0,DyLoRA,table2", "rank"),
            (",1,accuracy,rte,first,DyLoRA,table2", "first"),
            (",1.2.3,accuracy,rte,1,DyLoRA,table2", "\"1.2.3\" is not a number"),
            (",inf,accuracy,rte,1,DyLoRA,table2", "\"inf\" is not a number"),
        ] {
            let message = parse(&format!("{line}\n")).err().map(|error| error.to_string());
            let message = message.unwrap_or_default();
            assert!(
                message.contains("numbers.csv, line 2") && message.contains(words),
                "{line}: {message}"
            );
        }
        let line = ",1,accuracy,rte,1,DyLoRA,table2\n";
        let message = parse(&line.repeat(2)).err().map(|error| error.to_string());
        assert!(message.unwrap_or_default().contains("line 3: this place has a number"));
        let message = Published::parse("table,row\n", Path::new("numbers.csv"));
        assert!(
            message
                .err()
                .is_some_and(|error| error.to_string().contains("\"rank\""))
        );
    }
}

//! A table's numbers for other programs: comma-separated values, a line for each.

use super::words::{one_line, plain};
use super::{Part, Report};
use crate::error::{Error, Result};
use crate::record::RankName;

const HEADS: [&str; 13] = [
    "table",
    "row",
    "rank",
    "task",
    "metric",
    "mean",
    "std",
    "seeds",
    "published",
    "difference",
    "chosen_rank",
    "variant",
    "profile",
];

impl Report {
    /// For each table its name and its values as RFC 4180 has them, lines ended by CR LF: in the units of the table, with up to six
    /// digits after the point. A place without a run has an empty `mean`, a single seed an empty `std`; what is of all tasks has
    /// an empty `task`. After the table's own numbers come what each line's runs took: `parameters` at the line's rank, and
    /// `train_seconds_per_run`.
    ///
    /// # Errors
    /// If the writer of values refuses.
    pub fn to_csv(&self) -> Result<Vec<(String, String)>> {
        self.parts()
            .map(|part| Ok((part.name.to_owned(), values(&part)?)))
            .collect()
    }
}

fn values(part: &Part<'_>) -> Result<String> {
    let name = one_line(&part.table.table);
    let failed = |error: &dyn std::fmt::Display| {
        Error::argument("table", format!("{name} cannot be written as values: {error}"))
    };
    let mut writer = csv::WriterBuilder::new()
        .terminator(csv::Terminator::CRLF)
        .from_writer(Vec::new());
    writer.write_record(HEADS).map_err(|error| failed(&error))?;
    let number = |value: Option<f64>| value.map_or(String::new(), plain);
    let profile = one_line(&part.table.profile);
    for (line, head, place) in part.sheet.places() {
        let cells = [
            name.clone(),
            line.label.clone(),
            rank(line.rank),
            head.task.clone(),
            head.metric.clone(),
            number(place.mean),
            number(place.std),
            place.seeds.to_string(),
            number(place.paper),
            number(place.difference()),
            place.chosen.map_or(String::new(), |rank| rank.to_string()),
            line.variant.clone(),
            profile.clone(),
        ];
        writer.write_record(cells).map_err(|error| failed(&error))?;
    }
    for line in &part.sheet.lines {
        let parameters = line.cost.parameters.map(|(_, most)| most as f64);
        for (metric, value) in [("parameters", parameters), ("train_seconds_per_run", line.cost.seconds)] {
            let is_there = part.sheet.heads.iter().any(|head| head.metric == metric);
            let Some(value) = value.filter(|_| !is_there) else {
                continue;
            };
            let mut cells = [const { String::new() }; HEADS.len()];
            cells[0] = name.clone();
            cells[1] = line.label.clone();
            cells[2] = rank(line.rank);
            cells[4] = metric.to_owned();
            cells[5] = plain(value);
            cells[7] = line.cost.runs.to_string();
            cells[11] = line.variant.clone();
            cells[12] = profile.clone();
            writer.write_record(cells).map_err(|error| failed(&error))?;
        }
    }
    let bytes = writer.into_inner().map_err(|error| failed(&error))?;
    String::from_utf8(bytes).map_err(|error| failed(&error))
}

/// A number or `best`; empty where there is no rank.
fn rank(rank: RankName) -> String {
    match rank {
        RankName::Full => String::new(),
        other => other.to_string(),
    }
}

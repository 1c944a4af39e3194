//! A table as every form of a report shows it: the same places with the same words, so that no form can say another number.

use super::words::{digits, duration, grouped, one_line, signed};
use crate::record::{RankName, Record};
use crate::table::{Cell, Mark, Row, Table};
use crate::tables::Measure;

/// A table's heads and lines.
#[derive(Debug)]
pub(super) struct Sheet {
    /// What stands above the columns of numbers.
    pub(super) heads: Vec<Head>,
    /// Its lines, in the table's order.
    pub(super) lines: Vec<Line>,
    by_rank: bool,
}

/// What stands above a column.
#[derive(Debug)]
pub(super) struct Head {
    /// What a person reads.
    pub(super) heading: String,
    /// The metric, where the heading does not say it.
    pub(super) under: Option<String>,
    /// The task; empty for what is of all of them.
    pub(super) task: String,
    /// Name of the metric in records, or of the measure.
    pub(super) metric: String,
}

impl Head {
    /// `RTE, accuracy`.
    pub(super) fn words(&self) -> String {
        match &self.under {
            Some(metric) => format!("{}, {metric}", self.heading),
            None => self.heading.clone(),
        }
    }
}

/// A line.
#[derive(Debug)]
pub(super) struct Line {
    /// Its rank.
    pub(super) rank: RankName,
    /// Whose numbers they are.
    pub(super) label: String,
    /// In which settings its runs differ from the recipe.
    pub(super) variant: String,
    block: String,
    /// Its places, as many as there are heads.
    pub(super) places: Vec<Place>,
    /// What its runs took.
    pub(super) cost: Cost,
}

/// A place of the table and what is known of it.
#[derive(Clone, Debug, Default)]
pub(super) struct Place {
    /// Mean over the seeds, if there is a run.
    pub(super) mean: Option<f64>,
    /// Standard deviation over several seeds.
    pub(super) std: Option<f64>,
    /// Number of seeds.
    pub(super) seeds: usize,
    /// The rank that was chosen.
    pub(super) chosen: Option<usize>,
    /// The paper's number.
    pub(super) paper: Option<f64>,
    /// Digits after the point.
    pub(super) decimals: usize,
    /// Whether it is the best of its block.
    pub(super) leads: bool,
    /// Whether this is the method's best rank.
    pub(super) star: bool,
    /// Whether it is the best or the worst of its column, in a table that marks them.
    pub(super) mark: Option<Mark>,
    /// Whether it is no metric: parameters, seconds, ..
    pub(super) is_measure: bool,
}

/// How a number lies to the paper's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// No farther off than the deviation.
    Within,
    /// Farther off.
    Beyond,
    /// There is no deviation to judge by: a single seed.
    Unjudged,
}

impl Verdict {
    /// The sign that stands beside the difference.
    pub(super) fn sign(self) -> &'static str {
        match self {
            Verdict::Within => "≈",
            Verdict::Beyond => "≠",
            Verdict::Unjudged => "?",
        }
    }
}

impl Place {
    /// `71.00`, or a dash.
    pub(super) fn mean_words(&self) -> String {
        self.mean.map_or("–".to_owned(), |mean| digits(mean, self.decimals))
    }

    /// `1.41`, over several seeds.
    pub(super) fn std_words(&self) -> Option<String> {
        self.std.map(|std| digits(std, self.decimals))
    }

    /// What is measured minus what is published.
    pub(super) fn difference(&self) -> Option<f64> {
        Some(self.mean? - self.paper?)
    }

    /// `+0.48`.
    pub(super) fn difference_words(&self) -> Option<String> {
        self.difference().map(|difference| signed(difference, self.decimals))
    }

    /// `▲` for the best of the column, `▼` for the worst.
    pub(super) fn mark_sign(&self) -> Option<&'static str> {
        self.mark.map(|mark| match mark {
            Mark::Best => "▲",
            Mark::Worst => "▼",
        })
    }

    /// How the number lies to the paper's; `None` where there are not both, and for what is no metric.
    pub(super) fn verdict(&self) -> Option<Verdict> {
        let difference = self.difference().filter(|_| !self.is_measure)?.abs();
        Some(match self.std {
            None => Verdict::Unjudged,
            Some(std) if difference <= std => Verdict::Within,
            // Not a number is never near one.
            Some(_) => Verdict::Beyond,
        })
    }
}

/// What the runs behind a line took.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Cost {
    /// Trained numbers in use at the line's rank, head included: least and most over the tasks. Where the line is of several
    /// ranks: at the lowest and at the highest.
    pub(super) parameters: Option<(usize, usize)>,
    /// Mean seconds of training of a run.
    pub(super) seconds: Option<f64>,
    /// Runs behind it.
    pub(super) runs: usize,
}

impl Cost {
    fn of<'a>(runs: impl Iterator<Item = &'a Record> + Clone, rank: Option<RankName>) -> Self {
        let used = |record: &'a Record| {
            let ranks = record.ranks.iter().zip(&record.trainable);
            let wanted = ranks.filter(move |(row, _)| rank.is_none_or(|rank| row.rank == rank));
            wanted.map(|(_, parameters)| *parameters)
        };
        let (least, most) = (runs.clone().flat_map(used).min(), runs.clone().flat_map(used).max());
        let count = runs.clone().count();
        let seconds: f64 = runs.map(|record| record.timing.train_seconds).sum();
        Cost {
            parameters: least.zip(most),
            seconds: (count > 0).then(|| seconds / count as f64),
            runs: count,
        }
    }

    /// `296,450`, or `296,450 to 297,219`.
    pub(super) fn parameter_words(&self) -> String {
        match self.parameters {
            None => "–".to_owned(),
            Some((least, most)) if least == most => grouped(least),
            Some((least, most)) => format!("{} to {}", grouped(least), grouped(most)),
        }
    }

    /// `3 min 05 s`.
    pub(super) fn time_words(&self) -> String {
        self.seconds.map_or("–".to_owned(), duration)
    }
}

/// A row's label, with its block where another block has the same one.
pub(super) fn name(table: &Table, row: &Row) -> String {
    let is_other = |other: &Row| other.label == row.label && other.block != row.block;
    one_line(&match table.rows.iter().any(is_other) {
        true => format!("{}, {}", row.label, row.block),
        false => row.label.clone(),
    })
}

/// The names of a table's lines, each once, with the rows that have it.
pub(super) fn groups(table: &Table) -> Vec<(String, Vec<&Row>)> {
    let mut groups: Vec<(String, Vec<&Row>)> = Vec::new();
    for row in &table.rows {
        let name = name(table, row);
        match groups.iter_mut().find(|(known, _)| *known == name) {
            Some((_, rows)) => rows.push(row),
            None => groups.push((name, vec![row])),
        }
    }
    groups
}

/// What the runs behind each name took, all ranks together.
pub(super) fn costs(table: &Table) -> Vec<(String, Cost)> {
    let cost = |(name, rows): (String, Vec<&Row>)| {
        let mut places: Vec<usize> = rows.iter().flat_map(|row| &row.trail.runs).copied().collect();
        places.sort_unstable();
        places.dedup();
        let records = places.iter().filter_map(|&place| Some(&table.runs.get(place)?.record));
        (name, Cost::of(records, None))
    };
    let costs = groups(table).into_iter().map(cost);
    costs.filter(|(_, cost)| cost.runs > 0).collect()
}

impl Sheet {
    pub(super) fn of(table: &Table) -> Self {
        let layout = table.layout();
        let mut heads: Vec<Head> = layout
            .columns
            .iter()
            .enumerate()
            .map(|(index, column)| Head {
                heading: one_line(&column.heading),
                under: under(table, index),
                task: column.task.clone(),
                metric: column.metric.clone(),
            })
            .collect();
        if layout.has_average {
            heads.push(Head {
                heading: "Avg".to_owned(),
                under: Some("mean".to_owned()),
                task: String::new(),
                metric: "average".to_owned(),
            });
        }
        let measures: Vec<Measure> = table
            .rows
            .first()
            .map(|row| row.measures.iter().map(|(measure, _)| *measure).collect())
            .unwrap_or_default();
        heads.extend(measures.iter().map(|measure| Head {
            heading: measure.heading().to_owned(),
            under: None,
            task: String::new(),
            metric: measure.name().to_owned(),
        }));
        let record = |place: &usize| Some(&table.runs.get(*place)?.record);
        let line = |row: &Row| Line {
            rank: row.rank,
            label: one_line(&row.label),
            variant: one_line(&row.variant),
            block: row.block.clone(),
            places: places(table, row),
            cost: Cost::of(
                row.trail.runs.iter().filter_map(record),
                matches!(row.rank, RankName::At(_) | RankName::Full).then_some(row.rank),
            ),
        };
        let mut sheet = Sheet {
            lines: table.rows.iter().map(line).collect(),
            heads,
            by_rank: table.is_by_rank(),
        };
        sheet.mark(table);
        sheet
    }

    /// Whether blocks are those of a rank.
    pub(super) fn is_by_rank(&self) -> bool {
        self.by_rank
    }

    /// Blocks of lines that belong together.
    pub(super) fn blocks(&self) -> impl Iterator<Item = &[Line]> {
        self.lines.chunk_by(|a, b| match self.by_rank {
            true => a.rank == b.rank,
            false => a.block == b.block,
        })
    }

    /// All places with their line and head.
    pub(super) fn places(&self) -> impl Iterator<Item = (&Line, &Head, &Place)> {
        self.lines.iter().flat_map(|line| {
            self.heads
                .iter()
                .zip(&line.places)
                .map(move |(head, place)| (line, head, place))
        })
    }

    /// Finds the best of each block, and each method's best rank.
    fn mark(&mut self, table: &Table) {
        let columns = &table.layout().columns;
        let metrics = columns.len() + usize::from(table.layout().has_average);
        for index in 0..metrics {
            let is_error = columns.get(index).is_some_and(|column| column.is_error);
            let mean = |line: &Line| line.places.get(index).and_then(|place| place.mean);
            let numbered = |line: &Line| matches!(line.rank, RankName::At(_));
            let marks: Vec<(bool, bool)> = self
                .lines
                .iter()
                .map(|line| {
                    let Some(own) = mean(line) else { return (false, false) };
                    let decimals = line.places.get(index).map_or(0, |place| place.decimals);
                    let block = self.lines.iter().filter(|other| other.rank == line.rank);
                    let same = || {
                        self.lines
                            .iter()
                            .filter(|other| (&other.label, &other.block) == (&line.label, &line.block))
                    };
                    let best = same().find(|other| other.rank == RankName::Best);
                    let star = match best.and_then(|best| best.places.get(index)?.chosen) {
                        Some(chosen) => line.rank == RankName::At(chosen),
                        // The mean over tasks has no line of best ranks of its own.
                        None => {
                            index >= columns.len()
                                && best.is_some()
                                && numbered(line)
                                && leads(
                                    own,
                                    same().filter(|line| numbered(line)).filter_map(mean),
                                    decimals,
                                    is_error,
                                )
                        }
                    };
                    (leads(own, block.filter_map(mean), decimals, is_error), star)
                })
                .collect();
            for (line, (leads, star)) in self.lines.iter_mut().zip(marks) {
                if let Some(place) = line.places.get_mut(index) {
                    (place.leads, place.star) = (leads, star);
                }
            }
        }
    }
}

/// The metric of a column that has a number, where the heading does not say it.
fn under(table: &Table, column: usize) -> Option<String> {
    let head = &table.layout().columns[column];
    let found = table.rows.iter().find_map(|row| row.tasks.get(column)?.1.as_ref())?;
    (!head.names_metric).then(|| one_line(&found.metric))
}

fn places(table: &Table, row: &Row) -> Vec<Place> {
    let place = |cell: Option<&Cell>, decimals: usize| Place {
        mean: cell.map(|cell| cell.mean),
        std: cell.filter(|cell| cell.runs > 1).map(|cell| cell.std),
        seeds: cell.map_or(0, |cell| cell.runs),
        chosen: cell.and_then(|cell| cell.rank),
        paper: cell.and_then(|cell| cell.paper),
        mark: cell.and_then(|cell| cell.mark),
        decimals,
        ..Place::default()
    };
    let columns = table.layout().columns.iter().zip(&row.tasks);
    let mut places: Vec<Place> = columns
        .map(|(column, (_, cell))| place(cell.as_ref(), column.decimals))
        .collect();
    if table.layout().has_average {
        places.push(Place {
            mean: row.average,
            seeds: row.average.map_or(0, |_| row.seeds.len()),
            paper: row.paper_average,
            decimals: 2,
            ..Place::default()
        });
    }
    places.extend(row.measures.iter().map(|(measure, cell)| Place {
        is_measure: true,
        ..place(cell.as_ref(), measure.decimals())
    }));
    places
}

/// Whether `mean` is the best of several numbers, the least one of errors; numbers that print alike are equal.
fn leads(mean: f64, all: impl Iterator<Item = f64>, decimals: usize, is_error: bool) -> bool {
    let all: Vec<f64> = all.filter(|mean| mean.is_finite()).collect();
    let best = if is_error { f64::min } else { f64::max };
    let best = all.iter().copied().reduce(best);
    all.len() > 1 && best.is_some_and(|best| digits(mean, decimals) == digits(best, decimals))
}

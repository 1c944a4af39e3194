//! A table as every form of a report shows it: the same places with the same words, so that no form can say another number.

use dylora_nn::Method;

use super::words::{digits, duration, grouped, one_line, signed};
use crate::record::{RankName, Record};
use crate::table::{Row, Table, title};

/// A table's heads and lines.
#[derive(Debug)]
pub(super) struct Sheet {
    /// What stands above the columns of numbers.
    pub(super) heads: Vec<Head>,
    /// Its lines, in the table's order.
    pub(super) lines: Vec<Line>,
}

/// What stands above a column.
#[derive(Debug)]
pub(super) struct Head {
    /// What a person reads.
    pub(super) heading: String,
    /// The metric, where the heading does not say it.
    pub(super) under: Option<String>,
    /// The task; empty for a mean over tasks.
    pub(super) task: String,
    /// Name of the metric in records.
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
    /// Its places, as many as there are heads.
    pub(super) places: Vec<Place>,
    /// What its runs took, where records are there.
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

    /// How the number lies to the paper's; `None` where there are not both.
    pub(super) fn verdict(&self) -> Option<Verdict> {
        let difference = self.difference()?.abs();
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
    /// Trained numbers in use at the line's rank, head included: least and most over the tasks.
    pub(super) parameters: Option<(usize, usize)>,
    /// Mean seconds of training of a run.
    pub(super) seconds: Option<f64>,
    /// Runs behind it.
    pub(super) runs: usize,
}

impl Cost {
    fn of(row: &Row, records: &[Record]) -> Self {
        let own: Vec<&Record> = records.iter().filter(|record| belongs(record, row)).collect();
        let used = |record: &&Record| match row.rank {
            RankName::Best => record.trainable.iter().max().copied(),
            rank => {
                let index = record.ranks.iter().position(|each| each.rank == rank)?;
                record.trainable.get(index).copied()
            }
        };
        let least = own.iter().filter_map(used).min();
        let most = own.iter().filter_map(used).max();
        let seconds: f64 = own.iter().map(|record| record.timing.train_seconds).sum();
        Cost {
            parameters: least.zip(most),
            seconds: (!own.is_empty()).then(|| seconds / own.len() as f64),
            runs: own.len(),
        }
    }

    /// `296,450`, or `296,450 to 297,219` where tasks have heads of other sizes.
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

/// Whether a record is one of those that a row sums up.
pub(super) fn belongs(record: &Record, row: &Row) -> bool {
    record.settings.method == row.method
}

/// What a person calls a row's runs.
pub(super) fn label(row: &Row) -> String {
    title(row.method).to_owned()
}

impl Sheet {
    pub(super) fn of(table: &Table, records: &[Record]) -> Self {
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
        let line = |row: &Row| Line {
            rank: row.rank,
            label: one_line(&label(row)),
            places: places(table, row),
            cost: Cost::of(row, records),
        };
        let mut sheet = Sheet {
            lines: table.rows.iter().map(line).collect(),
            heads,
        };
        sheet.mark(table);
        sheet
    }

    /// Blocks of lines that belong together: those of a rank.
    pub(super) fn blocks(&self) -> impl Iterator<Item = &[Line]> {
        self.lines.chunk_by(|a, b| a.rank == b.rank)
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
        for index in 0..self.heads.len() {
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
                    let same = || self.lines.iter().filter(|other| other.label == line.label);
                    let chosen = same()
                        .find(|other| other.rank == RankName::Best)
                        .and_then(|best| best.places.get(index)?.chosen);
                    let star = match chosen {
                        Some(chosen) => line.rank == RankName::At(chosen),
                        // The mean over tasks has no line of best ranks of its own.
                        None => {
                            index >= columns.len()
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
    (head.task == head.paper).then(|| one_line(&found.metric))
}

fn places(table: &Table, row: &Row) -> Vec<Place> {
    let columns = &table.layout().columns;
    let mut places: Vec<Place> = columns
        .iter()
        .zip(&row.tasks)
        .map(|(column, (_, cell))| {
            let cell = cell.as_ref();
            Place {
                mean: cell.map(|cell| cell.mean),
                std: cell.filter(|cell| cell.runs > 1).map(|cell| cell.std),
                seeds: cell.map_or(0, |cell| cell.runs),
                chosen: cell.and_then(|cell| cell.rank),
                paper: cell.and_then(|cell| cell.paper),
                decimals: column.decimals,
                ..Place::default()
            }
        })
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
    places
}

/// Whether `mean` is the best of several numbers, the least one of errors; numbers that print alike are equal.
fn leads(mean: f64, all: impl Iterator<Item = f64>, decimals: usize, is_error: bool) -> bool {
    let all: Vec<f64> = all.filter(|mean| mean.is_finite()).collect();
    let best = if is_error { f64::min } else { f64::max };
    let best = all.iter().copied().reduce(best);
    all.len() > 1 && best.is_some_and(|best| digits(mean, decimals) == digits(best, decimals))
}

/// A line's method, for looks and legends.
pub(super) fn order(method: Method) -> Option<usize> {
    match method {
        Method::Lora => Some(0),
        Method::DyLora => Some(1),
        Method::DyLoraFrozen => Some(2),
        Method::Full => None,
    }
}

//! Numbers for a table's lines.

use std::collections::{BTreeMap, BTreeSet};

use dylora_nn::Method;

use super::{Cell, Column, Head, Layout, Mark, Row, Run, Table, Trail, runs, title};
use crate::cost::RankCost;
use crate::paper::{AVERAGE, Published};
use crate::record::{RankName, Record};
use crate::tables::Measure;

/// What a line shows: which runs, at which rank.
#[derive(Clone, Debug, PartialEq)]
pub struct Line {
    /// What it is called; the method's name without it.
    pub label: Option<String>,
    /// Lines of a block share a line of reference.
    pub block: String,
    /// The method of its runs.
    pub method: Method,
    /// The settings in which its runs differ from the recipe. Of several, each is judged at the rank beside it, and the best,
    /// the worst or the mean of them is shown.
    pub arms: Vec<(String, Option<usize>)>,
    /// The rank.
    pub rank: RankName,
    /// Whether the times of its block are divided by its own.
    pub is_reference: bool,
}

impl Line {
    /// A line of the recipe's own runs.
    pub fn plain(method: Method, rank: RankName) -> Self {
        Line {
            label: None,
            block: String::new(),
            method,
            arms: vec![(String::new(), None)],
            rank,
            is_reference: false,
        }
    }
}

/// A finished run.
#[derive(Clone, Debug, PartialEq)]
pub struct Finding<'a> {
    /// The settings in which it differs from the recipe, as a line's arm has them.
    pub variant: String,
    /// What came out.
    pub record: &'a Record,
    /// What each rank takes, where that was measured.
    pub costs: Vec<RankCost>,
}

impl<'a> Finding<'a> {
    /// A run of the recipe itself.
    pub fn of_recipe(record: &'a Record) -> Self {
        Finding {
            variant: String::new(),
            record,
            costs: Vec::new(),
        }
    }
}

impl Table {
    /// Fills lines in beside published numbers of the table of the layout's name. Lines without any number are left out.
    pub fn of(published: &Published, layout: Layout, head: Head, lines: &[Line], findings: &[Finding<'_>]) -> Table {
        let mut rows: Vec<Row> = Vec::new();
        for line in lines {
            rows.extend(Filling::new(line, findings).row(published, &layout, &head.measures));
        }
        ratios(&mut rows, lines);
        if head.marked {
            mark(&mut rows, &layout.columns);
        }
        let records: Vec<&Record> = findings.iter().map(|finding| finding.record).collect();
        let mut remarks: Vec<String> = Vec::new();
        // What pruning left is another sentence for every run; it stays in the records.
        let told = records.iter().filter(|record| record.settings.method != Method::Flop);
        for note in told.flat_map(|record| &record.notes) {
            if !remarks.contains(note) {
                remarks.push(note.clone());
            }
        }
        Table {
            table: layout.name.clone(),
            number: head.number,
            about: head.about,
            profile: head.profile,
            rows,
            caption: None,
            remarks,
            runs: findings.iter().map(Run::new).collect(),
            settings: runs::Settings::of(&records),
            paper_is_known: published.is_known(&layout.name),
            by_rank: head.by_rank,
            layout,
        }
    }
}

/// A line and its runs, those of each arm together.
struct Filling<'a> {
    line: &'a Line,
    findings: &'a [Finding<'a>],
    /// The places of its runs among all.
    places: Vec<usize>,
    arms: Vec<(Option<usize>, Vec<&'a Record>)>,
}

/// A metric's values by seed, at a rank.
type Values = BTreeMap<u64, f64>;

impl<'a> Filling<'a> {
    fn new(line: &'a Line, findings: &'a [Finding<'a>]) -> Self {
        let of_arm = |(variant, rank): &(String, Option<usize>)| {
            let runs = findings
                .iter()
                .filter(|finding| finding.record.settings.method == line.method && finding.variant == *variant);
            (*rank, runs.map(|finding| finding.record).collect())
        };
        let is_own = |finding: &Finding<'_>| {
            let is_arm = |(variant, _): &(String, Option<usize>)| *variant == finding.variant;
            finding.record.settings.method == line.method && line.arms.iter().any(is_arm)
        };
        let own = findings.iter().enumerate().filter(|(_, finding)| is_own(finding));
        Filling {
            line,
            findings,
            places: own.map(|(place, _)| place).collect(),
            arms: line.arms.iter().map(of_arm).collect(),
        }
    }

    fn records(&self) -> impl Iterator<Item = &'a Record> + '_ {
        self.arms.iter().flat_map(|(_, records)| records.iter().copied())
    }

    /// The row; nothing without a number.
    fn row(&self, published: &Published, layout: &Layout, measures: &[Measure]) -> Option<Row> {
        let line = self.line;
        let variant = match line.arms.as_slice() {
            [(variant, _)] => variant.clone(),
            _ => String::new(),
        };
        let label = line.label.clone().unwrap_or_else(|| title(line.method).to_owned());
        let papers = |rank: RankName, task: &str, metric: &str| published.at(&layout.name, &label, rank, task, metric);
        let trail = Trail {
            runs: self.places.clone(),
            ranks: layout
                .columns
                .iter()
                .map(|column| self.at_every_rank(column, &papers))
                .collect(),
        };
        let cells = layout.columns.iter().map(|column| {
            let cell = self.cell(column).map(|cell| Cell {
                paper: papers(line.rank, &column.task, &column.metric),
                ..cell
            });
            (column.task.clone(), cell)
        });
        let tasks: Vec<(String, Option<Cell>)> = cells.collect();
        if tasks.iter().all(|(_, cell)| cell.is_none()) {
            return None;
        }
        let means: Option<Vec<f64>> = tasks
            .iter()
            .map(|(_, cell)| cell.as_ref().map(|cell| cell.mean))
            .collect();
        let seeds: BTreeSet<u64> = self.records().map(|record| record.settings.seed).collect();
        Some(Row {
            method: line.method,
            rank: line.rank,
            seeds: seeds.into_iter().collect(),
            paper_average: papers(line.rank, "", AVERAGE),
            average: means
                .filter(|_| layout.has_average)
                .map(|means| means.iter().sum::<f64>() / means.len().max(1) as f64),
            measures: measures
                .iter()
                .map(|&measure| {
                    let cell = self.measure(measure, layout).map(|cell| Cell {
                        paper: papers(line.rank, "", measure.name()),
                        ..cell
                    });
                    (measure, cell)
                })
                .collect(),
            label,
            tasks,
            trail,
            variant,
            block: line.block.clone(),
        })
    }

    /// The column's number at every rank, beside the paper's.
    fn at_every_rank(
        &self,
        column: &Column,
        papers: &dyn Fn(RankName, &str, &str) -> Option<f64>,
    ) -> Vec<(usize, Cell)> {
        let candidates = self.candidates(column).into_iter();
        let at = |(rank, values): (RankName, Values)| match rank {
            RankName::At(number) => Some((
                number,
                Cell {
                    paper: papers(rank, &column.task, &column.metric),
                    ..summed(column, &values, None)
                },
            )),
            _ => None,
        };
        candidates.filter_map(at).collect()
    }

    /// The column's number at the line's rank.
    fn cell(&self, column: &Column) -> Option<Cell> {
        let candidates = self.candidates(column);
        let cell = |values: &Values, rank: Option<usize>| summed(column, values, rank);
        match self.line.rank {
            RankName::At(_) | RankName::Full => {
                let (_, values) = candidates.iter().find(|(rank, _)| *rank == self.line.rank)?;
                Some(cell(values, None))
            }
            RankName::Best | RankName::Worst => {
                let wants_less = column.is_error == (self.line.rank == RankName::Best);
                let mut found: Option<Cell> = None;
                // The smaller rank of equals.
                for (rank, values) in &candidates {
                    let RankName::At(rank) = *rank else { continue };
                    let next = cell(values, Some(rank));
                    let leads = |than: &Cell| {
                        than.mean.is_nan()
                            || if wants_less {
                                next.mean < than.mean
                            } else {
                                next.mean > than.mean
                            }
                    };
                    if found.as_ref().is_none_or(leads) {
                        found = Some(next);
                    }
                }
                found
            }
            RankName::Mean => {
                let mut sums: BTreeMap<u64, (f64, usize)> = BTreeMap::new();
                for (seed, value) in candidates.iter().flat_map(|(_, values)| values) {
                    let sum = sums.entry(*seed).or_default();
                    *sum = (sum.0 + value, sum.1 + 1);
                }
                let means: Values = sums
                    .into_iter()
                    .map(|(seed, (sum, count))| (seed, sum / count as f64))
                    .collect();
                (!means.is_empty()).then(|| cell(&means, None))
            }
        }
    }

    /// The column's values at every rank that there are any for, in the order of the ranks.
    fn candidates(&self, column: &Column) -> Vec<(RankName, Values)> {
        let mut all: BTreeMap<RankName, Values> = BTreeMap::new();
        for (own, records) in &self.arms {
            for record in records.iter().filter(|record| record.settings.task == column.task) {
                for row in &record.ranks {
                    if own.is_some_and(|own| row.rank != RankName::At(own)) {
                        continue;
                    }
                    if let Some(value) = row.scores.get(&column.metric) {
                        let values = all.entry(row.rank).or_default();
                        values.insert(record.settings.seed, column.scale * value);
                    }
                }
            }
        }
        all.into_iter().collect()
    }

    fn measure(&self, measure: Measure, layout: &Layout) -> Option<Cell> {
        let values: Vec<f64> = match measure {
            Measure::Parameters => {
                let at = |record: &Record| {
                    let place = record.ranks.iter().position(|row| row.rank == self.line.rank)?;
                    record.trainable.get(place).copied()
                };
                vec![self.records().filter_map(at).max()? as f64]
            }
            Measure::Runs => vec![self.arms.len() as f64],
            Measure::Seconds => self.seconds(layout),
            // Put in once all rows are there.
            Measure::TimeRatio => return None,
            Measure::AdapterBytes | Measure::LatencyUnmerged | Measure::LatencyMerged => {
                let costs = self.places.iter().flat_map(|&place| &self.findings[place].costs);
                costs
                    .filter(|cost| cost.rank == self.line.rank)
                    .filter_map(|cost| match measure {
                        Measure::LatencyUnmerged => Some(cost.latency_ms),
                        Measure::LatencyMerged => cost.merged_latency_ms,
                        _ => Some(cost.adapter_bytes as f64),
                    })
                    .collect()
            }
        };
        (!values.is_empty()).then(|| plain(measure, &values))
    }

    /// Seconds of training of all arms and tasks, for each seed that has all of them.
    fn seconds(&self, layout: &Layout) -> Vec<f64> {
        let tasks: BTreeSet<&str> = layout.columns.iter().map(|column| column.task.as_str()).collect();
        let mut by_seed: BTreeMap<u64, (f64, usize)> = BTreeMap::new();
        for record in self
            .records()
            .filter(|record| tasks.contains(record.settings.task.as_str()))
        {
            let sum = by_seed.entry(record.settings.seed).or_default();
            *sum = (sum.0 + record.timing.train_seconds, sum.1 + 1);
        }
        let whole = tasks.len() * self.arms.len();
        let complete = by_seed.into_values().filter(|(_, runs)| *runs == whole);
        complete.map(|(seconds, _)| seconds).collect()
    }
}

/// Mean and deviation of a column's values.
fn summed(column: &Column, values: &Values, rank: Option<usize>) -> Cell {
    let values: Vec<f64> = values.values().copied().collect();
    let (mean, std) = mean_std(&values);
    Cell {
        metric: column.metric.clone(),
        mean,
        std,
        runs: values.len(),
        rank,
        paper: None,
        mark: None,
    }
}

fn plain(measure: Measure, values: &[f64]) -> Cell {
    let (mean, std) = mean_std(values);
    Cell {
        metric: measure.name().to_owned(),
        mean,
        std,
        runs: values.len(),
        rank: None,
        paper: None,
        mark: None,
    }
}

/// Divides the seconds of each row by those of its block's reference.
fn ratios(rows: &mut [Row], lines: &[Line]) {
    let seconds = |row: &Row| -> Option<f64> {
        let (_, cell) = row.measures.iter().find(|(measure, _)| *measure == Measure::Seconds)?;
        cell.as_ref().map(|cell| cell.mean)
    };
    let reference: Vec<Option<f64>> = rows
        .iter()
        .map(|row| {
            let line = lines.iter().find(|line| line.is_reference && line.block == row.block)?;
            let label = line.label.as_deref().unwrap_or(title(line.method));
            rows.iter()
                .find(|other| other.block == row.block && other.method == line.method && other.label == label)
                .and_then(seconds)
        })
        .collect();
    for (row, reference) in rows.iter_mut().zip(reference) {
        let ratio = seconds(row).zip(reference).map(|(own, reference)| own / reference);
        for (measure, cell) in &mut row.measures {
            if *measure == Measure::TimeRatio {
                *cell = ratio.map(|ratio| plain(Measure::TimeRatio, &[ratio]));
            }
        }
    }
}

/// Marks the best and the worst number of each column, as far as its digits tell them apart.
fn mark(rows: &mut [Row], columns: &[Column]) {
    for (index, column) in columns.iter().enumerate() {
        let rounded = |mean: f64| (mean * 10f64.powi(column.decimals as i32)).round();
        let is_single = |row: &Row| matches!(row.rank, RankName::At(_) | RankName::Full);
        let values: Vec<f64> = rows
            .iter()
            .filter(|row| is_single(row))
            .filter_map(|row| row.tasks.get(index)?.1.as_ref().map(|cell| rounded(cell.mean)))
            .filter(|mean| mean.is_finite())
            .collect();
        let low = values.iter().copied().fold(f64::INFINITY, f64::min);
        let high = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        if low >= high {
            continue;
        }
        let (best, worst) = if column.is_error { (low, high) } else { (high, low) };
        for row in rows.iter_mut() {
            let counts = is_single(row);
            if let Some((_, Some(cell))) = row.tasks.get_mut(index).filter(|_| counts) {
                let mean = rounded(cell.mean);
                cell.mark = match mean {
                    mean if mean == best => Some(Mark::Best),
                    mean if mean == worst => Some(Mark::Worst),
                    _ => None,
                };
            }
        }
    }
}

/// Mean and sample standard deviation; 0 for one value.
fn mean_std(values: &[f64]) -> (f64, f64) {
    let mean = values.iter().sum::<f64>() / values.len() as f64;
    let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
    let freedom = values.len().saturating_sub(1);
    (
        mean,
        if freedom == 0 {
            0.0
        } else {
            (squares / freedom as f64).sqrt()
        },
    )
}

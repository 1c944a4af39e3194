//! Which charts a table has: every column against the rank, the loss of each task against the step, the ranks that were drawn.

use std::collections::BTreeMap;

use dylora_nn::Method;

use super::Part;
use super::chart::{Chart, Curve, Curves, Histogram, Look, Point, Sample};
use super::sheet::groups;
use super::words::one_line;
use crate::error::Result;
use crate::generation::GenerationTask;
use crate::glue;
use crate::record::{RankName, Record};
use crate::table::{Row, Run, Table};

/// Smallest height of the average's axis, in percent.
const LEAST_SPAN: f64 = 2.0;

/// Charts that share a legend.
pub(super) struct Charts {
    pub(super) heading: &'static str,
    pub(super) about: &'static str,
    /// For a class of the page.
    pub(super) class: &'static str,
    /// Name and sample of each line.
    pub(super) legend: Vec<(String, String)>,
    pub(super) figures: Vec<Figure>,
}

/// A chart with what stands above it.
pub(super) struct Figure {
    pub(super) name: String,
    pub(super) what: &'static str,
    /// Nothing where there is no number to draw.
    pub(super) svg: Option<String>,
}

/// All charts of a table, those without a number to draw left out but for the first.
///
/// # Errors
/// If the plotting library refuses.
pub(super) fn of(part: &Part<'_>) -> Result<Vec<Charts>> {
    let groups = looks(part.table);
    let mut all = vec![against_rank(part.table, &groups)?];
    all.extend(loss(part.table, &groups)?);
    all.extend(drawn(part.table, &groups)?);
    Ok(all)
}

/// The lines of a table that have one name, and how they look in all its charts.
struct Group<'a> {
    name: String,
    look: Look,
    rows: Vec<&'a Row>,
}

/// Looks before this one belong to a method.
const FIRST_FREE: usize = 3;

/// LoRA, DyLoRA and frozen DyLoRA look alike in every table; further lines take what is left.
fn looks(table: &Table) -> Vec<Group<'_>> {
    let mut found: Vec<Group<'_>> = Vec::new();
    let mut names = groups(table);
    names.sort_by_key(|(_, rows)| rows.first().map(|row| row.method));
    for (name, rows) in names {
        let Some(row) = rows.first() else { continue };
        let is_free = |look: &Look| !found.iter().any(|group| group.look == *look);
        let wanted = match (row.rank, row.method) {
            (RankName::Full, _) => Some(Look::Full),
            (_, Method::Lora) => Some(Look::Line(0)),
            (_, Method::DyLora) => Some(Look::Line(1)),
            (_, Method::DyLoraFrozen) => Some(Look::Line(2)),
            _ => None,
        };
        let others = (FIRST_FREE..).map(Look::Line);
        if let Some(look) = wanted.into_iter().chain(others).find(is_free) {
            found.push(Group { name, look, rows });
        }
    }
    found
}

impl Group<'_> {
    /// Its runs, each once.
    fn runs<'a>(&self, table: &'a Table) -> Vec<&'a Run> {
        let mut places: Vec<usize> = self.rows.iter().flat_map(|row| &row.trail.runs).copied().collect();
        places.sort_unstable();
        places.dedup();
        places.iter().filter_map(|&place| table.runs.get(place)).collect()
    }

    /// Its number of a column at each rank: those that its rows show, or, where all of them are of the same runs, those of every
    /// rank that these have.
    fn points(&self, column: usize) -> Vec<Point> {
        let at = |row: &&&Row| matches!(row.rank, RankName::At(_));
        let of_same_runs = self
            .rows
            .windows(2)
            .all(|pair| pair[0].trail.runs == pair[1].trail.runs);
        let point = |rank: usize, cell: &crate::table::Cell| Point {
            rank,
            mean: Some(cell.mean),
            std: (cell.runs > 1).then_some(cell.std),
            paper: cell.paper,
        };
        let mut points: Vec<Point> = match self.rows.first() {
            Some(row) if of_same_runs && row.rank != RankName::Full => {
                let ranks = row.trail.ranks.get(column).into_iter().flatten();
                ranks.map(|(rank, cell)| point(*rank, cell)).collect()
            }
            _ => Vec::new(),
        };
        for row in self.rows.iter().filter(at) {
            let RankName::At(rank) = row.rank else { continue };
            let cell = row.tasks.get(column).and_then(|(_, cell)| cell.as_ref());
            if !points.iter().any(|point| point.rank == rank) {
                points.push(cell.map_or(
                    // A gap.
                    Point {
                        rank,
                        mean: None,
                        std: None,
                        paper: None,
                    },
                    |cell| point(rank, cell),
                ));
            }
        }
        points.sort_by_key(|point| point.rank);
        points
    }

    /// The mean over all columns at each rank where all of them have a number.
    fn average_points(&self, columns: usize) -> Vec<Point> {
        let mut ranks: BTreeMap<usize, Vec<Option<f64>>> = BTreeMap::new();
        for column in 0..columns {
            for point in self.points(column) {
                ranks.entry(point.rank).or_default().push(point.mean);
            }
        }
        let mean = |values: Vec<Option<f64>>| {
            let all: Vec<f64> = values.into_iter().flatten().collect();
            (all.len() == columns).then(|| all.iter().sum::<f64>() / columns.max(1) as f64)
        };
        let paper = |rank: usize| {
            let row = self.rows.iter().find(|row| row.rank == RankName::At(rank));
            row.and_then(|row| row.paper_average)
        };
        ranks
            .into_iter()
            .map(|(rank, values)| Point {
                rank,
                mean: mean(values),
                std: None,
                paper: paper(rank),
            })
            .collect()
    }
}

/// A chart for each column of tasks, then one of the average.
fn against_rank(table: &Table, groups: &[Group<'_>]) -> Result<Charts> {
    let layout = table.layout();
    let columns = layout.columns.len();
    let mut figures = Vec::new();
    let mut has_paper = false;
    let full = |value: &dyn Fn(&Row) -> Option<f64>| {
        let row = table.rows.iter().find(|row| row.rank == RankName::Full);
        row.and_then(value)
    };
    let mut lines = |points: &dyn Fn(&Group<'_>) -> Vec<Point>| -> Vec<(String, Look, Vec<Point>)> {
        let line = |group: &Group<'_>| (group.name.clone(), group.look, points(group));
        let lines: Vec<_> = groups
            .iter()
            .map(line)
            .filter(|(.., points)| !points.is_empty())
            .collect();
        has_paper |= lines
            .iter()
            .any(|(.., points)| points.iter().any(|point| point.paper.is_some()));
        lines
    };
    for (index, column) in layout.columns.iter().enumerate() {
        let chart = Chart {
            title: format!("{} against rank", one_line(&column.heading)),
            label: column.axis.clone(),
            least_span: column.least_span,
            lines: lines(&|group| group.points(index)),
            full: full(&|row| Some(row.tasks.get(index)?.1.as_ref()?.mean)),
        };
        figures.push(Figure {
            name: one_line(&column.heading),
            what: "mean, bars ± standard deviation",
            svg: chart.svg()?,
        });
    }
    if layout.has_average {
        let chart = Chart {
            title: "Average against rank".to_owned(),
            label: "mean of the tasks".to_owned(),
            least_span: LEAST_SPAN,
            lines: lines(&|group| group.average_points(columns)),
            full: full(&|row| row.average),
        };
        figures.push(Figure {
            name: "Average".to_owned(),
            what: "mean over the tasks",
            svg: chart.svg()?,
        });
    }
    let mut legend = Vec::new();
    for group in groups {
        let sample = match group.look {
            Look::Full => Sample::Full,
            look => Sample::Line(look),
        };
        legend.push((group.name.clone(), sample.svg()?));
    }
    if has_paper {
        legend.push(("the paper's, in the colour of each".to_owned(), Sample::Paper.svg()?));
    }
    Ok(Charts {
        heading: "Metric against rank",
        about: "The y axes do not begin at 0, and differ. A rank without a number leaves a gap.",
        class: "of-rank",
        legend,
        figures,
    })
}

/// A task as the headings of its columns call it.
fn task_words(name: &str) -> String {
    match (glue::find(name), GenerationTask::find(name)) {
        (Ok(task), _) => task.folder.to_owned(),
        (_, Ok(task)) => task.title().to_owned(),
        _ => one_line(name),
    }
}

/// The training loss of each task; `None` where no record has two numbers of it.
fn loss(table: &Table, groups: &[Group<'_>]) -> Result<Option<Charts>> {
    let mut tasks: Vec<&str> = Vec::new();
    for run in &table.runs {
        if !tasks.contains(&run.task.as_str()) {
            tasks.push(&run.task);
        }
    }
    let (mut figures, mut used) = (Vec::new(), Vec::new());
    for task in tasks {
        let mut lines = Vec::new();
        for group in groups {
            // Runs with other settings are no repetitions of each other.
            let mut variants: BTreeMap<&str, Vec<Curve>> = BTreeMap::new();
            for run in group.runs(table).into_iter().filter(|run| run.task == task) {
                variants.entry(&run.variant).or_default().push(curve(&run.record));
            }
            for curve in variants.into_values().flat_map(mean_curves) {
                if curve.len() > 1 && !used.contains(&group.look) {
                    used.push(group.look);
                }
                lines.push((group.name.clone(), group.look, fewer(&curve)));
            }
        }
        let chart = Curves {
            title: format!("Training loss of {}", task_words(task)),
            label: "training loss".to_owned(),
            lines,
        };
        if let Some(svg) = chart.svg()? {
            figures.push(Figure {
                name: task_words(task),
                what: "training loss, mean over the seeds",
                svg: Some(svg),
            });
        }
    }
    let mut legend = Vec::new();
    for group in groups.iter().filter(|group| used.contains(&group.look)) {
        legend.push((group.name.clone(), Sample::Line(group.look).svg()?));
    }
    Ok((!figures.is_empty()).then_some(Charts {
        heading: "Training loss",
        about: "Each point is the mean over the steps since the point before, at most 40 in all; of an epoch, where a record keeps no \
                more.",
        class: "of-loss",
        legend,
        figures,
    }))
}

/// A run's trace, or the means of its epochs, each at its last step.
fn curve(record: &Record) -> Curve {
    let trace = &record.trace;
    if trace.step.len() > 1 {
        let steps = trace.step.iter().map(|&step| step as f64);
        return steps.zip(trace.loss.iter().copied()).collect();
    }
    let epochs = &record.loss.epochs;
    let step = |index: usize| record.steps as f64 * (index + 1) as f64 / epochs.len().max(1) as f64;
    epochs
        .iter()
        .enumerate()
        .map(|(index, &loss)| (step(index), loss))
        .collect()
}

/// Most points of a drawn curve: batches are small, and the noise of 200 points hides where they go.
const POINTS: usize = 40;

/// The means of as many neighbours as it takes to have few points, each at its last step.
fn fewer(curve: &Curve) -> Curve {
    let together = curve.len().div_ceil(POINTS).max(1);
    let mean = |part: &[(f64, f64)]| {
        let (step, _) = *part.last()?;
        Some((step, part.iter().map(|(_, loss)| loss).sum::<f64>() / part.len() as f64))
    };
    curve.chunks(together).filter_map(mean).collect()
}

/// One curve, the mean of all, where they have the same steps; else as many as there are.
fn mean_curves(curves: Vec<Curve>) -> Vec<Curve> {
    let Some(first) = curves.first() else { return curves };
    let steps = |curve: &Curve| curve.iter().map(|(step, _)| step.to_bits()).collect::<Vec<_>>();
    if curves.iter().any(|curve| steps(curve) != steps(first)) {
        return curves;
    }
    let mean = |index: usize| curves.iter().map(|curve| curve[index].1).sum::<f64>() / curves.len() as f64;
    let points = first.iter().enumerate().map(|(index, (step, _))| (*step, mean(index)));
    vec![points.collect()]
}

/// How often each rank was drawn, for runs that draw several.
fn drawn(table: &Table, groups: &[Group<'_>]) -> Result<Option<Charts>> {
    let mut figures = Vec::new();
    for group in groups {
        let mut variants: BTreeMap<&str, BTreeMap<usize, u64>> = BTreeMap::new();
        for run in group.runs(table) {
            let counts = variants.entry(&run.variant).or_default();
            for (&rank, count) in &run.record.trace.ranks {
                *counts.entry(rank).or_default() += count;
            }
        }
        for counts in variants.into_values().filter(|counts| counts.len() > 1) {
            let chart = Histogram {
                title: format!("Ranks drawn by {}", group.name),
                look: group.look,
                counts: counts.into_iter().collect(),
            };
            if let Some(svg) = chart.svg()? {
                figures.push(Figure {
                    name: group.name.clone(),
                    what: "steps at each rank, all its runs",
                    svg: Some(svg),
                });
            }
        }
    }
    Ok((!figures.is_empty()).then_some(Charts {
        heading: "Ranks drawn in training",
        about: "Which share of the steps trained each rank.",
        class: "of-draws",
        legend: Vec::new(),
        figures,
    }))
}

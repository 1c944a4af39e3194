//! Which charts a table has: every column against the rank, the loss of each task against the step.

use super::Part;
use super::chart::{Chart, Curves, Look, Point, Sample};
use super::sheet::{Line, Place, belongs, label};
use super::words::one_line;
use crate::error::Result;
use crate::record::{RankName, Record};

/// Smallest height of the average's axis, in percent.
const LEAST_SPAN: f64 = 2.0;

/// Charts that share a legend.
pub(super) struct Charts {
    pub(super) heading: &'static str,
    pub(super) about: &'static str,
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

/// A chart for each column of tasks, then one of the average.
pub(super) fn against_rank(part: &Part<'_>) -> Result<Charts> {
    let looks = Looks::of(part);
    let layout = part.table.layout();
    let mut figures = Vec::new();
    for (index, column) in layout.columns.iter().enumerate() {
        let chart = Chart {
            title: format!("{} against rank", one_line(&column.heading)),
            label: column.axis.clone(),
            least_span: column.least_span,
            lines: lines(part, &looks, index),
            full: full(part, index),
        };
        figures.push(Figure {
            name: one_line(&column.heading),
            what: "mean, bars ± standard deviation",
            svg: chart.svg()?,
        });
    }
    if layout.has_average {
        let index = layout.columns.len();
        let chart = Chart {
            title: "Average against rank".to_owned(),
            label: "mean of the tasks".to_owned(),
            least_span: LEAST_SPAN,
            lines: lines(part, &looks, index),
            full: full(part, index),
        };
        figures.push(Figure {
            name: "Average".to_owned(),
            what: "mean over the tasks",
            svg: chart.svg()?,
        });
    }
    let mut legend = Vec::new();
    for (name, look) in &looks.0 {
        let sample = match look {
            Look::Full => Sample::Full,
            line => Sample::Line(*line),
        };
        legend.push((name.clone(), sample.svg()?));
    }
    let has_paper = |place: &Place| place.paper.is_some();
    if part.sheet.places().any(|(_, _, place)| has_paper(place)) {
        legend.push(("the paper's, in the colour of each".to_owned(), Sample::Paper.svg()?));
    }
    Ok(Charts {
        heading: "Metric against rank",
        about: "The y axes do not begin at 0, and differ. A rank without a number leaves a gap.",
        legend,
        figures,
    })
}

/// The training loss of each task; `None` where no record has two numbers of it.
pub(super) fn loss(part: &Part<'_>) -> Result<Option<Charts>> {
    let looks = Looks::of(part);
    let mut tasks: Vec<&str> = Vec::new();
    for record in part.records {
        if !tasks.contains(&record.settings.task.as_str()) {
            tasks.push(&record.settings.task);
        }
    }
    let (mut figures, mut used) = (Vec::new(), Vec::new());
    for task in tasks {
        let mut lines = Vec::new();
        for (name, look) in &looks.0 {
            let rows = || part.table.rows.iter().filter(|row| one_line(&label(row)) == *name);
            let own = |record: &&Record| record.settings.task == task && rows().any(|row| belongs(record, row));
            for curve in mean_curves(part.records.iter().filter(own).map(curve).collect()) {
                if curve.len() > 1 && !used.contains(look) {
                    used.push(*look);
                }
                lines.push((name.clone(), *look, curve));
            }
        }
        let chart = Curves {
            title: format!("Training loss of {}", one_line(task)),
            label: "training loss".to_owned(),
            lines,
        };
        if let Some(svg) = chart.svg()? {
            figures.push(Figure {
                name: one_line(task),
                what: "training loss, mean over the seeds",
                svg: Some(svg),
            });
        }
    }
    let mut legend = Vec::new();
    for (name, look) in looks.0.iter().filter(|(_, look)| used.contains(look)) {
        legend.push((name.clone(), Sample::Line(*look).svg()?));
    }
    Ok((!figures.is_empty()).then_some(Charts {
        heading: "Training loss",
        about: "Each point is the mean of an epoch's rows.",
        legend,
        figures,
    }))
}

/// Loss by step: the mean of each epoch at its last step.
fn curve(record: &Record) -> Vec<(f64, f64)> {
    let epochs = &record.loss.epochs;
    let step = |index: usize| record.steps as f64 * (index + 1) as f64 / epochs.len().max(1) as f64;
    epochs
        .iter()
        .enumerate()
        .map(|(index, &loss)| (step(index), loss))
        .collect()
}

/// One curve, the mean of all, where they have the same steps; else as many as there are.
fn mean_curves(curves: Vec<Vec<(f64, f64)>>) -> Vec<Vec<(f64, f64)>> {
    let Some(first) = curves.first() else { return curves };
    let steps = |curve: &[(f64, f64)]| curve.iter().map(|(step, _)| step.to_bits()).collect::<Vec<_>>();
    let is_same = curves.iter().all(|curve| steps(curve) == steps(first));
    if !is_same {
        return curves;
    }
    let mean = |index: usize| curves.iter().map(|curve| curve[index].1).sum::<f64>() / curves.len() as f64;
    vec![
        first
            .iter()
            .enumerate()
            .map(|(index, (step, _))| (*step, mean(index)))
            .collect(),
    ]
}

/// How each label of a table looks in all its charts, in the order of the methods.
struct Looks(Vec<(String, Look)>);

impl Looks {
    /// LoRA, DyLoRA and frozen DyLoRA look alike in every table; further lines take what is left.
    fn of(part: &Part<'_>) -> Self {
        let mut looks: Vec<(String, Look)> = Vec::new();
        let mut rows: Vec<_> = part.table.rows.iter().collect();
        rows.sort_by_key(|row| row.method);
        for row in rows {
            let name = one_line(&label(row));
            if looks.iter().any(|(known, _)| *known == name) {
                continue;
            }
            let is_free = |look: &Look| !looks.iter().any(|(_, used)| used == look);
            let wanted = match row.rank {
                RankName::Full => Some(Look::Full),
                _ => super::sheet::order(row.method).map(Look::Line),
            };
            let others = (FIRST_FREE..).map(Look::Line);
            let look = wanted.into_iter().chain(others).find(is_free);
            looks.extend(look.map(|look| (name, look)));
        }
        Looks(looks)
    }
}

/// Looks before this one belong to a method.
const FIRST_FREE: usize = 3;

fn lines(part: &Part<'_>, looks: &Looks, column: usize) -> Vec<(String, Look, Vec<Point>)> {
    let points = |name: &str| -> Vec<Point> {
        let point = |line: &Line| {
            let RankName::At(rank) = line.rank else { return None };
            let place = line.places.get(column)?;
            Some(Point {
                rank,
                mean: place.mean,
                std: place.std,
                paper: place.paper,
            })
        };
        let mut points: Vec<Point> = part
            .sheet
            .lines
            .iter()
            .filter(|line| line.label == name)
            .filter_map(point)
            .collect();
        points.sort_by_key(|point| point.rank);
        points
    };
    looks
        .0
        .iter()
        .map(|(name, look)| (name.clone(), *look, points(name)))
        .filter(|(_, _, points)| !points.is_empty())
        .collect()
}

fn full(part: &Part<'_>, column: usize) -> Option<f64> {
    let line = part.sheet.lines.iter().find(|line| line.rank == RankName::Full)?;
    line.places.get(column)?.mean
}

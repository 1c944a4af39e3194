//! The charts of a page as SVG: a metric against the rank, the loss against the step, how often each rank was drawn.
//!
//! Colours are those of Okabe and Ito ("Color Universal Design", 2008), which colour-blind readers can tell apart; every
//! line has a marker of its own as well.

use std::error::Error as StdError;
use std::ops::Range;

use plotters::coord::Shift;
use plotters::prelude::*;

use super::words::escape_xml;
use crate::error::{Error, Result};

/// Size in the chart's own units; a page shows it at about half of that, so that whole units are finer than a pixel.
const SIZE: (u32, u32) = (760, 540);
/// Size of a legend's sample.
const SAMPLE: (u32, u32) = (88, 36);
/// Size of text and of half a marker.
const TEXT: u32 = 34;
const MARKER: i32 = 8;
/// Units of the x axis per rank: whole ones, because only axes of integers take labels at chosen places.
const UNITS: i64 = 100;
/// Most labels on the axis of ranks.
const LABELS: usize = 10;
/// Ranks whose gaps differ by more than this factor stand at equal distances.
const UNEVEN: usize = 4;

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
type Drawn<T = ()> = std::result::Result<T, Box<dyn StdError>>;

/// How a line looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Look {
    /// Its number in the order of colours and markers.
    Line(usize),
    /// Fine-tuning, in the colour of text.
    Full,
}

/// Mean and deviation at a rank.
#[derive(Clone, Copy, Debug)]
pub(super) struct Point {
    pub(super) rank: usize,
    /// Mean in the units of the table; `None`, or not a number, leaves a gap in the line.
    pub(super) mean: Option<f64>,
    /// Standard deviation over several seeds.
    pub(super) std: Option<f64>,
    /// The paper's number.
    pub(super) paper: Option<f64>,
}

impl Point {
    fn ours(&self) -> Option<f64> {
        self.mean.filter(|mean| mean.is_finite())
    }

    fn theirs(&self) -> Option<f64> {
        self.paper.filter(|mean| mean.is_finite())
    }

    fn std(&self) -> Option<f64> {
        self.std.filter(|std| std.is_finite())
    }
}

/// A metric against the rank.
#[derive(Debug)]
pub(super) struct Chart {
    /// What it shows, for those who cannot see it.
    pub(super) title: String,
    /// Name of the y axis.
    pub(super) label: String,
    /// Smallest height of that axis: noise shall not look like a difference.
    pub(super) least_span: f64,
    /// Name, look and points of each line, the points in the order of the ranks.
    pub(super) lines: Vec<(String, Look, Vec<Point>)>,
    /// Mean of fine-tuning, a dashed line across.
    pub(super) full: Option<f64>,
}

impl Chart {
    /// The chart as an `svg` element; `None` where there is no number to draw.
    ///
    /// # Errors
    /// If the plotting library refuses.
    pub(super) fn svg(&self) -> Result<Option<String>> {
        let (Some(axis), Some(y)) = (RankAxis::of(self.points().map(|point| point.rank)), self.y_range()) else {
            return Ok(None);
        };
        let svg = draw(SIZE, |area| self.draw(area, &axis, y))?;
        Ok(Some(with_title(&svg, &self.alternative())))
    }

    fn points(&self) -> impl Iterator<Item = &Point> {
        self.lines.iter().flat_map(|(_, _, points)| points)
    }

    /// What holds every mean with its deviation, every number of the paper, and a little air; `None` without a number.
    fn y_range(&self) -> Option<Range<f64>> {
        let bars = self.points().filter_map(|point| {
            let (mean, std) = (point.ours()?, point.std().unwrap_or(0.0));
            Some((mean - std, mean + std))
        });
        let papers = self.points().filter_map(Point::theirs).map(|mean| (mean, mean));
        let full = self.full.filter(|mean| mean.is_finite()).map(|mean| (mean, mean));
        let (low, high) = bars
            .chain(papers)
            .chain(full)
            .reduce(|(low, high), (l, h)| (low.min(l), high.max(h)))?;
        let (middle, span) = ((low + high) / 2.0, (high - low).max(self.least_span));
        Some(middle - 0.58 * span..middle + 0.58 * span)
    }

    /// The chart in words: where each line begins and ends.
    fn alternative(&self) -> String {
        let mut parts = Vec::new();
        for (name, _, points) in &self.lines {
            let mut drawn = points.iter().filter_map(|point| Some((point.rank, point.ours()?)));
            let Some((first, from)) = drawn.next() else { continue };
            parts.push(match drawn.next_back() {
                Some((last, to)) => format!("{name} from {from:.2} at rank {first} to {to:.2} at rank {last}"),
                None => format!("{name} {from:.2} at rank {first}"),
            });
        }
        if let Some(full) = self.full.filter(|mean| mean.is_finite()) {
            parts.push(format!("fine-tuning {full:.2}"));
        }
        format!("{}: {}", self.title, parts.join("; "))
    }

    fn draw(&self, area: &Area<'_>, axis: &RankAxis, y: Range<f64>) -> Drawn {
        let (x, decimals) = (axis.range(), decimals(&y));
        let mut chart = ChartBuilder::on(area)
            .margin(12)
            .margin_right(20)
            .x_label_area_size(88)
            .y_label_area_size(124)
            .build_cartesian_2d(x.clone().with_key_points(axis.key_points()), y)?;
        let text = text();
        chart
            .configure_mesh()
            .disable_x_mesh()
            .light_line_style(TRANSPARENT)
            .bold_line_style(BLACK.mix(0.18))
            .axis_style(BLACK.mix(0.6))
            .y_labels(6)
            .x_label_formatter(&|at| axis.name(*at))
            .y_label_formatter(&|value| format!("{value:.decimals$}"))
            .label_style(text.clone())
            .axis_desc_style(text)
            .x_desc("rank")
            .y_desc(&self.label)
            .draw()?;
        if let Some(full) = self.full.filter(|mean| mean.is_finite()) {
            let across = [(x.start, full), (x.end, full)];
            chart.draw_series(DashedLineSeries::new(across, 14, 9, dashes()))?;
        }
        let asides = self.lines.len().max(3) as i64 * 5;
        for (index, (_, look, points)) in self.lines.iter().enumerate() {
            // Bars of equal ranks stand side by side.
            let aside = (2 * index as i64 - (self.lines.len() as i64 - 1)) * axis.gap / asides;
            let color = look.color();
            let theirs = |point: &Point| Some((axis.place(point.rank), point.theirs()?));
            for run in unbroken(points, theirs) {
                chart.draw_series(DashedLineSeries::new(run, 5, 8, color.stroke_width(3)))?;
            }
            let hollow = points.iter().filter_map(theirs);
            chart.draw_series(hollow.map(|at| Circle::new(at, MARKER - 2, color.stroke_width(3))))?;
            let place = |point: &Point| Some((axis.place(point.rank) + aside, point.ours()?));
            for run in unbroken(points, place) {
                chart.draw_series([PathElement::new(run, color.stroke_width(4))])?;
            }
            for point in points {
                let (Some((x, mean)), Some(std)) = (place(point), point.std()) else {
                    continue;
                };
                let style = color.stroke_width(2);
                chart.draw_series([ErrorBar::new_vertical(x, mean - std, mean, mean + std, style, 10)])?;
            }
            let places = points.iter().filter_map(place);
            match look.marker() {
                Marker::Circle => {
                    chart.draw_series(places.map(|at| Circle::new(at, MARKER, color.filled())))?;
                }
                Marker::Triangle => {
                    chart.draw_series(places.map(|at| TriangleMarker::new(at, MARKER + 3, color.filled())))?;
                }
                Marker::Square => {
                    chart.draw_series(places.map(|at| EmptyElement::at(at) + square((0, 0), color)))?;
                }
                Marker::Polygon(corners) => {
                    chart.draw_series(places.map(|at| EmptyElement::at(at) + polygon((0, 0), corners, color)))?;
                }
            }
        }
        Ok(())
    }
}

/// Steps, each with a number.
pub(super) type Curve = Vec<(f64, f64)>;

/// Numbers against the step.
#[derive(Debug)]
pub(super) struct Curves {
    /// What it shows, for those who cannot see it.
    pub(super) title: String,
    /// Name of the y axis.
    pub(super) label: String,
    /// Name, look and points (step, number) of each line.
    pub(super) lines: Vec<(String, Look, Curve)>,
}

impl Curves {
    /// The chart as an `svg` element; `None` where no line has two numbers.
    ///
    /// # Errors
    /// If the plotting library refuses.
    pub(super) fn svg(&self) -> Result<Option<String>> {
        let lines: Vec<_> = self
            .lines
            .iter()
            .map(|(name, look, points)| {
                let finite = |(x, y): &(f64, f64)| x.is_finite() && y.is_finite();
                (name, look, points.iter().copied().filter(finite).collect::<Vec<_>>())
            })
            .filter(|(_, _, points)| points.len() > 1)
            .collect();
        let all = || lines.iter().flat_map(|(_, _, points)| points);
        let Some((low, high)) = range(all().map(|(_, y)| *y)) else {
            return Ok(None);
        };
        let last = range(all().map(|(x, _)| *x)).map_or(1.0, |(_, last)| last.max(1.0));
        let air = 0.06 * (high - low).max(1e-3);
        let y = low - air..high + air;
        let decimals = decimals(&y);
        let svg = draw(SIZE, |area| {
            let mut chart = ChartBuilder::on(area)
                .margin(12)
                .margin_right(28)
                .x_label_area_size(88)
                .y_label_area_size(124)
                .build_cartesian_2d(0.0..last, y)?;
            chart
                .configure_mesh()
                .disable_x_mesh()
                .light_line_style(TRANSPARENT)
                .bold_line_style(BLACK.mix(0.18))
                .axis_style(BLACK.mix(0.6))
                .x_labels(5)
                .y_labels(6)
                .x_label_formatter(&|step| format!("{step:.0}"))
                .y_label_formatter(&|value| format!("{value:.decimals$}"))
                .label_style(text())
                .axis_desc_style(text())
                .x_desc("step")
                .y_desc(&self.label)
                .draw()?;
            for (_, look, points) in &lines {
                let style = look.color().stroke_width(3);
                chart.draw_series([PathElement::new(points.clone(), style)])?;
                // A few markers tell the lines apart where colours do not.
                let every = points.len().div_ceil(6);
                for &at in points.iter().skip(every / 2).step_by(every) {
                    let at = chart.backend_coord(&at);
                    look.marker().draw(area, at, look.color())?;
                }
            }
            Ok(())
        })?;
        let ends = lines.iter().filter_map(|(name, _, points)| {
            let ((_, from), (step, to)) = (points.first()?, points.last()?);
            Some(format!("{name} from {from:.3} to {to:.3} at step {step:.0}"))
        });
        let ends: Vec<String> = ends.collect();
        Ok(Some(with_title(&svg, &format!("{}: {}", self.title, ends.join("; ")))))
    }
}

/// How often each rank was drawn.
#[derive(Debug)]
pub(super) struct Histogram {
    /// What it shows, for those who cannot see it.
    pub(super) title: String,
    /// Its colour.
    pub(super) look: Look,
    /// Rank and count, in the order of the ranks.
    pub(super) counts: Vec<(usize, u64)>,
}

impl Histogram {
    /// The chart as an `svg` element; `None` where nothing was drawn.
    ///
    /// # Errors
    /// If the plotting library refuses.
    pub(super) fn svg(&self) -> Result<Option<String>> {
        let total: u64 = self.counts.iter().map(|(_, count)| count).sum();
        let Some(axis) = RankAxis::of(self.counts.iter().map(|(rank, _)| *rank)).filter(|_| total > 0) else {
            return Ok(None);
        };
        let shares: Vec<(usize, f64)> = self
            .counts
            .iter()
            .map(|&(rank, count)| (rank, 100.0 * count as f64 / total as f64))
            .collect();
        let (_, top) = range(shares.iter().map(|(_, share)| *share)).unwrap_or((0.0, 1.0));
        let svg = draw(SIZE, |area| {
            let x = axis.range();
            let mut chart = ChartBuilder::on(area)
                .margin(12)
                .margin_right(20)
                .x_label_area_size(88)
                .y_label_area_size(124)
                .build_cartesian_2d(x.with_key_points(axis.key_points()), 0.0..1.08 * top)?;
            chart
                .configure_mesh()
                .disable_x_mesh()
                .light_line_style(TRANSPARENT)
                .bold_line_style(BLACK.mix(0.18))
                .axis_style(BLACK.mix(0.6))
                .y_labels(6)
                .x_label_formatter(&|at| axis.name(*at))
                .y_label_formatter(&|share| format!("{share:.0}"))
                .label_style(text())
                .axis_desc_style(text())
                .x_desc("rank")
                .y_desc("steps, %")
                .draw()?;
            let half = axis.gap * 2 / 5;
            chart.draw_series(shares.iter().map(|&(rank, share)| {
                let at = axis.place(rank);
                Rectangle::new([(at - half, 0.0), (at + half, share)], self.look.color().filled())
            }))?;
            Ok(())
        })?;
        let words: Vec<String> = shares
            .iter()
            .map(|(rank, share)| format!("rank {rank} {share:.1} %"))
            .collect();
        Ok(Some(with_title(&svg, &format!("{}: {}", self.title, words.join("; ")))))
    }
}

/// Where ranks stand: at their number, or at equal distances where the numbers are far from even (1, 2, 4, .. 64).
struct RankAxis {
    ranks: Vec<usize>,
    even: bool,
    gap: i64,
}

impl RankAxis {
    /// `None` without any rank.
    fn of(ranks: impl Iterator<Item = usize>) -> Option<Self> {
        let mut ranks: Vec<usize> = ranks.collect();
        ranks.sort_unstable();
        ranks.dedup();
        let gaps = || ranks.windows(2).map(|pair| pair[1] - pair[0]);
        let least = gaps().min().unwrap_or(1);
        let even = gaps().max().unwrap_or(1) / UNEVEN >= least;
        let gap = if even { UNITS } else { units(least) };
        (!ranks.is_empty()).then_some(RankAxis { ranks, even, gap })
    }

    fn place(&self, rank: usize) -> i64 {
        match self.even {
            true => units(self.ranks.partition_point(|&each| each < rank)),
            false => units(rank),
        }
    }

    fn name(&self, at: i64) -> String {
        let number = at / UNITS;
        match self.even {
            true => usize::try_from(number)
                .ok()
                .and_then(|index| self.ranks.get(index))
                .map_or(String::new(), usize::to_string),
            false => number.to_string(),
        }
    }

    fn range(&self) -> Range<i64> {
        let end = |rank: Option<&usize>| rank.map_or(0, |&rank| self.place(rank));
        end(self.ranks.first()) - self.gap / 2..end(self.ranks.last()) + self.gap / 2
    }

    fn key_points(&self) -> Vec<i64> {
        let shown = self.ranks.iter().step_by(self.ranks.len().div_ceil(LABELS));
        shown.map(|&rank| self.place(rank)).collect()
    }
}

/// A sample of what a chart's lines look like, for the legend.
#[derive(Clone, Copy, Debug)]
pub(super) enum Sample {
    /// Numbers of the table's runs.
    Line(Look),
    /// The level of fine-tuning.
    Full,
    /// The paper's numbers.
    Paper,
}

impl Sample {
    /// The sample as an `svg` element.
    ///
    /// # Errors
    /// If the plotting library refuses.
    pub(super) fn svg(self) -> Result<String> {
        let svg = draw(SAMPLE, |area| {
            let (right, middle) = (SAMPLE.0 as i32, SAMPLE.1 as i32 / 2);
            let dashed = |dash: i32, gap: i32, style: ShapeStyle| -> Drawn {
                for start in (2..right).step_by((dash + gap) as usize) {
                    let line = [(start, middle), ((start + dash).min(right - 2), middle)];
                    area.draw(&PathElement::new(line, style))?;
                }
                Ok(())
            };
            match self {
                Sample::Full => dashed(14, 9, dashes()),
                Sample::Paper => {
                    dashed(5, 8, dashes())?;
                    Ok(area.draw(&Circle::new((right / 2, middle), MARKER - 2, dashes()))?)
                }
                Sample::Line(look) => {
                    let line = [(2, middle), (right - 2, middle)];
                    area.draw(&PathElement::new(line, look.color().stroke_width(4)))?;
                    look.marker().draw(area, (right / 2, middle), look.color())
                }
            }
        })?;
        // The name stands beside it.
        Ok(svg.replacen("<svg ", "<svg aria-hidden=\"true\" ", 1))
    }
}

/// A marker; a polygon is given by its corners, in halves of a marker's size.
#[derive(Clone, Copy)]
enum Marker {
    Circle,
    Triangle,
    Square,
    Polygon(&'static [(i32, i32)]),
}

const DIAMOND: Marker = Marker::Polygon(&[(0, -3), (2, 0), (0, 3), (-2, 0)]);
const DOWN: Marker = Marker::Polygon(&[(-2, -2), (2, -2), (0, 2)]);
const STAR: Marker = Marker::Polygon(&[(0, -3), (1, -1), (3, 0), (1, 1), (0, 3), (-1, 1), (-3, 0), (-1, -1)]);

impl Marker {
    fn draw(self, area: &Area<'_>, at: (i32, i32), color: RGBColor) -> Drawn {
        match self {
            Marker::Circle => area.draw(&Circle::new(at, MARKER, color.filled()))?,
            Marker::Triangle => area.draw(&TriangleMarker::new(at, MARKER + 3, color.filled()))?,
            Marker::Square => area.draw(&square(at, color))?,
            Marker::Polygon(corners) => area.draw(&polygon(at, corners, color))?,
        }
        Ok(())
    }
}

const COLORS: [RGBColor; 6] = [
    RGBColor(0x00, 0x72, 0xb2),
    RGBColor(0xd5, 0x5e, 0x00),
    RGBColor(0x00, 0x9e, 0x73),
    RGBColor(0xcc, 0x79, 0xa7),
    RGBColor(0xe6, 0x9f, 0x00),
    RGBColor(0x56, 0xb4, 0xe9),
];
const MARKERS: [Marker; 6] = [Marker::Circle, Marker::Triangle, Marker::Square, DIAMOND, DOWN, STAR];

impl Look {
    fn color(self) -> RGBColor {
        match self {
            Look::Line(number) => COLORS[number % COLORS.len()],
            Look::Full => BLACK,
        }
    }

    /// Beyond the first six lines colours come again, with another marker.
    fn marker(self) -> Marker {
        match self {
            Look::Line(number) => MARKERS[(number + number / COLORS.len()) % MARKERS.len()],
            Look::Full => STAR,
        }
    }
}

/// A rank's place on the x axis; what no model is wide enough for stands at the far end, where sums cannot overflow.
fn units(rank: usize) -> i64 {
    i64::try_from(rank).unwrap_or(i64::MAX).min(1 << 40) * UNITS
}

fn decimals(y: &Range<f64>) -> usize {
    match y.end - y.start {
        span if span < 0.06 => 3,
        span if span < 0.6 => 2,
        span if span < 6.0 => 1,
        _ => 0,
    }
}

/// Least and greatest of the finite values; `None` without any.
fn range(values: impl Iterator<Item = f64>) -> Option<(f64, f64)> {
    values
        .filter(|value| value.is_finite())
        .map(|value| (value, value))
        .reduce(|(low, high), (l, h)| (low.min(l), high.max(h)))
}

fn text() -> TextStyle<'static> {
    ("sans-serif", TEXT).into_font().color(&BLACK)
}

fn dashes() -> ShapeStyle {
    BLACK.stroke_width(3)
}

fn square((x, y): (i32, i32), color: RGBColor) -> Rectangle<(i32, i32)> {
    Rectangle::new([(x - MARKER, y - MARKER), (x + MARKER, y + MARKER)], color.filled())
}

fn polygon((x, y): (i32, i32), corners: &[(i32, i32)], color: RGBColor) -> Polygon<(i32, i32)> {
    let corner = |(across, down): &(i32, i32)| (x + across * MARKER / 2, y + down * MARKER / 2);
    Polygon::new(corners.iter().map(corner).collect::<Vec<_>>(), color.filled())
}

/// The places of points that follow each other without a gap.
fn unbroken(points: &[Point], place: impl Fn(&Point) -> Option<(i64, f64)>) -> Vec<Vec<(i64, f64)>> {
    let runs = points.split(|point| place(point).is_none());
    runs.filter(|run| run.len() > 1)
        .map(|run| run.iter().filter_map(&place).collect())
        .collect()
}

fn draw(size: (u32, u32), picture: impl FnOnce(&Area<'_>) -> Drawn) -> Result<String> {
    let mut svg = String::new();
    let area = SVGBackend::with_string(&mut svg, size).into_drawing_area();
    picture(&area)
        .and_then(|()| Ok(area.present()?))
        .map_err(|error| Error::Chart {
            message: error.to_string(),
        })?;
    drop(area);
    // What is black takes the colour of the page's text, which is light on a dark page.
    Ok(svg.replace("\"#000000\"", "\"currentColor\""))
}

/// The picture with words for those who cannot see it.
fn with_title(svg: &str, title: &str) -> String {
    let title = escape_xml(title);
    let named = svg.replacen("<svg ", &format!("<svg role=\"img\" aria-label=\"{title}\" "), 1);
    match named.split_once(">\n") {
        Some((open, rest)) => format!("{open}>\n<title>{title}</title>\n{rest}"),
        None => named,
    }
}

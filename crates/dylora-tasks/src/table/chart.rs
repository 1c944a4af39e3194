//! One chart of a page, a metric against the rank, as SVG.
//!
//! Colours are those of Okabe and Ito ("Color Universal Design", 2008), which colour-blind readers can tell apart; every
//! method has a marker of its own as well.

use std::error::Error as StdError;
use std::ops::Range;

use dylora_nn::Method;
use plotters::coord::Shift;
use plotters::prelude::*;

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

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
type Drawn<T = ()> = std::result::Result<T, Box<dyn StdError>>;

/// Mean and deviation at a rank.
#[derive(Clone, Copy, Debug)]
pub(super) struct Point {
    pub(super) rank: usize,
    /// Mean in percent; `None`, or not a number, leaves a gap in the line.
    pub(super) mean: Option<f64>,
    /// Standard deviation over several seeds.
    pub(super) std: Option<f64>,
}

/// What one chart shows.
#[derive(Debug)]
pub(super) struct Chart {
    /// Name of the y axis.
    pub(super) label: String,
    /// Smallest height of that axis: noise shall not look like a difference.
    pub(super) least_span: f64,
    /// One line per method, its points in the order of the ranks.
    pub(super) lines: Vec<(Method, Vec<Point>)>,
    /// Mean of fine-tuning, a dashed line across.
    pub(super) full: Option<f64>,
}

impl Chart {
    /// The chart as an `svg` element; `None` where there is no number to draw.
    ///
    /// # Errors
    /// If the plotting library refuses.
    pub(super) fn svg(&self) -> Result<Option<String>> {
        let (Some(ranks), Some(y)) = (self.ranks(), self.y_range()) else {
            return Ok(None);
        };
        draw(SIZE, |area| self.draw(area, &ranks, y)).map(Some)
    }

    /// All ranks in order; `None` without any.
    fn ranks(&self) -> Option<Vec<usize>> {
        let mut ranks: Vec<usize> = self.points().map(|point| point.rank).collect();
        ranks.sort_unstable();
        ranks.dedup();
        (!ranks.is_empty()).then_some(ranks)
    }

    fn points(&self) -> impl Iterator<Item = &Point> {
        self.lines.iter().flat_map(|(_, points)| points)
    }

    /// What holds every mean with its deviation and a little air; `None` without a number.
    fn y_range(&self) -> Option<Range<f64>> {
        let bars = self.points().filter_map(|point| {
            let mean = point.mean.filter(|mean| mean.is_finite())?;
            let std = point.std.filter(|std| std.is_finite()).unwrap_or(0.0);
            Some((mean - std, mean + std))
        });
        let full = self.full.filter(|mean| mean.is_finite()).map(|mean| (mean, mean));
        let (low, high) = bars
            .chain(full)
            .reduce(|(low, high), (l, h)| (low.min(l), high.max(h)))?;
        let (middle, span) = ((low + high) / 2.0, (high - low).max(self.least_span));
        Some(middle - 0.58 * span..middle + 0.58 * span)
    }

    fn draw(&self, area: &Area<'_>, ranks: &[usize], y: Range<f64>) -> Drawn {
        let (Some(&first), Some(&last)) = (ranks.first(), ranks.last()) else {
            return Ok(());
        };
        let gap = units(ranks.windows(2).map(|pair| pair[1] - pair[0]).min().unwrap_or(1));
        let x = units(first) - gap / 2..units(last) + gap / 2;
        let shown = ranks.iter().step_by(ranks.len().div_ceil(LABELS));
        let decimals = match y.end - y.start {
            span if span < 0.06 => 3,
            span if span < 0.6 => 2,
            span if span < 6.0 => 1,
            _ => 0,
        };
        let mut chart = ChartBuilder::on(area)
            .margin(12)
            .margin_right(20)
            .x_label_area_size(88)
            .y_label_area_size(124)
            .build_cartesian_2d(
                x.clone().with_key_points(shown.map(|&rank| units(rank)).collect()),
                y.clone(),
            )?;
        let text = ("sans-serif", TEXT).into_font().color(&BLACK);
        chart
            .configure_mesh()
            .disable_x_mesh()
            .light_line_style(TRANSPARENT)
            .bold_line_style(BLACK.mix(0.18))
            .axis_style(BLACK.mix(0.6))
            .y_labels(6)
            .x_label_formatter(&|at| (at / UNITS).to_string())
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
        for (index, (method, points)) in self.lines.iter().enumerate() {
            // Bars of equal ranks stand side by side.
            let aside = (2 * index as i64 - (self.lines.len() as i64 - 1)) * gap / 15;
            let color = color(*method);
            let place = |point: &Point| {
                let mean = point.mean.filter(|mean| mean.is_finite())?;
                Some((units(point.rank) + aside, mean))
            };
            for run in unbroken(points, place) {
                chart.draw_series([PathElement::new(run, color.stroke_width(4))])?;
            }
            for point in points {
                let (Some((x, mean)), Some(std)) = (place(point), point.std.filter(|std| std.is_finite())) else {
                    continue;
                };
                let style = color.stroke_width(2);
                chart.draw_series([ErrorBar::new_vertical(x, mean - std, mean, mean + std, style, 10)])?;
            }
            let places: Vec<(i64, f64)> = points.iter().filter_map(place).collect();
            match marker(*method) {
                Marker::Circle => {
                    chart.draw_series(places.iter().map(|&at| Circle::new(at, MARKER, color.filled())))?;
                }
                Marker::Triangle => {
                    chart.draw_series(
                        places
                            .iter()
                            .map(|&at| TriangleMarker::new(at, MARKER + 3, color.filled())),
                    )?;
                }
                Marker::Square => {
                    chart.draw_series(places.iter().map(|&at| EmptyElement::at(at) + square((0, 0), color)))?;
                }
            }
        }
        Ok(())
    }
}

/// The line and marker of a method, for the legend.
///
/// # Errors
/// If the plotting library refuses.
pub(super) fn sample(method: Method) -> Result<String> {
    draw(SAMPLE, |area| {
        let (right, middle) = (SAMPLE.0 as i32, SAMPLE.1 as i32 / 2);
        let color = color(method);
        if method == Method::Full {
            for start in (2..right).step_by(23) {
                area.draw(&PathElement::new([(start, middle), (start + 14, middle)], dashes()))?;
            }
            return Ok(());
        }
        area.draw(&PathElement::new(
            [(2, middle), (right - 2, middle)],
            color.stroke_width(4),
        ))?;
        let at = (right / 2, middle);
        match marker(method) {
            Marker::Circle => area.draw(&Circle::new(at, MARKER, color.filled()))?,
            Marker::Triangle => area.draw(&TriangleMarker::new(at, MARKER + 3, color.filled()))?,
            Marker::Square => area.draw(&square(at, color))?,
        }
        Ok(())
    })
}

/// A rank's place on the x axis; what no model is wide enough for stands at the far end, where sums cannot overflow.
fn units(rank: usize) -> i64 {
    i64::try_from(rank).unwrap_or(i64::MAX).min(1 << 40) * UNITS
}

enum Marker {
    Circle,
    Triangle,
    Square,
}

fn marker(method: Method) -> Marker {
    match method {
        Method::DyLora => Marker::Triangle,
        Method::DyLoraFrozen => Marker::Square,
        Method::Lora | Method::Full => Marker::Circle,
    }
}

fn color(method: Method) -> RGBColor {
    match method {
        Method::Lora => RGBColor(0x00, 0x72, 0xb2),
        Method::DyLora => RGBColor(0xd5, 0x5e, 0x00),
        Method::DyLoraFrozen => RGBColor(0x00, 0x9e, 0x73),
        Method::Full => BLACK,
    }
}

fn dashes() -> ShapeStyle {
    BLACK.stroke_width(3)
}

fn square((x, y): (i32, i32), color: RGBColor) -> Rectangle<(i32, i32)> {
    Rectangle::new([(x - MARKER, y - MARKER), (x + MARKER, y + MARKER)], color.filled())
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

//! SVG plots: bars with whiskers from least to greatest sample, or curves.

use plotters::prelude::*;

use super::{Section, short};
use crate::{Error, Result};

const WIDTH: u32 = 900;
const HEIGHT: u32 = 420;

/// Room to the right of what is drawn, as a part of it, for the legend.
const LEGEND_ROOM: f64 = 0.22;

/// One curve.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Curve {
    /// For the legend.
    pub name: String,
    /// `(x, y)` in order of x.
    pub points: Vec<(f64, f64)>,
}

/// Curves over a common axis; `y` has the section's unit.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Curves {
    /// Name and unit of the x axis.
    pub x_axis: String,
    /// The curves.
    pub curves: Vec<Curve>,
}

/// The plot of a section.
pub(super) fn svg(section: &Section) -> Result<String> {
    let mut out = String::new();
    {
        let area = SVGBackend::with_string(&mut out, (WIDTH, HEIGHT)).into_drawing_area();
        area.fill(&WHITE).map_err(told)?;
        match &section.curves {
            Some(curves) => draw_curves(&area, section, curves)?,
            None => draw_bars(&area, section)?,
        }
        area.present().map_err(told)?;
    }
    Ok(out)
}

type Area<'a> = DrawingArea<SVGBackend<'a>, plotters::coord::Shift>;

fn told(error: impl std::fmt::Display) -> Error {
    format!("cannot draw a plot: {error}").into()
}

fn caption(section: &Section) -> String {
    let better = if section.more_is_better { "more is better" } else { "less is better" };
    format!("{} [{}], {better}", section.title, section.unit)
}

/// A group of bars per column, a colour per row.
fn draw_bars(area: &Area<'_>, section: &Section) -> Result<()> {
    let rows = section.rows.len().max(1);
    let group = rows as f64 + 1.0;
    let columns = section.columns.len().max(1);
    let tops = section.figures().filter_map(|figure| Some(figure.summary()?.max));
    let top = tops.fold(0.0, f64::max).max(f64::MIN_POSITIVE) * 1.12;
    let mut chart = ChartBuilder::on(area)
        .caption(caption(section), ("sans-serif", 18))
        .margin(12)
        .x_label_area_size(30)
        .y_label_area_size(64)
        .build_cartesian_2d(0.0..group * columns as f64 * (1.0 + LEGEND_ROOM), 0.0..top)
        .map_err(told)?;
    chart
        .configure_mesh()
        .disable_x_mesh()
        .disable_x_axis()
        .y_desc(section.unit.as_str())
        .y_label_formatter(&|value| short(*value))
        .light_line_style(WHITE)
        .draw()
        .map_err(told)?;
    for (at, (name, cells)) in section.rows.iter().enumerate() {
        let colour = Palette99::pick(at).to_rgba();
        let summaries = cells.iter().enumerate().filter_map(|(column, figure)| {
            let left = group * column as f64 + at as f64 + 0.5;
            Some((left, figure.as_ref()?.summary()?))
        });
        let summaries: Vec<_> = summaries.collect();
        let bars = summaries.iter().map(|(left, summary)| {
            Rectangle::new([(*left, 0.0), (left + 0.9, summary.median)], colour.filled())
        });
        chart
            .draw_series(bars)
            .map_err(told)?
            .label(name.as_str())
            .legend(move |(x, y)| Rectangle::new([(x, y - 5), (x + 12, y + 5)], colour.filled()));
        let whiskers = summaries.iter().map(|(left, summary)| {
            let middle = left + 0.45;
            PathElement::new([(middle, summary.min), (middle, summary.max)], BLACK.stroke_width(1))
        });
        chart.draw_series(whiskers).map_err(told)?;
        let values = summaries.iter().map(|(left, summary)| {
            Text::new(short(summary.median), (*left, summary.max + top * 0.03), ("sans-serif", 11))
        });
        chart.draw_series(values).map_err(told)?;
    }
    for (column, name) in section.columns.iter().enumerate() {
        let at = chart.backend_coord(&(group * (column as f64 + 0.4), 0.0));
        let text = Text::new(name.as_str(), (at.0, at.1 + 10), ("sans-serif", 14));
        area.draw(&text).map_err(told)?;
    }
    legend(&mut chart)
}

fn draw_curves(area: &Area<'_>, section: &Section, curves: &Curves) -> Result<()> {
    let points = || curves.curves.iter().flat_map(|curve| &curve.points);
    let right = points().map(|point| point.0).fold(0.0, f64::max).max(f64::MIN_POSITIVE);
    let top = points().map(|point| point.1).fold(0.0, f64::max).max(f64::MIN_POSITIVE) * 1.1;
    let mut chart = ChartBuilder::on(area)
        .caption(caption(section), ("sans-serif", 18))
        .margin(12)
        .x_label_area_size(40)
        .y_label_area_size(64)
        .build_cartesian_2d(0.0..right * (1.0 + LEGEND_ROOM), 0.0..top)
        .map_err(told)?;
    chart
        .configure_mesh()
        .x_desc(curves.x_axis.as_str())
        .y_desc(section.unit.as_str())
        .y_label_formatter(&|value| short(*value))
        .light_line_style(WHITE)
        .draw()
        .map_err(told)?;
    for (at, curve) in curves.curves.iter().enumerate() {
        let colour = Palette99::pick(at).to_rgba();
        chart
            .draw_series(LineSeries::new(curve.points.iter().copied(), colour.stroke_width(2)))
            .map_err(told)?
            .label(curve.name.as_str())
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 12, y)], colour.stroke_width(2)));
    }
    legend(&mut chart)
}

type Chart<'a, 'b> = ChartContext<
    'a,
    SVGBackend<'b>,
    Cartesian2d<plotters::coord::types::RangedCoordf64, plotters::coord::types::RangedCoordf64>,
>;

fn legend<'a, 'b: 'a>(chart: &mut Chart<'a, 'b>) -> Result<()> {
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperRight)
        .background_style(WHITE.mix(0.8))
        .border_style(BLACK.mix(0.3))
        .label_font(("sans-serif", 12))
        .draw()
        .map_err(told)
}

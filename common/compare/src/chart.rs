//! The charts, as SVG.

use std::{error::Error, fs, io, ops::Range, path::Path};

use plotters::{
    coord::combinators::LogCoord,
    prelude::{
        Cartesian2d, ChartBuilder, ChartContext, Circle, Color, IntoDrawingArea, IntoLogRange,
        LineSeries, RGBColor, SVGBackend, SeriesLabelPosition, WHITE,
    },
};

use crate::{Report, Row, report::Point};

const SIZE: (u32, u32) = (760, 440);
/// One for each row. They differ also for people who cannot tell red from green.
const COLOURS: [RGBColor; 7] = [
    RGBColor(0, 0, 0),
    RGBColor(120, 120, 120),
    RGBColor(180, 180, 180),
    RGBColor(213, 94, 0),
    RGBColor(204, 121, 167),
    RGBColor(0, 114, 178),
    RGBColor(0, 158, 115),
];

/// One chart: a value over the rate of messages.
struct Chart {
    /// The file's name, without its ending.
    name: &'static str,
    title: &'static str,
    unit: &'static str,
    /// Where the lines leave room.
    legend: SeriesLabelPosition,
    value: fn(&Point) -> Option<f64>,
}

/// One row's line.
struct Line {
    name: String,
    colour: RGBColor,
    points: Vec<(f64, f64)>,
}

/// What a line is drawn into.
type Context<'a> = ChartContext<'a, SVGBackend<'a>, Cartesian2d<LogCoord<f64>, LogCoord<f64>>>;

const CHARTS: [Chart; 3] = [
    Chart {
        name: "bytes",
        title: "Bytes on the wire per message",
        unit: "bytes",
        legend: SeriesLabelPosition::UpperRight,
        value: |point| Some(point.bytes),
    },
    Chart {
        name: "cpu",
        title: "Server CPU per delivery",
        unit: "microseconds",
        legend: SeriesLabelPosition::UpperRight,
        value: |point| Some(point.cpu? * 1e6),
    },
    Chart {
        name: "latency",
        title: "Latency under load (p99, five clients)",
        unit: "milliseconds",
        legend: SeriesLabelPosition::MiddleRight,
        value: |point| Some(point.p99 * 1e3),
    },
];

/// Draws the charts that have points into a folder, and returns their names and titles.
///
/// # Errors
/// If a file cannot be written.
pub(crate) fn draw(
    report: &Report,
    folder: &Path,
) -> io::Result<Vec<(&'static str, &'static str)>> {
    fs::create_dir_all(folder)?;
    let mut drawn = Vec::new();
    for chart in CHARTS {
        let lines = chart.lines(report);
        if lines.is_empty() {
            continue;
        }
        let svg = chart
            .svg(&lines)
            .map_err(|error| io::Error::other(error.to_string()))?;
        fs::write(folder.join(chart.name).with_extension("svg"), svg)?;
        drawn.push((chart.name, chart.title));
    }
    Ok(drawn)
}

impl Chart {
    /// The rows that have points.
    fn lines(&self, report: &Report) -> Vec<Line> {
        let rows = Row::ALL.into_iter().zip(COLOURS);
        rows.map(|(row, colour)| Line {
            name: row.to_string(),
            colour,
            points: self.points(report, row),
        })
        .filter(|line| !line.points.is_empty())
        .collect()
    }

    fn points(&self, report: &Report, row: Row) -> Vec<(f64, f64)> {
        let points = report.points.iter().filter(|point| point.row == row);
        points
            .filter_map(|point| Some((point.rate, (self.value)(point)?)))
            .collect()
    }

    /// Both axes are logarithmic, so that ratios are distances.
    fn svg(&self, lines: &[Line]) -> Result<String, Box<dyn Error>> {
        let points = || lines.iter().flat_map(|line| &line.points);
        let x = around(points().map(|(x, _)| *x)).log_scale();
        let y = around(points().map(|(_, y)| *y)).log_scale();
        let mut svg = String::new();
        // The drawing borrows the text until it is dropped.
        {
            let root = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
            root.fill(&WHITE)?;
            let mut chart = ChartBuilder::on(&root)
                .caption(self.title, ("sans-serif", 20))
                .margin(12)
                .x_label_area_size(40)
                .y_label_area_size(70)
                .build_cartesian_2d(x, y)?;
            let mut mesh = chart.configure_mesh();
            mesh.x_desc("messages a second").y_desc(self.unit);
            mesh.x_label_formatter(&f64::to_string);
            mesh.y_label_formatter(&f64::to_string);
            mesh.label_style(("sans-serif", 13)).light_line_style(WHITE);
            mesh.draw()?;
            for line in lines {
                line.draw(&mut chart)?;
            }
            chart
                .configure_series_labels()
                .position(self.legend.clone())
                .background_style(WHITE.mix(0.8))
                .label_font(("sans-serif", 13))
                .draw()?;
            root.present()?;
        }
        Ok(svg)
    }
}

impl Line {
    fn draw(&self, chart: &mut Context<'_>) -> Result<(), Box<dyn Error>> {
        let colour = self.colour;
        let dots = self.points.iter();
        chart.draw_series(dots.map(|point| Circle::new(*point, 3, colour.filled())))?;
        let line = LineSeries::new(self.points.iter().copied(), colour.stroke_width(2));
        chart
            .draw_series(line)?
            .label(&self.name)
            .legend(move |at| Circle::new((at.0 + 10, at.1), 5, colour.filled()));
        Ok(())
    }
}

/// A range around the values above zero, with a little room: a logarithm needs more than zero.
fn around(values: impl Iterator<Item = f64>) -> Range<f64> {
    let (mut low, mut high) = (f64::MAX, f64::MIN_POSITIVE);
    for value in values.filter(|value| *value > 0.0) {
        (low, high) = (low.min(value), high.max(value));
    }
    low.min(high) / 1.5..high * 2.0
}

#[cfg(test)]
mod tests {
    use std::env;

    use super::*;

    fn report() -> Report {
        let point = |row, rate, bytes| Point {
            row,
            rate,
            bytes,
            cpu: None,
            p99: 0.002,
        };
        Report {
            points: vec![
                point(Row::ALL[0], 0.2, 1_500.0),
                point(Row::ALL[0], 100.0, 130.0),
                point(Row::ALL[6], 1.0, 166.0),
            ],
            ..Report::default()
        }
    }

    #[test]
    fn a_chart_is_drawn_where_there_are_points() {
        let folder = env::temp_dir().join(format!("charts-{}", std::process::id()));
        let drawn = draw(&report(), &folder).unwrap();
        let names: Vec<&str> = drawn.iter().map(|(name, _)| *name).collect();
        assert_eq!(names, ["bytes", "latency"]);
        let svg = fs::read_to_string(folder.join("bytes.svg")).unwrap();
        fs::remove_dir_all(&folder).unwrap();
        assert!(
            svg.starts_with("<svg") && svg.ends_with("</svg>\n"),
            "{svg}"
        );
        assert!(svg.contains("Short polling, 1 s") && !svg.contains("Webhooks"));
    }

    #[test]
    fn a_range_has_room_and_never_holds_zero() {
        assert_eq!(around([3.0, 0.0, 30.0].into_iter()), 2.0..60.0);
        assert!(around([].into_iter()).start > 0.0);
    }
}

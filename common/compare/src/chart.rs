//! The charts, as SVG.

use std::{error::Error, fs, io, ops::Range, path::Path};

use plotters::prelude::{
    ChartBuilder, Circle, Color, IntoDrawingArea, IntoLogRange, LineSeries, RGBColor, SVGBackend,
    SeriesLabelPosition, WHITE,
};

use crate::{Figure, Report, Row};

const SIZE: (u32, u32) = (760, 440);
/// One for each row; told apart also by those who do not see red and green.
const COLOURS: [RGBColor; 7] = [
    RGBColor(0, 0, 0),
    RGBColor(120, 120, 120),
    RGBColor(180, 180, 180),
    RGBColor(213, 94, 0),
    RGBColor(204, 121, 167),
    RGBColor(0, 114, 178),
    RGBColor(0, 158, 115),
];

/// One chart.
struct Chart {
    /// The file's name, without its ending.
    name: &'static str,
    title: &'static str,
    x: &'static str,
    y: &'static str,
    /// Where the lines leave room.
    legend: SeriesLabelPosition,
    lines: Vec<Line>,
}

/// One row's.
struct Line {
    name: String,
    colour: RGBColor,
    points: Vec<(f64, f64)>,
}

/// Draws all charts that there are points for into a folder, and gives their names and titles.
///
/// # Errors
/// If a file cannot be written.
pub(crate) fn draw(
    report: &Report,
    folder: &Path,
) -> io::Result<Vec<(&'static str, &'static str)>> {
    fs::create_dir_all(folder)?;
    let mut drawn = Vec::new();
    for chart in charts(report) {
        if chart.lines.iter().all(|line| line.points.is_empty()) {
            continue;
        }
        let path = folder.join(chart.name).with_extension("svg");
        let svg = chart
            .svg()
            .map_err(|error| io::Error::other(error.to_string()))?;
        fs::write(path, svg)?;
        drawn.push((chart.name, chart.title));
    }
    Ok(drawn)
}

fn charts(report: &Report) -> Vec<Chart> {
    let by_rate = |of: &dyn Fn(&crate::report::Point) -> Option<f64>| {
        let line = |row: &Row| {
            let points = report.points.iter().filter(|point| point.row == *row);
            points
                .filter_map(|point| Some((point.rate, of(point)?)))
                .collect()
        };
        lines(&line)
    };
    let memory = |row: &Row| {
        let sizes = [100, 1_000, 10_000].into_iter();
        let at = |clients: usize| {
            let each = report.median(*row, Figure::memory(clients, true)?)?;
            Some((clients as f64, each * clients as f64 / 1_048_576.0))
        };
        sizes.filter_map(at).collect()
    };
    vec![
        Chart {
            name: "bytes",
            title: "Bytes on the wire per message",
            x: "messages a second",
            y: "bytes",
            legend: SeriesLabelPosition::UpperRight,
            lines: by_rate(&|point| Some(point.bytes)),
        },
        Chart {
            name: "cpu",
            title: "Server CPU per delivery",
            x: "messages a second",
            y: "microseconds",
            legend: SeriesLabelPosition::UpperRight,
            lines: by_rate(&|point| Some(point.cpu? * 1e6)),
        },
        Chart {
            name: "latency",
            title: "Latency under load (p99, five clients)",
            x: "messages a second",
            y: "milliseconds",
            legend: SeriesLabelPosition::MiddleRight,
            lines: by_rate(&|point| Some(point.p99 * 1e3)),
        },
        Chart {
            name: "memory",
            title: "Server memory for clients that wait",
            x: "clients",
            y: "MiB",
            legend: SeriesLabelPosition::UpperLeft,
            lines: lines(&memory),
        },
    ]
}

fn lines(points: &dyn Fn(&Row) -> Vec<(f64, f64)>) -> Vec<Line> {
    let rows = Row::ALL.iter().zip(COLOURS);
    let line = |(row, colour): (&Row, RGBColor)| Line {
        name: row.to_string(),
        colour,
        points: points(row),
    };
    rows.map(line).collect()
}

impl Chart {
    /// Both axes are logarithmic, so that ratios are distances.
    fn svg(&self) -> Result<String, Box<dyn Error + '_>> {
        let all = || self.lines.iter().flat_map(|line| &line.points);
        let x = around(all().map(|(x, _)| *x));
        let y = around(all().map(|(_, y)| *y));
        let mut svg = String::new();
        let root = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
        root.fill(&WHITE)?;
        let mut chart = ChartBuilder::on(&root)
            .caption(self.title, ("sans-serif", 20))
            .margin(12)
            .x_label_area_size(40)
            .y_label_area_size(70)
            .build_cartesian_2d(x.log_scale(), y.log_scale())?;
        chart
            .configure_mesh()
            .x_desc(self.x)
            .y_desc(self.y)
            .x_label_formatter(&f64::to_string)
            .y_label_formatter(&f64::to_string)
            .label_style(("sans-serif", 13))
            .light_line_style(WHITE)
            .draw()?;
        for Line {
            name,
            colour,
            points,
        } in &self.lines
        {
            if points.is_empty() {
                continue;
            }
            let dot = |point: &(f64, f64)| Circle::new(*point, 3, colour.filled());
            chart.draw_series(points.iter().map(dot))?;
            let line = LineSeries::new(points.iter().copied(), colour.stroke_width(2));
            let colour = *colour;
            chart
                .draw_series(line)?
                .label(name)
                .legend(move |at| Circle::new((at.0 + 10, at.1), 5, colour.filled()));
        }
        chart
            .configure_series_labels()
            .position(self.legend.clone())
            .background_style(WHITE.mix(0.8))
            .label_font(("sans-serif", 13))
            .draw()?;
        root.present()?;
        drop(chart);
        drop(root);
        Ok(svg)
    }
}

/// A range with a little room, in which a logarithm is at home.
fn around(values: impl Iterator<Item = f64>) -> Range<f64> {
    let (mut low, mut high) = (f64::MAX, f64::MIN_POSITIVE);
    for value in values.filter(|value| *value > 0.0) {
        (low, high) = (low.min(value), high.max(value));
    }
    low.min(high) / 1.5..high * 2.0
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, env};

    use super::*;
    use crate::{Spread, report::Point};

    fn report() -> Report {
        let point = |row, rate, bytes| Point {
            row,
            rate,
            bytes,
            cpu: None,
            p50: 0.001,
            p99: 0.002,
        };
        let key = (Row::ALL[6], Figure::Memory100);
        Report {
            machine: "one".to_owned(),
            commit: "none".to_owned(),
            runs: 1,
            quick: true,
            gap: 5.0,
            clients: 20,
            crowd: 10,
            figures: BTreeMap::from([(key, Spread::of(&[1_638.0]))]),
            points: vec![
                point(Row::ALL[0], 0.2, 1_500.0),
                point(Row::ALL[0], 100.0, 130.0),
                point(Row::ALL[6], 1.0, 166.0),
            ],
        }
    }

    #[test]
    fn a_chart_is_drawn_where_there_are_points() {
        let folder = env::temp_dir().join(format!("charts-{}", std::process::id()));
        let drawn = draw(&report(), &folder).unwrap();
        let names: Vec<&str> = drawn.iter().map(|(name, _)| *name).collect();
        assert_eq!(names, ["bytes", "latency", "memory"]);
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

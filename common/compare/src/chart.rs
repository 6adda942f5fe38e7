//! The charts, as SVG.

use std::{error::Error, fs, io, ops::Range, path::Path};

use plotters::prelude::{
    ChartBuilder, Circle, Color, IntoDrawingArea, IntoLogRange, LineSeries, RGBColor, SVGBackend,
    SeriesLabelPosition, WHITE,
};

use crate::{Figure, Report, Row, measure::GAP, report::Unit, table::value};

const SIZE: (u32, u32) = (760, 440);
/// One for each row. People who cannot tell red from green can tell them apart.
const COLOURS: [RGBColor; 7] = [
    RGBColor(0, 0, 0),
    RGBColor(120, 120, 120),
    RGBColor(180, 180, 180),
    RGBColor(213, 94, 0),
    RGBColor(204, 121, 167),
    RGBColor(0, 114, 178),
    RGBColor(0, 158, 115),
];

/// The file's name without its ending, the title, and what is drawn over the rate of messages.
const CHARTS: [(&str, &str, Figure, Unit); 3] = [
    (
        "bytes",
        "Bytes on the wire per message",
        Figure::Bytes,
        Unit::Bytes,
    ),
    ("cpu", "Server CPU per delivery", Figure::Cpu, Unit::Time),
    (
        "latency",
        "Latency under load (p99, five clients)",
        Figure::Tail,
        Unit::Time,
    ),
];

/// One row's line: points of rate and value.
type Line = Vec<(f64, f64)>;

/// Draws the charts that have points into a folder.
///
/// # Errors
/// If a file cannot be written.
pub(crate) fn draw(report: &Report, folder: &Path) -> io::Result<()> {
    fs::create_dir_all(folder)?;
    for (name, title, figure, unit) in CHARTS {
        let lines = Row::ALL.map(|row| line(report, figure, row));
        if lines.concat().is_empty() {
            continue;
        }
        let svg = svg(title, unit, &lines).map_err(|error| io::Error::other(error.to_string()))?;
        fs::write(folder.join(name).with_extension("svg"), svg)?;
    }
    Ok(())
}

fn line(report: &Report, figure: Figure, row: Row) -> Line {
    let keys = (figure, row, 0)..=(figure, row, u32::MAX);
    let points = report.figures.range(keys);
    let point = points.map(|((_, _, rate), spread)| match rate {
        0 => (1.0 / GAP.as_secs_f64(), spread.median),
        rate => (f64::from(*rate), spread.median),
    });
    point.collect()
}

/// Both axes are logarithmic, so that ratios are distances.
fn svg(title: &str, unit: Unit, lines: &[Line]) -> Result<String, Box<dyn Error>> {
    let points = lines.concat();
    let x = around(points.iter().map(|(x, _)| *x)).log_scale();
    let y = around(points.iter().map(|(_, y)| *y)).log_scale();
    let mut svg = String::new();
    let root = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
    root.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&root)
        .caption(title, ("sans-serif", 20))
        .margin(12)
        .x_label_area_size(40)
        .y_label_area_size(70)
        .build_cartesian_2d(x, y)?;
    chart
        .configure_mesh()
        .x_desc("messages a second")
        .x_label_formatter(&f64::to_string)
        .y_label_formatter(&|y| value(*y, unit))
        .label_style(("sans-serif", 13))
        .light_line_style(WHITE)
        .draw()?;
    let rows = Row::ALL.into_iter().zip(COLOURS).zip(lines);
    for ((row, colour), points) in rows.filter(|(_, points)| !points.is_empty()) {
        let dots = points.iter().map(|at| Circle::new(*at, 3, colour.filled()));
        chart.draw_series(dots)?;
        let line = LineSeries::new(points.iter().copied(), colour.stroke_width(2));
        chart
            .draw_series(line)?
            .label(row.to_string())
            .legend(move |at| Circle::new((at.0 + 10, at.1), 5, colour.filled()));
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperRight)
        .background_style(WHITE.mix(0.8))
        .label_font(("sans-serif", 13))
        .draw()?;
    root.present()?;
    // Both borrow the text until they are dropped.
    drop((chart, root));
    Ok(svg)
}

/// A range around the values, with a little room. Without zero, which has no logarithm.
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
    use crate::Spread;

    fn report() -> Report {
        let point =
            |figure, row: usize, rate, value| ((figure, Row::ALL[row], rate), Spread::of(&[value]));
        Report {
            figures: [
                point(Figure::Bytes, 0, 0, 1_500.0),
                point(Figure::Bytes, 0, 100, 130.0),
                point(Figure::Tail, 0, 0, 0.002),
                point(Figure::Bytes, 6, 1, 166.0),
            ]
            .into(),
            ..Report::default()
        }
    }

    #[test]
    fn a_chart_is_drawn_where_there_are_points() {
        let folder = env::temp_dir().join(format!("charts-{}", std::process::id()));
        draw(&report(), &folder).unwrap();
        let drawn = CHARTS.map(|(name, ..)| folder.join(name).with_extension("svg").exists());
        assert_eq!(drawn, [true, false, true]);
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

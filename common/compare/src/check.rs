//! Compares the table of a README with new figures. Machines differ, so it compares ratios: each
//! row's figure divided by that of the first row.

use std::io;

use crate::{Figure, Report, Row, Technique, readme, report::Unit};

/// How many times larger or smaller a ratio may be.
pub const TOLERANCE: f64 = 2.0;

/// One cell of the table: in the README, and as measured now.
struct Pair {
    row: Row,
    said: f64,
    now: f64,
}

/// What does not hold: a line for each ratio that is more than [`TOLERANCE`] times off.
///
/// # Errors
/// If the README has no table, or the table lacks a figure.
pub fn differences(text: &str, report: &Report) -> io::Result<Vec<String>> {
    let table = readme::between(text, readme::TABLE)?;
    let mut wrong = Vec::new();
    for figure in Figure::all() {
        wrong.extend(compared(figure, cells(table, figure)?, report));
    }
    Ok(wrong)
}

/// The latency of short polling follows the clock, and has no ratio to that of a machine.
fn compared(figure: Figure, said: [Option<f64>; Row::ALL.len()], report: &Report) -> Vec<String> {
    let pairs = Row::ALL.into_iter().zip(said).filter_map(|(row, said)| {
        let (said, now) = (said?, report.get(row, figure)?.median);
        (said > 0.0 && now > 0.0).then_some(Pair { row, said, now })
    });
    let by_clock = |row: Row| figure == Figure::Latency && row.technique == Technique::ShortPolling;
    off(
        figure,
        &pairs.filter(|pair| !by_clock(pair.row)).collect::<Vec<_>>(),
    )
}

fn off(figure: Figure, pairs: &[Pair]) -> Vec<String> {
    let Some(base) = pairs.first() else {
        return Vec::new();
    };
    let lines = pairs.iter().filter_map(|pair| {
        let (said, now) = (pair.said / base.said, pair.now / base.now);
        let (label, row, base) = (figure.label(), pair.row, base.row);
        let line =
            format!("{label}: {row} over {base} is {said:.3} in the README and {now:.3} now");
        ((said / now).max(now / said) > TOLERANCE).then_some(line)
    });
    lines.collect()
}

/// The cells of a figure's line. A cell without a number is `None`.
fn cells(table: &str, figure: Figure) -> io::Result<[Option<f64>; Row::ALL.len()]> {
    let label = format!("| {} |", figure.label());
    let missing = || io::Error::other(format!("the README has no line {label:?}"));
    let mut lines = table.lines();
    let line = lines.find_map(|line| line.strip_prefix(&label));
    let mut cells = line.ok_or_else(missing)?.split('|');
    Ok(std::array::from_fn(|_| {
        number(cells.next()?, figure.unit())
    }))
}

/// The number in a cell, in the unit of a report.
fn number(cell: &str, unit: Unit) -> Option<f64> {
    let mut words = cell.split_whitespace();
    let number: f64 = words.next()?.parse().ok()?;
    let factor = match (unit, words.next()) {
        (Unit::Time, Some("µs")) => 1e-6,
        (Unit::Time, Some("ms")) => 1e-3,
        (Unit::Bytes, Some("KiB")) => 1_024.0,
        (Unit::Percent, _) => 0.01,
        _ => 1.0,
    };
    Some(number * factor)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Spread, markdown, report::Measurement};

    /// A report in which everything is 0.5, except one figure of the last row.
    fn report(changed: Figure, value: f64) -> Report {
        let mut report = Report::default();
        for row in Row::ALL {
            for figure in Figure::all() {
                let value = match row == Row::ALL[6] && figure == changed {
                    true => value,
                    false => 0.5,
                };
                let spread = Spread::of(&[value]);
                report.figures.push(Measurement {
                    row,
                    figure,
                    spread,
                });
            }
        }
        report
    }

    fn readme(report: &Report) -> String {
        format!("<!-- compare -->\n{}<!-- /compare -->\n", markdown(report))
    }

    #[test]
    fn a_table_is_read_as_it_was_written() {
        let report = report(Figure::Bytes, 20_480.0);
        assert_eq!(
            cells(&markdown(&report), Figure::Bytes).unwrap(),
            [0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 20_480.0].map(Some)
        );
        assert_eq!(number(" 0.25 ms ±20 % ", Unit::Time), Some(0.000_25));
        assert_eq!(number(" 99 % ", Unit::Percent), Some(0.99));
        assert_eq!(number(" – ", Unit::Time), None);
        assert_eq!(number(" varies ", Unit::Time), None);
    }

    #[test]
    fn a_ratio_may_be_twice_the_other_and_no_more() {
        let readme = readme(&report(Figure::Latency, 0.5));
        let off = |value| differences(&readme, &report(Figure::Latency, value)).unwrap();
        assert_eq!(off(0.99), Vec::<String>::new());
        assert_eq!(off(0.26), Vec::<String>::new());
        assert_eq!(
            off(1.01),
            [
                "publish → receive, median: SSE over Long polling is 1.000 in the README and 2.020 now"
            ]
        );
        assert_eq!(off(0.24).len(), 1);
    }

    #[test]
    fn what_varies_is_not_compared() {
        let mut varying = report(Figure::Cpu, 0.5);
        let figures = varying.figures.iter_mut();
        figures
            .filter(|one| one.row == Row::ALL[6])
            .for_each(|one| one.spread = Spread::of(&[0.1, 0.5, 1.0]));
        let off = differences(&readme(&varying), &report(Figure::Cpu, 50.0));
        assert!(off.unwrap().is_empty());
    }

    #[test]
    fn a_readme_without_a_table_is_an_error() {
        let report = report(Figure::Bytes, 1.0);
        assert!(differences("nothing", &report).is_err());
        assert!(differences("<!-- compare -->\n<!-- /compare -->", &report).is_err());
    }
}

//! Holds the figures of a README against new ones. Machines differ, so what is compared are the
//! ratios: each technique's figure over that of another.

use std::io;

use crate::{Figure, Report, Row, Technique, readme, report::Unit};

/// A ratio may be so many times the other one.
pub const TOLERANCE: f64 = 2.0;

/// A figure of a README, or of a run.
type Cells = Vec<(Figure, [Option<f64>; Row::ALL.len()])>;

/// What does not hold, if anything: a line for each ratio that is more than [`TOLERANCE`] times off.
///
/// # Errors
/// If the README has no table, or one that has not all the figures.
pub fn differences(text: &str, report: &Report) -> io::Result<Vec<String>> {
    let said = parse(readme::between(text, readme::ALL)?)?;
    let mut wrong = Vec::new();
    for (figure, said) in said {
        if !figure.repeats() {
            continue;
        }
        let came = Row::ALL.map(|row| report.median(row, figure));
        wrong.extend(compared(figure, &said, &came));
    }
    Ok(wrong)
}

/// Each row over the first one that both have. The latency of short polling is by the clock, that of
/// all others by the machine: those two are not compared.
fn compared(figure: Figure, said: &[Option<f64>], came: &[Option<f64>]) -> Vec<String> {
    let by_the_clock =
        |row: Row| figure == Figure::LatencyP50 && row.technique == Technique::ShortPolling;
    let both = Row::ALL.into_iter().zip(said.iter().zip(came));
    let both: Vec<Both> = both.filter_map(Both::of).collect();
    let (clock, machine): (Vec<Both>, Vec<Both>) =
        both.into_iter().partition(|both| by_the_clock(both.row));
    [off(figure, &clock), off(figure, &machine)].concat()
}

/// A figure that is in the README and was measured.
struct Both {
    row: Row,
    said: f64,
    came: f64,
}

impl Both {
    fn of((row, (said, came)): (Row, (&Option<f64>, &Option<f64>))) -> Option<Self> {
        let (said, came) = ((*said)?, (*came)?);
        (said > 0.0 && came > 0.0).then_some(Self { row, said, came })
    }
}

fn off(figure: Figure, all: &[Both]) -> Vec<String> {
    let Some(base) = all.first() else {
        return Vec::new();
    };
    let ratios = all.iter().map(|both| {
        let (said, came) = (both.said / base.said, both.came / base.came);
        (both.row, said, came)
    });
    let off = ratios.filter(|(_, said, came)| (said / came).max(came / said) > TOLERANCE);
    off.map(|(row, said, came)| {
        let (label, base) = (figure.label(), base.row);
        format!("{label}: {row} over {base} is {said:.3} in the README and {came:.3} now")
    })
    .collect()
}

/// Reads the table of figures.
fn parse(markdown: &str) -> io::Result<Cells> {
    let mut cells = Cells::new();
    for figure in Figure::ALL {
        let starts = |line: &&str| {
            let label = line
                .strip_prefix("| ")
                .and_then(|rest| rest.split(" |").next());
            label.is_some_and(|label| names(figure, label))
        };
        let line = markdown.lines().find(starts);
        let missing = || io::Error::other(format!("the README has no {:?}", figure.label()));
        let line = line.ok_or_else(missing)?;
        let mut values = line
            .split('|')
            .skip(2)
            .map(|cell| number(cell, figure.unit()));
        cells.push((figure, std::array::from_fn(|_| values.next().flatten())));
    }
    Ok(cells)
}

/// The label of a restart begins with how many there were.
fn names(figure: Figure, label: &str) -> bool {
    match figure {
        Figure::Restart => label.ends_with("clients are back after"),
        _ => label == figure.label(),
    }
}

/// The number in a cell, in the unit of a report; `None` where there is none.
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
    use crate::{
        Spread, markdown,
        report::{Figures, Point},
    };

    /// A report in which everything is `number`, but for one figure.
    fn report(figure: Figure, value: f64) -> Report {
        let mut figures = Figures::new();
        for row in Row::ALL {
            for figure in Figure::ALL {
                figures.insert((row, figure), Spread::of(&[0.5]));
            }
        }
        figures.insert((Row::ALL[6], figure), Spread::of(&[value]));
        Report {
            machine: "one".to_owned(),
            commit: "none".to_owned(),
            runs: 1,
            quick: true,
            gap: 5.0,
            clients: 20,
            crowd: 1_000,
            figures,
            points: Vec::<Point>::new(),
        }
    }

    fn readme(report: &Report) -> String {
        format!("<!-- compare -->\n{}<!-- /compare -->\n", markdown(report))
    }

    #[test]
    fn a_table_is_read_as_it_was_written() {
        let report = report(Figure::Bytes, 20_480.0);
        assert_eq!(
            parse(&markdown(&report)).unwrap()[6],
            (
                Figure::Bytes,
                [0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 20_480.0].map(Some)
            )
        );
        assert_eq!(number(" 0.25 ms ±20 % ", Unit::Time), Some(0.000_25));
        assert_eq!(number(" 99 % ", Unit::Percent), Some(0.99));
        assert_eq!(number(" – ", Unit::Time), None);
    }

    #[test]
    fn a_ratio_may_be_twice_the_other_and_no_more() {
        let readme = readme(&report(Figure::LatencyP50, 0.5));
        let off = |value| differences(&readme, &report(Figure::LatencyP50, value)).unwrap();
        assert_eq!(off(0.99), Vec::<String>::new());
        assert_eq!(off(0.26), Vec::<String>::new());
        assert_eq!(
            off(1.01),
            ["publish → receive, p50: SSE over Long polling is 1.000 in the README and 2.020 now"]
        );
        assert_eq!(off(0.24).len(), 1);
    }

    #[test]
    fn what_does_not_repeat_is_not_compared() {
        let readme = readme(&report(Figure::LatencyP99, 0.5));
        let off = differences(&readme, &report(Figure::LatencyP99, 50.0));
        assert!(off.unwrap().is_empty());
    }

    #[test]
    fn a_readme_without_a_table_is_an_error() {
        let report = report(Figure::Bytes, 1.0);
        assert!(differences("nothing", &report).is_err());
        assert!(differences("<!-- compare -->\n<!-- /compare -->", &report).is_err());
    }
}

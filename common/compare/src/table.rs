//! The report as two tables in Markdown: the figures by which one chooses, and the rest.

use crate::{Figure, Report, Row, Spread, report::Unit};

/// Words of the usual comparison. Each holds up to this multiple of the least value of all rows.
type Scale = &'static [(&'static str, f64)];

/// The figures for which the usual comparison has words, in the order of `Technique::said`.
const SAID: [(&str, Figure, Scale); 2] = [
    (
        "latency, as usually said",
        Figure::Latency,
        &[
            ("minimal", 1.5),
            ("low", 5.0),
            ("medium", 50.0),
            ("high", f64::INFINITY),
        ],
    ),
    (
        "complexity, as usually said",
        Figure::Lines,
        &[("low", 1.25), ("medium", 2.0), ("high", f64::INFINITY)],
    ),
];

/// Both tables, and where they were measured.
pub fn markdown(report: &Report) -> String {
    format!("{}\n{}", choice(report), rest(report))
}

/// A line for each row of the comparison, with the figures by which one chooses.
pub(crate) fn choice(report: &Report) -> String {
    let mut table = line(
        "technique",
        Figure::CHOICE.map(|(_, label, _)| Some(label.to_owned())),
    ) + &line(":---", Figure::CHOICE.map(|_| Some("---:".to_owned())));
    for row in Row::ALL {
        let cells = Figure::CHOICE.map(|(figure, _, unit)| cell(report, row, figure, unit));
        table += &line(&row.to_string(), cells);
    }
    table
}

/// A line for each other figure, with a column for each row of the comparison, and where it was measured.
pub(crate) fn rest(report: &Report) -> String {
    let mut table = line("figure", Row::ALL.map(|row| Some(row.to_string())))
        + &line(":---", Row::ALL.map(|_| Some("---:".to_owned())));
    for (index, (label, figure, scale)) in SAID.into_iter().enumerate() {
        let judged =
            Row::ALL.map(|row| judged(report, row, row.technique.said()?[index], figure, scale));
        table += &line(label, judged);
    }
    for (figure, label, unit) in Figure::REST {
        table += &line(label, Row::ALL.map(|row| cell(report, row, figure, unit)));
    }
    format!("{table}\n{}\n", report.origin)
}

fn cell(report: &Report, row: Row, figure: Figure, unit: Unit) -> Option<String> {
    Some(shown(report.get(row, figure)?, unit))
}

fn line<const N: usize>(label: &str, cells: [Option<String>; N]) -> String {
    let cells = cells.map(|cell| cell.unwrap_or_else(|| "–".to_owned()));
    format!("| {label} | {} |\n", cells.join(" | "))
}

/// A word and whether every run confirms it.
fn judged(report: &Report, row: Row, word: &str, figure: Figure, scale: Scale) -> Option<String> {
    let here = report.get(row, figure)?;
    let all = Row::ALL
        .into_iter()
        .filter_map(|row| report.get(row, figure));
    let least = all.map(|spread| spread.median).min_by(f64::total_cmp)?;
    let confirmed = [here.low, here.high]
        .iter()
        .all(|value| word_for(value / least, scale) == word);
    let not = if confirmed { "" } else { "not " };
    Some(format!("{word}: {not}confirmed"))
}

/// The word for this multiple of the least value.
fn word_for(times: f64, scale: Scale) -> &'static str {
    let found = scale.iter().find(|(_, most)| times <= *most);
    found.map_or("", |(word, _)| *word)
}

/// The median, and how far the runs were apart if that is over 5 %. A value whose spread is larger than
/// itself is not shown.
fn shown(spread: Spread, unit: Unit) -> String {
    let median = value(spread.median, unit);
    if spread.high - spread.low > spread.median {
        return "varies".to_owned();
    }
    let apart = (spread.high - spread.median).max(spread.median - spread.low);
    match 100.0 * apart / spread.median {
        percent @ 5.0.. => format!("{median} ±{percent:.0} %"),
        _ => median,
    }
}

/// In at most three digits: more would be noise.
pub(crate) fn value(value: f64, unit: Unit) -> String {
    match unit {
        Unit::Time => time(value),
        Unit::Percent => format!("{:.0} %", 100.0 * value),
        Unit::Bytes if value < 1_024.0 => format!("{value:.0} B"),
        Unit::Bytes if value < 10.0 * 1_024.0 => format!("{:.2} KiB", value / 1_024.0),
        Unit::Bytes => format!("{:.1} KiB", value / 1_024.0),
        Unit::Number if value >= 100.0 => format!("{value:.0}"),
        Unit::Number => format!("{value:.2}"),
    }
}

fn time(seconds: f64) -> String {
    let (value, unit) = match seconds {
        ..0.000_1 => (seconds * 1e6, "µs"),
        ..1.0 => (seconds * 1e3, "ms"),
        _ => (seconds, "s"),
    };
    match value {
        ..10.0 => format!("{value:.2} {unit}"),
        ..100.0 => format!("{value:.1} {unit}"),
        _ => format!("{value:.0} {unit}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_shown_with_two_or_three_figures() {
        for (number, unit, expected) in [
            (0.000_25, Unit::Time, "0.25 ms"),
            (0.000_042, Unit::Time, "42.0 µs"),
            (2.5, Unit::Time, "2.50 s"),
            (0.8, Unit::Percent, "80 %"),
            (465.0, Unit::Bytes, "465 B"),
            (2_048.0, Unit::Bytes, "2.00 KiB"),
            (11_571.0, Unit::Bytes, "11.3 KiB"),
            (1.0, Unit::Number, "1.00"),
            (1_234.0, Unit::Number, "1234"),
        ] {
            assert_eq!(value(number, unit), expected);
        }
    }

    #[test]
    fn a_spread_is_shown_where_it_is_worth_a_word() {
        let shown = |values: &[f64]| shown(Spread::of(values), Unit::Number);
        assert_eq!(shown(&[1.0, 1.01]), "1.00");
        assert_eq!(shown(&[0.8, 1.0, 1.1]), "1.00 ±20 %");
        assert_eq!(shown(&[0.0, 0.0]), "0.00");
    }

    #[test]
    fn a_figure_with_a_spread_larger_than_itself_is_not_shown() {
        let shown = |values: &[f64]| shown(Spread::of(values), Unit::Number);
        assert_eq!(shown(&[0.5, 1.0, 1.6]), "varies");
        assert_eq!(shown(&[0.0, 0.0, 0.1]), "varies");
    }

    #[test]
    fn a_word_is_confirmed_by_every_run_or_it_is_not() {
        let measured = |row, values: &[f64]| ((Figure::Latency, row, 0), Spread::of(values));
        let [slow, .., websockets, sse] = Row::ALL;
        let figures = [
            measured(sse, &[1.0]),
            measured(websockets, &[1.4, 1.6]),
            measured(slow, &[60.0, 70.0]),
        ];
        let report = Report {
            figures: figures.into(),
            ..Report::default()
        };
        let word = |row, word| judged(&report, row, word, Figure::Latency, SAID[0].2).unwrap();
        assert_eq!(word(slow, "high"), "high: confirmed");
        assert_eq!(word(websockets, "minimal"), "minimal: not confirmed");
        assert_eq!(word(websockets, "low"), "low: not confirmed");
        assert_eq!(sse.technique.said(), None);
        assert!(markdown(&report).contains("| minimal: not confirmed | – |\n"));
    }
}

//! The report as one table in Markdown.

use crate::{Figure, Report, Row, Spread, report::Unit};

/// A word of the usual comparison, and how many times the least of all rows it may be.
type Scale = &'static [(&'static str, f64)];

const LATENCY: Scale = &[
    ("minimal", 1.5),
    ("low", 5.0),
    ("medium", 50.0),
    ("high", f64::INFINITY),
];
const COMPLEXITY: Scale = &[("low", 1.25), ("medium", 2.0), ("high", f64::INFINITY)];

/// What the machine was, and a line for each figure with a column for each row of the comparison.
pub fn markdown(report: &Report) -> String {
    let latency = Row::ALL.map(|row| {
        let word = row.technique.said().map(|(latency, _)| latency);
        judged(report, row, word, Figure::Latency, LATENCY)
    });
    let complexity = Row::ALL.map(|row| {
        let word = row.technique.said().map(|(_, complexity)| complexity);
        judged(report, row, word, Figure::Lines, COMPLEXITY)
    });
    let mut table = line("figure", Row::ALL.map(|row| row.to_string()))
        + &line(":---", Row::ALL.map(|_| "---:".to_owned()))
        + &line("latency, as usually said", latency)
        + &line("complexity, as usually said", complexity);
    for figure in Figure::all() {
        table += &line(
            figure.label(),
            Row::ALL.map(|row| cell(report, row, figure)),
        );
    }
    table + "\n" + &origin(report)
}

/// The figures that matter most, of each technique as it is mostly used. Without `±`, for the first
/// screen of a README.
pub(crate) fn few(report: &Report) -> String {
    let figures = [Figure::Latency, Figure::Bytes, Figure::Cpu, Figure::Memory];
    let mut table = "\
| | publish → receive | bytes per message | server CPU per delivery | server memory per client |
| :--- | ---: | ---: | ---: | ---: |
"
    .to_owned();
    let [_, polled, _, others @ ..] = Row::ALL;
    for row in [polled].into_iter().chain(others) {
        table += &line(
            &row.to_string(),
            figures.map(|figure| median(report, row, figure)),
        );
    }
    table
}

fn line<const N: usize>(label: &str, cells: [String; N]) -> String {
    format!("| {label} | {} |\n", cells.join(" | "))
}

/// A word and whether every run confirms it.
fn judged(report: &Report, row: Row, word: Option<&str>, figure: Figure, scale: Scale) -> String {
    let all = Row::ALL
        .into_iter()
        .filter_map(|row| report.get(row, figure));
    let least = all.map(|spread| spread.median).min_by(f64::total_cmp);
    let (Some(word), Some(least), Some(here)) = (word, least, report.get(row, figure)) else {
        return "–".to_owned();
    };
    match [here.low, here.high]
        .iter()
        .all(|value| word_for(value / least, scale) == word)
    {
        true => format!("{word}: confirmed"),
        false => format!("{word}: not confirmed"),
    }
}

/// The word whose range has this many times the least.
fn word_for(times: f64, scale: Scale) -> &'static str {
    let found = scale.iter().find(|(_, most)| times <= *most);
    found.map_or("", |(word, _)| *word)
}

fn cell(report: &Report, row: Row, figure: Figure) -> String {
    let spread = report.get(row, figure);
    spread.map_or("–".to_owned(), |spread| shown(spread, figure.unit()))
}

fn median(report: &Report, row: Row, figure: Figure) -> String {
    let spread = report.get(row, figure);
    spread.map_or("–".to_owned(), |spread| {
        value(spread.median, figure.unit())
    })
}

/// The median, and how far the runs were apart if that is over 5 %. A value that varies by more than
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

fn origin(report: &Report) -> String {
    let Report {
        machine,
        commit,
        clients,
        gap,
        crowd,
        ..
    } = report;
    let runs = match report.runs {
        1 => "one short run".to_owned(),
        runs => format!("medians of {runs} runs, with ± where they differ by more than 5 %"),
    };
    format!(
        "Measured on {machine}, commit {commit}: {runs}. {clients} clients and a message every {gap} s; \
         memory with {crowd} clients. *varies*: by more than the value itself.\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::Measurement;

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
        let measured = |row, values: &[f64]| Measurement {
            row,
            figure: Figure::Latency,
            spread: Spread::of(values),
        };
        let [slow, .., websockets, sse] = Row::ALL;
        let figures = vec![
            measured(sse, &[1.0]),
            measured(websockets, &[1.4, 1.6]),
            measured(slow, &[60.0, 70.0]),
        ];
        let report = Report {
            figures,
            ..Report::default()
        };
        let word = |row, word| judged(&report, row, Some(word), Figure::Latency, LATENCY);
        assert_eq!(word(slow, "high"), "high: confirmed");
        assert_eq!(word(websockets, "minimal"), "minimal: not confirmed");
        assert_eq!(word(websockets, "low"), "low: not confirmed");
        assert_eq!(judged(&report, sse, None, Figure::Latency, LATENCY), "–");
    }
}

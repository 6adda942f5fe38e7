//! The report in Markdown: the usual table with a verdict on each of its words, all figures, how to
//! read them, and which one to take.

use crate::{
    Figure, Report, Row, Spread, Technique,
    report::Unit,
    technique::{Verdict, complexity, latency},
};

/// All of it.
pub fn markdown(report: &Report) -> String {
    let parts = [
        verdicts(report),
        figures(report),
        notes(report),
        which(report),
    ];
    parts.join("\n")
}

/// The source text's own table, measured.
fn verdicts(report: &Report) -> String {
    let mut table = "\
| technique | direction | latency: said | measured, p50 | | complexity: said | measured, lines | |
| :--- | :--- | :---: | ---: | :--- | :---: | ---: | :--- |
"
    .to_owned();
    for row in Row::ALL {
        let rating = row.technique.rating();
        let verdict = |said: Option<&'static str>,
                       measured: Option<f64>,
                       class: fn(f64) -> &'static str,
                       figure| {
            let best = best(report, figure);
            match (said, measured.zip(best)) {
                (Some(said), Some((measured, best))) => {
                    Verdict::of(said, class(measured / best)).to_string()
                }
                (None, _) => "ours".to_owned(),
                (_, None) => "n/a".to_owned(),
            }
        };
        let p50 = report.median(row, Figure::LatencyP50);
        let lines = report.median(row, Figure::Lines);
        table += &format!(
            "| {row} | {} | {} | {} | {} | {} | {} | {} |\n",
            rating.direction,
            rating.latency.unwrap_or("–"),
            cell(report, row, Figure::LatencyP50),
            verdict(rating.latency, p50, latency, Figure::LatencyP50),
            rating.complexity.unwrap_or("–"),
            cell(report, row, Figure::Lines),
            verdict(rating.complexity, lines, complexity, Figure::Lines),
        );
    }
    table
}

fn best(report: &Report, figure: Figure) -> Option<f64> {
    let all = Row::ALL.into_iter();
    all.filter_map(|row| report.median(row, figure))
        .min_by(f64::total_cmp)
}

/// A line for each figure, a column for each row of the comparison.
fn figures(report: &Report) -> String {
    let heads: String = Row::ALL.iter().map(|row| format!(" {row} |")).collect();
    let mut table = format!("| |{heads}\n| :--- |{}\n", " ---: |".repeat(Row::ALL.len()));
    for figure in Figure::ALL {
        if best(report, figure).is_none() {
            table += &format!(
                "| {} |{}\n",
                figure.label(),
                " n/a |".repeat(Row::ALL.len())
            );
            continue;
        }
        let cells = Row::ALL.map(|row| format!(" {} |", cell(report, row, figure)));
        table += &format!("| {} |{}\n", label(report, figure), cells.concat());
    }
    table
}

fn label(report: &Report, figure: Figure) -> String {
    match figure {
        Figure::Restart => format!("{} clients are back after", report.crowd),
        _ => figure.label().to_owned(),
    }
}

fn cell(report: &Report, row: Row, figure: Figure) -> String {
    match report.figures.get(&(row, figure)) {
        Some(spread) => shown(*spread, figure.unit()),
        None => "–".to_owned(),
    }
}

/// The median, and by how much the runs were apart if that is worth a word.
fn shown(spread: Spread, unit: Unit) -> String {
    let median = value(spread.median, unit);
    let (up, down) = (spread.high - spread.median, spread.median - spread.low);
    let percent = 100.0 * up.max(down) / spread.median;
    match percent {
        5.0.. => format!("{median} ±{percent:.0} %"),
        _ => median,
    }
}

/// Three figures are more than a measurement is good for, so two or three are shown.
pub(crate) fn value(value: f64, unit: Unit) -> String {
    match unit {
        Unit::Time => time(value),
        Unit::Percent => format!("{:.0} %", 100.0 * value),
        Unit::Bytes if value < 10_000.0 => format!("{value:.0} B"),
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

fn notes(report: &Report) -> String {
    let Report {
        machine,
        commit,
        runs,
        gap,
        ..
    } = report;
    let quick = if report.quick { ", short ones" } else { "" };
    let missing = match best(report, Figure::Memory10000) {
        None => {
            " 10,000 clients were not measured: the run was a short one, or there were not descriptors enough."
        }
        Some(_) => "",
    };
    format!(
        "Measured on {machine}, at commit {commit}; medians of {runs} run(s){quick}, and where the runs were more than 5 % apart, by how much.{missing}

How to read it. Latency: from just before the publishing POST is written until a client has the message, \
one client, ten messages a second. That of short polling, all counts and the CPU are of many clients each and one message \
every {gap} s; polls are spread over the interval, so that each message meets one at every distance \
from its next poll, and one interval is enough. Counts begin when a client has its first message, so they are those of a client that stays. \
Bytes are what the sockets take and give in both directions, without what TCP adds, and our clients send no header field \
but the necessary; a browser sends many with each request. CPU is of the whole server, \
publishing included. Memory is resident memory beyond that of the idle server; with short polling of a connection kept between two polls, with webhooks of \
a registered endpoint. Back after a restart: from the order to drain on, until every client has a message of the new life; webhooks are registered again by \
a receiver that looks every second. Lines: without blank ones, comments and tests, the modules of `common` included that the member reaches; webhooks are two programs.

Latency *agrees* if it is as many times the fastest as its word allows: minimal up to {}, low {}, medium {}, high beyond. \
Complexity in the same way by lines: low up to {} times the shortest, medium {}, high beyond. The rule of thumb leaves SSE out: that row is ours.
",
        latency::MINIMAL,
        latency::LOW,
        latency::MEDIUM,
        complexity::LOW,
        complexity::MEDIUM,
    )
}

/// The source's conclusions, each with its number.
fn which(report: &Report) -> String {
    let of = |technique: Technique, figure: Figure| {
        let row = Row::ALL.into_iter().rfind(|row| row.technique == technique);
        cell(report, row.expect("each has a row"), figure)
    };
    let polled = |figure| cell(report, Row::ALL[1], figure);
    let often = |figure| cell(report, Row::ALL[0], figure);
    use Technique::{LongPolling, Sse, Webhooks, Websockets};
    format!(
        "**Which one do I take?**

- **Short polling** for an MVP: {} lines, and any HTTP client will do. At 5 s news is {} late; asked every second, {} of the answers \
are empty when there is news every {} s.
- **Long polling** where sockets cannot go: {}, at a request ({}) per message. It is as fast as a socket as long as \
messages come one by one.
- **Webhooks** between servers: {}, no byte while nothing happens ({} a minute), and nothing that waits.
- **WebSockets** for chat, games, charts, where the client speaks too: {} and {} per message, but {} lines.
- **SSE** for feeds and quotes: {} and {} per message, the same as a socket with less code: {} lines.

**Where the numbers contradict the folklore.** \"99 % of polls are empty\" is a matter of the interval: {} at 1 s, {} at 5 s, {} at 30 s. \
Long polling is no middle way in latency: {} against {} of a WebSocket. And what is said of WebSockets, that each client's connection fills the memory, \
is {} each of 1,000 clients, where a long poll that waits takes {} and a kept connection of short polling {}.
",
        polled(Figure::Lines),
        polled(Figure::LatencyP50),
        often(Figure::Empty),
        report.gap,
        of(LongPolling, Figure::LatencyP50),
        of(LongPolling, Figure::Bytes),
        of(Webhooks, Figure::LatencyP50),
        of(Webhooks, Figure::IdleBytes),
        of(Websockets, Figure::LatencyP50),
        of(Websockets, Figure::Bytes),
        of(Websockets, Figure::Lines),
        of(Sse, Figure::LatencyP50),
        of(Sse, Figure::Bytes),
        of(Sse, Figure::Lines),
        often(Figure::Empty),
        polled(Figure::Empty),
        cell(report, Row::ALL[2], Figure::Empty),
        of(LongPolling, Figure::LatencyP50),
        of(Websockets, Figure::LatencyP50),
        of(Websockets, Figure::Memory1000),
        of(LongPolling, Figure::Memory1000),
        polled(Figure::Memory1000),
    )
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
            (11_571.0, Unit::Bytes, "11.3 KiB"),
            (1.0, Unit::Number, "1.00"),
            (1_234.0, Unit::Number, "1234"),
        ] {
            assert_eq!(value(number, unit), expected);
        }
    }

    #[test]
    fn a_spread_is_shown_where_it_is_worth_a_word() {
        assert_eq!(shown(Spread::of(&[1.0, 1.01]), Unit::Number), "1.00");
        assert_eq!(
            shown(Spread::of(&[0.8, 1.0, 1.1]), Unit::Number),
            "1.00 ±20 %"
        );
        assert_eq!(shown(Spread::of(&[0.0, 0.0]), Unit::Number), "0.00");
    }
}

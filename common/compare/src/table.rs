//! The report in Markdown: the usual table with a verdict on each of its words, all figures, how to
//! read them, and which one to take.

use crate::{
    Figure, Report, Row, Spread, crossing,
    report::Unit,
    technique::{COMPLEXITY, LATENCY, Scale, Verdict},
};

/// All of it.
pub fn markdown(report: &Report) -> String {
    let parts = [
        verdicts(report),
        figures(report),
        notes(report),
        overtaking(report),
        which(report),
        contradictions(report),
    ];
    parts.join("\n")
}

/// The figures that matter most, of each technique as it is mostly used.
pub(crate) fn few(report: &Report) -> String {
    let figures = [
        Figure::LatencyP50,
        Figure::Bytes,
        Figure::Cpu,
        Figure::Memory10000,
    ];
    let mut table = "\
| | publish → receive | bytes per message | server CPU per delivery | server memory per client |
| :--- | ---: | ---: | ---: | ---: |
"
    .to_owned();
    let [_, polled, _, others @ ..] = Row::ALL;
    for row in [polled].into_iter().chain(others) {
        let cells = figures.map(|figure| format!(" {} |", median(report, row, figure)));
        table += &format!("| {row} |{}\n", cells.concat());
    }
    table
}

/// The usual table, and beside each of its words what was measured.
fn verdicts(report: &Report) -> String {
    let mut table = "\
| technique | direction | latency: said | measured, p50 | | complexity: said | measured, own lines | |
| :--- | :--- | :---: | ---: | :--- | :---: | ---: | :--- |
"
    .to_owned();
    for row in Row::ALL {
        let rating = row.technique.rating();
        let [latency, complexity] = judged(report, row);
        table += &format!(
            "| {row} | {} | {} | {} | {} | {} | {} | {} |\n",
            rating.direction,
            rating.latency.unwrap_or("–"),
            cell(report, row, Figure::LatencyP50),
            word(rating.latency, latency),
            rating.complexity.unwrap_or("–"),
            cell(report, row, Figure::OwnLines),
            word(rating.complexity, complexity),
        );
    }
    table
}

/// On the latency, and on the complexity.
fn judged(report: &Report, row: Row) -> [Option<Verdict>; 2] {
    let rating = row.technique.rating();
    let judge = |said: Option<&str>, figure, scale: Scale| {
        let (best, here) = (best(report, figure)?, report.figures.get(&(row, figure))?);
        Some(scale.judge(said?, here.low / best, here.high / best))
    };
    [
        judge(rating.latency, Figure::LatencyP50, LATENCY),
        judge(rating.complexity, Figure::OwnLines, COMPLEXITY),
    ]
}

fn word(said: Option<&str>, verdict: Option<Verdict>) -> String {
    match (said, verdict) {
        (None, _) => "ours".to_owned(),
        (_, None) => "n/a".to_owned(),
        (_, Some(verdict)) => verdict.to_string(),
    }
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
        Figure::Restart if report.crowd != 1_000 => {
            format!("{} clients are back after", report.crowd)
        }
        _ => figure.label().to_owned(),
    }
}

fn cell(report: &Report, row: Row, figure: Figure) -> String {
    match report.figures.get(&(row, figure)) {
        Some(spread) => shown(*spread, figure.unit()),
        None => "–".to_owned(),
    }
}

/// The same in a sentence, where the runs' spread would be in the way.
fn median(report: &Report, row: Row, figure: Figure) -> String {
    let median = report.median(row, figure);
    median.map_or("–".to_owned(), |median| value(median, figure.unit()))
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

/// In at most three figures: more would be noise.
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

fn notes(report: &Report) -> String {
    let Report {
        machine,
        commit,
        gap,
        clients,
        ..
    } = report;
    let runs = match report.runs {
        1 => "one short run".to_owned(),
        runs => format!("medians of {runs} runs, and ± by how much they were apart if over 5 %"),
    };
    let missing = match best(report, Figure::Memory10000) {
        None => " Not measured: 10,000 clients, for want of time or of descriptors.",
        Some(_) => "",
    };
    format!(
        "Measured on {machine}, commit {commit}: {runs}.{missing}

**How to read it.** *Latency*: from before the publishing POST is written until a client has the message; one client, ten \
messages a second. Of short polling, and all counts and the CPU: {clients} clients, one message every {gap} s on average. Their polls \
are spread over the interval, so that each message meets one at every distance from its next poll: \
one interval is enough, even of 30 s. *Counts* are those of a client that stays: connecting is not in them. *Bytes* are what \
sockets take and give, both ways, without TCP's own; our clients send no header field but the \
necessary, a browser sends many. *CPU* is the whole server's, and each publish is shared by the {clients}. *Memory* is what is resident beyond the idle \
server's, threads and allocator included, so that the row of 10,000 is nearest to a client's own; of short polling a connection between two polls, of webhooks a registered endpoint. *Back*: from the order to \
drain until every client has a message of the new life; a receiver looks every second whether it is still registered. *Lines* are code, \
without tests; what a default build reaches of `common` is mostly the same in all; webhooks are two programs.

*Agrees* means, of latency by how many times the fastest: {LATENCY}; of complexity by how many times the shortest: {COMPLEXITY}; \
and that every run says so, or else it is too close to say. The rule of thumb leaves SSE out: that row is ours.
"
    )
}

fn overtaking(report: &Report) -> String {
    let sentences = crossing::sentences(report);
    let lines = sentences.iter().map(|sentence| format!("- {sentence}.\n"));
    format!(
        "**Where one overtakes another**\n\n{}",
        lines.collect::<String>()
    )
}

/// The usual conclusions, each with its number.
fn which(report: &Report) -> String {
    let [often, polled, _, long, webhooks, websockets, sse] = Row::ALL;
    let of = |row, figure| median(report, row, figure);
    format!(
        "**Which one do I take?**

- **Short polling** for an MVP, a simple task: {} lines, and any HTTP client will do. Asked every 5 s, news is {} late; asked every \
second, {} of the answers are empty when there is news every {} s.
- **Long polling** where sockets cannot go: {}, and {} per message, which is a request of its own.
- **Webhooks** between servers: {}, {} per message, {} in an idle minute.
- **WebSockets** for chat, games, financial charts, where the client speaks too: {}, {} per message, {} lines.
- **SSE** for news feeds and stock quotes, where it only listens: {}, {} per message, {} lines.
",
        of(polled, Figure::OwnLines),
        of(polled, Figure::LatencyP50),
        of(often, Figure::Empty),
        report.gap,
        of(long, Figure::LatencyP50),
        of(long, Figure::Bytes),
        of(webhooks, Figure::LatencyP50),
        of(webhooks, Figure::Bytes),
        of(webhooks, Figure::IdleBytes),
        of(websockets, Figure::LatencyP50),
        of(websockets, Figure::Bytes),
        of(websockets, Figure::OwnLines),
        of(sse, Figure::LatencyP50),
        of(sse, Figure::Bytes),
        of(sse, Figure::OwnLines),
    )
}

/// Where the numbers are not what is usually said.
fn contradictions(report: &Report) -> String {
    let mut lines = Vec::new();
    for row in Row::ALL {
        let words = ["latency", "complexity"].into_iter();
        for (what, verdict) in words.zip(judged(report, row)) {
            if let Some(verdict @ Verdict::Contradicts(..)) = verdict {
                lines.push(format!("- {row}, {what}: {verdict}.\n"));
            }
        }
    }
    let [often, polled, seldom, long, _, websockets, _] = Row::ALL;
    let of = |row, figure| median(report, row, figure);
    format!(
        "**Where the numbers contradict the folklore**

{}- \"99 % of the requests return nothing\" holds where news is rare. With news every {} s on average it is {} at 1 s, {} at 5 s, {} at 30 s.
- \"Each WebSocket fills the server's memory\": {} each, of 10,000; a long poll that waits {}, a kept connection of short \
polling {}.
",
        lines.concat(),
        report.gap,
        of(often, Figure::Empty),
        of(polled, Figure::Empty),
        of(seldom, Figure::Empty),
        of(websockets, Figure::Memory10000),
        of(long, Figure::Memory10000),
        of(often, Figure::Memory10000),
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
        assert_eq!(shown(Spread::of(&[1.0, 1.01]), Unit::Number), "1.00");
        assert_eq!(
            shown(Spread::of(&[0.8, 1.0, 1.1]), Unit::Number),
            "1.00 ±20 %"
        );
        assert_eq!(shown(Spread::of(&[0.0, 0.0]), Unit::Number), "0.00");
    }
}

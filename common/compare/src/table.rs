//! The table, in Markdown.

use std::{fmt::Write, time::Duration};

use crate::{Config, Measured, Technique};

const HEAD: &str = "\
| technique | direction | latency p50 | latency p99 | requests per message | bytes per message | the text: latency | the text: complexity |
| :--- | :--- | ---: | ---: | ---: | ---: | :---: | :---: |
";

/// A row for each of `measured`, and how to read them.
pub fn markdown(config: &Config, measured: &[Measured]) -> String {
    let rows: String = measured.iter().map(|one| row(config, one)).collect();
    format!("{HEAD}{rows}\n{}", notes(config))
}

fn row(config: &Config, measured: &Measured) -> String {
    let rating = measured.technique.rating();
    let name = match measured.technique {
        Technique::ShortPolling => format!("{}, every {}", rating.name, time(config.interval)),
        _ => rating.name.to_owned(),
    };
    let said = |word: Option<&'static str>| word.unwrap_or("not rated");
    format!(
        "| {name} | {} | {} | {} | {:.2} | {:.0} | {} | {} |\n",
        rating.direction,
        time(measured.percentile(50)),
        time(measured.percentile(99)),
        measured.requests_per_message(),
        measured.bytes_per_message(),
        said(rating.latency),
        said(rating.complexity),
    )
}

fn notes(config: &Config) -> String {
    let mut notes = String::new();
    let (messages, rate) = (config.messages, config.rate);
    writeln!(
        notes,
        "{messages} messages to each server, {rate} a second, to one client each, on loopback. \
         Latency: from just before the publishing POST is written until the client has the \
         message. Requests and bytes: of the receiving side, in both directions, from its first \
         byte to the last message; what TCP itself adds, such as its handshake, is not counted. \
         The clients send no header field but the necessary; a browser sends many with each request."
    )
    .expect("a String takes any text");
    notes
}

/// Three figures are more than a measurement is good for, so two or three are shown.
fn time(time: Duration) -> String {
    let ms = time.as_secs_f64() * 1_000.0;
    match ms {
        ..10.0 => format!("{ms:.2} ms"),
        ..100.0 => format!("{ms:.1} ms"),
        _ => format!("{ms:.0} ms"),
    }
}

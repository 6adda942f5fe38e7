//! The table, in Markdown.

use std::time::Duration;

use crate::{Config, Measured, Technique};

const HEAD: &str = "\
| technique | direction | latency p50 | latency p99 | requests per message | bytes per message | rule of thumb: latency | rule of thumb: complexity |
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
    let (messages, rate) = (config.messages, config.rate);
    format!(
        "{messages} messages to each server, {rate} a second, to one client each, on loopback. \
         Latency: from just before the publishing POST is written until the client has the \
         message. Requests and bytes: of the receiving side, in both directions, from its first \
         byte on; what TCP itself adds, such as its handshake, is not counted. Our clients send \
         no header field but the necessary; a browser sends many with each request. With short \
         polling all three follow from the interval: polls half as far apart halve the latency \
         and double the requests. The rule of thumb leaves SSE out; that row is ours.\n"
    )
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

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[test]
    fn a_row_has_what_was_measured_beside_what_the_text_says() {
        let config = Config::parse_from(["compare", "--messages", "4"]);
        let millis = |all: &[u64]| all.iter().copied().map(Duration::from_millis).collect();
        let polling = Measured {
            technique: Technique::ShortPolling,
            latencies: millis(&[1, 50, 99, 120]),
            requests: 9,
            bytes: 2_222,
        };
        let sse = Measured {
            technique: Technique::Sse,
            latencies: millis(&[1, 2, 3, 4]),
            requests: 1,
            bytes: 700,
        };
        let table = markdown(&config, &[polling, sse]);
        let rows: Vec<&str> = table.lines().skip(2).take(3).collect();
        assert_eq!(
            rows,
            [
                "| Short polling, every 100 ms | client → server | 50.0 ms | 120 ms | 2.25 | 556 | high | low |",
                "| SSE | server → client | 2.00 ms | 4.00 ms | 0.25 | 175 | not rated | not rated |",
                ""
            ]
        );
    }
}

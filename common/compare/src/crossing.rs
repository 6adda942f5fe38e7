//! Where one technique overtakes another: the rates at which their lines cross in a chart.

use crate::{Report, Row, report::Point};

/// Lines that are closer than this are one line.
const APART: f64 = 1.1;

/// What a chart shows.
type Value = fn(&Point) -> Option<f64>;

/// A sentence for each crossing, of what is on the wire and of what the server computes.
pub(crate) fn sentences(report: &Report) -> Vec<String> {
    let charts: [(&str, Value); 2] = [
        ("fewer bytes per message", |point| Some(point.bytes)),
        ("less server CPU per delivery", |point| point.cpu),
    ];
    let mut sentences = Vec::new();
    for (what, value) in charts {
        for (first, one) in Row::ALL.iter().enumerate() {
            for other in &Row::ALL[first + 1..] {
                let crossing = crossing(&both(&report.points, *one, *other, value));
                sentences.extend(crossing.map(|(rate, overtakes)| {
                    let (winner, loser) = if overtakes { (one, other) } else { (other, one) };
                    format!("{winner} takes {what} than {loser} from about {rate:.1} messages a second on")
                }));
            }
        }
    }
    sentences
}

/// The rates that both rows have, and by how many times the first is the second, as a logarithm.
fn both(points: &[Point], one: Row, other: Row, value: Value) -> Vec<(f64, f64)> {
    let at = |row: Row, rate: f64| {
        let mut points = points.iter();
        points.find(|point| point.row == row && point.rate == rate)
    };
    let rates = points.iter().filter(|point| point.row == one);
    rates
        .filter_map(|point| {
            let (one, other) = (value(point)?, value(at(other, point.rate)?)?);
            Some((point.rate, (one / other).ln()))
        })
        .collect()
}

/// The last crossing of lines that are clearly apart before it and after it, and whether the first
/// is the lower one from there on.
fn crossing(apart: &[(f64, f64)]) -> Option<(f64, bool)> {
    let clear = |(_, apart): &&(f64, f64)| apart.abs() > APART.ln();
    let clear: Vec<&(f64, f64)> = apart.iter().filter(clear).collect();
    let crossed = |pair: &&[&(f64, f64)]| pair[0].1 * pair[1].1 < 0.0;
    let crossing = clear.windows(2).rfind(crossed)?;
    let [(before, from), (after, to)] = [crossing[0], crossing[1]];
    let share = from / (from - to);
    let rate = (before.ln() + (after.ln() - before.ln()) * share).exp();
    Some((rate, *to < 0.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_cross_where_they_are_equal() {
        let halves = [(1.0, 2_f64.ln()), (100.0, 0.5_f64.ln())];
        let (rate, overtakes) = crossing(&halves).expect("they cross");
        assert!((rate - 10.0).abs() < 1e-9 && overtakes, "{rate}");
        assert_eq!(crossing(&[(1.0, 0.7), (10.0, 0.3)]), None);
        assert_eq!(crossing(&[]), None);
    }

    #[test]
    fn lines_that_are_close_do_not_cross() {
        assert_eq!(crossing(&[(1.0, 0.05), (10.0, -0.05)]), None);
    }
}

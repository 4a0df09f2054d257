//! The table: one row for a subject and, where there is one, its pair.

use crate::generator::Sample;

/// What one side of a row was found to do, over all rounds.
#[derive(Clone, Copy, Debug, Default)]
pub struct Figures {
    pub sample: Sample,
    /// Processor time of the server for one request, in microseconds.
    pub host_cpu: f64,
    /// The same of Redis; not a number without one.
    pub redis_cpu: f64,
    /// Peak resident memory of the server, in bytes.
    pub peak: f64,
}

impl Figures {
    /// The median of each figure.
    pub fn median(rounds: &[Self]) -> Self {
        let of = |figure: fn(&Self) -> f64| median(rounds.iter().map(figure));
        Self {
            sample: Sample {
                requests: rounds.iter().map(|round| round.sample.requests).sum(),
                rate: of(|f| f.sample.rate),
                p50: of(|f| f.sample.p50),
                p99: of(|f| f.sample.p99),
                p999: of(|f| f.sample.p999),
            },
            host_cpu: of(|f| f.host_cpu),
            redis_cpu: of(|f| f.redis_cpu),
            peak: of(|f| f.peak),
        }
    }
}

/// The one in the middle.
pub fn median(figures: impl Iterator<Item = f64>) -> f64 {
    let mut figures: Vec<f64> = figures.collect();
    figures.sort_by(f64::total_cmp);
    figures[figures.len() / 2]
}

/// Prints the head of a table.
pub fn head(title: &str, pair: &str) {
    println!("\n{title}\n");
    println!(
        "| {:34} | {:>7} | {:>7} | {:>7} | {:>7} | {:>7} | {:>8} | {:>8} | {:>14} | {:>5} |",
        "row",
        "req/s",
        "p50 µs",
        "p99 µs",
        "p99.9",
        "host µs",
        "Redis µs",
        "peak MiB",
        pair,
        "ratio"
    );
    let dashes = [8, 8, 8, 8, 8, 9, 9, 15, 6].map(|width| format!("{}:|", "-".repeat(width)));
    println!("|{}|{}", "-".repeat(36), dashes.concat());
}

/// Prints a row; `ratio` is the subject's rate by the pair's, from round to round.
pub fn row(name: &str, subject: &Figures, pair: Option<(&Figures, f64)>) {
    let figure = |value: f64, decimals: usize| {
        if value.is_nan() { String::new() } else { format!("{value:.decimals$}") }
    };
    let Sample { rate, p50, p99, p999, .. } = subject.sample;
    println!(
        "| {name:34} | {:>7} | {:>7} | {:>7} | {:>7} | {:>7} | {:>8} | {:>8} | {:>14} | {:>5} |",
        figure(rate, 0),
        figure(p50, 0),
        figure(p99, 0),
        figure(p999, 0),
        figure(subject.host_cpu, 1),
        figure(subject.redis_cpu, 1),
        figure(subject.peak / f64::from(1 << 20), 0),
        figure(pair.map_or(f64::NAN, |(pair, _)| pair.sample.rate), 0),
        figure(pair.map_or(f64::NAN, |(_, ratio)| ratio), 2),
    );
}

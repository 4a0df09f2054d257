//! The table of results: one row for a subject and its pair, if it has one.

use crate::generator::Sample;

/// The results of one side of a row, over all rounds.
#[derive(Clone, Copy, Debug, Default)]
pub struct Figures {
    pub sample: Sample,
    /// The processor time of the server for one request, in microseconds.
    pub host_cpu: f64,
    /// The same for Redis; not a number without Redis.
    pub redis_cpu: f64,
    /// The peak of resident memory of the server, in bytes.
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

/// The median.
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

/// Prints a row. `ratio` is the rate of the subject divided by that of the pair, for each round.
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

/// Prints the head of a table of ratios between two binaries.
pub fn head_of_ratios(other: &str, pairs: usize) {
    println!("\nThis build beside {other}: the median of {pairs} interleaved pairs\n");
    println!(
        "| {:35} | {:>7} | {:>7} | {:>6} | 95 % interval  |",
        "row", "req/s", "other", "ratio"
    );
    println!("|{}|--------:|--------:|-------:|---------------:|", "-".repeat(37));
}

/// Prints a row: both rates, the median of the ratios, and the interval that contains the true
/// median with a confidence of 95 %.
pub fn row_of_ratios(name: &str, [subject, pair]: [f64; 2], ratios: &[f64]) {
    let (low, high) = interval(ratios);
    let ratio = median(ratios.iter().copied());
    println!("| {name:35} | {subject:>7.0} | {pair:>7.0} | {ratio:>6.3} | {low:.3} to {high:.3} |");
}

/// Two figures with the true median between them, with a confidence of at least 95 %. This holds
/// for any distribution, as each figure is below the median with a chance of one half.
fn interval(figures: &[f64]) -> (f64, f64) {
    let mut sorted = figures.to_vec();
    sorted.sort_by(f64::total_cmp);
    let count = sorted.len();
    // The chance that exactly `below` figures are below the median, and that at most so many are.
    let (mut below, mut exactly) = (0, 0.5_f64.powi(i32::try_from(count).unwrap()));
    let mut at_most = exactly;
    while at_most <= 0.025 {
        exactly *= (count - below) as f64 / (below + 1) as f64;
        below += 1;
        at_most += exactly;
    }
    assert!(below > 0, "{count} pairs are too few for an interval; take at least 6");
    (sorted[below - 1], sorted[count - below])
}

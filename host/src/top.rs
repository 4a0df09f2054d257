//! `session-manager top`: shows the activity of the process with the same settings once a second,
//! from its metrics.

use std::collections::BTreeMap;
use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::config::Settings;
use crate::local;
use crate::terminal::Terminal;

/// The time between two samples.
const INTERVAL: Duration = Duration::from_secs(1);
/// The most operations that are shown, the busiest first.
const OPERATIONS_MAX: usize = 12;
/// Clears the screen.
const CLEAR: &str = "\x1b[H\x1b[2J";

/// Shows the activity until q or Ctrl-C is pressed; with `once`, one second of it.
///
/// # Errors
/// If the process does not answer.
pub fn run(settings: &Settings, once: bool) -> Result<bool> {
    let mut out = std::io::stdout();
    let mut before = Sample::take(settings)?;
    let terminal = Terminal::take();
    loop {
        if terminal.wait(INTERVAL) {
            return Ok(true);
        }
        let now = Sample::take(settings)?;
        let clear = if once || !out.is_terminal() { "" } else { CLEAR };
        // A reader that has closed the pipe wants no more.
        if write!(out, "{clear}{}", now.since(&before)).and_then(|()| out.flush()).is_err() || once
        {
            return Ok(true);
        }
        before = now;
    }
}

/// All metrics at one time.
struct Sample {
    at: Instant,
    series: Vec<Series>,
}

/// One value of a metric.
struct Series {
    name: String,
    labels: BTreeMap<String, String>,
    value: f64,
}

impl Series {
    fn label(&self, name: &str) -> &str {
        self.labels.get(name).map_or("", String::as_str)
    }
}

impl Sample {
    fn take(settings: &Settings) -> Result<Self> {
        let (address, port) = (settings.network.admin_address, settings.network.admin_port);
        let answer = local::ask(address, port, "GET", "/metrics", "");
        let answer = answer.with_context(|| format!("{address}:{port} does not answer"))?;
        if !answer.is_success() {
            bail!("{address}:{port} has no metrics");
        }
        Ok(Self { at: Instant::now(), series: series(&answer.body) })
    }

    fn of<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Series> {
        self.series.iter().filter(move |series| series.name == name)
    }

    fn value(&self, name: &str) -> f64 {
        self.of(name).map(|series| series.value).sum()
    }

    /// The growth of each series of a metric.
    fn grown<'a>(
        &'a self,
        before: &'a Self,
        name: &'a str,
    ) -> impl Iterator<Item = (&'a Series, f64)> {
        self.of(name).map(move |series| {
            let same = |other: &&Series| other.labels == series.labels;
            let was = before.of(name).find(same).map_or(0.0, |other| other.value);
            (series, series.value - was)
        })
    }

    /// The activity since another sample, as text.
    fn since(&self, before: &Self) -> String {
        let seconds = (self.at - before.at).as_secs_f64().max(0.001);
        let rate =
            |name: &str| self.grown(before, name).map(|(_, grown)| grown).sum::<f64>() / seconds;
        let mut text = String::new();
        let mut line = |line: String| {
            text.push_str(&line);
            text.push('\n');
        };
        let store = if self.value("session_manager_store_up") > 0.0 { "up" } else { "DOWN" };
        line(format!(
            "generation {:.0}   instances {:.0} busy, {:.0} idle   store {store}   CPU {:.0} %   memory {:.0} MiB",
            self.value("session_manager_component_generation"),
            self.value("session_manager_component_instances_busy"),
            self.value("session_manager_component_instances_idle"),
            rate("process_cpu_seconds_total") * 100.0,
            self.value("process_resident_memory_bytes") / f64::from(1 << 20),
        ));
        let kinds = self.of("session_manager_sessions");
        let kinds = kinds.map(|series| format!("{} {:.0}", series.label("kind"), series.value));
        line(format!(
            "sessions   {}   connects {:.0}   subscriptions {:.0}",
            kinds.collect::<Vec<_>>().join("   "),
            self.value("session_manager_connects_open"),
            self.value("session_manager_subscriptions_open"),
        ));
        line(format!(
            "requests {:.0}/s   in flight {:.0}   store calls {:.0}/s   expired {:.0}/s",
            rate("session_manager_requests_total"),
            self.value("session_manager_requests_in_flight"),
            rate("session_manager_store_calls_total"),
            rate("session_manager_sessions_expired_total"),
        ));
        line(String::new());
        line(format!("{:<8} {:<52} {:<20} {:>9}", "wire", "operation", "code", "per s"));
        let mut busiest: Vec<_> = self.grown(before, "session_manager_requests_total").collect();
        busiest.retain(|(_, grown)| *grown > 0.0);
        busiest.sort_by(|(_, a), (_, b)| b.total_cmp(a));
        for (series, grown) in busiest.into_iter().take(OPERATIONS_MAX) {
            let label = |name| series.label(name);
            line(format!(
                "{:<8} {:<52} {:<20} {:>9.0}",
                label("protocol"),
                label("operation"),
                label("code"),
                grown / seconds
            ));
        }
        text
    }
}

/// The values in the text format of Prometheus. Our labels contain no quotes or commas.
fn series(text: &str) -> Vec<Series> {
    let one = |line: &str| {
        let (series, value) = line.rsplit_once(' ')?;
        let (name, labels) = series.split_once('{').unwrap_or((series, ""));
        let labels = labels.trim_end_matches('}').split(',').filter_map(|label| {
            let (name, value) = label.split_once('=')?;
            Some((name.to_owned(), value.trim_matches('"').to_owned()))
        });
        Some(Series { name: name.into(), labels: labels.collect(), value: value.parse().ok()? })
    };
    text.lines().filter(|line| !line.starts_with('#')).filter_map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn activity_between_two_samples_is_shown() {
        let sample = |at, text| Sample { at, series: series(text) };
        let at = Instant::now();
        let before = sample(
            at,
            "session_manager_requests_total{protocol=\"rest\",operation=\"A/Get\",code=\"200\"} 10\n",
        );
        let now = sample(
            at + Duration::from_secs(2),
            "# HELP x y\n\
             session_manager_requests_total{protocol=\"rest\",operation=\"A/Get\",code=\"200\"} 30\n\
             session_manager_requests_total{protocol=\"grpc\",operation=\"A/Set\",code=\"OK\"} 100\n\
             session_manager_sessions{kind=\"user\"} 7\n\
             session_manager_store_up 1\n\
             session_manager_component_generation 3\n",
        );
        let text = now.since(&before);
        assert!(text.starts_with("generation 3 "), "{text}");
        assert!(text.contains("store up") && text.contains("sessions   user 7 "), "{text}");
        assert!(text.contains("requests 60/s"), "{text}");
        let rows: Vec<&str> = text.lines().skip(5).collect();
        assert_eq!(rows.len(), 2, "{text}");
        assert!(rows[0].contains("A/Set") && rows[0].ends_with(" 50"), "{text}");
        assert!(rows[1].contains("A/Get") && rows[1].ends_with(" 10"), "{text}");
    }
}

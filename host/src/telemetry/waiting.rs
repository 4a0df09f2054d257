//! Logs one line a minute for whatever is retried: what does not answer, why and for how long.
//! Otherwise a process that waits looks like an idle one.

use std::time::{Duration, Instant};

/// How often the line is repeated.
const EVERY: Duration = Duration::from_secs(60);

/// Something that is retried until it succeeds.
#[derive(Debug)]
pub struct Waiting {
    /// Its name, with the setting that names it, such as `REDIS_HOST "redis:6379"`.
    subject: String,
    /// The time of the first failure, and of the last line.
    since: Option<(Instant, Instant)>,
}

impl Waiting {
    /// No attempt has failed yet.
    pub fn on(subject: impl Into<String>) -> Self {
        Self { subject: subject.into(), since: None }
    }

    /// Records a failed attempt at `now`. Logs and returns a line if a minute has passed since the
    /// last line, or since the first failure.
    pub fn failed(&mut self, now: Instant, why: &str) -> Option<String> {
        let (since, logged) = self.since.get_or_insert((now, now));
        if now - *logged < EVERY {
            return None;
        }
        *logged = now;
        let minutes = (now - *since).as_secs() / 60;
        let tried = match (minutes / 60, minutes % 60) {
            (0, minutes) => format!("{minutes}m"),
            (hours, minutes) => format!("{hours}h{minutes}m"),
        };
        let line = format!("{} does not answer: {why}; tried for {tried}", self.subject);
        tracing::warn!("{line}");
        Some(line)
    }

    /// Records a success.
    pub fn succeeded(&mut self) {
        self.since = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The lines of an attempt each second, for a number of seconds.
    fn lines(waiting: &mut Waiting, now: &mut Instant, seconds: u32) -> Vec<String> {
        let mut lines = Vec::new();
        for _ in 0..seconds {
            lines.extend(waiting.failed(*now, "connection refused"));
            *now += Duration::from_secs(1);
        }
        lines
    }

    #[test]
    fn a_failing_attempt_is_logged_once_a_minute_until_it_succeeds() {
        let (mut waiting, mut now) = (Waiting::on("REDIS_HOST \"redis:6379\""), Instant::now());
        assert!(lines(&mut waiting, &mut now, 60).is_empty());
        let line = |tried: &str| {
            let why = "does not answer: connection refused";
            format!("REDIS_HOST \"redis:6379\" {why}; tried for {tried}")
        };
        assert_eq!(lines(&mut waiting, &mut now, 121), ["1m", "2m", "3m"].map(line));
        waiting.succeeded();
        assert!(lines(&mut waiting, &mut now, 60).is_empty());
        let hour = lines(&mut waiting, &mut now, 3602);
        assert_eq!((hour.len(), hour.last()), (61, Some(&line("1h1m"))));
    }
}

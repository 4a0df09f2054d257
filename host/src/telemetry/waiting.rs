//! One line a minute for whatever is tried again and again: what it waits for, why, and
//! for how long. Otherwise a process that waits looks like one that has nothing to do.

use std::time::{Duration, Instant};

/// How often it is said that something is still waited for.
const EVERY: Duration = Duration::from_secs(60);

/// Something that is tried until it succeeds.
#[derive(Debug)]
pub struct Waiting {
    /// What it is, by the setting that names it, such as `REDIS_HOST "redis:6379"`.
    subject: String,
    /// When it failed first, and when that was said last.
    since: Option<(Instant, Instant)>,
}

impl Waiting {
    /// Nothing has failed yet.
    pub fn on(subject: impl Into<String>) -> Self {
        Self { subject: subject.into(), since: None }
    }

    /// It has failed again, at `now`. Logs a line when a minute has passed since the last one, or
    /// since it failed first, and returns it.
    pub fn failed(&mut self, now: Instant, why: &str) -> Option<String> {
        let (since, said) = self.since.get_or_insert((now, now));
        if now - *said < EVERY {
            return None;
        }
        *said = now;
        let minutes = (now - *since).as_secs() / 60;
        let tried = match (minutes / 60, minutes % 60) {
            (0, minutes) => format!("{minutes}m"),
            (hours, minutes) => format!("{hours}h{minutes}m"),
        };
        let line = format!("{} does not answer: {why}; tried for {tried}", self.subject);
        tracing::warn!("{line}");
        Some(line)
    }

    /// It has succeeded.
    pub fn succeeded(&mut self) {
        self.since = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The lines of an attempt each second, for so long.
    fn lines(waiting: &mut Waiting, now: &mut Instant, seconds: u32) -> Vec<String> {
        let mut lines = Vec::new();
        for _ in 0..seconds {
            lines.extend(waiting.failed(*now, "connection refused"));
            *now += Duration::from_secs(1);
        }
        lines
    }

    #[test]
    fn what_is_waited_for_is_said_once_a_minute_until_it_comes() {
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

//! The results of schedules as a table, with a row for each.

use std::fmt;
use std::time::Duration;

use super::Schedule;
use crate::history::recorder::Counts;
use crate::history::{Judge, Judgement, Violation};

/// The result of one schedule.
pub struct Row {
    /// The schedule.
    pub schedule: Schedule,
    /// Figures of its load.
    pub counts: Counts,
    /// The longest time for which an old value was read after an overwrite on another host.
    pub stale: Duration,
    /// The number of acknowledged writes to keys that are written once.
    pub written: usize,
    /// What the judges found.
    pub judgement: Judgement,
}

impl Row {
    /// The violations of promises.
    pub fn broken(&self) -> impl Iterator<Item = &Violation> {
        let violations = self.judgement.violations.iter();
        violations.filter(|violation| self.schedule.promised.contains(&violation.judge))
    }

    /// Whether a caller waited for an answer longer than is promised.
    pub fn is_too_late(&self) -> bool {
        self.schedule.silence_max.is_some_and(|max| self.counts.unavailable_max > max)
    }
}

/// The head of the table.
pub fn heading() -> String {
    let judges: Vec<String> = Judge::ALL.iter().map(|judge| width(judge.name())).collect();
    format!(
        "{:26} {:>10} {:>9} {:>7} {:>7} {}  {:>9} {:>7} {:>7}  promised",
        "schedule",
        "calls",
        "unknown",
        "refused",
        "written",
        judges.concat(),
        "undecided",
        "down s",
        "stale s"
    )
}

fn width(text: &str) -> String {
    format!(" {text:>9}")
}

impl fmt::Display for Row {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { schedule, counts, stale, written, judgement } = self;
        let found = Judge::ALL.map(|judge| width(&judgement.count(judge).to_string()));
        let promised = match schedule.promised {
            [] => "nothing".to_owned(),
            judges if judges.len() == Judge::ALL.len() => "all".to_owned(),
            judges => judges.iter().map(|judge| judge.name()).collect::<Vec<_>>().join(", "),
        };
        let promised = match schedule.silence_max {
            Some(max) => format!("{promised}; an answer within {} s", max.as_secs()),
            None => promised,
        };
        write!(
            formatter,
            "{:26} {:>10} {:>9} {:>7} {written:>7} {}  {:>9} {:>7.1} {:>7.1}  {promised}",
            schedule.name,
            counts.operations,
            counts.ambiguous,
            counts.refused,
            found.concat(),
            judgement.undecided.len(),
            counts.unavailable_max.as_secs_f64(),
            stale.as_secs_f64()
        )
    }
}

//! The table of what schedules have found: a row for each.

use std::fmt;

use super::Schedule;
use crate::history::recorder::Counts;
use crate::history::{Judge, Judgement, Violation};

/// What one schedule has found.
pub struct Row {
    /// The schedule.
    pub schedule: Schedule,
    /// Figures of its load.
    pub counts: Counts,
    /// What the judges say.
    pub judgement: Judgement,
}

impl Row {
    /// What must not be and was promised not to be.
    pub fn broken(&self) -> impl Iterator<Item = &Violation> {
        let violations = self.judgement.violations.iter();
        violations.filter(|violation| self.schedule.promised.contains(&violation.judge))
    }
}

/// The head of the table.
pub fn heading() -> String {
    let judges: Vec<String> = Judge::ALL.iter().map(|judge| width(judge.name())).collect();
    format!(
        "{:22} {:>10} {:>9} {:>7} {}  {:>9} {:>8}  promised",
        "schedule",
        "operations",
        "ambiguous",
        "refused",
        judges.concat(),
        "undecided",
        "away s"
    )
}

fn width(text: &str) -> String {
    format!(" {text:>9}")
}

impl fmt::Display for Row {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { schedule, counts, judgement } = self;
        let found = Judge::ALL.map(|judge| width(&judgement.count(judge).to_string()));
        let promised = match schedule.promised {
            [] => "nothing".to_owned(),
            judges if judges.len() == Judge::ALL.len() => "all".to_owned(),
            judges => judges.iter().map(|judge| judge.name()).collect::<Vec<_>>().join(", "),
        };
        write!(
            formatter,
            "{:22} {:>10} {:>9} {:>7} {}  {:>9} {:>8.1}  {promised}",
            schedule.name,
            counts.operations,
            counts.ambiguous,
            counts.refused,
            found.concat(),
            judgement.undecided.len(),
            counts.unavailable_max.as_secs_f64()
        )
    }
}

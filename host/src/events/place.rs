//! Where an event is: one order of the events of all logs, that never changes once the
//! events of a millisecond are all there.

use std::fmt::{Display, Formatter};
use std::str::FromStr;

use session_store::EventId;
use session_store::clock::Milliseconds;

/// A place among the events of all logs. Ordered by time, then by log, then by the
/// order in the log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// The place in its log.
    pub id: EventId,
    /// The number of the log.
    pub log: u16,
}

impl Place {
    /// Behind all events of before that time.
    pub fn before(now: Milliseconds) -> Self {
        let id = EventId { milliseconds: now.saturating_sub(1), sequence: u64::MAX };
        Self { id, log: u16::MAX }
    }

    /// The event of a log behind which those behind this place are.
    pub fn in_log(self, log: u16) -> EventId {
        use std::cmp::Ordering::{Equal, Greater, Less};
        let milliseconds = self.id.milliseconds;
        match log.cmp(&self.log) {
            Less => EventId { milliseconds, sequence: u64::MAX },
            Equal => self.id,
            Greater => EventId { milliseconds: milliseconds.saturating_sub(1), sequence: u64::MAX },
        }
    }
}

impl Ord for Place {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        let key = |place: &Self| (place.id.milliseconds, place.log, place.id.sequence);
        key(self).cmp(&key(other))
    }
}

impl PartialOrd for Place {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Display for Place {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> std::fmt::Result {
        // All of a millisecond is told by the millisecond alone.
        if *self == Self::before(self.id.milliseconds + 1) {
            return write!(formatter, "{}", self.id.milliseconds);
        }
        write!(formatter, "{}-{}", self.id, self.log)
    }
}

/// A text that is no place.
#[derive(Debug, PartialEq, Eq)]
pub struct NoPlace;

impl FromStr for Place {
    type Err = NoPlace;

    fn from_str(text: &str) -> Result<Self, NoPlace> {
        let digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        if digits(text) {
            let milliseconds: Milliseconds = text.parse().map_err(|_| NoPlace)?;
            return Ok(Self::before(milliseconds.checked_add(1).ok_or(NoPlace)?));
        }
        let (id, log) = text.rsplit_once('-').ok_or(NoPlace)?;
        let (milliseconds, sequence) = id.split_once('-').ok_or(NoPlace)?;
        if ![milliseconds, sequence, log].into_iter().all(digits) {
            return Err(NoPlace);
        }
        let id: EventId = id.parse().map_err(|_| NoPlace)?;
        // Behind the last millisecond there is none.
        let fits = id.milliseconds < Milliseconds::MAX;
        let log = log.parse().map_err(|_| NoPlace)?;
        if fits { Ok(Self { id, log }) } else { Err(NoPlace) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(text: &str) -> Place {
        text.parse().expect(text)
    }

    #[test]
    fn places_are_in_order_of_time_then_log_then_sequence() {
        let ordered = ["5-9-0", "6-1-0", "6-2-0", "6-0-1", "7-0-0"].map(place);
        assert!(ordered.is_sorted());
        assert_eq!(place("6-2-1").to_string(), "6-2-1");
        assert_eq!((place("6"), Place::before(7).to_string()), (Place::before(7), "6".into()));
        for wrong in [
            "",
            "18446744073709551615",
            "5-1",
            "a-1-1",
            "5-1-",
            "5--1",
            "5-1-70000",
            "5-1-1-1",
            "+5-1-1",
        ] {
            assert_eq!(wrong.parse::<Place>(), Err(NoPlace), "{wrong}");
        }
    }

    #[test]
    fn what_is_behind_a_place_is_behind_a_mark_of_each_log() {
        let all = ["5-9-0", "6-1-0", "6-2-0", "6-0-1", "6-7-1", "6-3-2", "7-0-0"].map(place);
        for from in all {
            for other in all {
                assert_eq!(other > from, other.id > from.in_log(other.log), "{from} {other}");
            }
        }
        assert!(place("6-7-1") < Place::before(7) && Place::before(7) < place("7-0-0"));
    }
}

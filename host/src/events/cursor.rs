//! Positions in the event feed. They give the events of all logs one total order, which is
//! final as soon as a millisecond has passed.

use std::fmt::{Display, Formatter};
use std::str::FromStr;

use session_store::EventId;
use session_store::clock::Milliseconds;

/// A position among the events of all logs. Ordered by time, then by log, then by the
/// sequence number in the log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cursor {
    /// The id of the event in its log.
    pub id: EventId,
    /// The number of the log.
    pub log: u16,
}

impl Cursor {
    /// The position after all events earlier than `now`.
    pub fn before(now: Milliseconds) -> Self {
        let id = EventId { milliseconds: now.saturating_sub(1), sequence: u64::MAX };
        Self { id, log: u16::MAX }
    }

    /// This position translated to one log: the events of that log after this position are
    /// those with a greater id.
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

impl Ord for Cursor {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        let key = |cursor: &Self| (cursor.id.milliseconds, cursor.log, cursor.id.sequence);
        key(self).cmp(&key(other))
    }
}

impl PartialOrd for Cursor {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Display for Cursor {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> std::fmt::Result {
        // The end of a millisecond is written as the millisecond alone.
        if *self == Self::before(self.id.milliseconds + 1) {
            return write!(formatter, "{}", self.id.milliseconds);
        }
        write!(formatter, "{}-{}", self.id, self.log)
    }
}

/// The text is not a cursor.
#[derive(Debug, PartialEq, Eq)]
pub struct NotACursor;

impl FromStr for Cursor {
    type Err = NotACursor;

    fn from_str(text: &str) -> Result<Self, NotACursor> {
        let digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        if digits(text) {
            let milliseconds: Milliseconds = text.parse().map_err(|_| NotACursor)?;
            return Ok(Self::before(milliseconds.checked_add(1).ok_or(NotACursor)?));
        }
        let (id, log) = text.rsplit_once('-').ok_or(NotACursor)?;
        let (milliseconds, sequence) = id.split_once('-').ok_or(NotACursor)?;
        if ![milliseconds, sequence, log].into_iter().all(digits) {
            return Err(NotACursor);
        }
        let id: EventId = id.parse().map_err(|_| NotACursor)?;
        // `Display` adds one to the milliseconds.
        let fits = id.milliseconds < Milliseconds::MAX;
        let log = log.parse().map_err(|_| NotACursor)?;
        if fits { Ok(Self { id, log }) } else { Err(NotACursor) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cursor(text: &str) -> Cursor {
        text.parse().expect(text)
    }

    #[test]
    fn cursors_are_in_order_of_time_then_log_then_sequence() {
        let ordered = ["5-9-0", "6-1-0", "6-2-0", "6-0-1", "7-0-0"].map(cursor);
        assert!(ordered.is_sorted());
        assert_eq!(cursor("6-2-1").to_string(), "6-2-1");
        assert_eq!((cursor("6"), Cursor::before(7).to_string()), (Cursor::before(7), "6".into()));
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
            assert_eq!(wrong.parse::<Cursor>(), Err(NotACursor), "{wrong}");
        }
    }

    #[test]
    fn a_cursor_separates_the_events_of_each_log_as_it_separates_all() {
        let all = ["5-9-0", "6-1-0", "6-2-0", "6-0-1", "6-7-1", "6-3-2", "7-0-0"].map(cursor);
        for from in all {
            for other in all {
                assert_eq!(other > from, other.id > from.in_log(other.log), "{from} {other}");
            }
        }
        assert!(cursor("6-7-1") < Cursor::before(7) && Cursor::before(7) < cursor("7-0-0"));
    }
}

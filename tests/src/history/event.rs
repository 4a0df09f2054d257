//! Judges what subscribers receive: every acknowledged change at least once, those of one
//! subject in order, or a gap where something may be missing. Changes without an answer may
//! be received or not. Not judged: that what is received has happened, and how soon it is.

use std::collections::BTreeMap;
use std::time::Duration;

use super::span::Span;

/// A change of which an event is published.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// When it was asked for.
    pub span: Span,
    /// The user or account; events of one are in order.
    pub subject: String,
    /// What tells its event from others of the subject: the type and the session.
    pub event: String,
}

/// What a subscriber has received.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Received {
    /// An event.
    Event {
        /// The user or account.
        subject: String,
        /// The type and the session, as in [`Change`].
        event: String,
    },
    /// A gap, and when it was received.
    Gap(Duration),
}

/// A subscriber: one place in the feed, on however many connections one after the other.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Subscriber {
    /// What is sent from here on has to be received.
    pub since: Duration,
    /// Everything, in order.
    pub received: Vec<Received>,
}

/// What is wrong with what a subscriber has received.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wrong {
    /// What is missing although no gap was received behind it.
    pub silent: Vec<String>,
    /// What came out of order, also a gap that came behind later events of the same subject.
    pub order: Vec<String>,
}

/// Judges one subscriber who has waited until the end.
pub fn judge(changes: &[Change], subscriber: &Subscriber) -> Wrong {
    let mut first: BTreeMap<(&str, &str), usize> = BTreeMap::new();
    let mut gaps = Vec::new();
    for (place, received) in subscriber.received.iter().enumerate() {
        match received {
            Received::Event { subject, event } => {
                first.entry((subject, event)).or_insert(place);
            }
            Received::Gap(when) => gaps.push((place, *when)),
        }
    }
    let mut subjects: BTreeMap<&str, Vec<(&Change, Option<usize>)>> = BTreeMap::new();
    let due =
        |change: &&Change| change.span.answered.is_some() && subscriber.since < change.span.sent;
    for change in changes.iter().filter(due) {
        let place = first.get(&(change.subject.as_str(), change.event.as_str())).copied();
        subjects.entry(&change.subject).or_default().push((change, place));
    }
    let mut wrong = Wrong::default();
    for (subject, changes) in subjects {
        for (change, place) in &changes {
            let event = &change.event;
            // The first that was received of those which have happened later for certain.
            let later =
                changes.iter().filter(|(other, _)| change.span.is_over_before(other.span.sent));
            let later = later.filter_map(|(_, place)| *place).min();
            match (place, later) {
                (Some(place), Some(later)) if later < *place => {
                    wrong.order.push(format!("{event} of {subject} comes behind a later change"));
                }
                (Some(_), _) => {}
                (None, later) => {
                    let behind = |(_, when): &&(usize, Duration)| change.span.sent < *when;
                    let mut gaps = gaps.iter().filter(behind).peekable();
                    let missing = format!("{event} of {subject}, {:?}, is missing", change.span);
                    if gaps.peek().is_none() {
                        wrong.silent.push(missing);
                    } else if let Some(later) = later
                        && gaps.all(|(place, _)| *place > later)
                    {
                        wrong
                            .order
                            .push(format!("{missing}, and the gap comes behind a later event"));
                    }
                }
            }
        }
    }
    wrong
}

#[cfg(test)]
mod tests {
    use super::super::span::short::{at, known, unknown};
    use super::*;

    fn change(span: Span, event: &str) -> Change {
        Change { span, subject: event[..1].into(), event: event.into() }
    }

    fn event(event: &str) -> Received {
        Received::Event { subject: event[..1].into(), event: event.into() }
    }

    fn gap(when: u64) -> Received {
        Received::Gap(at(when))
    }

    #[test]
    fn events_are_received_in_order_or_a_gap_is() {
        let changes = [
            change(known(0, 1), "a-before"),
            change(known(10, 11), "a1"),
            change(known(12, 13), "a2"),
            change(known(12, 13), "b1"),
            change(unknown(14), "a-lost"),
            change(known(20, 25), "a3"),
            change(known(21, 26), "a4"),
        ];
        let histories: &[(&str, &[Received], (usize, usize))] = &[
            ("all", &[event("a1"), event("a2"), event("b1"), event("a3"), event("a4")], (0, 0)),
            (
                "beside one another, and one without an answer",
                &[event("b1"), event("a1"), event("a2"), event("a-lost"), event("a4"), event("a3")],
                (0, 0),
            ),
            (
                "again",
                &[
                    event("a1"),
                    event("a2"),
                    event("a1"),
                    event("b1"),
                    event("a2"),
                    event("a3"),
                    event("a4"),
                ],
                (0, 0),
            ),
            ("a gap in their place", &[event("a1"), gap(15), event("a3"), event("a4")], (0, 0)),
            ("a gap in the place of all", &[gap(30)], (0, 0)),
            ("one is missing", &[event("a1"), event("b1"), event("a3"), event("a4")], (1, 0)),
            ("the last are missing", &[event("a1"), event("a2"), event("b1")], (2, 0)),
            (
                "out of order",
                &[event("a2"), event("a1"), event("b1"), event("a3"), event("a4")],
                (0, 1),
            ),
            (
                "a gap of before",
                &[gap(5), event("a1"), event("b1"), event("a3"), event("a4")],
                (1, 0),
            ),
            (
                "a gap behind a later event",
                &[event("a1"), event("b1"), event("a3"), gap(30), event("a4")],
                (0, 1),
            ),
            ("nothing", &[], (5, 0)),
        ];
        for (name, received, violations) in histories {
            let subscriber = Subscriber { since: at(5), received: received.to_vec() };
            let Wrong { silent, order } = judge(&changes, &subscriber);
            assert_eq!((silent.len(), order.len()), *violations, "{name}: {silent:?} {order:?}");
        }
    }
}

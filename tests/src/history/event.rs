//! Judges what subscribers receive: the event of every acknowledged change at least once, those
//! of one subject in order, or a gap where events may be missing. The event of a change without
//! an answer may be received or not. It does not judge whether a received event has happened,
//! or how long it took.

use std::collections::BTreeMap;
use std::time::Duration;

use super::span::Span;

/// A change that publishes an event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// When it was requested and acknowledged.
    pub span: Span,
    /// The user or account. Events of one subject are in order.
    pub subject: String,
    /// What distinguishes its event from others of the subject: the type and the session.
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

/// A subscriber with one cursor, over one or several connections in turn.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Subscriber {
    /// The subscriber has to receive the events of changes that are sent later.
    pub since: Duration,
    /// Everything it received, in order.
    pub received: Vec<Received>,
}

/// The violations that one subscriber has seen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wrong {
    /// Events that are missing without a later gap.
    pub silent: Vec<String>,
    /// Events out of order, and gaps received after later events of the same subject.
    pub order: Vec<String>,
}

/// Judges one subscriber that has received everything up to the end.
pub fn judge(changes: &[Change], subscriber: &Subscriber) -> Wrong {
    let mut first: BTreeMap<(&str, &str), usize> = BTreeMap::new();
    let mut gaps = Vec::new();
    for (at, received) in subscriber.received.iter().enumerate() {
        match received {
            Received::Event { subject, event } => {
                first.entry((subject, event)).or_insert(at);
            }
            Received::Gap(when) => gaps.push((at, *when)),
        }
    }
    let mut subjects: BTreeMap<&str, Vec<(&Change, Option<usize>)>> = BTreeMap::new();
    let due =
        |change: &&Change| change.span.answered.is_some() && subscriber.since < change.span.sent;
    for change in changes.iter().filter(due) {
        let at = first.get(&(change.subject.as_str(), change.event.as_str())).copied();
        subjects.entry(&change.subject).or_default().push((change, at));
    }
    let mut wrong = Wrong::default();
    for (subject, changes) in subjects {
        for (change, at) in &changes {
            let event = &change.event;
            // Where the first event of a change that certainly happened later was received.
            let later =
                changes.iter().filter(|(other, _)| change.span.is_over_before(other.span.sent));
            let later = later.filter_map(|(_, at)| *at).min();
            match (at, later) {
                (Some(at), Some(later)) if later < *at => {
                    wrong.order.push(format!("{event} of {subject} comes after a later change"));
                }
                (Some(_), _) => {}
                (None, later) => {
                    let after = |(_, when): &&(usize, Duration)| change.span.sent < *when;
                    let mut gaps = gaps.iter().filter(after).peekable();
                    let missing = format!("{event} of {subject}, {:?}, is missing", change.span);
                    if gaps.peek().is_none() {
                        wrong.silent.push(missing);
                    } else if let Some(later) = later
                        && gaps.all(|(at, _)| *at > later)
                    {
                        wrong
                            .order
                            .push(format!("{missing}, and the gap comes after a later event"));
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
    fn events_or_a_gap_are_received_in_order() {
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
                "changes at the same time, and one without an answer",
                &[event("b1"), event("a1"), event("a2"), event("a-lost"), event("a4"), event("a3")],
                (0, 0),
            ),
            (
                "events are repeated",
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
            ("a gap instead of events", &[event("a1"), gap(15), event("a3"), event("a4")], (0, 0)),
            ("a gap instead of all events", &[gap(30)], (0, 0)),
            ("one is missing", &[event("a1"), event("b1"), event("a3"), event("a4")], (1, 0)),
            ("the last are missing", &[event("a1"), event("a2"), event("b1")], (2, 0)),
            (
                "out of order",
                &[event("a2"), event("a1"), event("b1"), event("a3"), event("a4")],
                (0, 1),
            ),
            (
                "an earlier gap",
                &[gap(5), event("a1"), event("b1"), event("a3"), event("a4")],
                (1, 0),
            ),
            (
                "a gap after a later event",
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

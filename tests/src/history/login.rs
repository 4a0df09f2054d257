//! Judges sessions that are begun, closed and listed: logins of one user, or connections.
//! Closed stays closed, nothing acknowledged is lost, nothing that was seen alive vanishes,
//! and a list is exact but for what changes beside it. Close-all ends what was there when
//! it was sent.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::span::Span;

/// A call and what was answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    /// When.
    pub span: Span,
    /// What was done.
    pub operation: Operation,
}

/// What a call did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Began a session; without an answer, nobody knows its id.
    Create(Option<String>),
    /// Closed a session.
    Close(String),
    /// Closed all.
    CloseAll,
    /// Read a session, and whether it was there; only with an answer.
    Read(String, bool),
    /// Listed all; only with an answer.
    List(BTreeSet<String>),
}

/// What is wrong.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wrong {
    /// Sessions that were there after their close was acknowledged.
    pub alive_again: Vec<String>,
    /// Everything else.
    pub other: Vec<String>,
}

/// What is known of a session.
struct Session<'a> {
    id: &'a str,
    /// When it was asked for, if that is known.
    sent: Option<Duration>,
    /// From when on it is there for certain.
    since: Duration,
    /// What has or may have ended it.
    ends: Vec<Span>,
    /// When it was asked for and not there.
    missed: Vec<Span>,
}

/// Judges the calls of one user; sessions live for `lifetime` unless they are closed.
pub fn judge(calls: &[Call], lifetime: Duration) -> Wrong {
    let mut wrong = Wrong::default();
    let sessions = sessions(calls);
    let nameless = |call: &&Call| call.operation == Operation::Create(None);
    let nameless = calls.iter().filter(nameless).count();
    let made_by_nobody = sessions.iter().filter(|session| session.sent.is_none()).count();
    if made_by_nobody > nameless {
        wrong
            .other
            .push(format!("{made_by_nobody} sessions of {nameless} lost answers are listed"));
    }
    for session in &sessions {
        for (span, there) in sightings(calls, session.id) {
            let Some(answered) = span.answered else { continue };
            if there {
                let closed = session.ends.iter().find(|end| end.is_over_before(span.sent));
                let missed = session.missed.iter().find(|missed| missed.is_over_before(span.sent));
                if let Some(closed) = closed {
                    wrong
                        .alive_again
                        .push(format!("closed at {closed:?} and alive again at {span:?}"));
                } else if let Some(missed) = missed {
                    wrong.other.push(format!("gone at {missed:?} and alive again at {span:?}"));
                }
            } else {
                let was_there = session.since < span.sent;
                let may_be_closed = session.ends.iter().any(|end| end.may_precede(answered));
                let from = session.sent.unwrap_or(session.since);
                if was_there && !may_be_closed && answered < from + lifetime {
                    let since = session.since;
                    wrong
                        .other
                        .push(format!("there at {since:?}, never closed, and gone at {span:?}"));
                    // Once is enough.
                    break;
                }
            }
        }
    }
    wrong
}

/// All sessions that somebody has begun or seen.
fn sessions(calls: &[Call]) -> Vec<Session<'_>> {
    let mut since: BTreeMap<&str, (Option<Duration>, Duration)> = BTreeMap::new();
    for call in calls {
        let Some(answered) = call.span.answered else { continue };
        match &call.operation {
            Operation::Create(Some(id)) => {
                let (sent, from) = since.entry(id).or_insert((None, answered));
                (*sent, *from) = (Some(call.span.sent), (*from).min(answered));
            }
            Operation::List(ids) => {
                for id in ids {
                    let (_, from) = since.entry(id).or_insert((None, answered));
                    *from = (*from).min(answered);
                }
            }
            _ => {}
        }
    }
    let session = |(id, (sent, since)): (_, (Option<Duration>, Duration))| {
        let ends = calls.iter().filter(|call| match &call.operation {
            Operation::Close(closed) => closed == id,
            // One that was answered before the session was asked for has not ended it.
            Operation::CloseAll => sent.is_none_or(|sent| !call.span.is_over_before(sent)),
            _ => false,
        });
        let ends = ends.map(|call| match &call.operation {
            // The session may have begun after it took effect: then it is still there.
            Operation::CloseAll if since >= call.span.sent => Span::unknown(call.span.sent),
            _ => call.span,
        });
        let ends = ends.collect();
        let missed = sightings(calls, id).filter(|(span, there)| !there && since < span.sent);
        Session { id, sent, since, ends, missed: missed.map(|(span, _)| span).collect() }
    };
    since.into_iter().map(session).collect()
}

/// When a session was asked for, and whether it was there.
fn sightings<'a>(calls: &'a [Call], id: &'a str) -> impl Iterator<Item = (Span, bool)> + use<'a> {
    calls.iter().filter_map(move |call| match &call.operation {
        Operation::Read(read, there) if read == id => Some((call.span, *there)),
        Operation::List(ids) => Some((call.span, ids.contains(id))),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::super::span::short::{at, known, unknown};
    use super::Operation::{Close, CloseAll, Create, List, Read};
    use super::*;

    fn create(id: &str) -> Operation {
        Create(Some(id.into()))
    }

    fn list(ids: &[&str]) -> Operation {
        List(ids.iter().map(|id| (*id).to_owned()).collect())
    }

    fn read(id: &str, there: bool) -> Operation {
        Read(id.into(), there)
    }

    fn close(id: &str) -> Operation {
        Close(id.into())
    }

    /// How many are alive again, and how much else is wrong.
    fn violations(calls: &[(Span, Operation)]) -> (usize, usize) {
        let calls: Vec<Call> = calls
            .iter()
            .map(|(span, operation)| Call { span: *span, operation: operation.clone() })
            .collect();
        let wrong = judge(&calls, at(10_000));
        (wrong.alive_again.len(), wrong.other.len())
    }

    #[test]
    fn histories_of_logins_that_are_right_are_accepted() {
        let histories: &[(&str, &[(Span, Operation)])] = &[
            (
                "begun, listed, closed",
                &[
                    (known(0, 1), create("a")),
                    (known(2, 3), list(&["a"])),
                    (known(4, 5), close("a")),
                    (known(6, 7), read("a", false)),
                    (known(8, 9), list(&[])),
                ],
            ),
            (
                "a list beside a close",
                &[
                    (known(0, 1), create("a")),
                    (known(2, 9), close("a")),
                    (known(3, 4), list(&["a"])),
                    (known(5, 6), list(&[])),
                ],
            ),
            (
                "a close without an answer",
                &[
                    (known(0, 1), create("a")),
                    (unknown(2), close("a")),
                    (known(3, 4), read("a", true)),
                    (known(5, 6), read("a", false)),
                ],
            ),
            (
                "a create beside a close-all",
                &[(known(1, 5), create("a")), (known(2, 4), CloseAll), (known(6, 7), list(&["a"]))],
            ),
            (
                "a create without an answer is in a list",
                &[
                    (unknown(0), Create(None)),
                    (known(1, 2), list(&[])),
                    (known(3, 4), list(&["a"])),
                ],
            ),
            (
                "a lifetime is over",
                &[(known(0, 1), create("a")), (known(9_999, 10_001), read("a", false))],
            ),
        ];
        for (name, calls) in histories {
            assert_eq!(violations(calls), (0, 0), "{name}");
        }
    }

    #[test]
    fn logins_that_come_back_or_are_lost_are_found() {
        let (again, other) = ((1, 0), (0, 1));
        let histories: &[(&str, &[(Span, Operation)], _)] = &[
            (
                "closed and read",
                &[
                    (known(0, 1), create("a")),
                    (known(2, 3), close("a")),
                    (known(4, 5), read("a", true)),
                ],
                again,
            ),
            (
                "closed and listed",
                &[
                    (known(0, 1), create("a")),
                    (known(2, 3), close("a")),
                    (known(4, 5), list(&["a"])),
                ],
                again,
            ),
            (
                "close-all leaves one",
                &[
                    (known(0, 1), create("a")),
                    (known(2, 3), CloseAll),
                    (known(4, 5), read("a", true)),
                ],
                again,
            ),
            (
                "a close without an answer is undone",
                &[
                    (known(0, 1), create("a")),
                    (unknown(2), close("a")),
                    (known(3, 4), read("a", false)),
                    (known(5, 6), read("a", true)),
                ],
                other,
            ),
            ("one is lost", &[(known(0, 1), create("a")), (known(2, 3), read("a", false))], other),
            (
                "one is lost behind a close-all of before",
                &[
                    (known(0, 1), CloseAll),
                    (known(2, 3), create("a")),
                    (known(4, 5), read("a", false)),
                ],
                other,
            ),
            ("a list lacks one", &[(known(0, 1), create("a")), (known(2, 3), list(&[]))], other),
            ("a list has one of nobody", &[(known(2, 3), list(&["a"]))], other),
            (
                "one that was seen is lost",
                &[
                    (unknown(0), Create(None)),
                    (known(1, 2), list(&["a"])),
                    (known(3, 4), list(&[])),
                ],
                other,
            ),
            (
                "close-all leaves one that was seen",
                &[
                    (unknown(0), Create(None)),
                    (known(1, 2), list(&["a"])),
                    (known(3, 4), CloseAll),
                    (known(5, 6), list(&["a"])),
                ],
                again,
            ),
        ];
        for (name, calls, expected) in histories {
            assert_eq!(violations(calls), *expected, "{name}");
        }
    }
}

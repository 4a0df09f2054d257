//! Judges the logins or connections of one user. A closed session stays closed. A session that
//! was acknowledged or seen is not lost. A list is exact, except for changes at the same time.
//! Close-all ends every session that existed when it was sent.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::span::Span;

/// A call and its answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    /// When it was sent and answered.
    pub span: Span,
    /// The operation.
    pub operation: Operation,
}

/// The operation of a call, with its result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Created a session. Its id is unknown without an answer.
    Create(Option<String>),
    /// Closed a session.
    Close(String),
    /// Closed all sessions.
    CloseAll,
    /// Read a session, and whether it was there. Only calls with an answer count.
    Read(String, bool),
    /// Listed all sessions. Only calls with an answer count.
    List(BTreeSet<String>),
}

/// The violations.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wrong {
    /// Sessions that were there after their close was acknowledged.
    pub alive_again: Vec<String>,
    /// Everything else.
    pub other: Vec<String>,
}

/// What the calls say about a session.
struct Session<'a> {
    id: &'a str,
    /// When its creation was sent, if that is known.
    sent: Option<Duration>,
    /// From when on it certainly exists.
    since: Duration,
    /// Calls that have ended or may have ended it.
    ends: Vec<Span>,
    /// Calls that looked for it and did not find it.
    missed: Vec<Span>,
}

/// Judges the calls of one user, whose sessions live for `lifetime` unless they are closed.
pub fn judge(calls: &[Call], lifetime: Duration) -> Wrong {
    let mut wrong = Wrong::default();
    let sessions = sessions(calls);
    let is_unknown = |call: &&Call| call.operation == Operation::Create(None);
    let unknown = calls.iter().filter(is_unknown).count();
    let unexplained = sessions.iter().filter(|session| session.sent.is_none()).count();
    if unexplained > unknown {
        wrong.other.push(format!("{unexplained} sessions are listed for {unknown} lost answers"));
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
                        .push(format!("there since {since:?}, never closed, and gone at {span:?}"));
                    // One violation for each session is enough.
                    break;
                }
            }
        }
    }
    wrong
}

/// All sessions that callers have created or seen.
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
            // A close-all that was answered before the creation was sent has not ended it.
            Operation::CloseAll => sent.is_none_or(|sent| !call.span.is_over_before(sent)),
            _ => false,
        });
        let ends = ends.map(|call| match &call.operation {
            // The session may have been created after the close-all took effect, and still exist.
            Operation::CloseAll if since >= call.span.sent => Span::unknown(call.span.sent),
            _ => call.span,
        });
        let ends = ends.collect();
        let missed = sightings(calls, id).filter(|(span, there)| !there && since < span.sent);
        Session { id, sent, since, ends, missed: missed.map(|(span, _)| span).collect() }
    };
    since.into_iter().map(session).collect()
}

/// The calls that looked for a session, and whether it was there.
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

    /// The number of sessions that are alive again, and of all other violations.
    fn violations(calls: &[(Span, Operation)]) -> (usize, usize) {
        let calls: Vec<Call> = calls
            .iter()
            .map(|(span, operation)| Call { span: *span, operation: operation.clone() })
            .collect();
        let wrong = judge(&calls, at(10_000));
        (wrong.alive_again.len(), wrong.other.len())
    }

    #[test]
    fn correct_histories_of_logins_are_accepted() {
        let histories: &[(&str, &[(Span, Operation)])] = &[
            (
                "created, listed, closed",
                &[
                    (known(0, 1), create("a")),
                    (known(2, 3), list(&["a"])),
                    (known(4, 5), close("a")),
                    (known(6, 7), read("a", false)),
                    (known(8, 9), list(&[])),
                ],
            ),
            (
                "a list during a close",
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
                "a create during a close-all",
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
                "one is lost after an earlier close-all",
                &[
                    (known(0, 1), CloseAll),
                    (known(2, 3), create("a")),
                    (known(4, 5), read("a", false)),
                ],
                other,
            ),
            ("a list lacks one", &[(known(0, 1), create("a")), (known(2, 3), list(&[]))], other),
            ("a list has one that was not created", &[(known(2, 3), list(&["a"]))], other),
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

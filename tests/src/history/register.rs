//! Judges the calls of one key as a register: is there an order of all calls that explains every
//! answer, and in which an answered call comes before every call that was sent later? This is
//! linearizability, searched as Wing and Gong do, with the memo of Lowe. Every value is written
//! once. Sessions live longer than the history, so lifetimes are not judged.

use std::collections::HashSet;
use std::time::Duration;

use super::span::Span;

/// The number of states after which the search gives up.
const STATES_MAX: usize = 200_000;

/// A value and its version; `None` without a session.
pub type State = Option<(u64, u64)>;

/// A call and its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Call {
    /// When it was sent and answered. Without an answer, only writes and deletes count.
    pub span: Span,
    /// The operation.
    pub operation: Operation,
}

/// The operation of a call, with its result.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Operation {
    /// Read this state.
    Read(State),
    /// Wrote a value.
    Write {
        /// The value, which no other call writes.
        value: u64,
        /// The required version; 0 without a session.
        if_version: Option<u64>,
        /// The version in the answer. It means nothing without an answer.
        version: u64,
    },
    /// Deleted the session, or found none.
    Delete {
        /// The required version.
        if_version: Option<u64>,
    },
    /// Was refused because the session is at another version.
    Mismatch {
        /// The version that the caller expected.
        if_version: u64,
        /// The version in the answer; 0 without a session.
        current: u64,
    },
}

/// The result of the search.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// An order explains all answers.
    Explained,
    /// No order does. The text names the first call that does not fit.
    Unexplained(String),
    /// The search was too long.
    Undecided,
}

/// Judges the calls of one key, which starts without a session.
pub fn judge(calls: &[Call]) -> Verdict {
    let mut calls = calls.to_vec();
    calls.sort_by_key(|call| call.span.sent);
    Search::new(&calls).run()
}

fn version(state: State) -> u64 {
    state.map_or(0, |(_, version)| version)
}

impl Call {
    /// The state after it, if it fits the state before it.
    fn apply(&self, state: State) -> Option<State> {
        let holds = |if_version: Option<u64>| if_version.is_none_or(|it| it == version(state));
        match self.operation {
            Operation::Read(seen) => (seen == state).then_some(state),
            Operation::Write { value, if_version, version: answered } => {
                let next = version(state) + 1;
                let fits = self.span.answered.is_none() || answered == next;
                (fits && holds(if_version)).then_some(Some((value, next)))
            }
            Operation::Delete { if_version } => holds(if_version).then_some(None),
            Operation::Mismatch { if_version, current } => {
                (current == version(state) && current != if_version).then_some(state)
            }
        }
    }
}

/// A set of calls, by their indexes.
type Set = Box<[u64]>;

struct Search<'a> {
    calls: &'a [Call],
    /// Values that were read.
    read: HashSet<u64>,
    /// The calls that are in the order so far.
    ordered: Set,
    /// The number of ordered calls with an answer.
    answered: usize,
    visited: HashSet<(Set, State)>,
    /// The most answered calls that an order explained, and why it could not go further.
    furthest: (usize, String),
}

/// A step of the order: the call that was taken, and the calls that may follow.
struct Step {
    taken: Option<usize>,
    state: State,
    next: std::vec::IntoIter<usize>,
}

impl<'a> Search<'a> {
    fn new(calls: &'a [Call]) -> Self {
        let read = calls.iter().filter_map(|call| match call.operation {
            Operation::Read(Some((value, _))) => Some(value),
            _ => None,
        });
        Self {
            calls,
            read: read.collect(),
            ordered: vec![0; calls.len().div_ceil(64)].into(),
            answered: 0,
            visited: HashSet::new(),
            furthest: (0, String::new()),
        }
    }

    fn run(mut self) -> Verdict {
        let all = self.calls.iter().filter(|call| call.span.answered.is_some()).count();
        let mut steps = vec![Step { taken: None, state: None, next: self.candidates(None) }];
        while let Some(step) = steps.last_mut() {
            if self.answered == all {
                return Verdict::Explained;
            }
            if self.visited.len() > STATES_MAX {
                return Verdict::Undecided;
            }
            let Some(number) = step.next.next() else {
                let taken = step.taken;
                steps.pop();
                if let Some(number) = taken {
                    self.toggle(number, false);
                }
                continue;
            };
            let Some(state) = self.calls[number].apply(step.state) else { continue };
            self.toggle(number, true);
            if self.visited.insert((self.ordered.clone(), state)) {
                let next = self.candidates(state);
                steps.push(Step { taken: Some(number), state, next });
            } else {
                self.toggle(number, false);
            }
        }
        Verdict::Unexplained(self.furthest.1)
    }

    fn is_ordered(&self, number: usize) -> bool {
        self.ordered[number / 64] >> (number % 64) & 1 == 1
    }

    /// Adds a call to the order, or removes it.
    fn toggle(&mut self, number: usize, added: bool) {
        self.ordered[number / 64] ^= 1 << (number % 64);
        if self.calls[number].span.answered.is_some() {
            if added { self.answered += 1 } else { self.answered -= 1 }
        }
    }

    /// The calls that may come next: those sent before the first answer of the remaining calls.
    /// Of equivalent calls without an answer, only the first one is tried.
    fn candidates(&mut self, state: State) -> std::vec::IntoIter<usize> {
        let left: Vec<usize> = (0..self.calls.len()).filter(|it| !self.is_ordered(*it)).collect();
        let answers = left.iter().filter_map(|number| {
            let answered = self.calls[*number].span.answered?;
            Some((answered, *number))
        });
        let first = answers.min();
        let until = first.map_or(Duration::MAX, |(answered, _)| answered);
        if let Some((answered, number)) = first
            && self.answered >= self.furthest.0
        {
            let operation = self.calls[number].operation;
            let against = format!(
                "no order explains {operation:?}, answered at {answered:?}, where the state is {state:?}"
            );
            self.furthest = (self.answered, against);
        }
        let mut alike = HashSet::new();
        let (mut known, mut unknown) = (Vec::new(), Vec::new());
        for number in left {
            let call = &self.calls[number];
            if call.span.sent > until {
                break;
            }
            if call.span.answered.is_some() {
                known.push(number);
            } else if self.class(call).is_none_or(|class| alike.insert(class)) {
                unknown.push(number);
            }
        }
        known.extend(unknown);
        known.into_iter()
    }

    /// The class of equivalent calls without an answer; `None` when no other call is equivalent.
    fn class(&self, call: &Call) -> Option<Operation> {
        match call.operation {
            Operation::Write { value, .. } if self.read.contains(&value) => None,
            Operation::Write { if_version, .. } => {
                Some(Operation::Write { value: 0, if_version, version: 0 })
            }
            other => Some(other),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::span::short::{known, unknown};
    use super::*;

    fn write(span: Span, value: u64, version: u64) -> Call {
        Call { span, operation: Operation::Write { value, if_version: None, version } }
    }

    fn compare(span: Span, value: u64, if_version: u64, version: u64) -> Call {
        let if_version = Some(if_version);
        Call { span, operation: Operation::Write { value, if_version, version } }
    }

    fn read(span: Span, seen: State) -> Call {
        Call { span, operation: Operation::Read(seen) }
    }

    fn delete(span: Span) -> Call {
        Call { span, operation: Operation::Delete { if_version: None } }
    }

    fn mismatch(span: Span, if_version: u64, current: u64) -> Call {
        Call { span, operation: Operation::Mismatch { if_version, current } }
    }

    #[test]
    fn histories_that_an_order_explains_are_accepted() {
        let histories: &[(&str, &[Call])] = &[
            ("nothing", &[]),
            ("a read of nothing", &[read(known(0, 1), None)]),
            ("a write and a read", &[write(known(0, 1), 7, 1), read(known(2, 3), Some((7, 1)))]),
            (
                "a read during a write sees it or not",
                &[
                    write(known(0, 9), 7, 1),
                    read(known(1, 2), None),
                    read(known(3, 4), Some((7, 1))),
                ],
            ),
            (
                "a write without an answer takes effect late",
                &[
                    write(unknown(0), 7, 0),
                    read(known(1, 2), None),
                    read(known(50, 51), Some((7, 1))),
                ],
            ),
            (
                "a write without an answer never happens",
                &[
                    write(unknown(0), 7, 0),
                    write(known(5, 6), 8, 1),
                    read(known(7, 8), Some((8, 1))),
                ],
            ),
            (
                "two writes without an answer, of which one happens",
                &[write(unknown(0), 7, 0), write(unknown(1), 8, 0), write(known(5, 6), 9, 2)],
            ),
            (
                "a compare that holds and one that does not",
                &[
                    compare(known(0, 5), 7, 0, 1),
                    mismatch(known(1, 4), 0, 1),
                    compare(known(6, 7), 8, 1, 2),
                ],
            ),
            (
                "a delete restarts the versions",
                &[write(known(0, 1), 7, 1), delete(known(2, 3)), write(known(4, 5), 8, 1)],
            ),
            (
                "a delete without an answer happens between two reads",
                &[
                    write(known(0, 1), 7, 1),
                    delete(unknown(2)),
                    read(known(3, 4), Some((7, 1))),
                    read(known(5, 6), None),
                ],
            ),
        ];
        for (name, calls) in histories {
            assert_eq!(judge(calls), Verdict::Explained, "{name}");
        }
    }

    #[test]
    fn histories_that_no_order_explains_are_found() {
        let histories: &[(&str, &[Call])] = &[
            ("a lost write", &[write(known(0, 1), 7, 1), read(known(2, 3), None)]),
            (
                "a lost update",
                &[
                    write(known(0, 1), 7, 1),
                    compare(known(2, 5), 8, 1, 2),
                    compare(known(2, 5), 9, 1, 2),
                ],
            ),
            (
                "a stale read",
                &[
                    write(known(0, 1), 7, 1),
                    write(known(2, 3), 8, 2),
                    read(known(4, 5), Some((7, 1))),
                ],
            ),
            ("a value that was not written", &[read(known(0, 1), Some((7, 1)))]),
            (
                "a value that was read is gone",
                &[
                    write(known(0, 9), 7, 1),
                    read(known(1, 2), Some((7, 1))),
                    read(known(3, 4), None),
                ],
            ),
            (
                "a deleted session is back",
                &[write(known(0, 1), 7, 1), delete(known(2, 3)), read(known(4, 5), Some((7, 1)))],
            ),
            (
                "a write without an answer happens twice",
                &[
                    write(unknown(0), 7, 0),
                    read(known(1, 2), Some((7, 1))),
                    delete(known(3, 4)),
                    read(known(5, 6), Some((7, 1))),
                ],
            ),
            (
                "a write without an answer happens before it is sent",
                &[read(known(0, 1), Some((7, 1))), write(unknown(2), 7, 0)],
            ),
            ("a version is skipped", &[write(known(0, 1), 7, 1), write(known(2, 3), 8, 3)]),
            (
                "a refusal at the version that was expected",
                &[write(known(0, 1), 7, 1), mismatch(known(2, 3), 1, 1)],
            ),
        ];
        for (name, calls) in histories {
            assert!(matches!(judge(calls), Verdict::Unexplained(_)), "{name}");
        }
    }

    #[test]
    fn a_long_outage_is_judged_in_time() {
        let mut calls = vec![write(known(0, 1), 1, 1)];
        for number in 0..60 {
            calls.push(match number % 3 {
                0 => delete(unknown(10 + number)),
                _ => write(unknown(10 + number), 100 + number, 0),
            });
        }
        calls.push(read(known(900, 901), Some((159, 5))));
        assert_eq!(judge(&calls), Verdict::Explained);
        calls.push(read(known(902, 903), Some((1, 1))));
        assert!(matches!(judge(&calls), Verdict::Unexplained(_)));
    }
}

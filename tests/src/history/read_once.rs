//! Judges values for one reader, one for each key. At most one caller receives a value, it never
//! comes back, and an acknowledged one is not lost. A read without an answer may have deleted
//! the value; that no caller receives it then is not a violation.

use super::span::Span;

/// A call and its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Call {
    /// When it was sent and answered.
    pub span: Span,
    /// The operation.
    pub operation: Operation,
}

/// The operation of a call, with its result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Wrote the value.
    Put(u64),
    /// Read the value and received this. The result is unknown without an answer.
    Take(Option<u64>),
}

/// Judges the calls of one key; returns the violations.
pub fn judge(calls: &[Call]) -> Vec<String> {
    let mut wrong = Vec::new();
    let put = calls.iter().find_map(|call| match call.operation {
        Operation::Put(value) => Some((call.span, value)),
        Operation::Take(_) => None,
    });
    let takes = calls.iter().filter_map(|call| match call.operation {
        Operation::Take(got) => Some((call.span, got)),
        Operation::Put(_) => None,
    });
    let takes: Vec<(Span, Option<u64>)> = takes.collect();
    let known = takes.iter().filter(|(span, _)| span.answered.is_some());
    let got: Vec<(Span, u64)> =
        known.clone().filter_map(|(span, got)| got.map(|value| (*span, value))).collect();
    let nothing: Vec<Span> =
        known.filter(|(_, got)| got.is_none()).map(|(span, _)| *span).collect();
    if got.len() > 1 {
        wrong.push(format!("{} callers have received one value: {got:?}", got.len()));
    }
    for (span, value) in &got {
        if put.is_none_or(|(put, written)| written != *value || span.is_over_before(put.sent)) {
            wrong.push(format!("{value} was read, which was not written"));
        }
    }
    let Some((put, _)) = put else { return wrong };
    // Reads at a time when the value was certainly there, unless another read had taken it.
    let missed = nothing.iter().filter(|span| put.is_over_before(span.sent));
    for missed in missed {
        if let Some((back, _)) = got.iter().find(|(span, _)| missed.is_over_before(span.sent)) {
            wrong.push(format!("it was gone at {missed:?} and came back at {back:?}"));
        }
        let before = missed.answered.unwrap_or_default();
        let may_be_taken = |(span, got): &(Span, Option<u64>)| {
            let took = got.is_some() || span.answered.is_none();
            took && span.may_precede(before)
        };
        if !takes.iter().any(may_be_taken) {
            wrong.push(format!("it was acknowledged and is lost at {missed:?}"));
            // One violation for each key is enough.
            break;
        }
    }
    wrong
}

#[cfg(test)]
mod tests {
    use super::super::span::short::{known, unknown};
    use super::*;

    fn put(span: Span) -> Call {
        Call { span, operation: Operation::Put(7) }
    }

    fn take(span: Span, got: Option<u64>) -> Call {
        Call { span, operation: Operation::Take(got) }
    }

    #[test]
    fn a_value_has_one_reader() {
        let histories: &[(&str, &[Call], usize)] = &[
            ("one reader", &[put(known(0, 1)), take(known(2, 3), Some(7))], 0),
            (
                "one reader of two",
                &[put(known(0, 1)), take(known(2, 5), None), take(known(3, 4), Some(7))],
                0,
            ),
            (
                "a reader who got no answer may have it",
                &[put(known(0, 1)), take(unknown(2), None), take(known(5, 6), None)],
                0,
            ),
            (
                "a reader who got no answer leaves it",
                &[put(known(0, 1)), take(unknown(2), None), take(known(5, 6), Some(7))],
                0,
            ),
            (
                "a write without an answer comes late",
                &[put(unknown(0)), take(known(2, 3), None), take(known(5, 6), Some(7))],
                0,
            ),
            (
                "two readers",
                &[put(known(0, 1)), take(known(2, 5), Some(7)), take(known(2, 5), Some(7))],
                1,
            ),
            ("a value that was not written", &[take(known(2, 5), Some(7))], 1),
            ("read before it is written", &[take(known(0, 1), Some(7)), put(known(2, 3))], 1),
            ("another value", &[put(known(0, 1)), take(known(2, 5), Some(8))], 1),
            ("it is lost", &[put(known(0, 1)), take(known(2, 5), None)], 1),
            (
                "it comes back",
                &[
                    put(known(0, 1)),
                    take(unknown(2), None),
                    take(known(3, 4), None),
                    take(known(5, 6), Some(7)),
                ],
                1,
            ),
        ];
        for (name, calls, violations) in histories {
            assert_eq!(judge(calls).len(), *violations, "{name}");
        }
    }
}

//! Measures how stale reads were: for how long an old value was read after an overwrite. One
//! caller writes increasing values under one key through one host, and another caller reads
//! them through another host. The result is a figure and not a violation: only the embedded
//! store and a single Redis server promise that reads are never stale.

use std::time::Duration;

use super::register::{Call, Operation};

/// The longest time between the acknowledgement of a value and a later read that returned an
/// earlier value.
pub fn longest(calls: &[Call]) -> Duration {
    let written = |call: &Call| match (call.operation, call.span.answered) {
        (Operation::Write { value, .. }, Some(answered)) => Some((value, answered)),
        _ => None,
    };
    let mut acknowledged: Vec<(u64, Duration)> = calls.iter().filter_map(written).collect();
    acknowledged.sort_unstable();
    let staleness = |call: &Call| {
        let Operation::Read(state) = call.operation else { return None };
        let seen = state.map_or(0, |(value, _)| value);
        let next = acknowledged.partition_point(|(value, _)| *value <= seen);
        let (_, since) = acknowledged.get(next)?;
        call.span.sent.checked_sub(*since)
    };
    calls.iter().filter_map(staleness).max().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::super::span::short::{at, known, unknown};
    use super::*;

    #[test]
    fn staleness_counts_from_the_first_value_that_a_read_lacks() {
        let wrote = |span, value| Call {
            span,
            operation: Operation::Write { value, if_version: None, version: value },
        };
        let read = |span, value: u64| Call {
            span,
            operation: Operation::Read((value > 0).then_some((value, value))),
        };
        let writes = [wrote(known(10, 12), 1), wrote(unknown(20), 2), wrote(known(30, 33), 3)];
        for (reads, expected) in [
            (&[read(known(11, 12), 0), read(known(34, 35), 3)][..], 0),
            (&[read(known(20, 21), 0), read(known(25, 26), 1)], 8),
            (&[read(known(40, 41), 2), read(known(39, 45), 1)], 7),
            (&[], 0),
        ] {
            let calls = [&writes[..], reads].concat();
            assert_eq!(longest(&calls), at(expected), "{reads:?}");
        }
    }
}

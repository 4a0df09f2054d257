//! Judges viewing slots as devices see them: never more at a time than the limit of the account.
//! A device relies on its slot from an answer until `VIEWING_TTL` after it **sent** the
//! acknowledged create or heartbeat, until it sends the teardown, or until it learns that the
//! slot has ended. It does not judge a lowered limit.

use std::time::Duration;

use super::lock::TOLERANCE;

/// What one device knows about one slot.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Slot {
    /// When each acknowledged create or heartbeat was sent and answered.
    pub acknowledged: Vec<(Duration, Duration)>,
    /// When it sent the teardown, another device sent the create that replaced the session, or
    /// it learned of the end.
    pub ended: Option<Duration>,
}

impl Slot {
    /// The periods in which its device relies on it.
    fn believed(&self, lifetime: Duration) -> Vec<(Duration, Duration)> {
        let lifetime = lifetime.saturating_sub(TOLERANCE);
        let end = self.ended.unwrap_or(Duration::MAX);
        let acknowledged = self.acknowledged.iter();
        let mut times: Vec<_> = acknowledged
            .map(|(sent, answered)| (*answered, (*sent + lifetime).min(end)))
            .filter(|(from, until)| from < until)
            .collect();
        times.sort_unstable();
        // Periods of one slot that overlap are one period.
        let mut joined: Vec<(Duration, Duration)> = Vec::new();
        for (from, until) in times {
            match joined.last_mut() {
                Some((_, last)) if from <= *last => *last = (*last).max(until),
                _ => joined.push((from, until)),
            }
        }
        joined
    }
}

/// Judges the slots of one account, whose limit is `slots_max`; returns the violations.
pub fn judge(slots: &[Slot], slots_max: usize, lifetime: Duration) -> Vec<String> {
    let mut changes = Vec::new();
    for (number, slot) in slots.iter().enumerate() {
        for (from, until) in slot.believed(lifetime) {
            changes.push((from, true, number));
            changes.push((until, false, number));
        }
    }
    // Ends sort before begins of the same instant.
    changes.sort_unstable();
    let mut wrong = Vec::new();
    let mut present: Vec<usize> = Vec::new();
    for (when, begins, number) in changes {
        if !begins {
            present.retain(|other| *other != number);
            continue;
        }
        present.push(number);
        if present.len() > slots_max {
            let those: Vec<&Slot> = present.iter().map(|number| &slots[*number]).collect();
            let count = present.len();
            wrong.push(format!("{count} devices have {slots_max} slots at {when:?}: {those:?}"));
        }
    }
    wrong
}

#[cfg(test)]
mod tests {
    use super::super::span::short::at;
    use super::*;

    fn slot(acknowledged: &[(u64, u64)], ended: Option<u64>) -> Slot {
        let acknowledged = acknowledged.iter().map(|(sent, answered)| (at(*sent), at(*answered)));
        Slot { acknowledged: acknowledged.collect(), ended: ended.map(at) }
    }

    #[test]
    fn devices_never_rely_on_more_slots_than_the_limit() {
        let histories: &[(&str, Vec<Slot>, usize)] = &[
            ("two", vec![slot(&[(0, 1)], None), slot(&[(0, 1)], None)], 0),
            (
                "one has expired",
                vec![slot(&[(0, 1)], None), slot(&[(500, 501)], None), slot(&[(990, 1001)], None)],
                0,
            ),
            (
                "one has left",
                vec![slot(&[(0, 1)], Some(5)), slot(&[(0, 1)], None), slot(&[(4, 6)], None)],
                0,
            ),
            (
                "one whose answer was late",
                vec![slot(&[(0, 999)], None), slot(&[(0, 1)], None), slot(&[(998, 1002)], None)],
                0,
            ),
            ("three", vec![slot(&[(0, 1)], None), slot(&[(0, 1)], None), slot(&[(2, 3)], None)], 1),
            (
                "one renewed by a heartbeat",
                vec![
                    slot(&[(0, 1), (900, 901)], None),
                    slot(&[(800, 801)], None),
                    slot(&[(1100, 1101)], None),
                ],
                1,
            ),
        ];
        for (name, slots, violations) in histories {
            assert_eq!(judge(slots, 2, at(1000)).len(), *violations, "{name}");
        }
    }
}

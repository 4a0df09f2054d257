//! Judges viewing slots as devices believe in them: never more than may be of one account at
//! a time. A device counts `VIEWING_TTL` from when it **sent** the create or heartbeat that
//! was acknowledged, and has the slot from the answer until then, until it sends the
//! teardown, or until it hears that the slot has ended. A lowered limit is not judged.

use std::time::Duration;

use super::lock::TOLERANCE;

/// What one device knows of one slot.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Slot {
    /// When each acknowledged create or heartbeat was sent, and when it was answered.
    pub acknowledged: Vec<(Duration, Duration)>,
    /// When it sent the teardown, somebody sent the create that took the slot over, or it
    /// heard of the end.
    pub ended: Option<Duration>,
}

impl Slot {
    /// The times in which its device believes to have it.
    fn believed(&self, lifetime: Duration) -> Vec<(Duration, Duration)> {
        let lifetime = lifetime.saturating_sub(TOLERANCE);
        let end = self.ended.unwrap_or(Duration::MAX);
        let acknowledged = self.acknowledged.iter();
        let mut times: Vec<_> = acknowledged
            .map(|(sent, answered)| (*answered, (*sent + lifetime).min(end)))
            .filter(|(from, until)| from < until)
            .collect();
        times.sort_unstable();
        // One device has one slot, however often it was renewed.
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

/// Judges the slots of one account of which so many may be; returns what is wrong.
pub fn judge(slots: &[Slot], slots_max: usize, lifetime: Duration) -> Vec<String> {
    let mut changes = Vec::new();
    for (number, slot) in slots.iter().enumerate() {
        for (from, until) in slot.believed(lifetime) {
            changes.push((from, true, number));
            changes.push((until, false, number));
        }
    }
    // At one instant, ends come first.
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
    fn devices_never_believe_in_more_slots_than_there_are() {
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
                "one counts from an answer that was late",
                vec![slot(&[(0, 999)], None), slot(&[(0, 1)], None), slot(&[(998, 1002)], None)],
                0,
            ),
            ("three", vec![slot(&[(0, 1)], None), slot(&[(0, 1)], None), slot(&[(2, 3)], None)], 1),
            (
                "a heartbeat has kept one",
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

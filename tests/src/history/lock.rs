//! Judges locks: there are never two holders at a time. A holder relies on its lock from the
//! answer until it sends the unlock, or until one lifetime after it **sent** the request,
//! whichever is earlier. A lock without an answer has no holder.

use std::time::Duration;

/// Subtracted from a lifetime: the service counts whole milliseconds, and its clock and that of
/// the callers may differ by a few.
pub const TOLERANCE: Duration = Duration::from_millis(5);

/// An acknowledged lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hold {
    /// When the request was sent.
    pub sent: Duration,
    /// When the answer was received.
    pub answered: Duration,
    /// When the holder sent the unlock.
    pub unlocked: Option<Duration>,
}

impl Hold {
    /// Until when its holder relies on it.
    fn end(&self, lifetime: Duration) -> Duration {
        let end = self.sent + lifetime.saturating_sub(TOLERANCE);
        self.unlocked.map_or(end, |unlocked| unlocked.min(end))
    }
}

/// Judges the locks of one key, which have this lifetime; returns the violations.
pub fn judge(holds: &[Hold], lifetime: Duration) -> Vec<String> {
    let mut holds: Vec<&Hold> =
        holds.iter().filter(|hold| hold.answered < hold.end(lifetime)).collect();
    holds.sort_by_key(|hold| hold.answered);
    let mut wrong = Vec::new();
    let mut longest: Option<&Hold> = None;
    for hold in holds {
        if let Some(before) = longest
            && hold.answered < before.end(lifetime)
        {
            wrong.push(format!("two holders at a time: {before:?} and {hold:?}"));
        }
        if longest.is_none_or(|before| before.end(lifetime) < hold.end(lifetime)) {
            longest = Some(hold);
        }
    }
    wrong
}

#[cfg(test)]
mod tests {
    use super::super::span::short::at;
    use super::*;

    fn hold(sent: u64, answered: u64, unlocked: Option<u64>) -> Hold {
        Hold { sent: at(sent), answered: at(answered), unlocked: unlocked.map(at) }
    }

    #[test]
    fn a_lock_has_one_holder() {
        let histories: &[(&str, &[Hold], usize)] = &[
            ("one after the other", &[hold(0, 1, Some(5)), hold(4, 6, Some(9))], 0),
            ("after the lifetime", &[hold(0, 1, None), hold(900, 1001, None)], 0),
            ("an answer after the lifetime", &[hold(0, 1500, None), hold(1000, 1100, None)], 0),
            ("two holders at a time", &[hold(0, 10, None), hold(11, 12, None)], 1),
            ("before the unlock", &[hold(0, 10, Some(50)), hold(11, 12, Some(20))], 1),
            (
                "inside a longer one",
                &[hold(0, 1, None), hold(2, 3, Some(4)), hold(500, 501, Some(502))],
                2,
            ),
        ];
        for (name, holds, violations) in histories {
            assert_eq!(judge(holds, at(1000)).len(), *violations, "{name}");
        }
    }
}

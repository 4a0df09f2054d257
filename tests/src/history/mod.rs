//! The history checker: compares what callers recorded (their calls, the times, the answers)
//! with what the service promises. It judges registers, acknowledged writes, values for one
//! reader, locks, viewing slots, closed logins and connections, and events. It knows only what
//! callers know: their own clock, and that a call without an answer may have happened at any
//! later time, or never. It does not judge exact lifetimes, presence and counts, the idle limit
//! of logins, the delay of events, or anything across keys, users or accounts.

pub mod event;
pub mod lock;
pub mod login;
#[cfg(test)]
mod model;
pub mod read_once;
pub mod recorder;
pub mod register;
pub mod slot;
pub mod span;
pub mod stale;

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

/// Everything that callers have recorded.
#[derive(Clone, Debug, Default)]
pub struct History {
    /// Calls by booking key.
    pub registers: BTreeMap<String, Vec<register::Call>>,
    /// The same for keys of a context that is read once. Its conditional writes, deletes and
    /// reads all wait for replicas.
    pub compared: BTreeMap<String, Vec<register::Call>>,
    /// Acknowledged writes without a condition, of keys that are written once: whether the value
    /// is there at the end, where that is known.
    pub written: BTreeMap<String, Option<bool>>,
    /// Writes through one host and reads through another one, for [`stale`].
    pub overwritten: Vec<register::Call>,
    /// Calls by the key of a value for one reader.
    pub read_once: BTreeMap<String, Vec<read_once::Call>>,
    /// Acknowledged locks by key.
    pub locks: BTreeMap<String, Vec<lock::Hold>>,
    /// Slots by account.
    pub slots: BTreeMap<String, Vec<slot::Slot>>,
    /// Calls on logins and on connections, by user.
    pub logins: BTreeMap<String, Vec<login::Call>>,
    /// Changes that publish events.
    pub changes: Vec<event::Change>,
    /// What subscribers have received.
    pub subscribers: Vec<event::Subscriber>,
}

/// The lifetimes and limits that the service was started with.
#[derive(Clone, Copy, Debug)]
pub struct Terms {
    /// `SESSION_LOCK_TTL`.
    pub lock: Duration,
    /// `VIEWING_TTL`.
    pub slot: Duration,
    /// `VIEWING_MAX_SESSIONS`.
    pub slots_max: usize,
    /// The shorter of `USER_SESSION_TTL` and `CONNECTION_STALE`.
    pub login: Duration,
}

/// A part of the checker, which judges one promise.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Judge {
    /// [`register`].
    Registers,
    /// [`register`], for calls with a condition.
    Compared,
    /// An acknowledged write without a condition is lost.
    Writes,
    /// [`read_once`].
    ReadOnce,
    /// [`lock`].
    Locks,
    /// [`slot`].
    Slots,
    /// [`login`]: a closed session is there again.
    Closed,
    /// [`login`]: a session that was acknowledged or seen is lost, and all other violations.
    Logins,
    /// [`event`]: an event is missing without a gap.
    Events,
    /// [`event`]: an event or a gap is out of order.
    Order,
}

impl Judge {
    /// All judges, in the order of a table.
    pub const ALL: [Self; 10] = [
        Self::Registers,
        Self::Compared,
        Self::Writes,
        Self::ReadOnce,
        Self::Locks,
        Self::Slots,
        Self::Closed,
        Self::Logins,
        Self::Events,
        Self::Order,
    ];

    /// Its name in a table.
    pub fn name(self) -> &'static str {
        match self {
            Self::Registers => "registers",
            Self::Compared => "compared",
            Self::Writes => "writes",
            Self::ReadOnce => "read-once",
            Self::Locks => "locks",
            Self::Slots => "slots",
            Self::Closed => "closed",
            Self::Logins => "logins",
            Self::Events => "events",
            Self::Order => "order",
        }
    }
}

/// Something that contradicts a promise.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// The judge that found it.
    pub judge: Judge,
    /// The key, user or account.
    pub subject: String,
    /// A description.
    pub what: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} {}: {}", self.judge.name(), self.subject, self.what)
    }
}

/// What all judges found.
#[derive(Clone, Debug, Default)]
pub struct Judgement {
    /// All violations.
    pub violations: Vec<Violation>,
    /// Keys whose history needs too long a search.
    pub undecided: Vec<String>,
}

impl Judgement {
    /// The number of violations that one judge found.
    pub fn count(&self, judge: Judge) -> usize {
        self.violations.iter().filter(|violation| violation.judge == judge).count()
    }

    fn add(&mut self, judge: Judge, subject: &str, found: impl IntoIterator<Item = String>) {
        let violation = |what| Violation { judge, subject: subject.into(), what };
        self.violations.extend(found.into_iter().map(violation));
    }
}

impl History {
    /// Runs all judges.
    pub fn judge(&self, terms: &Terms) -> Judgement {
        let mut judgement = Judgement::default();
        let registers = self.registers.iter().map(|it| (Judge::Registers, it));
        let compared = self.compared.iter().map(|it| (Judge::Compared, it));
        for (judge, (key, calls)) in registers.chain(compared) {
            match register::judge(calls) {
                register::Verdict::Explained => {}
                register::Verdict::Unexplained(what) => judgement.add(judge, key, [what]),
                register::Verdict::Undecided => judgement.undecided.push(key.clone()),
            }
        }
        for (key, _) in self.written.iter().filter(|(_, is_there)| **is_there == Some(false)) {
            judgement.add(Judge::Writes, key, ["the acknowledged write is lost".to_owned()]);
        }
        for (key, calls) in &self.read_once {
            judgement.add(Judge::ReadOnce, key, read_once::judge(calls));
        }
        for (key, holds) in &self.locks {
            judgement.add(Judge::Locks, key, lock::judge(holds, terms.lock));
        }
        for (account, slots) in &self.slots {
            let wrong = slot::judge(slots, terms.slots_max, terms.slot);
            judgement.add(Judge::Slots, account, wrong);
        }
        for (user, calls) in &self.logins {
            let login::Wrong { alive_again, other } = login::judge(calls, terms.login);
            judgement.add(Judge::Closed, user, alive_again);
            judgement.add(Judge::Logins, user, other);
        }
        for (number, subscriber) in self.subscribers.iter().enumerate() {
            let name = format!("subscriber {number}");
            let event::Wrong { silent, order } = event::judge(&self.changes, subscriber);
            judgement.add(Judge::Events, &name, silent);
            judgement.add(Judge::Order, &name, order);
        }
        judgement
    }
}

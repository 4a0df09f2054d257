//! The history checker: what callers have asked, when, and what they were answered, judged
//! against what the service promises. It judges registers (one order explains all answers of
//! a booking key, once with plain writes and once with conditions only), plain writes that are
//! there in the end, values for one reader, locks, viewing slots as devices count them, logins
//! and connections that were closed, and events. It knows only what callers know: their own
//! clock, and that a call without an answer may have happened at any later time, or never.
//! Not judged: lifetimes to the moment, presence and counts, the idle limit of logins, how
//! soon an event is received, and anything across keys, users or accounts.

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
    /// The same for keys of a context that is read once, where conditional writes, deletes and
    /// reads all wait for replicas.
    pub compared: BTreeMap<String, Vec<register::Call>>,
    /// Acknowledged writes without a condition of keys that are written once: whether what was
    /// written is there in the end, where that is known.
    pub written: BTreeMap<String, Option<bool>>,
    /// What one caller wrote over one host, and another read over another, for [`stale`].
    pub overwritten: Vec<register::Call>,
    /// Calls by the key of a value that is for one reader.
    pub read_once: BTreeMap<String, Vec<read_once::Call>>,
    /// Acknowledged locks by key.
    pub locks: BTreeMap<String, Vec<lock::Hold>>,
    /// Slots by account.
    pub slots: BTreeMap<String, Vec<slot::Slot>>,
    /// Calls by user, of logins and of connections.
    pub logins: BTreeMap<String, Vec<login::Call>>,
    /// Changes of which events are published.
    pub changes: Vec<event::Change>,
    /// Who has received them.
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

/// Who has found something.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Judge {
    /// [`register`].
    Registers,
    /// [`register`], of calls that have a condition.
    Compared,
    /// A plain write that was acknowledged is not there.
    Writes,
    /// [`read_once`].
    ReadOnce,
    /// [`lock`].
    Locks,
    /// [`slot`].
    Slots,
    /// [`login`]: what was closed is there again.
    Closed,
    /// [`login`]: what was acknowledged or seen is lost, and the rest.
    Logins,
    /// [`event`]: what is missing without a gap.
    Events,
    /// [`event`]: what came out of order, gaps included.
    Order,
}

impl Judge {
    /// All of them, in the order of a table.
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

    /// What it is called in a table.
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

/// Something that must not be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Who has found it.
    pub judge: Judge,
    /// The key, user or account.
    pub subject: String,
    /// What it is.
    pub what: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} {}: {}", self.judge.name(), self.subject, self.what)
    }
}

/// What all judges say.
#[derive(Clone, Debug, Default)]
pub struct Judgement {
    /// Everything that must not be.
    pub violations: Vec<Violation>,
    /// Keys whose history was too long to search.
    pub undecided: Vec<String>,
}

impl Judgement {
    /// How much one judge has found.
    pub fn count(&self, judge: Judge) -> usize {
        self.violations.iter().filter(|violation| violation.judge == judge).count()
    }

    fn add(&mut self, judge: Judge, subject: &str, found: impl IntoIterator<Item = String>) {
        let violation = |what| Violation { judge, subject: subject.into(), what };
        self.violations.extend(found.into_iter().map(violation));
    }
}

impl History {
    /// Judges everything.
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
            judgement.add(Judge::Writes, key, ["it was acknowledged and is lost".to_owned()]);
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

//! A correct service in one thread. Its callers interleave their calls and lose answers at
//! random, from a fixed seed. The checker has to accept every history of the correct service,
//! and has to find a violation when the service cheats.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::event::{Change, Received, Subscriber};
use super::lock::Hold;
use super::slot::Slot;
use super::span::Span;
use super::{History, Judge, Terms, login, read_once, register};

const LIFETIME: Duration = Duration::from_millis(400);
const TERMS: Terms =
    Terms { lock: LIFETIME, slot: LIFETIME, slots_max: 2, login: Duration::from_secs(3600) };
const CALLERS: usize = 6;
const STEPS: usize = 3000;

/// Random numbers from a seed (xorshift).
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }
}

/// A request.
#[derive(Clone, Debug)]
enum Ask {
    Read,
    Write { value: u64, if_version: Option<u64> },
    Delete,
    Put,
    Take,
    Lock,
    Unlock { hold: usize, grant: u64 },
    Slot,
    Heartbeat { slot: usize, grant: u64 },
    Create,
    Close(String),
    CloseAll,
    List,
}

/// An answer.
#[derive(Clone, Debug)]
enum Answer {
    Register(register::Operation),
    Took(Option<u64>),
    Granted(Option<u64>),
    Id(String),
    Ids(BTreeSet<String>),
    Done,
}

/// The service. It performs each request at once, at the given time.
#[derive(Default)]
struct Service {
    session: register::State,
    for_one: Option<u64>,
    lock: Option<(u64, Duration)>,
    slots: BTreeMap<u64, Duration>,
    logins: BTreeSet<String>,
    events: Vec<String>,
    made: u64,
    /// The values written without a condition, each under its own key.
    written: BTreeSet<u64>,
    /// The promise that it breaks.
    cheat: Option<Judge>,
}

impl Service {
    fn serve(&mut self, ask: &Ask, now: Duration) -> Answer {
        let version = self.session.map_or(0, |(_, version)| version);
        self.made += 1;
        let cheats = |judge| self.cheat == Some(judge) && self.made.is_multiple_of(20);
        match ask {
            Ask::Read => Answer::Register(register::Operation::Read(self.session)),
            Ask::Write { if_version: Some(if_version), .. } if *if_version != version => {
                let (if_version, current) = (*if_version, version);
                Answer::Register(register::Operation::Mismatch { if_version, current })
            }
            Ask::Write { value, if_version } => {
                let (value, if_version, version) = (*value, *if_version, version + 1);
                if !cheats(Judge::Registers) && !cheats(Judge::Compared) {
                    self.session = Some((value, version));
                }
                if if_version.is_none() && !cheats(Judge::Writes) {
                    self.written.insert(value);
                }
                Answer::Register(register::Operation::Write { value, if_version, version })
            }
            Ask::Delete => {
                self.session = None;
                Answer::Register(register::Operation::Delete { if_version: None })
            }
            Ask::Put => {
                self.for_one = Some(7);
                Answer::Done
            }
            Ask::Take if self.cheat == Some(Judge::ReadOnce) => Answer::Took(self.for_one),
            Ask::Take => Answer::Took(self.for_one.take()),
            Ask::Lock => {
                let free = self.lock.is_none_or(|(_, until)| until <= now);
                if !free && !cheats(Judge::Locks) {
                    return Answer::Granted(None);
                }
                self.lock = Some((self.made, now + LIFETIME));
                Answer::Granted(Some(self.made))
            }
            Ask::Unlock { grant, .. } => {
                self.lock.take_if(|(held, _)| held == grant);
                Answer::Done
            }
            Ask::Slot => {
                self.slots.retain(|_, until| *until > now);
                if self.slots.len() >= TERMS.slots_max && !cheats(Judge::Slots) {
                    return Answer::Granted(None);
                }
                self.slots.insert(self.made, now + LIFETIME);
                Answer::Granted(Some(self.made))
            }
            Ask::Heartbeat { grant, .. } => {
                let until = self.slots.get_mut(grant).filter(|until| **until > now);
                Answer::Granted(until.map(|until| {
                    *until = now + LIFETIME;
                    *grant
                }))
            }
            Ask::Create => {
                let id = format!("login-{}", self.made);
                if !cheats(Judge::Logins) {
                    self.logins.insert(id.clone());
                }
                let created = format!("created {id}");
                if cheats(Judge::Order) {
                    self.events.insert(0, created);
                } else if !cheats(Judge::Events) {
                    self.events.push(created);
                }
                Answer::Id(id)
            }
            Ask::Close(id) => {
                if !cheats(Judge::Closed) && self.logins.remove(id) {
                    self.events.push(format!("closed {id}"));
                }
                Answer::Done
            }
            Ask::CloseAll => {
                self.logins.clear();
                Answer::Done
            }
            Ask::List => Answer::Ids(self.logins.clone()),
        }
    }
}

/// A call without an answer so far.
struct Flight {
    ask: Ask,
    sent: Duration,
    answer: Option<Answer>,
}

/// The next request of a caller, given the history so far.
fn next(random: &mut Random, history: &History, number: u64) -> Ask {
    let calls = history.logins.get("user").map_or(&[][..], Vec::as_slice);
    let created = calls.iter().filter_map(|call| match &call.operation {
        login::Operation::Create(id) => id.clone(),
        _ => None,
    });
    let created: Vec<String> = created.collect();
    let recent = created.len().saturating_sub(3);
    match random.below(17) {
        0..3 => Ask::Read,
        3 | 4 => Ask::Write { value: number, if_version: None },
        5 => Ask::Write { value: number, if_version: Some(random.below(4)) },
        6 => Ask::Delete,
        7 => Ask::Take,
        8 => Ask::Lock,
        9 => Ask::Slot,
        10 | 11 => Ask::Create,
        12 => created.get(recent).map_or(Ask::List, |id| Ask::Close(id.clone())),
        13 if random.below(8) == 0 => Ask::CloseAll,
        _ => Ask::List,
    }
}

/// Records a call; `answer` is `None` when the outcome is unknown.
fn record(history: &mut History, ask: &Ask, sent: Duration, answer: Option<(Answer, Duration)>) {
    let span = Span { sent, answered: answer.as_ref().map(|(_, when)| *when) };
    let answered = span.answered.unwrap_or_default();
    let answer = answer.map(|(answer, _)| answer);
    let registers = history.registers.entry("key".into()).or_default();
    let taken = history.read_once.entry("key".into()).or_default();
    let locks = history.locks.entry("key".into()).or_default();
    let slots = history.slots.entry("home".into()).or_default();
    let logins = history.logins.entry("user".into()).or_default();
    let mut login = |operation| logins.push(login::Call { span, operation });
    let mut change = |event| {
        history.changes.push(Change { span, subject: "user".into(), event });
    };
    match (ask, answer) {
        (_, Some(Answer::Register(operation))) => {
            registers.push(register::Call { span, operation });
        }
        (Ask::Write { value, if_version }, _) => {
            let (value, if_version) = (*value, *if_version);
            let operation = register::Operation::Write { value, if_version, version: 0 };
            registers.push(register::Call { span, operation });
        }
        (Ask::Delete, _) => {
            let operation = register::Operation::Delete { if_version: None };
            registers.push(register::Call { span, operation });
        }
        (Ask::Put, _) => {
            taken.push(read_once::Call { span, operation: read_once::Operation::Put(7) });
        }
        (Ask::Take, answer) => {
            let got = match answer {
                Some(Answer::Took(got)) => got,
                _ => None,
            };
            taken.push(read_once::Call { span, operation: read_once::Operation::Take(got) });
        }
        (Ask::Lock, Some(Answer::Granted(Some(_)))) => {
            locks.push(Hold { sent, answered, unlocked: None });
        }
        (Ask::Slot, Some(Answer::Granted(Some(_)))) => {
            slots.push(Slot { acknowledged: vec![(sent, answered)], ended: None });
        }
        (Ask::Heartbeat { slot, .. }, Some(Answer::Granted(Some(_)))) => {
            slots[*slot].acknowledged.push((sent, answered));
        }
        (Ask::Heartbeat { slot, .. }, Some(Answer::Granted(None))) => {
            slots[*slot].ended.get_or_insert(answered);
        }
        (Ask::Create, Some(Answer::Id(id))) => {
            change(format!("created {id}"));
            login(login::Operation::Create(Some(id)));
        }
        (Ask::Create, _) => login(login::Operation::Create(None)),
        (Ask::Close(id), _) => login(login::Operation::Close(id.clone())),
        (Ask::CloseAll, _) => login(login::Operation::CloseAll),
        (Ask::List, Some(Answer::Ids(ids))) => login(login::Operation::List(ids)),
        _ => {}
    }
}

/// A history of a service that breaks the promise of one judge.
fn history(seed: u64, cheat: Option<Judge>) -> History {
    let mut random = Random(seed);
    let mut service = Service { cheat, ..Service::default() };
    let mut history = History::default();
    let mut flights: Vec<Option<Flight>> = (0..CALLERS).map(|_| None).collect();
    // Calls whose callers gave up. They may still happen.
    let mut adrift: Vec<Ask> = Vec::new();
    let mut then: Vec<Option<Ask>> = vec![None; CALLERS];
    then[0] = Some(Ask::Put);
    let mut now = Duration::ZERO;
    for number in 0..STEPS as u64 {
        now += Duration::from_millis(1 + random.below(5));
        if !adrift.is_empty() && random.below(20) == 0 {
            let which = random.below(adrift.len() as u64) as usize;
            service.serve(&adrift.swap_remove(which), now);
        }
        let caller = random.below(CALLERS as u64) as usize;
        match flights[caller].take() {
            None => {
                let asks = then[caller].take();
                let ask = asks.unwrap_or_else(|| next(&mut random, &history, number));
                if let Ask::Unlock { hold, .. } = ask {
                    let holds = history.locks.entry("key".into()).or_default();
                    holds[hold].unlocked.get_or_insert(now);
                }
                flights[caller] = Some(Flight { ask, sent: now, answer: None });
            }
            Some(flight) if random.below(25) == 0 => {
                record(&mut history, &flight.ask, flight.sent, None);
                if flight.answer.is_none() && random.below(2) == 0 {
                    adrift.push(flight.ask);
                }
            }
            Some(Flight { ask, sent, answer: None }) => {
                let answer = Some(service.serve(&ask, now));
                flights[caller] = Some(Flight { ask, sent, answer });
            }
            Some(Flight { ask, sent, answer: Some(answer) }) => {
                record(&mut history, &ask, sent, Some((answer.clone(), now)));
                then[caller] = match (&ask, answer) {
                    (Ask::Lock, Answer::Granted(Some(grant))) => {
                        Some(Ask::Unlock { hold: history.locks["key"].len() - 1, grant })
                    }
                    (Ask::Slot, Answer::Granted(Some(grant))) => {
                        Some(Ask::Heartbeat { slot: history.slots["home"].len() - 1, grant })
                    }
                    _ => None,
                };
            }
        }
    }
    // One register serves both kinds of registers.
    history.compared = history.registers.clone();
    for register::Call { span, operation } in &history.registers["key"] {
        if let register::Operation::Write { value, if_version: None, .. } = operation
            && span.answered.is_some()
        {
            let is_there = Some(service.written.contains(value));
            history.written.insert(value.to_string(), is_there);
        }
    }
    let received = service.events.iter();
    let received =
        received.map(|event| Received::Event { subject: "user".into(), event: event.clone() });
    history.subscribers.push(Subscriber { since: Duration::ZERO, received: received.collect() });
    history
}

#[test]
fn histories_of_a_correct_service_are_accepted() {
    for seed in 1..=20 {
        let judgement = history(seed, None).judge(&TERMS);
        assert!(judgement.violations.is_empty(), "{seed}: {:#?}", judgement.violations);
        assert!(judgement.undecided.is_empty(), "{seed}");
    }
}

#[test]
fn each_judge_finds_a_service_that_breaks_its_promise() {
    for judge in Judge::ALL {
        let found = (1..=5).map(|seed| history(seed, Some(judge)).judge(&TERMS));
        let found: usize = found.map(|judgement| judgement.count(judge)).sum();
        assert!(found > 0, "{judge:?}");
    }
}

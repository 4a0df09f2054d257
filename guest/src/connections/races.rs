//! Calls about one connection at the same time, in many orders of their transactions. An id and
//! its connections lie in different partitions, so no single transaction settles whose the id is;
//! over the network an order that goes wrong is rare.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::mpsc::channel;
use std::thread::scope;

use session_store::Error;
use session_store::transaction::{Outcome, Txn};

use super::lease::SKEW_MS;
use super::{Only, close, get, heartbeat, presence, register, terminate_user};
use crate::fault::Reason;
use crate::imports::Imports;
use crate::keys::Partition;
use crate::policy::Policy;
use crate::store;
use crate::sweep::sweep;
use crate::testing::World;

const POLICY: Policy = Policy::DEFAULTS;
const ID: &str = "tab";
/// How many orders are tried of each race.
const ORDERS: u32 = 400;

type Answer = Result<Outcome, Error>;

/// A world in which each transaction waits for its turn.
struct InTurn<'a> {
    world: &'a World,
    execute: Box<dyn Fn(Txn) -> Answer + 'a>,
}

impl Imports for InTurn<'_> {
    fn execute(&self, txn: &store::Txn) -> Result<store::Outcome, store::StoreError> {
        Ok((self.execute)(txn.into())?.into())
    }

    fn token(&self, length: u32) -> String {
        self.world.token(length)
    }

    fn uuid(&self) -> String {
        self.world.uuid()
    }

    fn setting(&self, _: &str) -> Option<String> {
        None
    }
}

/// One call of a race.
#[derive(Clone, Debug)]
enum Racer {
    /// Registers the id for a user.
    Register(String),
    /// Closes the connection that has the id.
    Close,
    /// Ends all connections of a user.
    Terminate(String),
    /// Sweeps the partition of a user.
    Sweep(String),
    /// Tries to keep the expired connection of a user, and must be refused.
    KeepLate(String),
}

impl Racer {
    /// Makes the call, and returns whether it got the answer that its variant describes.
    fn call(&self, imports: &impl Imports) -> bool {
        match self {
            Self::Register(user) => {
                register(imports, &POLICY, user, "pod", Some(ID.into())).is_ok()
            }
            Self::Close => close(imports, &POLICY, ID, "", "", Only::default()).is_ok(),
            Self::Terminate(user) => terminate_user(imports, &POLICY, user, "", "").is_ok(),
            Self::Sweep(user) => {
                let own = Some(Partition::of(user));
                let log = (0..).find(|log| Partition::numbered(*log) == own);
                sweep(imports, &POLICY, log.expect("it has one")).is_ok()
            }
            Self::KeepLate(user) => {
                let only = Only { user_id: Some(user), epoch: None };
                let kept = heartbeat(imports, &POLICY, ID, only);
                kept.is_err_and(|fault| fault.reason == Reason::SessionExpired)
            }
        }
    }
}

/// The next step of a racer.
enum Step {
    Transaction(Txn),
    /// The call has ended, with the result of [`Racer::call`].
    End(bool),
}

impl World {
    /// Runs all calls, and returns the result of each. The same number gives the same
    /// order.
    fn race(&self, racers: &[Racer], order: u32) -> Vec<bool> {
        let (steps, stepped) = channel();
        scope(|threads| {
            let mut turns = Vec::new();
            for (number, racer) in racers.iter().enumerate() {
                let (turn, awaited) = channel::<Answer>();
                turns.push(turn);
                let steps = steps.clone();
                threads.spawn(move || {
                    let report = |step| steps.send((number, step)).expect("the race is on");
                    let execute = Box::new(|txn| {
                        report(Step::Transaction(txn));
                        awaited.recv().expect("the race is on")
                    });
                    let ended = racer.call(&InTurn { world: self, execute });
                    report(Step::End(ended));
                });
            }
            drop(steps);
            let mut waiting = BTreeMap::new();
            let mut results = vec![false; racers.len()];
            let mut running = racers.len();
            for step in 0.. {
                // Until each has come to its next step.
                while running > 0 {
                    match stepped.recv().expect("a racer runs") {
                        (number, Step::Transaction(txn)) => drop(waiting.insert(number, txn)),
                        (number, Step::End(answer)) => results[number] = answer,
                    }
                    running -= 1;
                }
                let mut hasher = DefaultHasher::new();
                (order, step).hash(&mut hasher);
                let chosen = hasher.finish() as usize % waiting.len().max(1);
                let Some(number) = waiting.keys().nth(chosen).copied() else { break };
                let txn = waiting.remove(&number).expect("it waits");
                turns[number].send(self.apply(txn)).expect("it waits");
                running = 1;
            }
            results
        })
    }

    /// Who has the id.
    fn owner(&self) -> Option<String> {
        let found = get(self, &POLICY, ID, Only::default());
        found.ok().map(|connection| connection.user_id)
    }

    fn is_present(&self, user: &str) -> bool {
        presence(self, user).expect("a count") > 0
    }
}

/// So many users whose connections share a slot.
fn of_one_partition(count: usize) -> Vec<String> {
    let names = (0..).map(|number| format!("user-{number}"));
    names.filter(|name| Partition::of(name) == Partition::of("user-0")).take(count).collect()
}

/// Two users whose connections share a slot, and two whose do not.
fn near_and_far() -> [[String; 2]; 2] {
    let near = of_one_partition(2).try_into().expect("two");
    [near, ["user-0".into(), "user-1".into()]]
}

#[test]
fn in_any_order_exactly_the_user_whose_registration_succeeds_has_the_id() {
    let strangers: Vec<String> = (0..4).map(|number| format!("user-{number}")).collect();
    let mixed = [&of_one_partition(2)[..], &strangers[1..3]].concat();
    // A user who registers twice may succeed twice.
    let twice = [&strangers[..1], &of_one_partition(2)].concat();
    let near = [2, 3, 4].map(of_one_partition);
    for users in near.into_iter().chain([strangers, mixed, twice]) {
        let racers: Vec<Racer> = users.iter().cloned().map(Racer::Register).collect();
        let mut settled = 0;
        for order in 0..ORDERS {
            let world = World::new();
            let results = world.race(&racers, order);
            let won = users.iter().zip(&results).filter(|(_, won)| **won);
            let mut winners: Vec<&String> = won.map(|(user, _)| user).collect();
            winners.dedup();
            let owner = world.owner();
            assert_eq!(winners, Vec::from_iter(&owner), "{users:?}, order {order}");
            for user in &users {
                let has_it = Some(user) == owner.as_ref();
                assert_eq!(world.is_present(user), has_it, "{users:?}, order {order}");
            }
            settled += winners.len();
        }
        assert!(settled * 10 > ORDERS as usize * 9, "{users:?}: {settled} have won");
    }
}

#[test]
fn requests_of_one_user_are_all_served() {
    let racers = vec![Racer::Register("user-0".into()); 8];
    for order in 0..ORDERS {
        let world = World::new();
        assert_eq!(world.race(&racers, order), [true; 8], "order {order}");
        let events = world.events("user-0");
        let moved = events.iter().filter(|type_| *type_ == "connection.moved").count();
        assert_eq!((events[0].as_str(), moved, events.len()), ("connection.created", 7, 8));
    }
}

#[test]
fn each_connection_ends_once_whatever_happens_meanwhile() {
    for [former, next] in near_and_far() {
        let again = |user: &String| Racer::Register(user.clone());
        let sweep = || Racer::Sweep(former.clone());
        for racers in [
            vec![sweep(), again(&next)],
            vec![sweep(), sweep(), again(&former), again(&next)],
            vec![sweep(), again(&next), Racer::Close, again(&former)],
            vec![sweep(), again(&former), Racer::Terminate(former.clone()), again(&next)],
        ] {
            for order in 0..ORDERS / 4 {
                let world = World::new();
                assert!(again(&former).call(&world));
                // It goes stale and its lease ends, and no sweep has published that yet.
                world.clock.advance(POLICY.connection_stale_ms + SKEW_MS);
                world.race(&racers, order);
                let owner = world.owner();
                for user in [&former, &next] {
                    let has_it = Some(user) == owner.as_ref();
                    assert_eq!(world.is_present(user), has_it, "{racers:?}, order {order}");
                }
                world.clock.advance(POLICY.connection_stale_ms);
                // A session that a sweep could not settle is due again in a second.
                for user in [&former, &next, &former, &next] {
                    assert!(Racer::Sweep(user.clone()).call(&world));
                    world.clock.advance(1000);
                }
                assert!(!world.events(&former).is_empty());
                for user in [&former, &next] {
                    let events = world.events(user);
                    let ends = ["connection.closed", "connection.terminated", "connection.expired"];
                    let is_in_order = events.chunks(2).all(|pair| match pair {
                        [begin, end] => begin == "connection.created" && ends.contains(&&**end),
                        _ => false,
                    });
                    assert!(
                        is_in_order,
                        "{racers:?}, order {order}, {owner:?} has it, of {user}: {events:?}"
                    );
                    assert!(!world.is_present(user), "{racers:?}, order {order}");
                }
            }
        }
    }
}

#[test]
fn a_former_owner_learns_that_the_connection_has_expired_and_nothing_of_the_next() {
    for [former, next] in near_and_far() {
        let racers = [Racer::KeepLate(former.clone()), Racer::Register(next.clone())];
        for order in 0..ORDERS / 4 {
            let world = World::new();
            assert!(Racer::Register(former.clone()).call(&world));
            world.clock.advance(POLICY.connection_stale_ms + SKEW_MS);
            assert_eq!(world.race(&racers, order), [true; 2], "{racers:?}, order {order}");
            assert_eq!(world.owner(), Some(next.clone()));
        }
    }
}

#[test]
fn a_changed_lifetime_keeps_no_user_out() {
    let longer = Policy { connection_ttl_ms: 2 * POLICY.connection_ttl_ms, ..POLICY };
    let register = |world: &World, policy| {
        let kept = register(world, policy, "u", "pod", Some(ID.into()));
        kept.map(|connection| connection.expires_at_ms - world.clock.now())
    };
    let world = World::new();
    assert_eq!(register(&world, &longer), Ok(POLICY.connection_stale_ms));
    world.clock.advance(POLICY.connection_stale_ms);
    let late = heartbeat(&world, &POLICY, ID, Only::default());
    assert_eq!(late.unwrap_err().reason, Reason::SessionExpired);
    assert!(close(&world, &POLICY, ID, "", "", Only::default()).is_ok());
    assert_eq!(register(&world, &POLICY), Ok(POLICY.connection_stale_ms));
    let events = ["connection.created", "connection.expired", "connection.created"];
    assert_eq!(world.events("u"), events);
    // The opposite case: it is alive, and its record does not say so.
    assert_eq!(register(&world, &longer), Ok(POLICY.connection_stale_ms));
    assert_eq!(world.events("u")[3..], ["connection.moved"]);
}

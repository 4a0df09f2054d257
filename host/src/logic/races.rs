//! Registrations that ask for one id at the same time, natively linked, in many orders of
//! their transactions. An id and its connections lie in different slots, so that no
//! transaction settles the matter; over the network an order that goes wrong is rare.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::mpsc::channel;
use std::thread::scope;

use futures_util::FutureExt;
use session_guest::connections;
use session_guest::imports::Imports;
use session_guest::keys::Partition;
use session_guest::policy::Policy;
use session_guest::store::{Outcome, StoreError, Txn};

use crate::clock::Clock;
use crate::store::memory::Memory;
use crate::store::transaction as own;
use crate::store::{self, Store};

const POLICY: Policy = Policy::DEFAULTS;
const ID: &str = "tab";
/// How many orders are tried of each race.
const ORDERS: u32 = 500;

type Answer = Result<own::Outcome, store::Error>;

/// What a racer does next.
enum Step {
    Transaction(own::Txn),
    /// It has ended; whether it has won.
    End(bool),
}

/// What the rules find outside: a store that is asked through this.
struct Outside<F>(F);

impl<F: Fn(own::Txn) -> Answer> Imports for Outside<F> {
    fn execute(&self, txn: &Txn) -> Result<Outcome, StoreError> {
        let Txn { compare, success, failure } = txn;
        let txn =
            Txn { compare: compare.clone(), success: success.clone(), failure: failure.clone() };
        self.0(txn.into()).map(Into::into).map_err(Into::into)
    }

    fn token(&self, length: u32) -> String {
        uuid::Uuid::new_v4().simple().to_string().chars().take(length as usize).collect()
    }

    fn uuid(&self) -> String {
        uuid::Uuid::new_v4().to_string()
    }

    fn setting(&self, _: &str) -> Option<String> {
        None
    }
}

fn at_once(memory: &Memory, txn: own::Txn) -> Answer {
    memory.execute(txn).now_or_never().expect("memory keeps nobody waiting")
}

/// Has all users register the id, and returns who has won. Equal numbers are equal orders.
fn race(memory: &Memory, users: &[String], order: u32) -> Vec<bool> {
    let (steps, stepped) = channel();
    scope(|threads| {
        let mut turns = Vec::new();
        for (number, user) in users.iter().enumerate() {
            let (turn, awaited) = channel::<Answer>();
            turns.push(turn);
            let steps = steps.clone();
            threads.spawn(move || {
                let tell = |step| steps.send((number, step)).expect("the race is on");
                // Each transaction waits for its turn.
                let outside = Outside(|txn| {
                    tell(Step::Transaction(txn));
                    awaited.recv().expect("the race is on")
                });
                let won = connections::register(&outside, &POLICY, user, "pod", Some(ID.into()));
                tell(Step::End(won.is_ok()));
            });
        }
        drop(steps);
        let mut waiting = BTreeMap::new();
        let mut won = vec![false; users.len()];
        let mut running = users.len();
        for step in 0.. {
            // Until each has come to its next step.
            while running > 0 {
                match stepped.recv().expect("somebody runs") {
                    (number, Step::Transaction(txn)) => drop(waiting.insert(number, txn)),
                    (number, Step::End(has_won)) => won[number] = has_won,
                }
                running -= 1;
            }
            let mut hasher = DefaultHasher::new();
            (order, step).hash(&mut hasher);
            let chosen = hasher.finish() as usize % waiting.len().max(1);
            let Some(number) = waiting.keys().nth(chosen).copied() else { break };
            let txn = waiting.remove(&number).expect("it waits");
            turns[number].send(at_once(memory, txn)).expect("it waits");
            running = 1;
        }
        won
    })
}

/// So many users whose connections share a slot.
fn of_one_partition(count: usize) -> Vec<String> {
    let names = (0..).map(|number| format!("user-{number}"));
    names.filter(|name| Partition::of(name) == Partition::of("user-0")).take(count).collect()
}

#[test]
fn whoever_was_told_that_the_id_is_his_has_it_in_any_order() {
    let strangers: Vec<String> = (0..4).map(|number| format!("user-{number}")).collect();
    let mixed = [&of_one_partition(2)[..], &strangers[1..3]].concat();
    // One who asks twice may be told so twice.
    let twice = [&strangers[..1], &of_one_partition(2)].concat();
    let near = [2, 3, 4].map(of_one_partition);
    for users in near.into_iter().chain([strangers, mixed, twice]) {
        let mut settled = 0;
        for order in 0..ORDERS {
            let memory = Memory::new(Clock::manual(1_800_000_000_000));
            let won = race(&memory, &users, order);
            let mut winners: Vec<&String> =
                users.iter().zip(&won).filter(|(_, won)| **won).map(|(user, _)| user).collect();
            winners.dedup();
            let alone = Outside(|txn| at_once(&memory, txn));
            let owner = connections::get(&alone, &POLICY, ID).ok().map(|found| found.user_id);
            assert_eq!(winners, Vec::from_iter(&owner), "{users:?}, order {order}");
            for user in &users {
                let present = connections::presence(&alone, user).expect("a count");
                assert_eq!(present == 1, Some(user) == owner.as_ref(), "{users:?}, order {order}");
            }
            settled += winners.len();
        }
        assert!(settled * 10 > ORDERS as usize * 9, "{users:?}: {settled} have won");
    }
}

//! Tests of the lists of a user's sessions: what use, lifetimes and a release without the order
//! do to them, and what a list costs.

use std::collections::BTreeSet;

use super::order::repair;
use super::*;
use crate::sweep::sweep;
use crate::testing::World;
use crate::users_types::Page;
use session_store::transaction::{Entry, Operation};

const POLICY: Policy = Policy::DEFAULTS;
const IDLE: Policy = Policy { user_session_idle_ms: 8000, ..POLICY };
const USER: &str = "u";

fn begin(world: &World, policy: &Policy) -> String {
    let attributes = Attributes {
        user_id: Some(USER.into()),
        device_id: None,
        auth_code: None,
        access_token: None,
        refresh_token: None,
        expiration_time: None,
        user_email: None,
    };
    world.clock.advance(10);
    create(world, policy, &attributes).expect("a session")
}

fn page(world: &World, size: i32, token: &str) -> Page {
    list(world, USER, size, token).expect("a page")
}

fn ids(page: &Page) -> Vec<String> {
    page.sessions.iter().map(|session| session.session_id.clone()).collect()
}

/// All pages, each followed by what happens meanwhile.
fn paged(world: &World, size: i32, mut meanwhile: impl FnMut(usize)) -> Vec<String> {
    let (mut seen, mut token) = (Vec::new(), String::new());
    for round in 0.. {
        let page = page(world, size, &token);
        seen.extend(ids(&page));
        token = page.next_page_token;
        if token.is_empty() {
            break;
        }
        meanwhile(round);
    }
    seen
}

fn newest_first(begun: &[String]) -> Vec<String> {
    begun.iter().rev().cloned().collect()
}

/// The names of the members of a set.
fn names(world: &World, key: String) -> BTreeSet<String> {
    world.members(key).into_iter().map(|member| member.name).collect()
}

/// The sessions that are in the order.
fn ordered(world: &World) -> BTreeSet<String> {
    names(world, Keys::of(USER).order)
}

/// A session as a release without the order begins it.
fn begin_before(world: &World, letter: &str, ttl: u64) -> String {
    world.clock.advance(10);
    let keys = Keys::of(USER);
    let id = keys.session_id(|length| letter.repeat(length as usize));
    let record = keys.session(&id);
    let entry = Entry { field: "user_id".into(), value: USER.into() };
    let stamp = |field: &str, later| Operation::HashStamp {
        key: record.clone(),
        field: field.into(),
        later,
    };
    let set = |key, member| Operation::MemberSet { key, member, ttl };
    world.perform(vec![
        Operation::HashSet { key: record.clone(), entries: vec![entry], ttl: Some(ttl) },
        stamp("_created", 0),
        stamp("_ends", ttl),
        set(keys.sessions, id.clone()),
        set(keys.partition.due("user"), format!("{USER}\n{id}")),
    ]);
    id
}

/// A session is closed as a release without the order does it.
fn close_before(world: &World, id: &str) {
    let keys = Keys::of(USER);
    let remove = |key, member| Operation::MemberRemove { key, member };
    world.perform(vec![
        Operation::HashDelete(keys.session(id)),
        remove(keys.sessions, id.into()),
        remove(keys.partition.due("user"), format!("{USER}\n{id}")),
    ]);
}

#[test]
fn a_session_that_is_used_while_others_page_is_on_exactly_one_page() {
    let world = World::new();
    let begun: Vec<String> = (0..12).map(|_| begin(&world, &IDLE)).collect();
    let seen = paged(&world, 5, |round| {
        // A use is written down once a second; one of each end, so that all would move.
        world.clock.advance(1000);
        for id in [&begun[round], &begun[11 - round]] {
            get(&world, &IDLE, id).expect("it lives");
        }
        begin(&world, &IDLE);
    });
    assert_eq!(seen, newest_first(&begun));
}

#[test]
fn lists_are_in_order_of_creation_whatever_the_lifetimes() {
    let world = World::new();
    let hours = [8760, 1, 30, 2, 8760, 1];
    let lives = |hours: u64| Policy { user_session_ttl_ms: hours * 3_600_000, ..POLICY };
    let begun: Vec<String> = hours.iter().map(|hours| begin(&world, &lives(*hours))).collect();
    assert_eq!(ids(&page(&world, 0, "")), newest_first(&begun));
    assert_eq!(paged(&world, 2, |_| ()), newest_first(&begun));
    // Those that last for an hour have ended, and what is listed is what lives.
    world.clock.advance(3_600_000);
    let expected = [4, 3, 2, 0].map(|number| begun[number].clone());
    assert_eq!(paged(&world, 3, |_| ()), expected);
}

#[test]
fn a_list_repairs_the_changes_of_a_release_without_the_order() {
    let world = World::new();
    let first = begin_before(&world, "a", POLICY.user_session_ttl_ms);
    let second = begin(&world, &POLICY);
    // It has a shorter lifetime, and is the third all the same.
    let third = begin_before(&world, "c", 3_600_000);
    let all = [third.clone(), second.clone(), first.clone()];
    assert_eq!(ids(&page(&world, 0, "")), all);
    assert_eq!(ordered(&world), BTreeSet::from(all));
    // The number of sessions is the same, but they are others.
    close_before(&world, &second);
    let fourth = begin_before(&world, "d", POLICY.user_session_ttl_ms);
    let all = [fourth, third, first];
    assert_eq!(ids(&page(&world, 0, "")), all);
    assert_eq!(ordered(&world), BTreeSet::from(all.clone()));
    // A second repair changes nothing.
    repair(&world, &Keys::of(USER)).expect("repaired");
    assert_eq!(ids(&page(&world, 0, "")), all);
    // A record that another program has deleted is not read again by each list.
    world.perform(vec![Operation::HashDelete(Keys::of(USER).session(&all[0]))]);
    assert_eq!(ids(&page(&world, 0, "")), all[1..]);
    close_before(&world, &all[1]);
    assert_eq!(ids(&page(&world, 0, "")), all[2..]);
    assert_eq!(names(&world, Keys::of(USER).sessions), ordered(&world));
}

#[test]
fn pages_are_right_while_a_release_without_the_order_begins_and_closes() {
    let world = World::new();
    let begun: Vec<String> = (0..12).map(|_| begin(&world, &POLICY)).collect();
    let seen = paged(&world, 3, |round| {
        begin_before(&world, ["p", "q", "r", "s"][round], POLICY.user_session_ttl_ms);
        if round == 0 {
            close_before(&world, &begun[2]);
        }
    });
    let expected = begun.iter().rev().filter(|id| **id != begun[2]);
    assert_eq!(seen, expected.cloned().collect::<Vec<_>>());
}

#[test]
fn a_list_is_two_transactions_and_one_when_there_is_nothing() {
    let world = World::new();
    let counted = |size, token: &str| {
        let before = world.executed();
        let page = page(&world, size, token);
        (page, world.executed() - before)
    };
    assert_eq!(counted(0, "").1, 1);
    let begun: Vec<String> = (0..1500).map(|_| begin(&world, &POLICY)).collect();
    let (page, asked) = counted(700, "");
    assert_eq!((ids(&page), asked), (newest_first(&begun[800..]), 2));
    assert_eq!(counted(700, &page.next_page_token).1, 2);
    // A repaired order is not repaired again.
    close_before(&world, &begun[0]);
    assert!(counted(0, "").1 > 2);
    assert_eq!(counted(0, "").1, 2);
}

#[test]
fn sessions_that_are_closed_or_have_ended_are_in_no_order() {
    let world = World::new();
    let begun: Vec<String> = (0..4).map(|_| begin(&world, &IDLE)).collect();
    close(&world, &IDLE, &begun[0]).expect("closed");
    let three: BTreeSet<String> = begun[1..].iter().cloned().collect();
    assert_eq!(ordered(&world), three);
    let kept = Some(begun[1].clone());
    assert_eq!(close_all(&world, &IDLE, USER, kept), Ok(2));
    assert_eq!(ordered(&world), BTreeSet::from([begun[1].clone()]));
    world.clock.advance(10_000);
    let swept = sweep(&world, &IDLE, Partition::of(USER).number()).expect("swept");
    assert_eq!((swept.expired, ordered(&world)), (1, BTreeSet::new()));
    // A close-all also removes the sessions that have ended.
    let lost = begin(&world, &POLICY);
    close_before(&world, &lost);
    assert_eq!(close_all(&world, &POLICY, USER, None), Ok(0));
    assert_eq!(ordered(&world), BTreeSet::new());
}

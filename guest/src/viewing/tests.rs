//! Viewing slots on the store in memory: a home that changes between two transactions of a rule,
//! how a session ended and how long its record says so, what a refusal shows, and a store
//! that does not answer or has no room.

use session_store::Error;
use session_store::transaction::Operation;

use super::home::{HOLDERS_BYTES_MAX, HOLDERS_MAX};
use super::*;
use crate::testing::{EPOCH_MS, World, entry};

const POLICY: Policy = Policy::DEFAULTS;
const TTL_MS: u64 = POLICY.viewing_ttl_ms;
/// The id of a session that has letters, unlike those that the world makes.
const LETTERS: &str = "1b387cfb-aabe-4b94-ae7e-0f31fc6f909b";

fn setup(device_id: &str, replace: &[&str]) -> Setup {
    let replace = replace.iter().map(|id| (*id).into()).collect();
    Setup { account_id: "home".into(), device_id: device_id.into(), replace }
}

/// Takes a slot of the home, and returns the id of its session.
fn seat(world: &World, device_id: &str) -> String {
    create(world, &POLICY, setup(device_id, &[])).unwrap().session_id
}

/// Gives the home a session of this id, beside the rules.
fn seat_as(world: &World, session_id: &str) {
    let keys = Keys::of("home");
    let entries = vec![entry(DEVICE_FIELD, "tv"), entry(SINCE_FIELD, &EPOCH_MS.to_string())];
    let (key, ttl) = (keys.session(session_id), Some(TTL_MS + KNOWN_MS));
    let record = Operation::HashSet { key, entries, ttl };
    let (key, member) = (keys.slots, session_id.into());
    world.perform(vec![record, Operation::MemberSet { key, member, ttl: TTL_MS }]);
}

/// The sessions and their devices, the oldest first.
fn playing(world: &World) -> Vec<(String, String)> {
    let home = get_home(world, &POLICY, "home").unwrap();
    home.sessions.into_iter().map(|viewer| (viewer.session_id, viewer.device_id)).collect()
}

fn keep(world: &World, session_id: &str) -> Result<Slot, Fault> {
    heartbeat(world, &POLICY, "home".into(), session_id.into())
}

fn fact(fault: &Fault, name: &str) -> Option<String> {
    let detail = fault.metadata.iter().find(|detail| detail.name == name)?;
    Some(detail.value.clone())
}

#[test]
fn a_create_tries_again_when_the_limit_changes_under_it() {
    // From a limit of its own, and from none to one that is the same number.
    for (before, after) in [(Some(1), 2), (Some(3), 2), (None, 2)] {
        let world = World::new();
        if let Some(before) = before {
            set_max(&world, "home", before).unwrap();
        }
        let tv = seat(&world, "tv");
        let store = world.meanwhile(|number| {
            if number == 1 {
                set_max(&world, "home", after).unwrap();
            }
        });
        let slot = create(&store, &POLICY, setup("phone", &[])).unwrap();
        assert_eq!((slot.expires_at_ms, store.executed()), (EPOCH_MS + TTL_MS, 4), "{before:?}");
        assert_eq!(playing(&world), [(tv, "tv".into()), (slot.session_id, "phone".into())]);
    }
}

#[test]
fn a_create_is_refused_by_the_limit_that_holds_when_it_is_refused() {
    let world = World::new();
    seat(&world, "tv");
    let store = world.meanwhile(|number| {
        if number == 1 {
            set_max(&world, "home", 1).unwrap();
        }
    });
    let fault = create(&store, &POLICY, setup("phone", &[])).unwrap_err();
    assert_eq!(fault.reason, Reason::SessionLimitReached);
    assert_eq!(fact(&fault, "limit").unwrap(), "1");
}

#[test]
fn a_create_tries_again_when_a_session_that_it_takes_over_ends_by_itself() {
    let world = World::new();
    set_max(&world, "home", 1).unwrap();
    let tv = seat(&world, "tv");
    let store = world.meanwhile(|number| {
        if number == 1 {
            world.clock.advance(TTL_MS);
        }
    });
    let slot = create(&store, &POLICY, setup("phone", &[&tv])).unwrap();
    assert_eq!(store.executed(), 4);
    assert_eq!(playing(&world), [(slot.session_id, "phone".into())]);
    // No other session has taken it over.
    assert_eq!(keep(&world, &tv).unwrap_err().reason, Reason::SessionExpired);
    assert_eq!(world.events("home"), ["viewing.created", "viewing.created"]);
}

#[test]
fn a_create_gives_up_when_the_home_keeps_changing() {
    let world = World::new();
    // Each create reads the limit, and another call changes it before the slot is taken.
    let store = world.meanwhile(|number| {
        if number % 2 == 1 {
            set_max(&world, "home", 1 + number as i32).unwrap();
        }
    });
    let fault = create(&store, &POLICY, setup("tv", &[])).unwrap_err();
    assert_eq!(fault.reason, Reason::StoreUnavailable);
    assert_eq!(store.executed(), 2 * u64::from(ATTEMPTS));
    assert_eq!(playing(&world), []);
    assert!(world.events("home").is_empty());
}

#[test]
fn a_home_without_a_free_slot_says_so_though_the_store_has_no_room_for_the_event() {
    let full = || Error::Full("full".into());
    let world = World::new();
    set_max(&world, "home", 1).unwrap();
    world.fail_after(0, full());
    let fault = create(&world, &POLICY, setup("tv", &[])).unwrap_err();
    assert_eq!(fault.reason, Reason::StoreFull);
    seat(&world, "tv");
    // It looks, tries, and publishes the refusal.
    world.fail_after(2, full());
    let refused = create(&world, &POLICY, setup("phone", &[])).unwrap_err();
    assert_eq!(refused.reason, Reason::SessionLimitReached);
    assert!(fact(&refused, "sessions").unwrap().contains("tv"));
    assert_eq!(world.events("home"), ["viewing.created"]);
    // It says the same when there is room for the event.
    assert_eq!(create(&world, &POLICY, setup("phone", &[])).unwrap_err(), refused);
    assert_eq!(world.events("home"), ["viewing.created", "viewing.limit_reached"]);
}

#[test]
fn a_heartbeat_is_one_transaction() {
    let world = World::new();
    let tv = seat(&world, "tv");
    let executed = world.executed();
    for beat in 1..=20 {
        world.clock.advance(TTL_MS - 1);
        let slot = keep(&world, &tv).unwrap();
        assert_eq!(slot.expires_at_ms, EPOCH_MS + beat * (TTL_MS - 1) + TTL_MS);
        assert_eq!(world.executed(), executed + beat);
    }
    // The record lives on with the slot, and is there for a while after it.
    for (advance_ms, reason) in
        [(TTL_MS, Reason::SessionExpired), (KNOWN_MS, Reason::SessionNotFound)]
    {
        world.clock.advance(advance_ms);
        assert_eq!(keep(&world, &tv).unwrap_err().reason, reason);
    }
}

#[test]
fn a_slot_whose_holder_is_unknown_is_not_kept() {
    let world = World::new();
    let tv = seat(&world, "tv");
    let keys = Keys::of("home");
    let slots = world.members(&keys.slots);
    world.perform(vec![Operation::HashDelete(keys.session(&tv))]);
    world.clock.advance(1000);
    assert_eq!(keep(&world, &tv).unwrap_err().reason, Reason::SessionNotFound);
    assert_eq!(world.members(&keys.slots), slots);
}

#[test]
fn an_id_is_known_in_capitals_too() {
    let capitals = LETTERS.to_uppercase();
    let world = World::new();
    set_max(&world, "home", 1).unwrap();
    seat_as(&world, LETTERS);
    world.clock.advance(1000);
    let slot = keep(&world, &capitals).unwrap();
    assert_eq!((&*slot.session_id, slot.expires_at_ms), (LETTERS, EPOCH_MS + 1000 + TTL_MS));
    tear_down(&world, &POLICY, "home", &capitals).unwrap();
    assert_eq!(playing(&world), []);
    assert_eq!(world.hash(&Keys::of("home").session(LETTERS)), None);
    assert_eq!(world.events("home"), ["viewing.closed"]);
    seat_as(&world, LETTERS);
    let slot = create(&world, &POLICY, setup("phone", &[&capitals])).unwrap();
    assert_eq!(playing(&world), [(slot.session_id, "phone".into())]);
}

#[test]
fn a_taken_over_session_is_remembered_as_long_as_its_device_may_not_ask() {
    let world = World::new();
    set_max(&world, "home", 1).unwrap();
    let tv = seat(&world, "tv");
    world.clock.advance(TTL_MS - 1);
    let slot = create(&world, &POLICY, setup("phone", &[&tv])).unwrap();
    assert_eq!(playing(&world), [(slot.session_id, "phone".into())]);
    assert_eq!(world.events("home")[1..], ["viewing.terminated", "viewing.created"]);
    for advance_ms in [0, TTL_MS + KNOWN_MS - 1] {
        world.clock.advance(advance_ms);
        let fault = keep(&world, &tv).unwrap_err();
        assert_eq!(fault.reason, Reason::SessionTerminated);
        let ending = fault.ending.as_ref().map(|ending| (&*ending.how, &*ending.reason));
        assert_eq!(ending, Some(("replaced", REPLACED)));
        assert_eq!(fault.ending.map(|ending| ending.by).as_deref(), Some("phone"));
    }
    world.clock.advance(1);
    assert_eq!(keep(&world, &tv).unwrap_err().reason, Reason::SessionNotFound);
}

#[test]
fn a_stored_limit_that_is_no_valid_number_is_rejected() {
    for stored in ["", "abc", "-1", "4294967295", "1001"] {
        let world = World::new();
        let (key, entries) = (Keys::of("home").home, vec![entry(MAX_FIELD, stored)]);
        world.perform(vec![Operation::HashSet { key, entries, ttl: None }]);
        let fault = create(&world, &POLICY, setup("tv", &[])).unwrap_err();
        assert_eq!(fault.reason, Reason::StoreRejected, "{stored}");
        assert!(world.members(&Keys::of("home").slots).is_empty());
        let fault = get_home(&world, &POLICY, "home").unwrap_err();
        assert_eq!(fault.reason, Reason::StoreRejected, "{stored}");
    }
}

#[test]
fn a_store_without_an_answer_is_never_a_missing_session() {
    let world = World::new();
    register_device(&world, "tv", "home").unwrap();
    set_max(&world, "home", 1).unwrap();
    let tv = seat(&world, "tv");
    type Call<'a> = &'a dyn Fn() -> Result<(), Fault>;
    // Each call with how many transactions it has before the store does not answer.
    let calls: [(usize, Call<'_>); 13] = [
        (0, &|| create(&world, &POLICY, setup("phone", &[])).map(drop)),
        (1, &|| create(&world, &POLICY, setup("phone", &[])).map(drop)),
        // The home is full by then; who holds its slots is the third.
        (2, &|| create(&world, &POLICY, setup("phone", &[])).map(drop)),
        (0, &|| keep(&world, &tv).map(drop)),
        (0, &|| tear_down(&world, &POLICY, "home", &tv)),
        (0, &|| set_max(&world, "home", 2)),
        (0, &|| get_home(&world, &POLICY, "home").map(drop)),
        (1, &|| get_home(&world, &POLICY, "home").map(drop)),
        (0, &|| get_device(&world, "tv").map(drop)),
        (0, &|| create_for_device(&world, &POLICY, "tv".into(), Vec::new()).map(drop)),
        (1, &|| create_for_device(&world, &POLICY, "tv".into(), Vec::new()).map(drop)),
        (0, &|| register_device(&world, "tv", "elsewhere")),
        (0, &|| forget_device(&world, "tv")),
    ];
    for (index, (count, call)) in calls.into_iter().enumerate() {
        world.fail_after(count, Error::Unavailable("down".into()));
        assert_eq!(call().unwrap_err().reason, Reason::StoreUnavailable, "call {index}");
    }
    // It has changed nothing.
    assert_eq!(playing(&world), [(tv, "tv".into())]);
    assert_eq!(get_home(&world, &POLICY, "home").unwrap().max_sessions, 1);
    assert_eq!(get_device(&world, "tv").unwrap(), "home");
}

#[test]
fn a_refusal_names_few_holders_of_many() {
    let world = World::new();
    set_max(&world, "home", 40).unwrap();
    let long = "\u{e9}".repeat(128);
    let ids: Vec<_> = (0..40).map(|_| seat(&world, &long)).collect();
    let fault = create(&world, &POLICY, setup("tv", &[])).unwrap_err();
    assert_eq!(fault.reason, Reason::SessionLimitReached);
    let facts = ["limit", "active"].map(|name| fact(&fault, name).unwrap());
    assert_eq!(facts, ["40", "40"]);
    let sessions = fact(&fault, "sessions").unwrap();
    assert!(sessions.len() <= HOLDERS_BYTES_MAX + 1, "{}", sessions.len());
    let sessions: Vec<serde_json::Value> = serde_json::from_str(&sessions).unwrap();
    assert!((11..=HOLDERS_MAX).contains(&sessions.len()), "{}", sessions.len());
    let (since_s, expires_s) = (EPOCH_MS / 1000, (EPOCH_MS + TTL_MS) / 1000);
    let holder = serde_json::json!({
        "session": &ids[0][..6],
        "deviceId": "\u{e9}".repeat(32) + "\u{2026}",
        "since": since_s.to_string(),
        "expiration": expires_s.to_string(),
    });
    assert!(sessions.iter().all(|session| *session == holder), "{sessions:?}");
    let shows = |id: &String| fault.metadata.iter().any(|detail| detail.value.contains(id));
    assert!(!ids.iter().any(shows));
}

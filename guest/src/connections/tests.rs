//! Connections on a store in memory: the lease on a chosen id, how many transactions each rule
//! takes, and a store that does not answer. Tests of races are in `races`.

use session_store::Error;
use session_store::transaction::Operation;

use super::*;
use crate::connections::lease::SKEW_MS;
use crate::sweep::sweep;
use crate::testing::{EPOCH_MS, World, field};

const POLICY: Policy = Policy::DEFAULTS;
const STALE_MS: u64 = POLICY.connection_stale_ms;
const ID: &str = "tab";
const ANY: Only<'static> = Only { user_id: None, epoch: None };

fn chosen(world: &World, user_id: &str, pod_id: &str) -> Result<Connection, Fault> {
    register(world, &POLICY, user_id, pod_id, Some(ID.into()))
}

fn made(world: &World) -> Connection {
    register(world, &POLICY, "u", "pod", None).unwrap()
}

fn beat(world: &World, session_id: &str) -> Result<Connection, Fault> {
    heartbeat(world, &POLICY, session_id, ANY)
}

fn reason<T: std::fmt::Debug>(result: Result<T, Fault>) -> String {
    result.unwrap_err().reason
}

fn sweep_of(world: &World, user_id: &str) -> u32 {
    sweep(world, &POLICY, Partition::of(user_id).number()).unwrap().expired
}

/// How many transactions the store is asked for meanwhile.
fn counted<T>(world: &World, call: impl FnOnce() -> T) -> (u64, T) {
    let before = world.executed();
    let result = call();
    (world.executed() - before, result)
}

#[test]
fn a_new_connection_is_one_transaction() {
    let world = World::new();
    let (count, connection) = counted(&world, || made(&world));
    assert_eq!(count, 1);
    assert_eq!(keys::partition_of_made(&connection.session_id), Some(Partition::of("u")));
    assert_eq!(
        (connection.connected_at_ms, connection.expires_at_ms),
        (EPOCH_MS, EPOCH_MS + STALE_MS)
    );
    assert_eq!(list_user(&world, &POLICY, "u").unwrap(), std::slice::from_ref(&connection));
    assert_eq!(list_pod(&world, &POLICY, "pod", "").unwrap().connections.len(), 1);
    assert_eq!(get(&world, &POLICY, &connection.session_id, ANY).unwrap(), connection);
    assert_eq!(world.events("u"), ["connection.created"]);
    world.clock.advance(STALE_MS);
    assert_eq!(sweep_of(&world, "u"), 1);
    assert_eq!(world.events("u"), ["connection.created", "connection.expired"]);
}

#[test]
fn registration_heartbeat_and_close_of_a_chosen_id_take_few_transactions() {
    let world = World::new();
    let (count, first) = counted(&world, || chosen(&world, "u", "pod").unwrap());
    assert_eq!((count, first.expires_at_ms), (2, EPOCH_MS + STALE_MS));
    world.clock.advance(1000);
    let (count, kept) = counted(&world, || beat(&world, ID).unwrap());
    assert_eq!((count, kept.expires_at_ms), (2, first.expires_at_ms + 1000));
    assert_eq!((kept.connected_at_ms, kept.last_heartbeat_at_ms), (EPOCH_MS, EPOCH_MS + 1000));
    let (count, moved) = counted(&world, || chosen(&world, "u", "another pod").unwrap());
    assert_eq!((count, moved.pod_id.as_str()), (2, "another pod"));
    assert_ne!(moved.epoch, first.epoch);
    // A read by its id takes one more.
    let (count, closed) = counted(&world, || close(&world, &POLICY, ID, "", "", ANY));
    assert_eq!((count, closed), (3, Ok(())));
    let events = ["connection.created", "connection.moved", "connection.closed"];
    assert_eq!(world.events("u"), events);
}

#[test]
fn an_id_that_was_made_belongs_to_one_user() {
    let world = World::new();
    let connection = made(&world);
    let near = (0..).map(|n| format!("v{n}")).find(|v| Partition::of(v) == Partition::of("u"));
    let again =
        |user: &str| register(&world, &POLICY, user, "pod", Some(connection.session_id.clone()));
    let is_closed = || close(&world, &POLICY, &connection.session_id, "", "", ANY).is_ok();
    // One of the same partition, or of another one, whether it is alive or not.
    for _ in 0..2 {
        assert_eq!(reason(again(near.as_deref().unwrap())), Reason::SessionExists);
        assert_eq!(reason(again("w")), Reason::SessionExists);
        assert!(is_closed());
    }
    assert!(again("u").is_ok());
}

#[test]
fn an_id_that_looks_only_like_one_that_was_made_is_refused() {
    let world = World::new();
    for id in ["~x", "~Ahhhhhhhhhhhhhhhhhhhhhhhhhhhhhhhh"] {
        let registered = register(&world, &POLICY, "u", "pod", Some(id.into()));
        assert_eq!(reason(registered), Reason::InvalidRequest, "{id}");
    }
    let foreign = keys::connection_id(Partition::of("w"), |length| "x".repeat(length as usize));
    let registered = register(&world, &POLICY, "u", "pod", Some(foreign));
    assert_eq!(reason(registered), Reason::InvalidRequest);
    assert!(world.events("u").is_empty());
}

#[test]
fn a_chosen_id_is_one_users_until_its_lease_ends_or_is_given_back() {
    let world = World::new();
    let first = chosen(&world, "u", "pod").unwrap();
    assert_eq!(reason(chosen(&world, "v", "pod")), Reason::SessionExists);
    // Its holder crashes.
    world.clock.advance(STALE_MS + SKEW_MS - 1);
    assert_eq!(reason(chosen(&world, "v", "pod")), Reason::SessionExists);
    world.clock.advance(1);
    let second = chosen(&world, "v", "pod").unwrap();
    assert_eq!(get(&world, &POLICY, ID, ANY).unwrap(), second);
    // The former holder learns that it is over, and nothing of the next one.
    let only = Only { user_id: Some("u"), epoch: Some(&first.epoch) };
    assert_eq!(reason(heartbeat(&world, &POLICY, ID, only)), Reason::SessionExpired);
    assert!(close(&world, &POLICY, ID, "", "", only).is_ok());
    assert_eq!(get(&world, &POLICY, ID, ANY).unwrap(), second);
    // One that is closed gives the id back at once.
    assert!(close(&world, &POLICY, ID, "", "", ANY).is_ok());
    assert_eq!(reason(get(&world, &POLICY, ID, ANY)), Reason::SessionTerminated);
    assert!(chosen(&world, "u", "pod").is_ok());
}

#[test]
fn heartbeats_of_an_expired_connection_keep_no_other_user_out() {
    let world = World::new();
    chosen(&world, "u", "pod").unwrap();
    world.clock.advance(STALE_MS);
    assert_eq!(reason(beat(&world, ID)), Reason::SessionExpired);
    assert!(chosen(&world, "v", "pod").is_ok());
}

#[test]
fn a_refused_registration_leaves_the_id_to_others() {
    let world = World::new();
    chosen(&world, "u", "pod").unwrap();
    assert_eq!(terminate_user(&world, &POLICY, "u", "fraud", "support"), Ok(1));
    // A terminated user does not get the id again for a while, and does not keep it from others.
    assert_eq!(reason(chosen(&world, "u", "pod")), Reason::SessionTerminated);
    assert!(chosen(&world, "v", "pod").is_ok());
    assert!(close(&world, &POLICY, ID, "", "", ANY).is_ok());
    // Nor does a user with too many.
    for _ in 0..CONNECTIONS_MAX {
        register(&world, &POLICY, "w", "pod", None).unwrap();
    }
    assert_eq!(reason(chosen(&world, "w", "pod")), Reason::SessionLimitReached);
    assert_eq!(world.events("w").last().unwrap(), "connection.limit_reached");
    assert!(chosen(&world, "v", "pod").is_ok());
}

#[test]
fn a_later_registration_keeps_the_lease_when_an_earlier_one_is_closed() {
    let world = World::new();
    let first = chosen(&world, "u", "pod").unwrap();
    // The second one has taken the lease, and its process has not written the connection yet.
    let holder = lease::Holder { epoch: "second".into(), pod_id: "pod".into() };
    assert!(lease::take(&world, &POLICY, ID, "u", &holder).unwrap().is_some());
    // The connection of the first is found by its record, and has a heartbeat all the same.
    let only = Only { user_id: Some("u"), epoch: Some(&first.epoch) };
    assert!(heartbeat(&world, &POLICY, ID, only).is_ok());
    assert!(beat(&world, ID).is_ok());
    assert!(close(&world, &POLICY, ID, "", "", ANY).is_ok());
    assert_eq!(reason(chosen(&world, "v", "pod")), Reason::SessionExists);
}

#[test]
fn an_unpublished_expiry_is_published_before_the_next_registration() {
    let world = World::new();
    chosen(&world, "u", "pod").unwrap();
    world.clock.advance(STALE_MS + SKEW_MS);
    chosen(&world, "u", "pod").unwrap();
    let events = ["connection.created", "connection.expired", "connection.created"];
    assert_eq!(world.events("u"), events);
    assert_eq!(sweep_of(&world, "u"), 0);
}

#[test]
fn a_stream_whose_connection_has_moved_learns_where_to() {
    let world = World::new();
    let first = chosen(&world, "u", "pod").unwrap();
    chosen(&world, "u", "another pod").unwrap();
    let only = Only { user_id: Some("u"), epoch: Some(&first.epoch) };
    let fault = heartbeat(&world, &POLICY, ID, only).unwrap_err();
    let ending = fault.ending.as_ref().map(|ending| (&*ending.how, &*ending.by));
    assert_eq!(fault.reason, Reason::SessionTerminated);
    assert_eq!(ending, Some(("moved", "another pod")));
    assert_eq!(list_pod(&world, &POLICY, "pod", "").unwrap().connections, []);
}

#[test]
fn a_heartbeat_of_a_pod_renews_its_connections_and_their_leases() {
    let world = World::new();
    let on_pod = made(&world);
    chosen(&world, "u", "pod").unwrap();
    register(&world, &POLICY, "u", "another pod", Some("other".into())).unwrap();
    let named = vec![on_pod.session_id.clone(), ID.into(), "other".into(), "unknown".into()];
    world.clock.advance(STALE_MS - 1);
    let renewed = heartbeat_pod(&world, &POLICY, "pod", Some(named), "").unwrap();
    assert_eq!((renewed.kept, renewed.gone), (2, vec!["other".into(), "unknown".into()]));
    world.clock.advance(STALE_MS - 1);
    let mut cursor = String::new();
    let mut kept = 0;
    loop {
        let renewed = heartbeat_pod(&world, &POLICY, "pod", None, &cursor).unwrap();
        kept += renewed.kept;
        let Some(next) = renewed.next else { break };
        cursor = next;
    }
    assert_eq!(kept, 2);
    world.clock.advance(STALE_MS - 1);
    assert_eq!(presence(&world, "u"), Ok(2));
    assert_eq!(reason(chosen(&world, "v", "pod")), Reason::SessionExists);
}

#[test]
fn a_drain_ends_the_connections_of_the_pod_and_its_user_registers_again_at_once() {
    let world = World::new();
    made(&world);
    chosen(&world, "u", "pod").unwrap();
    let cursor = Partition::of("u").number().to_string();
    let drained = drain_pod(&world, &POLICY, "pod", "", &cursor).unwrap();
    assert_eq!((drained.closed, presence(&world, "u")), (2, Ok(0)));
    let fault = get(&world, &POLICY, ID, ANY).unwrap_err();
    assert_eq!(fault.ending.map(|ending| ending.how).as_deref(), Some("drained"));
    assert!(chosen(&world, "u", "another pod").is_ok());
}

#[test]
fn those_that_change_do_not_keep_the_others_from_ending() {
    let world = World::new();
    let connections: Vec<_> = (0..70).map(|_| made(&world)).collect();
    let partition = Partition::of("u");
    // One loses its record: another program has deleted it.
    let record = partition.connection(&connections[40].session_id, "u");
    world.perform(vec![Operation::HashDelete(record)]);
    let targets: Vec<_> = connections
        .iter()
        .map(|one| Target {
            partition,
            user_id: "u",
            session_id: &one.session_id,
            pod_id: "pod",
            epoch: Some(&one.epoch),
        })
        .collect();
    let ending = Ending { how: How::Closed, reason: "", by: "" };
    let ended = end(&world, &POLICY, &targets, &ending).unwrap();
    let expected: Vec<_> = (0..70).map(|number| number != 40).collect();
    assert_eq!(ended, expected);
}

type Rule = dyn Fn(&World) -> Result<(), Fault>;

#[test]
fn a_store_without_an_answer_is_never_a_missing_connection() {
    let rules: [(&str, &Rule); 5] = [
        ("get", &|world| get(world, &POLICY, ID, ANY).map(drop)),
        ("heartbeat", &|world| beat(world, ID).map(drop)),
        ("close", &|world| close(world, &POLICY, ID, "", "", ANY)),
        ("register", &|world| chosen(world, "u", "pod").map(drop)),
        ("terminate", &|world| terminate_user(world, &POLICY, "u", "", "").map(drop)),
    ];
    for (name, rule) in rules {
        for count in 0.. {
            let world = World::new();
            chosen(&world, "u", "pod").unwrap();
            world.fail_after(count, Error::Unavailable("gone".into()));
            let before = world.executed();
            let result = rule(&world);
            if world.executed() - before <= count as u64 {
                assert!(count > 0 && result.is_ok(), "{name}");
                break;
            }
            assert_eq!(reason(result), Reason::StoreUnavailable, "{name} {count}");
        }
    }
}

#[test]
fn an_answer_that_was_lost_keeps_the_lease_until_it_ends() {
    let world = World::new();
    // The connection may have been written, so no other user gets the id before it has expired.
    world.fail_after(1, Error::Unavailable("gone".into()));
    assert_eq!(reason(chosen(&world, "u", "pod")), Reason::StoreUnavailable);
    assert_eq!(reason(chosen(&world, "v", "pod")), Reason::SessionExists);
    assert!(chosen(&world, "u", "pod").is_ok());
}

#[test]
fn no_part_of_a_pods_connections_is_empty_but_the_last() {
    let world = World::new();
    let users: Vec<_> = (0..40).map(|number| format!("user-{number}")).collect();
    for user_id in &users {
        register(&world, &POLICY, user_id, "pod", None).unwrap();
    }
    let (mut cursor, mut count) = (String::new(), 0);
    loop {
        let page = list_pod(&world, &POLICY, "pod", &cursor).unwrap();
        count += page.connections.len();
        let Some(next) = page.next else { break };
        assert!(!page.connections.is_empty(), "{cursor}");
        cursor = next;
    }
    assert_eq!(count, users.len());
    let mut counted = 0;
    for partition in Partition::all() {
        counted += stats(&world, &partition.number().to_string()).unwrap().connections;
    }
    assert_eq!(counted as usize, users.len());
}

#[test]
fn events_of_a_connection_name_its_pod() {
    let world = World::new();
    chosen(&world, "u", "pod").unwrap();
    close(&world, &POLICY, ID, "bye", "me", ANY).unwrap();
    let events = world.entries_of_events("u");
    let facts = |name| events.iter().map(|event| field(event, name)).collect::<Vec<_>>();
    assert_eq!(facts("pod_id"), [Some("pod".into()), Some("pod".into())]);
    assert_eq!(facts("by"), [None, Some("me".into())]);
}

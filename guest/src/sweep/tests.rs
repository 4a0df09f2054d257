//! The sweep on the store in memory: what is due and what is not, sessions that begin again or
//! that another host expires between two transactions, records that are another session's, and
//! entries that newer rules may have queued.

use session_store::Error;
use session_store::transaction::{Member, Operation};

use super::*;
use crate::connections::{self, Only};
use crate::connections_types::Connection;
use crate::expiry::Kind;
use crate::fault::Reason;
use crate::keys::{Home, User};
use crate::testing::{EPOCH_MS, World, field};
use crate::users;
use crate::users_types::Attributes;
use crate::viewing::{self, KNOWN_MS};
use crate::viewing_types::Setup;

const POLICY: Policy = Policy {
    // Logins end with the viewing slots that begin with them.
    user_session_ttl_ms: Policy::DEFAULTS.viewing_ttl_ms,
    ..Policy::DEFAULTS
};
const TTL_MS: u64 = POLICY.viewing_ttl_ms;
const STALE_MS: u64 = POLICY.connection_stale_ms;
/// Both a user and an account.
const ALICE: &str = "alice";

fn partition() -> Partition {
    Partition::of(ALICE)
}

/// Sweeps, and returns how many sessions have expired, and whether there may be more.
fn swept(imports: &impl Imports) -> (u32, bool) {
    let swept = sweep(imports, &POLICY, partition().number()).unwrap();
    (swept.expired, swept.more)
}

/// How many sessions are queued of users, connections and viewing slots.
fn queued(world: &World) -> [usize; 3] {
    [Kind::User, Kind::Connection, Kind::Viewing]
        .map(|kind| world.members(kind.queue(partition())).len())
}

/// In how many milliseconds the only session of a queue is due.
fn due_in_ms(world: &World, kind: Kind) -> u64 {
    let queue = world.members(kind.queue(partition()));
    let [Member { expires_at, .. }] = queue[..] else { panic!("{queue:?}") };
    expires_at - OVERDUE_RETENTION_MS - world.clock.now()
}

/// Queues a member that is due now, beside the rules.
fn enqueue(world: &World, kind: Kind, member: &str) {
    let (key, member) = (kind.queue(partition()), member.into());
    world.perform(vec![Operation::MemberSet { key, member, ttl: OVERDUE_RETENTION_MS }]);
}

fn login(world: &World) -> String {
    let attributes = Attributes {
        user_id: Some(ALICE.into()),
        device_id: Some("laptop".into()),
        auth_code: None,
        access_token: None,
        refresh_token: None,
        expiration_time: None,
        user_email: None,
    };
    users::create(world, &POLICY, &attributes).unwrap()
}

fn watch(world: &World, device_id: &str) -> String {
    let (account_id, device_id) = (ALICE.into(), device_id.into());
    let setup = Setup { account_id, device_id, replace: Vec::new() };
    viewing::create(world, &POLICY, setup).unwrap().session_id
}

fn connect(world: &World, user_id: &str, pod_id: &str, session_id: Option<&str>) -> Connection {
    let session_id = session_id.map(str::to_owned);
    connections::register(world, &POLICY, user_id, pod_id, session_id).unwrap()
}

/// The values of a field in the events of a type.
fn published(world: &World, type_: Type, name: &str) -> Vec<Option<String>> {
    let events = world.entries_of_events(ALICE).into_iter();
    let of_type = events.filter(|event| field(event, "type").as_deref() == Some(type_.name()));
    of_type.map(|event| field(&event, name)).collect()
}

fn count(world: &World, type_: Type) -> usize {
    published(world, type_, "type").len()
}

#[test]
fn a_sweep_is_one_transaction_when_nothing_is_due() {
    let world = World::new();
    (0..7).for_each(|_| drop(login(&world)));
    world.clock.advance(TTL_MS - 1);
    let store = world.meanwhile(|_| {});
    let Swept { expired, more, left } = sweep(&store, &POLICY, partition().number()).unwrap();
    assert_eq!((expired, more, store.executed()), (0, false, 1));
    let left: Vec<_> = left.iter().map(|tally| (&*tally.kind, tally.sessions)).collect();
    assert_eq!(left, [("user", 7), ("connection", 0), ("viewing", 0)]);
    world.clock.advance(1);
    assert_eq!(swept(&world), (7, false));
}

#[test]
fn a_log_that_does_not_exist_is_not_swept() {
    let fault = sweep(&World::new(), &POLICY, 64).unwrap_err();
    assert_eq!(
        (&*fault.reason, &*fault.violations[0].field),
        (Reason::InvalidRequest.name(), "log")
    );
    assert_eq!(describe_logs().logs.len(), 64);
}

#[test]
fn a_session_that_lives_on_is_queued_until_its_new_end() {
    let world = World::new();
    let slot = watch(&world, "tv");
    world.clock.advance(TTL_MS / 2);
    viewing::heartbeat(&world, &POLICY, ALICE.into(), slot).unwrap();
    world.clock.advance(TTL_MS / 2);
    assert_eq!(due_in_ms(&world, Kind::Viewing), 0);
    assert_eq!(swept(&world), (0, false));
    assert_eq!(due_in_ms(&world, Kind::Viewing), TTL_MS / 2);
    for (advance_ms, expired, executed) in [(TTL_MS / 2 - 1, 0, 1), (1, 1, 3)] {
        world.clock.advance(advance_ms);
        let store = world.meanwhile(|_| {});
        assert_eq!((swept(&store), store.executed()), ((expired, false), executed));
    }
    assert_eq!(count(&world, Type::ViewingExpired), 1);
}

#[test]
fn the_expiry_is_published_in_the_transaction_that_takes_the_session_off_the_queue() {
    let world = World::new();
    login(&world);
    watch(&world, "tv");
    // No record is there of what is no id.
    enqueue(&world, Kind::User, "alice\nx");
    world.clock.advance(TTL_MS);
    world.fail_after(2, Error::Unavailable("down".into()));
    let fault = sweep(&world, &POLICY, partition().number()).unwrap_err();
    assert_eq!(fault.reason, Reason::StoreUnavailable);
    assert_eq!(queued(&world), [2, 0, 1]);
    assert_eq!(world.members(&User::of(ALICE).order).len(), 1);
    assert_eq!(world.events(ALICE), ["user.created", "viewing.created"]);
    let store = world.meanwhile(|_| {});
    assert_eq!((swept(&store), store.executed()), ((3, false), 3));
    assert_eq!(queued(&world), [0, 0, 0]);
    assert!(world.members(&User::of(ALICE).order).is_empty());
    let expiries = || world.events(ALICE).split_off(2);
    assert_eq!(expiries(), ["user.expired", "user.expired", "viewing.expired"]);
    // The record of a slot outlives it; that of a login does not.
    assert_eq!(published(&world, Type::ViewingExpired, "device_id"), [Some("tv".into())]);
    assert_eq!(published(&world, Type::UserExpired, "device_id"), [None, None]);
    assert_eq!(swept(&world), (0, false));
    assert_eq!(expiries().len(), 3);
}

#[test]
fn the_expiry_of_a_slot_whose_record_is_gone_is_published_too() {
    let world = World::new();
    watch(&world, "tv");
    world.clock.advance(TTL_MS + KNOWN_MS);
    assert_eq!(swept(&world), (1, false));
    assert_eq!(published(&world, Type::ViewingExpired, "device_id"), [None]);
}

#[test]
fn a_connection_that_expires_is_marked_and_its_event_names_its_pod() {
    let world = World::new();
    connect(&world, ALICE, "pod", Some("tab"));
    world.clock.advance(STALE_MS);
    assert_eq!(swept(&world), (1, false));
    assert_eq!(published(&world, Type::ConnectionExpired, "pod_id"), [Some("pod".into())]);
    let record = world.hash(&partition().connection("tab", ALICE)).unwrap();
    assert!(record.contains(&("_ended".into(), "expired".into())), "{record:?}");
}

#[test]
fn a_late_sweep_expires_what_other_hosts_have_left() {
    let world = World::new();
    let first = login(&world);
    login(&world);
    world.clock.advance(TTL_MS);
    // Both are refused, then the first, which another host has expired; then there is the second.
    let store = world.meanwhile(|number| {
        if number == 2 {
            let (key, member) = (Kind::User.queue(partition()), format!("{ALICE}\n{first}"));
            world.perform(vec![Operation::MemberRemove { key, member }]);
        }
    });
    assert_eq!(swept(&store), (1, false));
    assert_eq!(store.executed(), 6);
    assert_eq!(count(&world, Type::UserExpired), 1);
    // The session that another host has expired is not queued again.
    assert_eq!(queued(&world), [0, 0, 0]);
}

#[test]
fn hosts_that_sweep_at_once_publish_each_expiry_once() {
    // The other host sweeps before each transaction of this one.
    for moment in 0..3 {
        let world = World::new();
        (0..5).for_each(|_| drop(login(&world)));
        world.clock.advance(TTL_MS);
        let store = world.meanwhile(|number| {
            if number == moment {
                assert_eq!(swept(&world), (5, false));
            }
        });
        assert_eq!(swept(&store), (0, false), "before transaction {moment}");
        assert_eq!((count(&world, Type::UserExpired), queued(&world)), (5, [0, 0, 0]));
    }
}

#[test]
fn a_session_that_begins_again_meanwhile_is_not_expired_and_is_due_again_soon() {
    let world = World::new();
    connect(&world, ALICE, "pod", Some("tab"));
    watch(&world, "tv");
    world.clock.advance(TTL_MS);
    let store = world.meanwhile(|number| {
        if number == 2 {
            connect(&world, ALICE, "another", Some("tab"));
        }
    });
    // The slot in the same transaction expires all the same.
    assert_eq!(swept(&store), (1, false));
    assert_eq!(due_in_ms(&world, Kind::Connection), RETRY_MS);
    connections::get(&world, &POLICY, "tab", Only::default()).unwrap();
    world.clock.advance(RETRY_MS);
    assert_eq!(swept(&world), (0, false));
    assert_eq!(due_in_ms(&world, Kind::Connection), STALE_MS - RETRY_MS);
    // The registration has published how the one before it ended.
    assert_eq!(published(&world, Type::ConnectionExpired, "pod_id"), [Some("pod".into())]);
}

#[test]
fn a_later_registration_is_not_expired_in_the_name_of_an_earlier_one() {
    let world = World::new();
    connect(&world, ALICE, "pod", Some("tab"));
    world.clock.advance(STALE_MS);
    // By then the later one is over too, and only its epoch distinguishes it.
    let store = world.meanwhile(|number| {
        if number == 2 {
            connect(&world, ALICE, "another", Some("tab"));
            world.clock.advance(STALE_MS);
        }
    });
    assert_eq!(swept(&store), (0, false));
    world.clock.advance(RETRY_MS);
    assert_eq!(swept(&world), (1, false));
    let pods = published(&world, Type::ConnectionExpired, "pod_id");
    assert_eq!(pods, [Some("pod".into()), Some("another".into())]);
}

#[test]
fn another_users_connection_of_the_same_id_is_not_this_one() {
    let mut others = (0..).map(|number| format!("user-{number}"));
    let neighbour = others.find(|id| Partition::of(id) == partition()).unwrap();
    // The record of an id that was made is under the id alone, so the second user has it when the
    // record of the first is gone and no host has swept.
    for (chosen, pod_id) in [(None, None), (Some("tab"), Some("pod"))] {
        let world = World::new();
        let id = connect(&world, ALICE, "pod", chosen).session_id;
        let gone_ms = if chosen.is_none() { POLICY.connection_ttl_ms } else { 3 * STALE_MS };
        world.clock.advance(gone_ms);
        connect(&world, &neighbour, "another", Some(&id));
        let theirs = || world.hash(&partition().connection(&id, &neighbour)).unwrap();
        let before = theirs();
        assert_eq!(swept(&world), (1, false), "{chosen:?}");
        assert_eq!(
            published(&world, Type::ConnectionExpired, "pod_id"),
            [pod_id.map(str::to_owned)]
        );
        // Theirs is left alone.
        assert_eq!(theirs(), before);
        let only = Only { user_id: Some(&neighbour), epoch: None };
        connections::get(&world, &POLICY, &id, only).unwrap();
        assert_eq!(world.events(&neighbour), ["connection.created"]);
        assert_eq!(due_in_ms(&world, Kind::Connection), STALE_MS);
    }
}

#[test]
fn entries_of_newer_rules_are_left_to_them() {
    let world = World::new();
    enqueue(&world, Kind::User, "nonsense");
    enqueue(&world, Kind::Viewing, "whatever");
    let unknown_due_ms = || [Kind::User, Kind::Viewing].map(|kind| due_in_ms(&world, kind));
    assert_eq!(swept(&world), (0, false));
    assert_eq!(unknown_due_ms(), [UNKNOWN_RETRY_MS; 2]);
    // The sessions that these rules understand expire beside it.
    watch(&world, "tv");
    world.clock.advance(TTL_MS);
    assert_eq!(swept(&world), (1, false));
    assert_eq!(unknown_due_ms(), [UNKNOWN_RETRY_MS; 2]);
    assert_eq!(world.events(ALICE), ["viewing.created", "viewing.expired"]);
}

#[test]
fn a_sweep_looks_at_a_limited_number_of_sessions_and_says_when_there_may_be_more() {
    let world = World::new();
    viewing::set_max(&world, ALICE, 1000).unwrap();
    (0..=SWEPT_MAX).for_each(|_| drop(watch(&world, "tv")));
    world.clock.advance(TTL_MS);
    assert_eq!(swept(&world), (SWEPT_MAX, true));
    assert_eq!(queued(&world), [0, 0, 1]);
    assert_eq!(swept(&world), (1, false));
    assert_eq!(count(&world, Type::ViewingExpired), SWEPT_MAX as usize + 1);
}

#[test]
fn an_overdue_session_is_retained_for_a_while_when_no_host_sweeps() {
    for (late_ms, expired) in [(OVERDUE_RETENTION_MS - 1, 1), (OVERDUE_RETENTION_MS, 0)] {
        let world = World::new();
        login(&world);
        world.clock.advance(TTL_MS + late_ms);
        assert_eq!(swept(&world), (expired, false));
    }
}

#[test]
fn a_store_without_an_answer_ends_the_sweep() {
    let world = World::new();
    let slot = watch(&world, "tv");
    watch(&world, "phone");
    world.clock.advance(TTL_MS - 1);
    viewing::heartbeat(&world, &POLICY, ALICE.into(), slot).unwrap();
    world.clock.advance(1);
    // It lists, reads, postpones the one and expires the other.
    for count in 0..4 {
        world.fail_after(count, Error::Unavailable("down".into()));
        let before = world.executed();
        let fault = sweep(&world, &POLICY, partition().number()).unwrap_err();
        assert_eq!(fault.reason, Reason::StoreUnavailable);
        assert_eq!(world.executed() - before, count as u64 + 1);
        // The postponed session is due again, so the next round has the same steps.
        let keys = Home::of(ALICE);
        let kept = world.members(&keys.slots).remove(0).name;
        enqueue(&world, Kind::Viewing, &format!("{ALICE}\n{kept}"));
    }
    assert_eq!(swept(&world), (1, false));
    assert_eq!(world.clock.now(), EPOCH_MS + TTL_MS);
}

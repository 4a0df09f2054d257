//! The rules of homes without a server: many homes, and random steps that are compared with a
//! model.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use proptest::prelude::*;
use session_manager::logic::{BUILT_IN, Failure, Limits, Logic, Setup, Source};
use session_manager::telemetry::Metrics;
use session_store::clock::Clock;
use session_store::memory::Memory;
use session_tests::size;

async fn logic(clock: &Clock) -> Arc<Logic> {
    let store = Arc::new(Memory::new(clock.clone()));
    let component = Bytes::from_static(BUILT_IN);
    let metrics = Arc::new(Metrics::new());
    Logic::start(component, Source::BuiltIn, store, Vec::new(), Limits::default(), metrics)
        .await
        .unwrap()
}

#[tokio::test]
async fn many_homes_do_not_affect_one_another() {
    let clock = Clock::manual(1_800_000_000_000);
    let logic = logic(&clock).await;
    let setup = |number: u32, device: &str| Setup {
        account_id: format!("account-{number}"),
        device_id: device.into(),
        replace: Vec::new(),
    };
    let homes = size(10_000, 100_000);
    for number in 0..homes {
        logic.viewing_create(&setup(number, "tv")).await.unwrap();
    }
    for number in (0..homes).step_by(997) {
        let home = logic.viewing_home(&format!("account-{number}")).await.unwrap();
        assert_eq!((home.sessions.len(), home.max_sessions), (1, 2));
        logic.viewing_create(&setup(number, "phone")).await.unwrap();
        let refused = logic.viewing_create(&setup(number, "tablet")).await;
        assert!(
            matches!(refused, Err(Failure::Fault(fault)) if fault.reason == "SESSION_LIMIT_REACHED")
        );
    }
    clock.advance(120_000);
    for number in (0..homes).step_by(997) {
        let home = logic.viewing_home(&format!("account-{number}")).await.unwrap();
        assert!(home.sessions.is_empty());
    }
}

/// One step in a home. A number refers to a session by the order in which they were created.
#[derive(Clone, Debug)]
enum Step {
    Create { replace: Vec<usize> },
    HeartBeat(usize),
    TearDown(usize),
    SetMax(i32),
    Wait(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let session = 0..12_usize;
    prop_oneof![
        4 => prop::collection::vec(session.clone(), 0..3).prop_map(|replace| Step::Create { replace }),
        4 => session.clone().prop_map(Step::HeartBeat),
        2 => session.prop_map(Step::TearDown),
        1 => (0..5).prop_map(Step::SetMax),
        4 => prop_oneof![Just(119_999_u64), Just(120_000), 0..150_000_u64].prop_map(Step::Wait),
    ]
}

/// A home as the contract describes it.
struct Model {
    now: u64,
    max: usize,
    /// Every session ever created: its id, and when it expires unless a step has ended it.
    sessions: Vec<(String, Option<u64>)>,
}

impl Model {
    fn alive(&self) -> BTreeMap<String, u64> {
        let alive = self.sessions.iter().filter_map(|(id, end)| Some((id.clone(), (*end)?)));
        alive.filter(|(_, end)| *end > self.now).collect()
    }

    fn id(&self, number: usize) -> String {
        let unknown = "00000000-0000-4000-8000-000000000000".to_owned();
        self.sessions.get(number).map_or(unknown, |(id, _)| id.clone())
    }
}

#[test]
fn no_sequence_of_steps_exceeds_the_limit_or_loses_a_session() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let clock = Clock::manual(1_800_000_000_000);
    let logic = runtime.block_on(logic(&clock));
    let homes = std::cell::Cell::new(0);
    let sequences = prop::collection::vec(step(), 1..60);
    let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig {
        cases: 400,
        failure_persistence: None,
        ..ProptestConfig::default()
    });
    let done = runner.run(&sequences, |steps| {
        homes.set(homes.get() + 1);
        let account = format!("home-{}", homes.get());
        runtime.block_on(follow(&logic, &clock, &account, steps));
        Ok(())
    });
    done.unwrap();
}

async fn follow(logic: &Logic, clock: &Clock, account: &str, steps: Vec<Step>) {
    let mut model = Model { now: clock.now(), max: 2, sessions: Vec::new() };
    for step in steps {
        let alive = model.alive();
        match step {
            Step::Wait(time) => {
                clock.advance(time);
                model.now += time;
            }
            Step::SetMax(max) => {
                logic.viewing_set_max(account, max).await.unwrap();
                model.max = usize::try_from(max).unwrap();
            }
            Step::TearDown(number) => {
                logic.viewing_tear_down(account, &model.id(number)).await.unwrap();
                if let Some((_, end)) = model.sessions.get_mut(number) {
                    *end = None;
                }
            }
            Step::HeartBeat(number) => {
                let id = model.id(number);
                let beat = logic.viewing_heartbeat(account, &id).await;
                assert_eq!(beat.is_ok(), alive.contains_key(&id), "{beat:?}");
                if let Ok(slot) = beat {
                    assert_eq!(slot.expires_at_ms, model.now + 120_000);
                    model.sessions[number].1 = Some(slot.expires_at_ms);
                }
            }
            Step::Create { replace } => {
                let replace: Vec<String> = replace.iter().map(|number| model.id(*number)).collect();
                let ended = alive.keys().filter(|id| replace.contains(id)).count();
                let setup = Setup {
                    account_id: account.into(),
                    device_id: "device".into(),
                    replace: replace.clone(),
                };
                let created = logic.viewing_create(&setup).await;
                let room = alive.len() - ended < model.max;
                assert_eq!(created.is_ok(), room, "{created:?}");
                if let Ok(slot) = created {
                    for (id, end) in &mut model.sessions {
                        if replace.contains(id) {
                            *end = None;
                        }
                    }
                    model.sessions.push((slot.session_id, Some(slot.expires_at_ms)));
                    assert!(model.alive().len() <= model.max);
                }
            }
        }
        let home = logic.viewing_home(account).await.unwrap();
        let shown: BTreeMap<String, u64> = home
            .sessions
            .into_iter()
            .map(|viewer| (viewer.session_id, viewer.expires_at_ms))
            .collect();
        assert_eq!(shown, model.alive());
        assert_eq!(home.max_sessions as usize, model.max);
    }
}

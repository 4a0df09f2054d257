//! The logic engine with real components: the rules on virtual time, and components that
//! misbehave.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use session_manager::logic::{
    BUILT_IN, Compiler, Condition, Failure, Field, Limits, Logic, Refusal, Source, Value, Write,
};
use session_manager::telemetry::Metrics;
use session_manager::workers::Workers;
use session_store::clock::Clock;
use session_store::memory::Memory;
use session_store::transaction::{Outcome, Txn};
use session_store::{Answer, KeyCount, LogMark, Logs, Store, Takes};
use session_tests::guest::{relabelled, with_instances, with_module};
use session_tests::host::binary;
use session_tests::{guest, size, wait};

async fn start(
    component: Bytes,
    store: Arc<dyn Store>,
    limits: Limits,
) -> Result<Arc<Logic>, Refusal> {
    let metrics = Arc::new(Metrics::new());
    Logic::start(component, Source::BuiltIn, store, Vec::new(), limits, metrics).await
}

async fn misbehaving(store: Arc<dyn Store>, limits: Limits) -> Arc<Logic> {
    let component = guest::build("misbehaving").into();
    start(component, store, limits).await.unwrap()
}

fn memory() -> Arc<dyn Store> {
    Arc::new(Memory::new(Clock::System))
}

fn write(key: &str, name: &str, json: &str) -> Write {
    Write {
        context: "pre-order".into(),
        session_key: key.into(),
        fields: vec![Field { name: name.into(), value: Value::Json(json.into()) }],
        condition: Condition { version: None, exists: None },
        lock_token: None,
        idempotency_key: None,
        violations: Vec::new(),
    }
}

fn reason<T: std::fmt::Debug>(result: Result<T, Failure>) -> String {
    match result {
        Err(Failure::Fault(fault)) => fault.reason,
        other => panic!("a fault, not {other:?}"),
    }
}

/// The number of core modules of the real component.
const BUILT_IN_MODULES: u32 = 3;

/// The real component, with functions that take long to compile.
fn slow_to_compile() -> Vec<u8> {
    let body = "(local.set 0 (i32.add (i32.mul (local.get 0) (i32.const 3)) (local.get 1)))";
    let function =
        format!("(func (param i32 i32) (result i32) {} (local.get 0))", body.repeat(3000));
    let module = wat::parse_str(format!("(module {})", function.repeat(400))).unwrap();
    with_module(&with_module(BUILT_IN, &module), &module)
}

#[tokio::test]
async fn a_component_that_takes_too_long_to_compile_is_refused() {
    // Several times as long as a normal component takes.
    let compile = Duration::from_secs(3);
    let limits = Limits { compile, compiler: Compiler::Apart(binary()), ..Limits::default() };
    let logic = start(Bytes::from_static(BUILT_IN), memory(), limits).await.unwrap();
    let refused = logic.swap(slow_to_compile().into(), Source::Upload, false).await;
    let Err(Refusal { gate, message }) = refused else { panic!("it is refused") };
    assert_eq!(gate.name(), "compiles");
    assert!(message.contains("within 3 s of processor time"), "{message}");
    let swapped = logic.swap(relabelled(BUILT_IN, 1).into(), Source::Upload, false).await;
    assert_eq!(swapped.map(|swapped| swapped.generation.number).ok(), Some(2), "others get in");
}

/// The real component with further modules, each instantiated `times` times.
fn grown(modules: u32, times: u32, inside: &str) -> Bytes {
    let module = wat::parse_str(format!("(module {inside})")).unwrap();
    let mut component = BUILT_IN.to_vec();
    for number in BUILT_IN_MODULES..BUILT_IN_MODULES + modules {
        component = with_instances(&with_module(&component, &module), number, times);
    }
    component.into()
}

#[tokio::test]
async fn resources_of_repeated_core_instances_all_count() {
    let logic = start(Bytes::from_static(BUILT_IN), memory(), Limits::default()).await.unwrap();
    for (component, gate, said) in [
        (grown(1, 4, "(memory 1)"), "compiles", "has 5 memories, 4 are accepted"),
        (grown(1, 15, "(table 1 funcref)"), "compiles", "has 17 tables, 16 are accepted"),
        (grown(1, 50, ""), "compiles", "53 core module instances"),
        // All memories together may have 64 MiB, which are 1,024 pages.
        (grown(3, 1, "(memory 400)"), "instantiates", "memory"),
    ] {
        let refused = logic.swap(component, Source::Upload, false).await;
        let Err(Refusal { gate: at, message }) = refused else { panic!("{said}") };
        assert_eq!(at.name(), gate, "{message}");
        assert!(message.contains(said), "{message}");
    }
    let swapped = logic.swap(grown(3, 1, "(memory 300)"), Source::Upload, false).await;
    assert!(swapped.is_ok(), "{:?}", swapped.err());
}

/// The maximum number of instances at a time, each as large as the gates allow.
#[tokio::test]
async fn every_instance_of_an_accepted_component_fits() {
    let gate = Gate::new();
    let limits = Limits { instances: 1024, wait: wait::PATIENCE, ..Limits::default() };
    let store = Arc::clone(&gate) as Arc<dyn Store>;
    let logic = start(Bytes::from_static(BUILT_IN), store, limits).await.unwrap();
    let largest = [
        (3, "(memory 1 300) (table 20000 funcref)"),
        (11, "(table 20000 funcref)"),
        (48 - BUILT_IN_MODULES - 14, ""),
    ];
    let mut component = BUILT_IN.to_vec();
    let mut number = BUILT_IN_MODULES;
    for (count, inside) in largest {
        let module = wat::parse_str(format!("(module {inside})")).unwrap();
        for _ in 0..count {
            component = with_instances(&with_module(&component, &module), number, 1);
            number += 1;
        }
    }
    logic.swap(component.clone().into(), Source::Upload, false).await.unwrap();
    let mut calls = tokio::task::JoinSet::new();
    for _ in 0..1024 {
        let logic = Arc::clone(&logic);
        calls.spawn(async move { logic.booking_get("pre-order", "k", None).await });
    }
    wait::until("all calls wait for the store", async || {
        (gate.waiting.load(Ordering::SeqCst) == 1024).then_some(())
    })
    .await;
    // Meanwhile, one more instance is tried as a candidate.
    let swapped = logic.swap(relabelled(&component, 1).into(), Source::Upload, false).await;
    assert!(swapped.is_ok(), "{:?}", swapped.err());
    gate.open();
    while let Some(called) = calls.join_next().await {
        assert_eq!(reason(called.unwrap()), "SESSION_NOT_FOUND");
    }
}

#[tokio::test]
async fn a_session_expires_fifteen_minutes_after_its_last_write() {
    let clock = Clock::manual(1_800_000_000_000);
    let store = Arc::new(Memory::new(clock.clone()));
    let logic = start(Bytes::from_static(BUILT_IN), store, Limits::default()).await.unwrap();
    let minute = 60_000;
    let written = logic.booking_set(&write("k", "fleet_list_request", "1")).await.unwrap();
    assert_eq!(written.expires_at_ms, 1_800_000_000_000 + 15 * minute);
    clock.advance(14 * minute);
    logic.booking_set(&write("k", "fleet_list_response", "2")).await.unwrap();
    clock.advance(14 * minute);
    let session = logic.booking_get("pre-order", "k", None).await.unwrap();
    assert_eq!((session.version, session.fields.len()), (2, 2));
    clock.advance(minute - 1);
    assert!(logic.booking_get("pre-order", "k", None).await.is_ok());
    clock.advance(1);
    assert_eq!(reason(logic.booking_get("pre-order", "k", None).await), "SESSION_NOT_FOUND");
}

#[tokio::test]
async fn a_lock_expires_after_three_seconds() {
    let clock = Clock::manual(1_800_000_000_000);
    let store = Arc::new(Memory::new(clock.clone()));
    let logic = start(Bytes::from_static(BUILT_IN), store, Limits::default()).await.unwrap();
    let grant = logic.booking_lock("pre-order", "k", None, None).await.unwrap();
    assert_eq!(grant.expires_at_ms, 1_800_000_003_000);
    clock.advance(2999);
    let refused = logic.booking_set(&write("k", "fleet_list_request", "1")).await;
    let Err(Failure::Fault(fault)) = refused else { panic!("a fault, not {refused:?}") };
    assert_eq!((fault.reason.as_str(), fault.metadata[0].value.as_str()), ("SESSION_LOCKED", "1"));
    clock.advance(1);
    assert!(logic.booking_set(&write("k", "fleet_list_request", "1")).await.is_ok());
}

#[tokio::test]
async fn a_trap_fails_only_its_own_call() {
    let logic = misbehaving(memory(), Limits::default()).await;
    for _ in 0..3 {
        assert!(matches!(logic.booking_get("trap", "k", None).await, Err(Failure::Trapped)));
        assert_eq!(reason(logic.booking_get("fine", "k", None).await), "UNKNOWN_CONTEXT");
    }
}

#[tokio::test]
async fn a_call_that_takes_all_memory_is_stopped() {
    let logic = misbehaving(memory(), Limits::default()).await;
    assert!(matches!(logic.booking_get("allocate", "k", None).await, Err(Failure::Trapped)));
    assert_eq!(reason(logic.booking_get("fine", "k", None).await), "UNKNOWN_CONTEXT");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_that_never_end_are_stopped_and_let_others_run() {
    let limits = Limits { cpu: Duration::from_secs(1), ..Limits::default() };
    let logic = misbehaving(memory(), limits).await;
    let mut endless = tokio::task::JoinSet::new();
    // More calls than threads, so that they have to yield the threads.
    for _ in 0..4 {
        let logic = Arc::clone(&logic);
        endless.spawn(async move { logic.booking_get("loop", "k", None).await });
    }
    let mut others = 0;
    while !endless.is_empty() {
        assert_eq!(reason(logic.booking_get("fine", "k", None).await), "UNKNOWN_CONTEXT");
        others += 1;
        while let Some(ended) = endless.try_join_next() {
            assert!(matches!(ended.unwrap(), Err(Failure::TimedOut)));
        }
        tokio::task::yield_now().await;
    }
    assert!(others > 4, "{others}");
}

/// A store that answers only once it is opened.
struct Gate {
    open: AtomicBool,
    opened: tokio::sync::Notify,
    /// Transactions received while it was closed.
    waiting: AtomicU64,
    inner: Memory,
}

impl Gate {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            open: AtomicBool::new(false),
            opened: tokio::sync::Notify::new(),
            waiting: AtomicU64::new(0),
            inner: Memory::new(Clock::System),
        })
    }

    fn open(&self) {
        self.open.store(true, Ordering::SeqCst);
        self.opened.notify_waiters();
    }
}

impl Store for Gate {
    fn execute(&self, txn: Txn) -> Answer<'_, Outcome> {
        Box::pin(async move {
            self.waiting.fetch_add(1, Ordering::SeqCst);
            loop {
                let opened = self.opened.notified();
                if self.open.load(Ordering::SeqCst) {
                    return self.inner.execute(txn).await;
                }
                opened.await;
            }
        })
    }

    fn read_logs<'a>(&'a self, marks: &'a [LogMark], limit: usize) -> Answer<'a, Logs> {
        self.inner.read_logs(marks, limit)
    }

    fn empty_logs_ahead<'a>(&'a self, logs: &'a [String]) -> Answer<'a, ()> {
        self.inner.empty_logs_ahead(logs)
    }

    fn count_keys<'a>(&'a self, prefixes: &'a [String], cursor: &'a str) -> Answer<'a, KeyCount> {
        self.inner.count_keys(prefixes, cursor)
    }

    fn ping(&self) -> Answer<'_, Takes> {
        self.inner.ping()
    }

    fn flush(&self) -> Answer<'_, ()> {
        self.inner.flush()
    }

    fn name(&self) -> &'static str {
        "gate"
    }
}

#[tokio::test]
async fn waiting_for_the_store_does_not_count_as_computing() {
    let gate = Gate::new();
    let limits = Limits { cpu: Duration::from_millis(20), ..Limits::default() };
    let logic = misbehaving(Arc::clone(&gate) as _, limits).await;
    let waiting = tokio::spawn({
        let logic = Arc::clone(&logic);
        async move { logic.booking_get("ask", "k", None).await }
    });
    // Far longer than a call may compute.
    let since = std::time::Instant::now();
    wait::until("200 ms have passed", async || (since.elapsed().as_millis() > 200).then_some(()))
        .await;
    gate.open();
    assert_eq!(reason(waiting.await.unwrap()), "UNKNOWN_CONTEXT");
}

#[tokio::test]
async fn calls_beyond_the_limit_are_refused_and_a_dropped_call_frees_its_instance() {
    let gate = Gate::new();
    let limits = Limits { instances: 1, wait: Duration::from_millis(20), ..Limits::default() };
    let logic = misbehaving(Arc::clone(&gate) as _, limits).await;
    let holding = tokio::spawn({
        let logic = Arc::clone(&logic);
        async move { logic.booking_get("ask", "k", None).await }
    });
    wait::until("the only instance is in use", async || {
        matches!(logic.booking_get("fine", "k", None).await, Err(Failure::Overloaded)).then_some(())
    })
    .await;
    holding.abort();
    assert!(holding.await.unwrap_err().is_cancelled());
    assert_eq!(reason(logic.booking_get("fine", "k", None).await), "UNKNOWN_CONTEXT");
}

#[tokio::test]
async fn a_waiting_call_gets_the_next_free_instance() {
    let gate = Gate::new();
    let limits = Limits { instances: 1, wait: wait::PATIENCE, ..Limits::default() };
    let logic = misbehaving(Arc::clone(&gate) as _, limits).await;
    let call = |what: &'static str| {
        let logic = Arc::clone(&logic);
        async move { reason(logic.booking_get(what, "k", None).await) }
    };
    let holding = tokio::spawn(call("ask"));
    let waiting: Vec<_> = (0..20).map(|_| tokio::spawn(call("fine"))).collect();
    // Lets all calls reach the point where they wait.
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    assert!(!holding.is_finished() && waiting.iter().all(|call| !call.is_finished()));
    gate.open();
    assert_eq!(holding.await.unwrap(), "UNKNOWN_CONTEXT");
    for call in waiting {
        assert_eq!(call.await.unwrap(), "UNKNOWN_CONTEXT");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn waiting_calls_are_not_forgotten_by_a_swap() {
    // A forgotten call would wait for the next swap, which happens only once all are served.
    let limits = Limits { instances: 1, wait: wait::PATIENCE * 2, ..Limits::default() };
    let logic = start(Bytes::from_static(BUILT_IN), memory(), limits).await.unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let calls: Arc<[AtomicU64]> = (0..40).map(|_| AtomicU64::new(0)).collect();
    let mut callers = tokio::task::JoinSet::new();
    for number in 0..calls.len() {
        let (logic, stop, calls) = (Arc::clone(&logic), Arc::clone(&stop), Arc::clone(&calls));
        callers.spawn(async move {
            let key = format!("session-{number}");
            while !stop.load(Ordering::Relaxed) {
                logic.booking_set(&write(&key, "fleet_list_request", "1")).await.unwrap();
                calls[number].fetch_add(1, Ordering::Relaxed);
            }
        });
    }
    let all_are_served = async || {
        let served = || calls.iter().map(|calls| calls.load(Ordering::Relaxed));
        let before: Vec<u64> = served().collect();
        wait::until("every caller is served", async || {
            served().zip(&before).all(|(now, before)| now > *before + 1).then_some(())
        })
        .await;
    };
    let swap = async |label| {
        let component = relabelled(BUILT_IN, label).into();
        logic.swap(component, Source::Upload, false).await.map(drop).unwrap();
        all_are_served().await;
    };
    // Swaps leave generations to roll back to, which needs no compiler.
    let swaps = size(2, 3);
    for label in 0..swaps {
        swap(label).await;
    }
    for _ in 0..swaps {
        logic.roll_back(None).map(drop).unwrap();
        all_are_served().await;
    }
    for label in 10..10 + size(1, 2) {
        swap(label).await;
        logic.roll_back(None).map(drop).unwrap();
        all_are_served().await;
    }
    stop.store(true, Ordering::Relaxed);
    callers.join_all().await;
}

#[tokio::test]
async fn a_waiting_call_replaces_one_that_traps_or_is_dropped() {
    let limits = Limits { instances: 1, wait: wait::PATIENCE, ..Limits::default() };
    let gate = Gate::new();
    let logic = misbehaving(Arc::clone(&gate) as _, limits).await;
    let call = |what: &'static str| {
        let logic = Arc::clone(&logic);
        tokio::spawn(async move { logic.booking_get(what, "k", None).await })
    };
    let holding = call("ask");
    tokio::task::yield_now().await;
    let (trapping, waiting) = (call("trap"), call("fine"));
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    assert!(!holding.is_finished() && !trapping.is_finished() && !waiting.is_finished());
    holding.abort();
    assert!(matches!(trapping.await.unwrap(), Err(Failure::Trapped)));
    assert_eq!(reason(waiting.await.unwrap()), "UNKNOWN_CONTEXT");
}

/// The work that a worker runs.
type Work = std::pin::Pin<Box<dyn Future<Output = ()> + Send>>;

#[tokio::test]
async fn an_idle_instance_of_another_worker_is_used_at_the_limit() {
    let limits = Limits { instances: 1, ..Limits::default() };
    let logic = misbehaving(memory(), limits).await;
    let workers = Workers::start(2).unwrap();
    for _ in 0..2 {
        // One worker after the other. Each leaves its own idle instance.
        for busy in 0..2 {
            let work = (0..2).map(|worker| -> Work {
                let logic = Arc::clone(&logic);
                if worker != busy {
                    return Box::pin(async {});
                }
                Box::pin(async move {
                    assert_eq!(
                        reason(logic.booking_get("fine", "k", None).await),
                        "UNKNOWN_CONTEXT"
                    );
                })
            });
            for task in workers.spawn_on_each(work, |work| work) {
                task.await.unwrap();
            }
        }
    }
}

#[tokio::test]
async fn a_component_of_another_kind_is_refused_with_the_reason() {
    let wat = |text: &str| Bytes::from(wat::parse_str(text).unwrap());
    for (component, expected) in [
        (Bytes::from_static(b"not wasm at all"), "gate valid: it is not WebAssembly"),
        (wat("(module)"), "gate valid: it is a core module, not a component"),
        (wat("(component)"), "gate exports: it does not export session:manager/"),
        (
            wat(r#"(component (import "wasi:sockets/network@0.2.0" (instance)))"#),
            "it imports wasi:sockets/network@0.2.0, which the host does not offer",
        ),
    ] {
        let error = match start(component, memory(), Limits::default()).await {
            Err(error) => error.to_string(),
            Ok(_) => panic!("{expected} was accepted"),
        };
        assert!(error.contains(expected), "{error}");
    }
}

//! The memory that in-process stores count.

use session_store::MemoryUse;

use super::*;

fn remove(key: &str, member: &str) -> Operation {
    Operation::MemberRemove { key: key.into(), member: member.into() }
}

fn bytes(store: &impl Store) -> u64 {
    store.memory().expect("it is counted").bytes
}

/// One of many sessions, each with its own tag.
fn session(number: usize, ttl: Option<u64>) -> Vec<Operation> {
    let text = number.to_string().repeat(40);
    let entries = entries(&[("number", &text)]);
    let log = format!("log{{{number}}}");
    vec![
        set(&format!("k{{{number}}}"), &[("number", &text)], ttl),
        put(&format!("s{{{number}}}"), "m", ttl.unwrap_or(600_000)),
        Operation::AppendEvent { log, entries, keep: 100 },
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn parallel_transactions_never_exceed_the_memory_limit() {
    const LIMIT: u64 = 1 << 20;
    let store = Arc::new(Memory::limited(Clock::manual(EPOCH), Some(LIMIT)));
    let mut writing = tokio::task::JoinSet::new();
    for writer in 0..8 {
        let store = Arc::clone(&store);
        writing.spawn(async move {
            let mut taken = 0;
            for number in 0..1000 {
                let success = session(writer * 1000 + number, None);
                match store.execute(Txn { success, ..Txn::default() }).await {
                    Ok(_) => taken += 1,
                    Err(error) => assert!(matches!(error, Error::Full(_)), "{error}"),
                }
                assert!(bytes(&*store) <= LIMIT);
            }
            taken
        });
    }
    let taken: usize = writing.join_all().await.into_iter().sum();
    let each = bytes(&*store) / taken as u64;
    assert!(taken > 500 && bytes(&*store) + 2 * each > LIMIT, "{taken} of {each} bytes each");
}

#[tokio::test]
async fn memory_counts_the_same_after_a_start_and_is_freed_by_the_sweep() {
    const LIMIT: u64 = 1 << 20;
    let directory = tempfile::tempdir().unwrap();
    let clock = Clock::manual(EPOCH);
    let open = || Embedded::limited(directory.path(), clock.clone(), Some(LIMIT)).unwrap();
    let perform = async |store: &Embedded, success: Vec<Operation>| {
        store.execute(Txn { success, ..Txn::default() }).await
    };
    let store = open();
    assert_eq!(store.memory(), Some(MemoryUse { bytes: 0, bytes_max: Some(LIMIT) }));
    perform(&store, session(0, None)).await.unwrap();
    for number in 1.. {
        match perform(&store, session(number, Some(60_000))).await {
            Err(Error::Full(_)) => break,
            answered => drop(answered.unwrap()),
        }
    }
    // Values that become shorter, longer, and fewer.
    perform(&store, vec![set("k{0}", &[("number", "1")], None)]).await.unwrap();
    perform(&store, vec![remove("s{1}", "m")]).await.unwrap();
    perform(&store, vec![put("s{2}", "m", 60_000)]).await.unwrap();
    let before = bytes(&store);
    drop(store);
    let store = open();
    assert_eq!(bytes(&store), before);
    assert!(matches!(perform(&store, session(9_999, None)).await, Err(Error::Full(_))));
    clock.advance(60_001);
    // The logs and the one session without a lifetime are left.
    wait::until("the sweep frees the memory", async || {
        (bytes(&store) < before * 3 / 4).then_some(())
    })
    .await;
    perform(&store, session(9_999, None)).await.unwrap();
}

//! Tests of the embedded store only: its directory.

use session_manager::store::embedded::OpenError;
use session_store::LogMark;

use super::*;

fn open(directory: &tempfile::TempDir, clock: &Clock) -> Result<Embedded, OpenError> {
    Embedded::open(directory.path(), clock.clone())
}

async fn perform(store: &Embedded, success: Vec<Operation>) -> Vec<Reply> {
    store.execute(Txn { success, ..Txn::default() }).await.unwrap().replies
}

#[tokio::test]
async fn everything_is_there_after_reopening() {
    let directory = tempfile::tempdir().unwrap();
    let clock = Clock::manual(EPOCH);
    let append = || Operation::AppendEvent {
        log: "log".into(),
        entries: entries(&[("a", "1"), ("b", "")]),
        keep: 10,
    };
    let store = open(&directory, &clock).unwrap();
    perform(&store, vec![set("k", &[("a", "1"), ("b", "2")], Some(1000))]).await;
    perform(&store, vec![set("forever", &[("a", "1")], None)]).await;
    perform(&store, vec![set("gone", &[("a", "1")], None)]).await;
    perform(&store, vec![Operation::HashDelete("gone".into())]).await;
    perform(&store, vec![put("s", "x", 1000), put("s", "y", 2000)]).await;
    perform(&store, vec![append()]).await;
    drop(store);

    let store = open(&directory, &clock).unwrap();
    let replies = perform(&store, vec![get("k")]).await;
    let [Reply::Record(Some(hash))] = &replies[..] else { panic!("{replies:?}") };
    assert_eq!(fields(hash), [("a".into(), "1".into()), ("b".into(), "2".into())]);
    assert_eq!(hash.expires_at, Some(EPOCH + 1000));
    let replies = perform(&store, vec![get("forever")]).await;
    assert!(matches!(&replies[..], [Reply::Record(Some(Hash { expires_at: None, .. }))]));
    assert_eq!(perform(&store, vec![get("gone")]).await, [Reply::Record(None)]);
    let marks = [LogMark { log: "log".into(), after: None }];
    let logs = store.read_logs(&marks, 10).await.unwrap();
    assert_eq!(logs.pages[0].events[0].entries, entries(&[("a", "1"), ("b", "")]));
    // Ids keep increasing, whatever the clock does.
    let Reply::Appended(id) = perform(&store, vec![append()]).await.remove(0) else { panic!() };
    assert_ne!(id, logs.pages[0].events[0].id.to_string());
    drop(store);

    clock.advance(1500);
    let store = open(&directory, &clock).unwrap();
    assert_eq!(perform(&store, vec![get("k")]).await, [Reply::Record(None)]);
    let replies = perform(&store, vec![list("s", Order::SoonestFirst, 10)]).await;
    let [Reply::Members { members, live: 1 }] = &replies[..] else { panic!("{replies:?}") };
    assert_eq!(members[0].name, "y");
}

#[tokio::test]
async fn only_one_process_can_use_a_directory() {
    let directory = tempfile::tempdir().unwrap();
    let clock = Clock::manual(EPOCH);
    let _store = open(&directory, &clock).unwrap();
    assert!(matches!(open(&directory, &clock), Err(OpenError::InUse)));
}

#[tokio::test]
async fn expired_data_leaves_the_disk_without_a_request() {
    let directory = tempfile::tempdir().unwrap();
    let clock = Clock::manual(EPOCH);
    let store = open(&directory, &clock).unwrap();
    perform(&store, vec![set("k", &[("a", "1")], Some(1000))]).await;
    perform(&store, vec![put("s", "x", 1000)]).await;
    clock.advance(2000);
    // A copy that is opened with an earlier clock shows what is on the disk.
    wait::until("the sweep has removed everything", async || {
        store.flush().await.unwrap();
        let copy = tempfile::tempdir().unwrap();
        let from = format!("{}/.", directory.path().display());
        let copied = std::process::Command::new("cp").arg("-r").arg(from).arg(copy.path()).status();
        assert!(copied.unwrap().success());
        let copy = open(&copy, &Clock::manual(EPOCH)).unwrap();
        let record = perform(&copy, vec![get("k")]).await;
        let members = perform(&copy, vec![list("s", Order::SoonestFirst, 10)]).await;
        let empty = record == [Reply::Record(None)]
            && members == [Reply::Members { members: vec![], live: 0 }];
        empty.then_some(())
    })
    .await;
}

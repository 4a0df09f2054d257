//! Tests of the Redis store only: a server that forgets its scripts, is down, hangs, or is not
//! suitable for sessions.

use super::*;

#[tokio::test]
async fn a_script_that_the_server_has_forgotten_is_loaded_again() {
    let server = RedisServer::start().await;
    let store = connect(&server);
    let txn = || Txn { success: vec![add("k", "n", 1)], ..Txn::default() };
    store.execute(txn()).await.unwrap();
    let mut connection = server.connect(0).await;
    let _: () = ::redis::cmd("SCRIPT").arg("FLUSH").query_async(&mut connection).await.unwrap();
    assert_eq!(store.execute(txn()).await.unwrap().replies, [Reply::Number(2)]);
}

#[tokio::test]
async fn a_server_that_is_down_is_unavailable_and_used_again_when_it_returns() {
    let mut server = RedisServer::start().await;
    let store = connect(&server);
    let txn = || Txn { success: vec![add("k", "n", 1)], ..Txn::default() };
    store.execute(txn()).await.unwrap();
    server.kill().await;
    for _ in 0..3 {
        assert!(matches!(store.execute(txn()).await, Err(Error::Unavailable(_))));
        assert!(matches!(store.ping().await, Err(Error::Unavailable(_))));
    }
    server.restart().await;
    wait::until("the store has reconnected", async || store.ping().await.ok()).await;
    assert_eq!(store.execute(txn()).await.unwrap().replies, [Reply::Number(2)]);
}

#[tokio::test]
async fn a_server_that_hangs_is_unavailable_within_the_timeout() {
    let server = RedisServer::start().await;
    let address = Address::from_parts("127.0.0.1", server.port, 5, "", "").unwrap();
    let store = Redis::new(address, Duration::from_millis(100)).unwrap();
    // The first call may exceed such a short time-out.
    wait::until("the store answers", async || store.ping().await.ok()).await;
    server.signal("STOP");
    let answer = tokio::time::timeout(Duration::from_secs(5), store.ping()).await;
    assert!(matches!(answer, Ok(Err(Error::Unavailable(_)))));
    server.signal("CONT");
    wait::until("the store answers again", async || store.ping().await.ok()).await;
}

#[tokio::test]
async fn a_server_that_evicts_or_is_too_old_is_refused() {
    let fit = RedisServer::start().await;
    assert!(connect(&fit).unsuitable().await.unwrap().is_none());
    let evicting = RedisServer::with(&["--maxmemory-policy", "allkeys-lru"]).await;
    let unsuitable = connect(&evicting).unsuitable().await.unwrap().expect("not fit");
    assert!(unsuitable.to_string().contains("allkeys-lru"), "{unsuitable}");
}

#[tokio::test]
async fn a_full_server_accepts_scripts_that_it_has_forgotten() {
    let f = redis().await;
    f.perform(vec![set("k{t}", &[("a", "1")], None)]).await;
    f.fill().await;
    let Keep::Server(server) = &f.keep else { panic!("a server") };
    let mut connection = server.connect(0).await;
    let _: () = ::redis::cmd("SCRIPT").arg("FLUSH").query_async(&mut connection).await.unwrap();
    f.refused_as_full(vec![set("k{t}", &[("a", "22")], None)]).await;
    assert_eq!(fields(&f.hash("k{t}").await.unwrap()), [("a".into(), "1".into())]);
    f.perform(vec![Operation::HashDelete("k{t}".into())]).await;
}

#[tokio::test]
async fn the_check_for_a_full_server_writes_nothing() {
    let f = redis().await;
    for key in ["k", "k{t}", "x{}y", "open{a"] {
        f.perform(vec![set(key, &[("a", "1")], None)]).await;
        f.perform(vec![Operation::HashDelete(key.into())]).await;
    }
    f.fill().await;
    f.perform(vec![Operation::HashDelete("k{t}".into())]).await;
    let Keep::Server(server) = &f.keep else { panic!("a server") };
    let mut connection = server.connect(5).await;
    let left: u64 = ::redis::cmd("DBSIZE").query_async(&mut connection).await.unwrap();
    assert_eq!(left, 0);
}

#[tokio::test]
async fn a_password_is_required_and_never_printed() {
    let server = RedisServer::with(&["--requirepass", "s3cret-word"]).await;
    let with = |password| Address::from_parts("127.0.0.1", server.port, 5, "", password).unwrap();
    let good = Redis::new(with("s3cret-word"), Duration::from_secs(1)).unwrap();
    good.ping().await.unwrap();
    let bad = Redis::new(with("an0ther-word"), Duration::from_secs(1)).unwrap();
    let error = bad.ping().await.unwrap_err().to_string();
    assert!(!error.contains("-word"), "{error}");
}

#[tokio::test]
async fn nothing_is_left_of_expired_data() {
    let f = redis().await;
    f.perform(vec![set("k{t}", &[("a", "1")], Some(50)), put("s{t}", "m", 50)]).await;
    let Keep::Server(server) = &f.keep else { panic!("a server") };
    let mut connection = server.connect(5).await;
    wait::until("Redis has removed the expired keys", async || {
        let left: u64 = ::redis::cmd("DBSIZE").query_async(&mut connection.clone()).await.unwrap();
        (left == 0).then_some(())
    })
    .await;
    let _: () = ::redis::cmd("PING").query_async(&mut connection).await.unwrap();
}

#[tokio::test]
async fn a_server_that_refuses_connections_for_a_while_is_retried() {
    let server = RedisServer::start().await;
    let store = connect(&server);
    store.ping().await.unwrap();
    let mut admin = server.connect(0).await;
    let config = |name: &str, value: &str| {
        let mut command = ::redis::cmd("CONFIG");
        command.arg("SET").arg(name).arg(value);
        command
    };
    for (name, closed, open) in [("requirepass", "secret", ""), ("maxclients", "1", "1000")] {
        let _: () = config(name, closed).query_async(&mut admin).await.unwrap();
        let mut kill = ::redis::cmd("CLIENT");
        kill.arg("KILL").arg("TYPE").arg("normal").arg("SKIPME").arg("yes");
        let _: u32 = kill.query_async(&mut admin).await.unwrap();
        wait::until("the store is refused", async || store.ping().await.err()).await;
        for _ in 0..5 {
            assert!(matches!(store.ping().await, Err(Error::Unavailable(_))), "{name}");
        }
        let _: () = config(name, open).query_async(&mut admin).await.unwrap();
        wait::until("the server accepts the store again", async || store.ping().await.ok()).await;
    }
}

/// The permissions that an earlier release needs remain sufficient.
#[tokio::test]
async fn a_user_without_permission_to_echo_is_served() {
    let server = RedisServer::start().await;
    let mut connection = server.connect(0).await;
    let mut user = ::redis::cmd("ACL");
    user.arg("SETUSER").arg("some").arg("on").arg(">secret").arg("resetkeys").arg("-@all");
    for allowed in "+ping +select +info +config|get +time +scan +multi +exec +evalsha \
                    +script|load +type +exists +del +pexpireat +pexpiretime +hget +hset +hmget \
                    +hgetall +hkeys +hstrlen +hincrby +zadd +zrem +zremrangebyscore +zscore \
                    +zcard +zcount +zrange +zrevrange +zrangebyscore +xadd +xrange \
                    +xinfo|stream ~*"
        .split_whitespace()
    {
        user.arg(allowed);
    }
    let _: () = user.query_async(&mut connection).await.unwrap();
    let address = Address::from_parts("127.0.0.1", server.port, 5, "some", "secret").unwrap();
    let store = Redis::new(address, Duration::from_secs(10)).unwrap();
    let txn = || Txn { success: vec![add("k", "n", 1)], ..Txn::default() };
    store.execute(txn()).await.unwrap();
    let read = Operation::HashGet { key: "k".into(), fields: None };
    let read = Txn { success: vec![read], ..Txn::default() };
    assert!(matches!(&store.execute(read).await.unwrap().replies[..], [Reply::Record(Some(_))]));
    assert_eq!(store.ping().await.unwrap(), Takes::All);
    assert!(store.unsuitable().await.unwrap().is_none());
    assert!(store.history().is_some());
}

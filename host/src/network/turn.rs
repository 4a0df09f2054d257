//! What one peer has a share of beside memory: subscriptions, and turns at the rules. So that
//! one peer cannot have every instance, nor fill the line to the store, it makes a share of
//! all calls at a time. What it asks beyond that waits here, where it takes nothing from
//! others.

use std::sync::Arc;
use std::time::Duration;

use super::Peer;
use super::exchange::Exchange;
use super::memory::Crowded;

/// How long a call waits for others of the same peer: longer than for an instance, as it
/// keeps nobody else waiting.
const PATIENCE: Duration = Duration::from_secs(2);

/// A turn of the present request, until it is dropped. Work that no request has asked for
/// needs none.
pub struct Turn(Option<Arc<Exchange>>);

impl Turn {
    /// Takes a turn of whoever the present request comes from; waits a little while others
    /// of the same peer have them all.
    ///
    /// # Errors
    /// When none comes back in time, or too many wait already.
    pub async fn take() -> Result<Self, Crowded> {
        let Some(exchange) = Exchange::current() else { return Ok(Self(None)) };
        let calls = &exchange.peer().calls;
        if !calls.take(1, None) {
            let waiting = calls.line.wait(|| !calls.take(1, None));
            tokio::time::timeout(PATIENCE, waiting).await.map_err(|_| Crowded)??;
        }
        Ok(Self(Some(exchange)))
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        if let Some(exchange) = &self.0 {
            exchange.peer().calls.put_back(1);
        }
    }
}

/// A subscription of the present request, until it is dropped.
pub struct Subscribed(Option<Arc<Peer>>);

impl Subscribed {
    /// Counts it, when its peer may have one more.
    pub fn take() -> Option<Self> {
        let Some(exchange) = Exchange::current() else { return Some(Self(None)) };
        let peer = exchange.peer();
        peer.subscriptions.take(1, None).then(|| Self(Some(Arc::clone(peer))))
    }
}

impl Drop for Subscribed {
    fn drop(&mut self) {
        if let Some(peer) = &self.0 {
            peer.subscriptions.put_back(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::network::Network;
    use crate::network::connection::Connection;
    use crate::network::exchange::{self, FORWARDED_FOR};

    async fn take(connection: &Arc<Connection>) -> Result<Turn, Crowded> {
        exchange::within(connection.begin(), Turn::take()).await
    }

    #[tokio::test(start_paused = true)]
    async fn one_peer_has_a_share_of_the_calls_and_the_next_of_it_waits() {
        let network = Network::for_tests();
        let [one, same, another] =
            [1, 1, 2].map(|last| Connection::new(&network, [192, 0, 2, last].into()));
        let first = take(&one).await.expect("a turn");
        let second = take(&same).await.expect("a turn");
        assert!(take(&one).await.is_err(), "it has waited for long enough");
        assert!(take(&another).await.is_ok(), "another peer has turns of its own");
        let waiting = tokio::spawn(async move { take(&one).await.is_ok() });
        tokio::task::yield_now().await;
        drop(first);
        assert!(waiting.await.expect("no panic"));
        drop(second);
        assert_eq!(same.peer.calls.used(), 0);
    }

    #[tokio::test]
    async fn one_peer_has_a_share_of_the_subscriptions() {
        let network = Network::for_tests();
        let [one, another] = [1, 2].map(|last| Connection::new(&network, [192, 0, 2, last].into()));
        let subscribe = async |connection: &Arc<Connection>| {
            exchange::within(connection.begin(), async { Subscribed::take() }).await
        };
        let held = [subscribe(&one).await, subscribe(&one).await];
        assert!(held.iter().all(Option::is_some) && subscribe(&one).await.is_none());
        assert!(subscribe(&another).await.is_some());
        drop(held);
        assert!(subscribe(&one).await.is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn clients_of_a_trusted_proxy_have_turns_of_their_own_and_other_work_needs_none() {
        let network = Network::for_tests();
        let proxy = Connection::new(&network, [10, 0, 0, 1].into());
        let mut turns = Vec::new();
        for client in 1..9 {
            let exchange = proxy.begin();
            let value = format!("203.0.113.{client}").parse().expect("a header");
            exchange.came(&http::HeaderMap::from_iter([(FORWARDED_FOR, value)]));
            turns.push(exchange::within(exchange, Turn::take()).await.expect("a turn"));
            turns.push(Turn::take().await.expect("a turn"));
        }
    }
}

//! The quotas of one peer for calls and subscriptions. One peer makes only a share of all calls
//! at a time, so it can neither occupy every instance nor fill the connection to the store. Its
//! further calls wait here, where they take nothing from other peers.

use std::sync::Arc;
use std::time::Duration;

use super::Peer;
use super::exchange::Exchange;
use super::memory::QueueFull;

/// How long a call waits for other calls of its peer. Longer than for an instance, as the wait
/// delays no other peer.
const WAIT_MAX: Duration = Duration::from_secs(2);

/// The permit of the current request to call the rules, until it is dropped. Work without a
/// request needs none.
pub struct CallPermit(Option<Arc<Exchange>>);

impl CallPermit {
    /// Takes a permit of the peer of the current request. Waits a while if other calls of the
    /// peer hold all of them.
    ///
    /// # Errors
    /// If no permit is returned in time, or too many calls wait already.
    pub async fn take() -> Result<Self, QueueFull> {
        let Some(exchange) = Exchange::current() else { return Ok(Self(None)) };
        let calls = &exchange.peer().calls;
        if !calls.take(1, None) {
            let waiting = calls.queue.wait(|| !calls.take(1, None));
            tokio::time::timeout(WAIT_MAX, waiting).await.map_err(|_| QueueFull)??;
        }
        Ok(Self(Some(exchange)))
    }
}

impl Drop for CallPermit {
    fn drop(&mut self) {
        if let Some(exchange) = &self.0 {
            exchange.peer().calls.put_back(1);
        }
    }
}

/// The permit of the current request to subscribe, until it is dropped.
pub struct SubscriptionPermit(Option<Arc<Peer>>);

impl SubscriptionPermit {
    /// Takes a permit of the peer of the current request; `None` if it holds its share.
    pub fn take() -> Option<Self> {
        let Some(exchange) = Exchange::current() else { return Some(Self(None)) };
        let peer = exchange.peer();
        peer.subscriptions.take(1, None).then(|| Self(Some(Arc::clone(peer))))
    }
}

impl Drop for SubscriptionPermit {
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

    async fn take(connection: &Arc<Connection>) -> Result<CallPermit, QueueFull> {
        exchange::within(Exchange::begin(connection), CallPermit::take()).await
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_has_a_share_of_the_calls_and_its_next_call_waits() {
        let network = Network::for_tests();
        let [one, same, another] =
            [1, 1, 2].map(|last| Connection::new(&network, [192, 0, 2, last].into()));
        let first = take(&one).await.expect("a permit");
        let second = take(&same).await.expect("a permit");
        assert!(take(&one).await.is_err(), "the wait has ended");
        assert!(take(&another).await.is_ok(), "another peer has permits of its own");
        let waiting = tokio::spawn(async move { take(&one).await.is_ok() });
        tokio::task::yield_now().await;
        drop(first);
        assert!(waiting.await.expect("no panic"));
        drop(second);
        assert_eq!(same.peer.calls.used(), 0);
    }

    #[tokio::test]
    async fn a_peer_has_a_share_of_the_subscriptions() {
        let network = Network::for_tests();
        let [one, another] = [1, 2].map(|last| Connection::new(&network, [192, 0, 2, last].into()));
        let subscribe = async |connection: &Arc<Connection>| {
            exchange::within(Exchange::begin(connection), async { SubscriptionPermit::take() })
                .await
        };
        let held = [subscribe(&one).await, subscribe(&one).await];
        assert!(held.iter().all(Option::is_some) && subscribe(&one).await.is_none());
        assert!(subscribe(&another).await.is_some());
        drop(held);
        assert!(subscribe(&one).await.is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn clients_behind_a_trusted_proxy_have_own_permits_and_other_work_needs_none() {
        let network = Network::for_tests();
        let proxy = Connection::new(&network, [10, 0, 0, 1].into());
        let mut permits = Vec::new();
        for client in 1..9 {
            let exchange = Exchange::begin(&proxy);
            let value = format!("203.0.113.{client}").parse().expect("a header");
            exchange.identify_peer(&http::HeaderMap::from_iter([(FORWARDED_FOR, value)]));
            permits.push(exchange::within(exchange, CallPermit::take()).await.expect("a permit"));
            permits.push(CallPermit::take().await.expect("a permit"));
        }
    }
}

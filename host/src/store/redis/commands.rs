//! A connection to Redis, be it one server or a Cluster: commands are sent on it in the
//! same way.

use redis::aio::{ConnectionLike, MultiplexedConnection};
use redis::cluster_async::ClusterConnection;
use redis::cluster_routing::{
    MultipleNodeRoutingInfo, ResponsePolicy, RoutingInfo, SingleNodeRoutingInfo,
};
use redis::{Cmd, FromRedisValue, Pipeline, RedisError, RedisFuture, Value};

use crate::clock::Milliseconds;
use crate::store::redis::reply;

/// A connection.
#[derive(Clone)]
pub enum Commands {
    /// To one server.
    Server(MultiplexedConnection),
    /// To whichever node of a Cluster has the keys.
    Cluster(ClusterConnection),
}

impl Commands {
    /// Asks what any server could answer.
    ///
    /// # Errors
    /// Those of the server, and of the way there.
    pub async fn ask<T: FromRedisValue>(&mut self, command: &Cmd) -> Result<T, RedisError> {
        self.ask_at(command, SingleNodeRoutingInfo::Random).await
    }

    /// Whether a server answers; of a Cluster, any.
    ///
    /// # Errors
    /// Those of the server, and of the way there.
    pub async fn ping(&mut self) -> Result<(), RedisError> {
        let ping = redis::cmd("PING");
        let Self::Cluster(cluster) = self else { return self.ask(&ping).await };
        let one = Some(ResponsePolicy::OneSucceeded);
        let all = RoutingInfo::MultiNode((MultipleNodeRoutingInfo::AllMasters, one));
        cluster.route_command(ping, all).await.map(drop)
    }

    /// Looks at some keys that match a pattern: what they are, and where to go on, if
    /// anywhere.
    ///
    /// # Errors
    /// Those of the server, and of the way there.
    pub async fn scan(
        &mut self,
        at: &str,
        pattern: &str,
        count: u32,
    ) -> Result<(Vec<String>, Option<String>), RedisError> {
        let nodes = match self {
            Self::Server(_) => vec![SingleNodeRoutingInfo::Random],
            Self::Cluster(_) => self.primaries().await?,
        };
        // Behind the nodes that have been looked at already.
        let (node, cursor) = at.split_once(' ').unwrap_or(("0", "0"));
        let node: usize = node.parse().unwrap_or(0);
        let mut scan = redis::cmd("SCAN");
        scan.arg(cursor).arg("MATCH").arg(pattern).arg("COUNT").arg(count);
        let where_to = nodes.get(node).cloned().unwrap_or(SingleNodeRoutingInfo::Random);
        let (cursor, keys): (String, Vec<String>) = self.ask_at(&scan, where_to).await?;
        let next = match &*cursor {
            "0" => (node + 1 < nodes.len()).then(|| format!("{} 0", node + 1)),
            cursor => Some(format!("{node} {cursor}")),
        };
        Ok((keys, next))
    }

    /// The clock of a server; of a Cluster, the one that is furthest behind.
    ///
    /// # Errors
    /// Those of the server, and of the way there.
    pub async fn clock(&mut self) -> Result<Option<Milliseconds>, RedisError> {
        let time = redis::cmd("TIME");
        let Self::Cluster(cluster) = self else {
            return self.ask::<Value>(&time).await.map(|value| reply::time(&value));
        };
        let all = RoutingInfo::MultiNode((MultipleNodeRoutingInfo::AllMasters, None));
        match cluster.route_command(time, all).await? {
            Value::Map(clocks) => {
                let clocks = clocks.iter().map(|(_, clock)| reply::time(clock));
                Ok(clocks.min().flatten())
            }
            _ => Ok(None),
        }
    }

    async fn ask_at<T: FromRedisValue>(
        &mut self,
        command: &Cmd,
        node: SingleNodeRoutingInfo,
    ) -> Result<T, RedisError> {
        match self {
            Self::Server(server) => command.query_async(server).await,
            Self::Cluster(cluster) => {
                let routing = RoutingInfo::SingleNode(node);
                let value = cluster.route_command(command.clone(), routing).await?;
                Ok(T::from_redis_value(value)?)
            }
        }
    }

    /// Where the nodes of a Cluster are that have slots, in an order that stays.
    async fn primaries(&mut self) -> Result<Vec<SingleNodeRoutingInfo>, RedisError> {
        let mut slots = redis::cmd("CLUSTER");
        slots.arg("SLOTS");
        let ranges: Vec<Vec<Value>> = self.ask(&slots).await?;
        let primary = |range: Vec<Value>| {
            let Value::Array(node) = range.into_iter().nth(2)? else { return None };
            let mut node = node.into_iter();
            let host = String::from_redis_value(node.next()?).ok()?;
            Some((host, u16::from_redis_value(node.next()?).ok()?))
        };
        let mut primaries: Vec<(String, u16)> = ranges.into_iter().filter_map(primary).collect();
        primaries.sort_unstable();
        primaries.dedup();
        let at = |(host, port)| SingleNodeRoutingInfo::ByAddress { host, port };
        Ok(primaries.into_iter().map(at).collect())
    }
}

impl ConnectionLike for Commands {
    fn req_packed_command<'a>(&'a mut self, command: &'a Cmd) -> RedisFuture<'a, Value> {
        match self {
            Self::Server(server) => server.req_packed_command(command),
            Self::Cluster(cluster) => cluster.req_packed_command(command),
        }
    }

    fn req_packed_commands<'a>(
        &'a mut self,
        pipeline: &'a Pipeline,
        offset: usize,
        count: usize,
    ) -> RedisFuture<'a, Vec<Value>> {
        match self {
            Self::Server(server) => server.req_packed_commands(pipeline, offset, count),
            Self::Cluster(cluster) => cluster.req_packed_commands(pipeline, offset, count),
        }
    }

    fn get_db(&self) -> i64 {
        match self {
            Self::Server(server) => server.get_db(),
            Self::Cluster(cluster) => cluster.get_db(),
        }
    }
}

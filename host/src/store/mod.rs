//! The stores of this host, behind the [`Store`](session_store::Store) trait: the embedded store,
//! in memory and on the host's own disk, and Redis.

pub mod embedded;
pub mod redis;

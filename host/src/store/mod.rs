//! The stores of this host, both behind the [`Store`](session_store::Store) trait: embedded,
//! which keeps its data in memory and on its own disk, and Redis.

pub mod embedded;
pub mod redis;

//! The calls of the component about connections.

pub use crate::logic::bindings::exports::session::manager::connections::{
    Connection, Count, Drained, Page, Renewed,
};
use crate::logic::call::call;
use crate::logic::{Failure, Logic};

impl Logic {
    /// Registers a connection.
    ///
    /// # Errors
    /// See [`Failure`]; the faults are those of `connections.register`.
    pub async fn connections_register(
        &self,
        user_id: &str,
        pod_id: &str,
        session_id: Option<&str>,
    ) -> Result<Connection, Failure> {
        call!(self, session_manager_connections.call_register(user_id, pod_id, session_id))?
            .map_err(Failure::Fault)
    }

    /// Reads a connection that is alive.
    ///
    /// # Errors
    /// See [`Failure`]; the faults are those of `connections.get`.
    pub async fn connections_get(
        &self,
        session_id: &str,
        user_id: Option<&str>,
        epoch: Option<&str>,
    ) -> Result<Connection, Failure> {
        call!(self, session_manager_connections.call_get(session_id, user_id, epoch))?
            .map_err(Failure::Fault)
    }

    /// Keeps a connection.
    ///
    /// # Errors
    /// See [`Failure`]; the faults are those of `connections.heartbeat`.
    pub async fn connections_heartbeat(
        &self,
        session_id: &str,
        user_id: Option<&str>,
        epoch: Option<&str>,
    ) -> Result<Connection, Failure> {
        call!(self, session_manager_connections.call_heartbeat(session_id, user_id, epoch))?
            .map_err(Failure::Fault)
    }

    /// Keeps connections of a pod.
    ///
    /// # Errors
    /// See [`Failure`]; the faults are those of `connections.heartbeat-pod`.
    pub async fn connections_heartbeat_pod(
        &self,
        pod_id: &str,
        session_ids: Option<&[String]>,
        cursor: &str,
    ) -> Result<Renewed, Failure> {
        call!(self, session_manager_connections.call_heartbeat_pod(pod_id, session_ids, cursor))?
            .map_err(Failure::Fault)
    }

    /// Closes a connection.
    ///
    /// # Errors
    /// See [`Failure`]; the faults are those of `connections.close`.
    pub async fn connections_close(
        &self,
        session_id: &str,
        reason: &str,
        by: &str,
        user_id: Option<&str>,
        epoch: Option<&str>,
    ) -> Result<(), Failure> {
        call!(self, session_manager_connections.call_close(session_id, reason, by, user_id, epoch))?
            .map_err(Failure::Fault)
    }

    /// The connections of a user.
    ///
    /// # Errors
    /// See [`Failure`]; the faults are those of `connections.list-user`.
    pub async fn connections_of_user(&self, user_id: &str) -> Result<Vec<Connection>, Failure> {
        call!(self, session_manager_connections.call_list_user(user_id))?.map_err(Failure::Fault)
    }

    /// Ends all connections of a user.
    ///
    /// # Errors
    /// See [`Failure`]; the faults are those of `connections.terminate-user`.
    pub async fn connections_terminate(
        &self,
        user_id: &str,
        reason: &str,
        by: &str,
    ) -> Result<u32, Failure> {
        call!(self, session_manager_connections.call_terminate_user(user_id, reason, by))?
            .map_err(Failure::Fault)
    }

    /// How many connections a user has.
    ///
    /// # Errors
    /// See [`Failure`]; the faults are those of `connections.presence`.
    pub async fn connections_presence(&self, user_id: &str) -> Result<u32, Failure> {
        call!(self, session_manager_connections.call_presence(user_id))?.map_err(Failure::Fault)
    }

    /// Connections of a pod.
    ///
    /// # Errors
    /// See [`Failure`]; the faults are those of `connections.list-pod`.
    pub async fn connections_of_pod(&self, pod_id: &str, cursor: &str) -> Result<Page, Failure> {
        call!(self, session_manager_connections.call_list_pod(pod_id, cursor))?
            .map_err(Failure::Fault)
    }

    /// Closes connections of a pod.
    ///
    /// # Errors
    /// See [`Failure`]; the faults are those of `connections.drain-pod`.
    pub async fn connections_drain(
        &self,
        pod_id: &str,
        reason: &str,
        cursor: &str,
    ) -> Result<Drained, Failure> {
        call!(self, session_manager_connections.call_drain_pod(pod_id, reason, cursor))?
            .map_err(Failure::Fault)
    }

    /// Counts connections.
    ///
    /// # Errors
    /// See [`Failure`]; the faults are those of `connections.stats`.
    pub async fn connections_stats(&self, cursor: &str) -> Result<Count, Failure> {
        call!(self, session_manager_connections.call_stats(cursor))?.map_err(Failure::Fault)
    }
}

//! Registers a connection: first the lease on its id, if a caller has chosen the id, then the
//! connection. Each takes one transaction, unless other calls interfere.

use crate::connections::change::{Life, Target};
use crate::connections::lease::{self, Holder, Taken};
use crate::connections::record::{
    ATTEMPTS, CONNECTED_FIELD, EPOCH_FIELD, FIELDS, How, POD_FIELD, Record, SESSION_FIELD,
    USER_FIELD, contended, exists, look, pod_member, queued, terminated,
};
use crate::connections_types::Connection;
use crate::events::{Event, Type};
use crate::fault::{Reason, at_limit, invalid, is_any, quote, refuse, violation};
use crate::faults::{Fault, Violation};
use crate::imports::Imports;
use crate::keys::{self, Partition, check_id};
use crate::policy::Policy;
use crate::store::Order;
use crate::transaction::{Branch, Handle, Transaction, entry};

/// The most connections of one user.
pub const CONNECTIONS_MAX: u32 = 1000;
/// The length of an epoch.
const EPOCH_CHARACTERS: u32 = 16;
/// The id that no connection may have, because it is the name of a route.
const RESERVED: &str = "stats";

/// Registers a connection. If the same user registers it again, it moves to the pod.
///
/// # Errors
/// `INVALID_REQUEST`; `SESSION_EXISTS` when the id is another user's;
/// `SESSION_TERMINATED` when a caller has ended the connection;
/// `SESSION_LIMIT_REACHED`; `STORE_UNAVAILABLE`.
pub fn register(
    imports: &impl Imports,
    policy: &Policy,
    user_id: &str,
    pod_id: &str,
    session_id: Option<String>,
) -> Result<Connection, Fault> {
    let mut violations = Vec::new();
    check_id(USER_FIELD, user_id, &mut violations);
    check_id(POD_FIELD, pod_id, &mut violations);
    if let Some(session_id) = &session_id {
        check_session_id(SESSION_FIELD, session_id, &mut violations);
    }
    refuse(violations)?;
    let partition = Partition::of(user_id);
    let make = || keys::connection_id(partition, |length| imports.token(length));
    let (session_id, is_new) = session_id.map_or_else(|| (make(), true), |id| (id, false));
    let registration = Registration { partition, user_id, pod_id, session_id: &session_id };
    if !keys::is_made(&session_id) {
        return registration.under_lease(imports, policy);
    }
    let Some(named) = keys::partition_of_made(&session_id) else {
        let why = "begins with ~ and was not issued by this service";
        return Err(invalid(vec![violation(SESSION_FIELD, why)]));
    };
    if named != partition {
        let (record, _) = look(imports, named, &session_id, user_id)?;
        return Err(match record {
            Some(_) => exists(),
            None => invalid(vec![violation(SESSION_FIELD, "was not made for this user")]),
        });
    }
    let epoch = imports.token(EPOCH_CHARACTERS);
    let before = match is_new {
        true => Before::none(),
        false => {
            let (record, now_ms) = look(imports, partition, &session_id, user_id)?;
            Before::of(record, user_id, now_ms)?
        }
    };
    registration.write(imports, policy, &epoch, before, Life::Full)
}

/// A connection to be registered.
struct Registration<'a> {
    partition: Partition,
    user_id: &'a str,
    pod_id: &'a str,
    session_id: &'a str,
}

/// The connection of the same id before this registration.
struct Before {
    /// The registration that its record is of; none when there is no record.
    epoch: Option<String>,
    /// The pod that held it.
    pod_id: String,
    state: State,
}

/// Whether it is alive. The record does not always say so: a heartbeat or a sweep may have come
/// since. So a registration that is refused tries the other states.
#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    /// It is alive, and moves.
    Alive,
    /// It is over.
    Over,
    /// It has expired, and no sweep has published that.
    Expired,
}

impl State {
    fn other(self) -> Self {
        match self {
            Self::Over => Self::Expired,
            Self::Expired => Self::Alive,
            Self::Alive => Self::Over,
        }
    }
}

impl Before {
    /// Nothing is there.
    fn none() -> Self {
        Self { epoch: None, pod_id: String::new(), state: State::Over }
    }

    /// The state that a record gives at a time.
    ///
    /// # Errors
    /// `SESSION_EXISTS` when it is another user's; `SESSION_TERMINATED`.
    fn of(record: Option<Record>, user_id: &str, now_ms: u64) -> Result<Self, Fault> {
        let Some(record) = record else { return Ok(Self::none()) };
        if record.user_id != user_id {
            return Err(exists());
        }
        let state = match &record.ended {
            Some(ended) if ended.how == How::Terminated => {
                return Err(terminated(ended.how.name(), &ended.reason, &ended.by));
            }
            Some(_) => State::Over,
            None if record.is_alive(now_ms) => State::Alive,
            None => State::Expired,
        };
        Ok(Self { epoch: Some(record.epoch), pod_id: record.pod_id, state })
    }
}

impl Registration<'_> {
    /// Takes the lease on the id, and registers the connection under it.
    fn under_lease(&self, imports: &impl Imports, policy: &Policy) -> Result<Connection, Fault> {
        let epoch = imports.token(EPOCH_CHARACTERS);
        let holder = Holder { epoch: epoch.clone(), pod_id: self.pod_id.into() };
        let taken = lease::take(imports, policy, self.session_id, self.user_id, &holder)?;
        let Taken { until_ms, now_ms, before } = taken.ok_or_else(exists)?;
        // The registration that held the lease is most likely alive.
        let before = before.map_or_else(Before::none, |holder| Before {
            epoch: Some(holder.epoch),
            pod_id: holder.pod_id,
            state: State::Alive,
        });
        let written =
            self.write(imports, policy, &epoch, before, Life::Leased { now_ms, until_ms });
        let over = [Reason::SessionTerminated, Reason::SessionLimitReached];
        if written.as_ref().is_err_and(|fault| is_any(fault, &over)) {
            // The user has no live connection of the id. If the release fails, the lease ends by
            // itself.
            let _ = lease::release(imports, self.session_id, &epoch);
        }
        written
    }

    /// Writes the connection, and replaces the one before.
    fn write(
        &self,
        imports: &impl Imports,
        policy: &Policy,
        epoch: &str,
        mut before: Before,
        life: Life,
    ) -> Result<Connection, Fault> {
        let Self { partition, user_id, pod_id, session_id } = *self;
        let record = partition.connection(session_id, user_id);
        let connections = partition.connections(user_id);
        for _ in 0..ATTEMPTS {
            let mut transaction = Transaction::new();
            self.require(&mut transaction, &before);
            let connected = self.replace(&mut transaction.then, policy, &before, epoch, life);
            let present = transaction.otherwise.read(record.as_str(), &FIELDS);
            let all =
                transaction.otherwise.list(connections.as_str(), Order::SoonestFirst, None, 0);
            let mut done = transaction.execute(imports)?;
            if done.succeeded {
                let connected_at_ms = done.take(connected)?;
                let expires_at_ms = life.alive_until_ms(policy, connected_at_ms);
                return Ok(Connection {
                    user_id: user_id.into(),
                    session_id: session_id.into(),
                    pod_id: pod_id.into(),
                    connected_at_ms,
                    last_heartbeat_at_ms: expires_at_ms.saturating_sub(policy.connection_stale_ms),
                    expires_at_ms,
                    epoch: epoch.into(),
                });
            }
            let present = done.take(present)?.as_ref().and_then(Record::of);
            let present = Before::of(present, user_id, done.now_ms)?;
            let is_unchanged = present.epoch == before.epoch;
            let is_full = done.take(all)?.live >= CONNECTIONS_MAX;
            let is_over = before.state != State::Alive && present.state != State::Alive;
            if is_unchanged && is_over && is_full {
                return Err(self.limit_reached(imports, policy));
            }
            let state = if is_unchanged { before.state.other() } else { present.state };
            before = Before { state, ..present };
        }
        Err(contended())
    }

    /// Requires that the connection before has not changed.
    fn require(&self, transaction: &mut Transaction, before: &Before) {
        let Self { partition, user_id, session_id, .. } = *self;
        let when = &mut transaction.when;
        let record = partition.connection(session_id, user_id);
        match &before.epoch {
            Some(epoch) => when.field_is(record, EPOCH_FIELD, epoch),
            None => when.absent(record),
        }
        let connections = partition.connections(user_id);
        if before.state == State::Alive {
            return when.member(connections, session_id);
        }
        when.no_member(connections.as_str(), session_id);
        when.members_below(connections, CONNECTIONS_MAX);
        let queued = queued(partition, user_id, session_id);
        match before.state {
            State::Expired => queued.require(when),
            State::Over | State::Alive => queued.require_absent(when),
        }
    }

    /// Replaces the connection before by this one; the reply is when.
    fn replace(
        &self,
        branch: &mut Branch,
        policy: &Policy,
        before: &Before,
        epoch: &str,
        life: Life,
    ) -> Handle<u64> {
        let Self { partition, user_id, pod_id, session_id } = *self;
        let record = partition.connection(session_id, user_id);
        let publish = |branch: &mut Branch, type_, pod_id: &str| {
            let event = Event { pod_id, ..Event::of(type_, user_id, session_id) };
            event.publish(branch, policy, partition);
        };
        match before.state {
            State::Alive if before.pod_id != pod_id => {
                let member = pod_member(user_id, session_id);
                branch.remove(partition.pod(&before.pod_id), member);
            }
            State::Expired => publish(branch, Type::ConnectionExpired, &before.pod_id),
            State::Alive | State::Over => {}
        }
        branch.delete(record.as_str());
        let entries = vec![
            entry(USER_FIELD, user_id),
            entry(SESSION_FIELD, session_id),
            entry(POD_FIELD, pod_id),
            entry(EPOCH_FIELD, epoch),
        ];
        branch.write(record.as_str(), entries, policy.connection_ttl_ms);
        let connected = branch.stamp(record, CONNECTED_FIELD, 0);
        let target = Target { partition, user_id, session_id, pod_id, epoch: None };
        target.keep(branch, policy, life);
        let stale_ms = policy.connection_stale_ms;
        branch.put(partition.pods(), pod_id, stale_ms);
        queued(partition, user_id, session_id).enqueue(branch, stale_ms);
        let type_ = match before.state {
            State::Alive => Type::ConnectionMoved,
            State::Over | State::Expired => Type::ConnectionCreated,
        };
        publish(branch, type_, pod_id);
        connected
    }

    fn limit_reached(&self, imports: &impl Imports, policy: &Policy) -> Fault {
        let event = Event::new(Type::ConnectionLimitReached, self.user_id);
        Event { pod_id: self.pod_id, ..event }.publish_alone(imports, policy, self.partition);
        let message = format!("The user has {CONNECTIONS_MAX} connections, which is the most.");
        at_limit(message, CONNECTIONS_MAX)
    }
}

fn check_session_id(field: &str, session_id: &str, violations: &mut Vec<Violation>) {
    keys::check_session_key(field, session_id, violations);
    if session_id == RESERVED {
        violations.push(violation(field, format!("must not be {}", quote(RESERVED))));
    }
}

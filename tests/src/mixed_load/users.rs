//! Callers of logins and of connections. Two callers for each user create, close and list
//! sessions at the same time, and close all of them.

use std::collections::BTreeSet;

use serde_json::{Value as Json, json};

use super::caller::Caller;
use super::{changed, hash};
use crate::client::{Client, Refusal};
use crate::history::login::{Call, Operation};
use crate::history::recorder::Outcome;
use crate::history::span::Span;

/// The kind of session.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Logins of users.
    Login,
    /// Connections of users.
    Connection,
}

impl Kind {
    /// The name of a user. It contains the kind, which a history does not have otherwise.
    fn user(self, group: usize, round: usize) -> String {
        let kind = match self {
            Self::Login => "login",
            Self::Connection => "connection",
        };
        format!("{kind}-{group}-{round}")
    }

    fn of(user: &str) -> Self {
        if user.starts_with("login") { Self::Login } else { Self::Connection }
    }

    async fn ask(self, client: &Client, request: &Request) -> Result<Json, Refusal> {
        let (of_logins, of_connections, request) = match request {
            Request::Create(user) => (
                "Create",
                "Register",
                match self {
                    Self::Login => json!({ "session_attributes": { "user_id": user } }),
                    Self::Connection => json!({ "user_id": user, "pod_id": "pod" }),
                },
            ),
            Request::Close(id) => ("Delete", "Close", json!({ "session_id": id })),
            Request::Read(id) => ("Get", "Get", json!({ "session_id": id })),
            Request::CloseAll(user) => ("DeleteAll", "Terminate", json!({ "user_id": user })),
            Request::List(user) => (
                "List",
                "ListByUser",
                match self {
                    Self::Login => json!({ "user_id": user, "page_size": 1000 }),
                    Self::Connection => json!({ "user_id": user }),
                },
            ),
        };
        match self {
            Self::Login => client.users(of_logins, request).await,
            Self::Connection => client.connections(of_connections, request).await,
        }
    }
}

/// A request.
#[derive(Clone)]
enum Request {
    Create(String),
    Close(String),
    Read(String),
    CloseAll(String),
    List(String),
}

/// Creates, closes and lists the sessions of one user after the other.
pub async fn sessions(mut one: Caller, mut two: Caller, kind: Kind, group: usize) {
    for round in 0.. {
        if !one.goes_on() {
            return;
        }
        let user = kind.user(group, round);
        let user = user.as_str();
        let first = async {
            let kept = create(&mut one, kind, user).await;
            let closed = create(&mut one, kind, user).await;
            if let Some(id) = &closed {
                close(&mut one, kind, user, id).await;
                read(&mut one, kind, user, id).await;
            }
            list(&mut one, kind, user).await;
            kept
        };
        let second = async {
            let closed = create(&mut two, kind, user).await;
            list(&mut two, kind, user).await;
            if let Some(id) = &closed {
                close(&mut two, kind, user, id).await;
            }
        };
        let (kept, ()) = tokio::join!(first, second);
        if let Some(id) = &kept {
            read(&mut one, kind, user, id).await;
        }
        // Every other user keeps its sessions, which have to exist at the end.
        if round % 2 == 0 {
            tokio::join!(close_all(&mut one, kind, user), create(&mut two, kind, user));
        }
        list(&mut two, kind, user).await;
        one.turn();
        two.turn();
    }
}

/// Lists the final sessions of every user.
pub async fn list_all(caller: &mut Caller) {
    let mut users: Vec<String> = Vec::new();
    caller.recorder.add(|history| users = history.logins.keys().cloned().collect());
    for user in users {
        let kind = Kind::of(&user);
        let request = Request::List(user.clone());
        let ask = |client: Client| {
            let request = request.clone();
            async move { kind.ask(&client, &request).await }
        };
        // The service is down when there is no answer for this long.
        let Some((span, listed)) = caller.insist(ask).await else { return };
        if let Ok(listed) = listed {
            add(caller, &user, span, Operation::List(ids(&listed)));
        }
    }
}

fn add(caller: &Caller, user: &str, span: Span, operation: Operation) {
    let call = Call { span, operation };
    caller.recorder.add(|history| history.logins.entry(user.into()).or_default().push(call));
}

async fn call(caller: &mut Caller, kind: Kind, request: Request) -> Outcome<Json> {
    caller.call(|client| async move { kind.ask(&client, &request).await }).await
}

async fn create(caller: &mut Caller, kind: Kind, user: &str) -> Option<String> {
    match call(caller, kind, Request::Create(user.into())).await {
        Outcome::Answered(span, Ok(created)) => {
            let id = created["session_id"].as_str()?.to_owned();
            let event = match kind {
                Kind::Login => "user.created",
                Kind::Connection => "connection.created",
            };
            changed(caller, span, user, event, &hash(&id));
            add(caller, user, span, Operation::Create(Some(id.clone())));
            Some(id)
        }
        Outcome::Unknown(span) => {
            add(caller, user, span, Operation::Create(None));
            None
        }
        Outcome::Answered(..) | Outcome::Nothing => None,
    }
}

async fn close(caller: &mut Caller, kind: Kind, user: &str, id: &str) {
    match call(caller, kind, Request::Close(id.into())).await {
        Outcome::Answered(span, Ok(_)) => {
            // Closing a connection that does not exist any more publishes no event.
            if kind == Kind::Login {
                changed(caller, span, user, "user.closed", &hash(id));
            }
            add(caller, user, span, Operation::Close(id.into()));
        }
        Outcome::Answered(span, Err(refusal)) if is_gone(&refusal) => {
            add(caller, user, span, Operation::Read(id.into(), false));
        }
        Outcome::Unknown(span) => add(caller, user, span, Operation::Close(id.into())),
        Outcome::Answered(..) | Outcome::Nothing => {}
    }
}

async fn close_all(caller: &mut Caller, kind: Kind, user: &str) {
    match call(caller, kind, Request::CloseAll(user.into())).await {
        Outcome::Answered(span, Ok(closed)) => {
            // Closing no session publishes no event.
            if kind == Kind::Login && closed["closed"].as_u64() > Some(0) {
                changed(caller, span, user, "user.closed_all", "");
            }
            add(caller, user, span, Operation::CloseAll);
        }
        Outcome::Unknown(span) => add(caller, user, span, Operation::CloseAll),
        Outcome::Answered(..) | Outcome::Nothing => {}
    }
}

async fn read(caller: &mut Caller, kind: Kind, user: &str, id: &str) {
    match call(caller, kind, Request::Read(id.into())).await {
        Outcome::Answered(span, Ok(_)) => {
            add(caller, user, span, Operation::Read(id.into(), true));
        }
        Outcome::Answered(span, Err(refusal)) if is_gone(&refusal) => {
            add(caller, user, span, Operation::Read(id.into(), false));
        }
        Outcome::Answered(..) | Outcome::Nothing | Outcome::Unknown(_) => {}
    }
}

async fn list(caller: &mut Caller, kind: Kind, user: &str) {
    let outcome = call(caller, kind, Request::List(user.into())).await;
    if let Outcome::Answered(span, Ok(listed)) = outcome {
        add(caller, user, span, Operation::List(ids(&listed)));
    }
}

/// The ids of a list. The few sessions of one user fit on one page.
fn ids(listed: &Json) -> BTreeSet<String> {
    let list = listed["sessions"].as_array().or_else(|| listed["connections"].as_array());
    let ids = list.into_iter().flatten().filter_map(|session| session["session_id"].as_str());
    ids.map(Into::into).collect()
}

fn is_gone(refusal: &Refusal) -> bool {
    matches!(
        refusal.reason.as_str(),
        "SESSION_NOT_FOUND" | "SESSION_EXPIRED" | "SESSION_TERMINATED"
    )
}

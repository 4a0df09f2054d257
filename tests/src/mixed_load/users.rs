//! Callers of logins and of connections: two for each user, who begin, close and list
//! sessions beside each other, and close all of them.

use std::collections::BTreeSet;

use serde_json::{Value as Json, json};

use super::caller::Caller;
use super::{changed, hash};
use crate::client::{Client, Refusal};
use crate::history::login::{Call, Operation};
use crate::history::recorder::Outcome;
use crate::history::span::Span;

/// Which of the two.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Logins of users.
    Login,
    /// Connections of users.
    Connection,
}

impl Kind {
    /// The name of a user has the kind, so that it is known from a history.
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

    async fn ask(self, client: &Client, about: &About) -> Result<Json, Refusal> {
        let (of_logins, of_connections, request) = match about {
            About::Create(user) => (
                "Create",
                "Register",
                match self {
                    Self::Login => json!({ "session_attributes": { "user_id": user } }),
                    Self::Connection => json!({ "user_id": user, "pod_id": "pod" }),
                },
            ),
            About::Close(id) => ("Delete", "Close", json!({ "session_id": id })),
            About::Read(id) => ("Get", "Get", json!({ "session_id": id })),
            About::CloseAll(user) => ("DeleteAll", "Terminate", json!({ "user_id": user })),
            About::List(user) => (
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

/// What is asked.
#[derive(Clone)]
enum About {
    Create(String),
    Close(String),
    Read(String),
    CloseAll(String),
    List(String),
}

/// Begins, closes and lists the sessions of one user after the other.
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
        // Every other user keeps what there is, which has to be there in the end.
        if round % 2 == 0 {
            tokio::join!(close_all(&mut one, kind, user), create(&mut two, kind, user));
        }
        list(&mut two, kind, user).await;
        one.turn();
        two.turn();
    }
}

/// Lists what every user has in the end.
pub async fn list_all(caller: &mut Caller) {
    let mut users: Vec<String> = Vec::new();
    caller.recorder.add(|history| users = history.logins.keys().cloned().collect());
    for user in users {
        let kind = Kind::of(&user);
        let about = About::List(user.clone());
        let ask = |client: Client| {
            let about = about.clone();
            async move { kind.ask(&client, &about).await }
        };
        // Without any answer for so long, there is none for the others.
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

async fn call(caller: &mut Caller, kind: Kind, about: About) -> Outcome<Json> {
    caller.call(|client| async move { kind.ask(&client, &about).await }).await
}

async fn create(caller: &mut Caller, kind: Kind, user: &str) -> Option<String> {
    match call(caller, kind, About::Create(user.into())).await {
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
    match call(caller, kind, About::Close(id.into())).await {
        Outcome::Answered(span, Ok(_)) => {
            // A connection that is gone already is closed without an event.
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
    match call(caller, kind, About::CloseAll(user.into())).await {
        Outcome::Answered(span, Ok(closed)) => {
            // Without any session there is nothing to tell of.
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
    match call(caller, kind, About::Read(id.into())).await {
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
    let outcome = call(caller, kind, About::List(user.into())).await;
    if let Outcome::Answered(span, Ok(listed)) = outcome {
        add(caller, user, span, Operation::List(ids(&listed)));
    }
}

/// The sessions of a list; those of one user are few enough for one page.
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

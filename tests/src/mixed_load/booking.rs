//! Callers of booking sessions. Several callers write, compare, read and delete under one key,
//! read values that are for one reader, and compete for locks.

use std::collections::BTreeMap;

use serde_json::json;

use super::caller::Caller;
use crate::client::{Client, Conditions, Refusal, number};
use crate::history::History;
use crate::history::lock::Hold;
use crate::history::recorder::Outcome;
use crate::history::register::{self, Operation};
use crate::history::{read_once, span::Span};

const REGISTER: &str = "pre-order";
const READ_ONCE: &str = "reschedule";
/// The key of values that are written through one host and read through another.
const OVERWRITTEN: &str = "overwritten";
/// How long callers use one key. It is short to keep the history of each key short.
const ROUND_MS: u128 = 1500;

/// The kind of register that a group of callers shares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Register {
    /// Only some writes and deletes have a condition, and reads wait for no replica.
    Plain,
    /// All writes and deletes have a condition, and reads wait for replicas too.
    Compared,
}

impl Register {
    fn context(self) -> &'static str {
        match self {
            Self::Plain => REGISTER,
            Self::Compared => READ_ONCE,
        }
    }

    fn fields(self, value: u64) -> serde_json::Value {
        match self {
            Self::Plain => json!({ "fleet_list_request": value }),
            Self::Compared => json!({ "order_id": value.to_string() }),
        }
    }

    /// The value and the version of a session; `u64::MAX` for a missing value.
    fn state(self, session: &Fields) -> (u64, u64) {
        let value = match self {
            Self::Plain => session.get("fleet_list_request").and_then(serde_json::Value::as_u64),
            Self::Compared => text(session, "order_id"),
        };
        (value.unwrap_or(u64::MAX), number(&session["version"]))
    }

    fn calls(self, history: &mut History) -> &mut BTreeMap<String, Vec<register::Call>> {
        match self {
            Self::Plain => &mut history.registers,
            Self::Compared => &mut history.compared,
        }
    }
}

/// Writes, compares, reads and deletes under a key that the group shares.
pub async fn register(mut caller: Caller, of: Register, group: usize, member: usize) {
    let mut written = member as u64 * 1_000_000;
    let mut seen = 0;
    let mut round = 0;
    while caller.goes_on() {
        let now = caller.recorder.now().as_millis() / ROUND_MS;
        if now != round {
            (round, seen) = (now, 0);
            caller.turn();
        }
        let key = format!("{of:?}-{group}-{round}");
        written += 1;
        let chance = caller.chance(20);
        let compares = of == Register::Compared;
        let call = match chance {
            0..9 => {
                let call = read(&mut caller, of, &key).await;
                if let Some(register::Call { operation: Operation::Read(state), .. }) = call {
                    seen = state.map_or(0, |(_, version)| version);
                }
                call
            }
            9..18 => {
                let if_version = (compares || chance > 13).then_some(seen);
                write(&mut caller, of, &key, written, if_version).await
            }
            _ => delete(&mut caller, of, &key, (compares || chance > 18).then_some(seen)).await,
        };
        if let Some(call) = call {
            caller.recorder.add(|history| of.calls(history).entry(key).or_default().push(call));
        }
    }
}

/// Writes increasing values under one key.
pub async fn overwrite(mut caller: Caller) {
    for value in 1.. {
        if !caller.goes_on() {
            return;
        }
        if let Some(call) = write(&mut caller, Register::Plain, OVERWRITTEN, value, None).await {
            caller.recorder.add(|history| history.overwritten.push(call));
        }
    }
}

/// Reads the values that [`overwrite`] writes.
pub async fn follow(mut caller: Caller) {
    while caller.goes_on() {
        if let Some(call) = read(&mut caller, Register::Plain, OVERWRITTEN).await {
            caller.recorder.add(|history| history.overwritten.push(call));
        }
    }
}

/// Writes one key after the other, without a condition.
pub async fn write_each(mut caller: Caller) {
    for number in 1_u64.. {
        if !caller.goes_on() {
            return;
        }
        let key = format!("written-{number}");
        let ask = |client: Client| {
            let key = key.clone();
            async move { client.set(REGISTER, &key, json!({ "fleet_list_request": number })).await }
        };
        if let Outcome::Answered(_, Ok(_)) = caller.call(ask).await {
            caller.recorder.add(|history| {
                history.written.insert(key, None);
            });
        }
    }
}

/// Reads the final value of every key. It stops at the first key without an answer, as the
/// service is down then.
pub async fn read_all(caller: &mut Caller) {
    for of in [Register::Plain, Register::Compared] {
        let mut keys: Vec<String> = Vec::new();
        caller.recorder.add(|history| keys = of.calls(history).keys().cloned().collect());
        for key in keys {
            let Some(answer) = read_at_last(caller, of.context(), &key).await else { return };
            let (span, Ok(session)) = answer else { continue };
            let operation = Operation::Read(session.map(|session| of.state(&session)));
            let call = register::Call { span, operation };
            caller.recorder.add(|history| of.calls(history).entry(key).or_default().push(call));
        }
    }
    let mut keys: Vec<String> = Vec::new();
    caller.recorder.add(|history| keys = history.written.keys().cloned().collect());
    for key in keys {
        let Some(answer) = read_at_last(caller, REGISTER, &key).await else { return };
        let (_, Ok(session)) = answer else { continue };
        caller.recorder.add(|history| {
            history.written.insert(key, Some(session.is_some()));
        });
    }
}

/// Repeats a read until there is an answer.
async fn read_at_last(
    caller: &mut Caller,
    context: &'static str,
    key: &str,
) -> Option<(Span, Result<Option<Fields>, Refusal>)> {
    let ask = |client: Client| async move { client.get(context, key).await };
    caller.insist(ask).await.map(absent)
}

type Fields = serde_json::Map<String, serde_json::Value>;

/// A missing session is an answer too.
fn absent(
    (span, result): (Span, Result<Fields, Refusal>),
) -> (Span, Result<Option<Fields>, Refusal>) {
    match result {
        Ok(session) => (span, Ok(Some(session))),
        Err(refusal) if refusal.reason == "SESSION_NOT_FOUND" => (span, Ok(None)),
        Err(refusal) => (span, Err(refusal)),
    }
}

/// The number in a text field.
fn text(session: &Fields, name: &str) -> Option<u64> {
    session.get(name).and_then(serde_json::Value::as_str)?.parse().ok()
}

async fn read(caller: &mut Caller, of: Register, key: &str) -> Option<register::Call> {
    let outcome = caller.call(|client| async move { client.get(of.context(), key).await }).await;
    let Outcome::Answered(span, result) = outcome else { return None };
    let (span, session) = absent((span, result));
    let operation = Operation::Read(session.ok()?.map(|session| of.state(&session)));
    Some(register::Call { span, operation })
}

async fn write(
    caller: &mut Caller,
    of: Register,
    key: &str,
    value: u64,
    if_version: Option<u64>,
) -> Option<register::Call> {
    let ask = |client: Client| async move {
        let conditions = Conditions { if_version, ..Conditions::default() };
        client.set_if(of.context(), key, of.fields(value), conditions).await
    };
    let wrote = |version| Operation::Write { value, if_version, version };
    match caller.call(ask).await {
        Outcome::Nothing => None,
        Outcome::Unknown(span) => Some(register::Call { span, operation: wrote(0) }),
        Outcome::Answered(span, Ok(written)) => {
            Some(register::Call { span, operation: wrote(written.version) })
        }
        Outcome::Answered(span, Err(refusal)) => mismatch(span, if_version, &refusal),
    }
}

async fn delete(
    caller: &mut Caller,
    of: Register,
    key: &str,
    if_version: Option<u64>,
) -> Option<register::Call> {
    let ask = |client: Client| async move {
        let conditions = Conditions { if_version, ..Conditions::default() };
        client.delete_if(of.context(), key, conditions).await
    };
    let operation = Operation::Delete { if_version };
    match caller.call(ask).await {
        Outcome::Nothing => None,
        Outcome::Unknown(span) | Outcome::Answered(span, Ok(())) => {
            Some(register::Call { span, operation })
        }
        Outcome::Answered(span, Err(refusal)) => mismatch(span, if_version, &refusal),
    }
}

fn mismatch(span: Span, if_version: Option<u64>, refusal: &Refusal) -> Option<register::Call> {
    let current = refusal.metadata.get("currentVersion")?.parse().ok()?;
    let operation = Operation::Mismatch { if_version: if_version?, current };
    Some(register::Call { span, operation })
}

/// Writes values that three callers try to read, and then tries to read each one too.
pub async fn read_once(mut putter: Caller, mut takers: [Caller; 3], group: usize) {
    for value in 1_u64.. {
        if !putter.goes_on() {
            return;
        }
        let key = format!("once-{group}-{value}");
        let fields = json!({ "delete_after_get": true, "order_id": value.to_string() });
        // A write with a condition waits for replicas, as the reads do.
        let conditions = Conditions { if_version: Some(0), ..Conditions::default() };
        let ask = |client: Client| {
            let key = key.clone();
            async move { client.set_if(READ_ONCE, &key, fields, conditions).await }
        };
        let put = read_once::Operation::Put(value);
        match putter.call(ask).await {
            Outcome::Answered(span, Ok(_)) | Outcome::Unknown(span) => {
                add(&putter, &key, span, put);
            }
            Outcome::Answered(_, Err(_)) | Outcome::Nothing => continue,
        }
        let [one, two, three] = &mut takers;
        tokio::join!(take(one, &key), take(two, &key), take(three, &key));
        take(&mut putter, &key).await;
        putter.turn();
    }
}

async fn take(caller: &mut Caller, key: &str) {
    let ask = |client: Client| async move { client.get(READ_ONCE, key).await };
    match caller.call(ask).await {
        Outcome::Nothing => {}
        Outcome::Unknown(span) => add(caller, key, span, read_once::Operation::Take(None)),
        Outcome::Answered(span, result) => {
            let (span, Ok(session)) = absent((span, result)) else { return };
            let got = session.map(|session| text(&session, "order_id").unwrap_or(u64::MAX));
            add(caller, key, span, read_once::Operation::Take(got));
        }
    }
}

fn add(caller: &Caller, key: &str, span: Span, operation: read_once::Operation) {
    let call = read_once::Call { span, operation };
    caller.recorder.add(|history| history.read_once.entry(key.into()).or_default().push(call));
}

/// Takes the lock of the group, holds it for a moment, and unlocks it or lets it expire.
pub async fn lock(mut caller: Caller, group: usize) {
    let key = format!("lock-{group}");
    while caller.goes_on() {
        caller.turn();
        let ask = |client: Client| {
            let key = key.clone();
            async move { client.lock(REGISTER, &key).await }
        };
        let Outcome::Answered(span, Ok(token)) = caller.call(ask).await else { continue };
        let Some(answered) = span.answered else { continue };
        let hold = Hold { sent: span.sent, answered, unlocked: None };
        let mut at = 0;
        caller.recorder.add(|history| {
            let holds = history.locks.entry(key.clone()).or_default();
            at = holds.len();
            holds.push(hold);
        });
        let kept = std::time::Duration::from_millis(caller.chance(60));
        tokio::time::sleep(kept).await;
        if caller.chance(6) == 0 {
            continue;
        }
        let now = caller.recorder.now();
        caller.recorder.add(|history| {
            let holds = history.locks.entry(key.clone()).or_default();
            holds[at].unlocked = Some(now);
        });
        let ask = |client: Client| {
            let key = key.clone();
            async move { client.unlock(REGISTER, &key, &token).await }
        };
        caller.call(ask).await;
    }
}

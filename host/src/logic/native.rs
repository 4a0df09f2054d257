//! The rules linked natively, instead of the component. The cost of the component is
//! measured against this. Only for benchmarks, behind the feature `native-rules`; the
//! component is still loaded, but not called.

#![allow(unsafe_code, reason = "a stack moves between threads; see `Rule`")]

use std::cell::RefCell;
use std::pin::pin;
use std::sync::OnceLock;

use corosensei::stack::DefaultStack;
use corosensei::{Coroutine, CoroutineResult, Yielder};
use session_guest::booking_types as guest;
use session_guest::faults;
use session_guest::imports::Imports;
use session_guest::policy::Policy;
use session_guest::store as wit;
use session_guest::viewing_types as viewing;

use crate::logic::imports::store_is_withheld;
use crate::logic::{
    Condition, Failure, Fault, Field, Kind, LockGrant, Logic, Session, Setup, Slot, StoredField,
    Value, Violation, Write, Written,
};
use session_store::transaction as own;

type Answer = Result<wit::Outcome, wit::StoreError>;

thread_local! {
    /// Stacks that no rule runs on.
    static STACKS: RefCell<Vec<DefaultStack>> = const { RefCell::new(Vec::new()) };
}

static POLICY: OnceLock<Policy> = OnceLock::new();

/// The imports of the rules when they only read their settings.
struct Settings<'a>(&'a [(String, String)]);

impl Imports for Settings<'_> {
    fn execute(&self, _: &wit::Txn) -> Answer {
        Err(wit::StoreError::Rejected("there is no store".into()))
    }

    fn token(&self, _: u32) -> String {
        String::new()
    }

    fn uuid(&self) -> String {
        String::new()
    }

    fn setting(&self, wanted: &str) -> Option<String> {
        let found = self.0.iter().find(|(name, _)| name == wanted);
        found.map(|(_, value)| value.clone())
    }
}

/// The imports of the rules. While they wait for the store, another stack runs.
struct Host<'a>(&'a Yielder<Answer, own::Txn>);

impl Imports for Host<'_> {
    fn execute(&self, txn: &wit::Txn) -> Answer {
        self.0.suspend(txn.into())
    }

    fn token(&self, length: u32) -> String {
        uuid::Uuid::new_v4().simple().to_string().chars().take(length as usize).collect()
    }

    fn uuid(&self) -> String {
        uuid::Uuid::new_v4().to_string()
    }

    fn setting(&self, _: &str) -> Option<String> {
        None
    }
}

/// A rule in the middle of its work.
struct Rule<T>(Coroutine<Answer, own::Txn, T>);

// SAFETY: a stack holds the values of one rule, all of which are `Send`, and no
// two threads ever run it.
unsafe impl<T: Send> Send for Rule<T> {}

impl Logic {
    /// The settings, which a process has once.
    fn policy(&self) -> &'static Policy {
        POLICY.get_or_init(|| Policy::read(&Settings(&self.provisions.settings)))
    }

    /// Runs a rule on a stack of its own, so that it may wait for the store.
    async fn run<T: Send + 'static>(
        &self,
        rule: impl FnOnce(&Host<'_>) -> T + Send + 'static,
    ) -> T {
        let generation = self.current.load_full();
        let store = generation.pool.store();
        let stack = STACKS.with_borrow_mut(Vec::pop).unwrap_or_default();
        let start = move |yielder: &Yielder<Answer, own::Txn>, _| rule(&Host(yielder));
        let mut rule = Rule(Coroutine::with_stack(stack, start));
        let mut answer = Err(wit::StoreError::Rejected("nothing was asked".into()));
        loop {
            match rule.0.resume(answer) {
                CoroutineResult::Yield(_) if store_is_withheld() => {
                    answer = Err(wit::StoreError::Rejected("This call has no store.".into()));
                }
                CoroutineResult::Yield(txn) => {
                    let outcome: Result<own::Outcome, session_store::Error> =
                        pin!(store.execute(txn)).await;
                    answer = outcome.map(Into::into).map_err(Into::into);
                }
                CoroutineResult::Return(result) => {
                    let stack = rule.0.into_stack();
                    STACKS.with_borrow_mut(|stacks| stacks.push(stack));
                    return result;
                }
            }
        }
    }

    /// See the component's.
    ///
    /// # Errors
    /// As the component's.
    pub async fn booking_set(&self, write: &Write) -> Result<Written, Failure> {
        let field = |field: &Field| guest::Field {
            name: field.name.clone(),
            value: match &field.value {
                Value::Json(json) => guest::Value::Json(json.clone()),
                Value::Bytes(bytes) => guest::Value::Bytes(bytes.clone()),
            },
        };
        let violation = |violation: &Violation| faults::Violation {
            field: violation.field.clone(),
            description: violation.description.clone(),
        };
        let write = guest::Write {
            context: write.context.clone(),
            session_key: write.session_key.clone(),
            fields: write.fields.iter().map(field).collect(),
            condition: given_condition(write.condition),
            lock_token: write.lock_token.clone(),
            idempotency_key: write.idempotency_key.clone(),
            violations: write.violations.iter().map(violation).collect(),
        };
        let policy = self.policy();
        let set = move |host: &Host<'_>| session_guest::booking::set(host, policy, write);
        let guest::Written { session_key, version, expires_at_ms } =
            self.run(set).await.map_err(failure)?;
        Ok(Written { session_key, version, expires_at_ms })
    }

    /// See the component's.
    ///
    /// # Errors
    /// As the component's.
    pub async fn booking_get(
        &self,
        context: &str,
        session_key: &str,
        idempotency_key: Option<&str>,
    ) -> Result<Session, Failure> {
        let (context, session_key) = (context.to_owned(), session_key.to_owned());
        let request = idempotency_key.map(str::to_owned);
        let get = move |host: &Host<'_>| {
            session_guest::booking::get(host, &context, &session_key, request.as_deref())
        };
        let session = self.run(get).await.map_err(failure)?;
        let field = |field: guest::StoredField| StoredField {
            name: field.name,
            kind: kind(field.kind),
            value: field.value,
        };
        Ok(Session {
            fields: session.fields.into_iter().map(field).collect(),
            version: session.version,
            expires_at_ms: session.expires_at_ms,
        })
    }

    /// See the component's.
    ///
    /// # Errors
    /// As the component's.
    pub async fn booking_delete(
        &self,
        context: &str,
        session_key: &str,
        condition: Condition,
        lock_token: Option<&str>,
        idempotency_key: Option<&str>,
    ) -> Result<(), Failure> {
        let (context, session_key) = (context.to_owned(), session_key.to_owned());
        let (token, request) = (lock_token.map(str::to_owned), idempotency_key.map(str::to_owned));
        let given = given_condition(condition);
        let delete = move |host: &Host<'_>| {
            let (token, request) = (token.as_deref(), request.as_deref());
            session_guest::booking::delete(host, &context, &session_key, given, token, request)
        };
        self.run(delete).await.map_err(failure)
    }

    /// See the component's.
    ///
    /// # Errors
    /// As the component's.
    pub async fn booking_lock(
        &self,
        context: &str,
        session_key: &str,
        chosen: Option<&str>,
        idempotency_key: Option<&str>,
    ) -> Result<LockGrant, Failure> {
        let (context, session_key) = (context.to_owned(), session_key.to_owned());
        let (chosen, request) = (chosen.map(str::to_owned), idempotency_key.map(str::to_owned));
        let policy = self.policy();
        let lock = move |host: &Host<'_>| {
            let (chosen, request) = (chosen.as_deref(), request.as_deref());
            session_guest::booking::lock(host, policy, &context, &session_key, chosen, request)
        };
        let guest::LockGrant { lock_token, expires_at_ms } =
            self.run(lock).await.map_err(failure)?;
        Ok(LockGrant { lock_token, expires_at_ms })
    }

    /// See the component's.
    ///
    /// # Errors
    /// As the component's.
    pub async fn booking_unlock(
        &self,
        context: &str,
        session_key: &str,
        lock_token: &str,
    ) -> Result<(), Failure> {
        let (context, session_key) = (context.to_owned(), session_key.to_owned());
        let lock_token = lock_token.to_owned();
        let unlock = move |host: &Host<'_>| {
            session_guest::booking::unlock(host, &context, &session_key, &lock_token)
        };
        self.run(unlock).await.map_err(failure)
    }
}

impl Logic {
    /// See the component's.
    ///
    /// # Errors
    /// As the component's.
    pub async fn viewing_create(&self, setup: &Setup) -> Result<Slot, Failure> {
        let setup = viewing::Setup {
            account_id: setup.account_id.clone(),
            device_id: setup.device_id.clone(),
            replace: setup.replace.clone(),
        };
        let policy = self.policy();
        let create = move |host: &Host<'_>| session_guest::viewing::create(host, policy, setup);
        self.run(create).await.map(slot).map_err(failure)
    }

    /// See the component's.
    ///
    /// # Errors
    /// As the component's.
    pub async fn viewing_heartbeat(
        &self,
        account_id: &str,
        session_id: &str,
    ) -> Result<Slot, Failure> {
        let (account_id, session_id) = (account_id.to_owned(), session_id.to_owned());
        let policy = self.policy();
        let beat = move |host: &Host<'_>| {
            session_guest::viewing::heartbeat(host, policy, account_id, session_id)
        };
        self.run(beat).await.map(slot).map_err(failure)
    }
}

fn slot(slot: viewing::Slot) -> Slot {
    let viewing::Slot { account_id, session_id, expires_at_ms } = slot;
    Slot { account_id, session_id, expires_at_ms }
}

fn kind(kind: session_guest::catalog::Kind) -> Kind {
    match kind {
        session_guest::catalog::Kind::Document => Kind::Document,
        session_guest::catalog::Kind::Text => Kind::Text,
        session_guest::catalog::Kind::Boolean => Kind::Boolean,
        session_guest::catalog::Kind::Number => Kind::Number,
    }
}

/// Benchmarks make no faults; what they are is not looked at.
fn failure(fault: faults::Fault) -> Failure {
    Failure::Fault(Fault {
        reason: fault.reason,
        message: fault.message,
        metadata: Vec::new(),
        violations: Vec::new(),
        ending: None,
        retry_after_ms: fault.retry_after_ms,
    })
}

fn given_condition(condition: Condition) -> guest::Condition {
    let Condition { version, exists } = condition;
    guest::Condition { version, exists }
}

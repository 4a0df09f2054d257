//! The imports of the component: the store and the tokens, as the host has
//! them. Values move between the generated types and the store's own; nothing
//! is decided here.

use std::time::Instant;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use tokio::task_local;
use wasmtime::Result;

use crate::logic::bindings::session::manager::{faults, store as wit, tokens};
use crate::logic::instance::Instance;
use crate::network::exchange;
use crate::telemetry::traces::{self, Step};
use crate::telemetry::{StoreOperation, StoreOutcome};
use session_store::transaction::Txn;

/// The most characters of one token.
const TOKEN_CHARACTERS_MAX: u32 = 256;

task_local! {
    static WITHOUT_STORE: ();
}

/// Calls rules whose store answers nothing: what they say of the request's form is
/// known then, and nothing has changed.
pub fn without_store<T>(calling: impl Future<Output = T>) -> impl Future<Output = T> {
    WITHOUT_STORE.scope((), calling)
}

/// Whether the present call has no store.
pub fn store_is_withheld() -> bool {
    WITHOUT_STORE.try_with(|()| ()).is_ok()
}

impl wit::Host for Instance {
    async fn execute(&mut self, txn: wit::Txn) -> Result<Result<wit::Outcome, wit::StoreError>> {
        if store_is_withheld() {
            return Ok(Err(wit::StoreError::Rejected("This call has no store.".into())));
        }
        let txn: Txn = txn.into();
        let only_reads = txn.only_reads();
        let operation = if only_reads { StoreOperation::Read } else { StoreOperation::Write };
        let asked = Instant::now();
        self.meter.pause(asked);
        let exchange = async {
            let result = self.store.execute(txn).await;
            let outcome = StoreOutcome::from(&result);
            if result.is_err() {
                traces::step_failed(outcome.name());
            }
            (result, outcome)
        };
        let step = || Step::store(self.store.name(), operation.name());
        let (result, outcome) = traces::step(step, exchange).await;
        let answered = Instant::now();
        self.meter.resume(answered);
        self.metrics.store.call(operation, outcome, answered - asked);
        if let Ok(outcome) = &result
            && exchange::store_replied(outcome.bytes(), !only_reads).is_err()
        {
            let message = "There is no memory for what the store holds; try again in a moment.";
            return Ok(Err(wit::StoreError::Unavailable(message.into())));
        }
        Ok(result.map(Into::into).map_err(Into::into))
    }
}

impl tokens::Host for Instance {
    async fn token(&mut self, length: u32) -> Result<String> {
        if !(1..=TOKEN_CHARACTERS_MAX).contains(&length) {
            wasmtime::bail!("a token has 1 to {TOKEN_CHARACTERS_MAX} characters");
        }
        let length = length as usize;
        let mut random = [0; (TOKEN_CHARACTERS_MAX as usize * 6).div_ceil(8)];
        let random = &mut random[..(length * 6).div_ceil(8)];
        getrandom::fill(random).map_err(|error| wasmtime::format_err!("no randomness: {error}"))?;
        let mut token = URL_SAFE_NO_PAD.encode(random);
        token.truncate(length);
        Ok(token)
    }

    async fn uuid(&mut self) -> Result<String> {
        Ok(uuid::Uuid::new_v4().to_string())
    }
}

impl faults::Host for Instance {}

//! A store for tests, that is told what to answer.

use std::cell::RefCell;

use crate::imports::Imports;
use crate::store::{Outcome, Reply, StoreError, Txn};

/// Answers each transaction with the next outcome, and keeps it.
#[derive(Default)]
pub struct Script {
    answers: RefCell<Vec<Result<Outcome, StoreError>>>,
    asked: RefCell<Vec<Txn>>,
}

impl Script {
    /// Has one outcome to give.
    pub fn answering(succeeded: bool, replies: Vec<Reply>) -> Self {
        Self::answering_each([(succeeded, replies)])
    }

    /// Has an outcome for each transaction.
    pub fn answering_each(outcomes: impl IntoIterator<Item = (bool, Vec<Reply>)>) -> Self {
        let outcome = |(succeeded, replies)| Ok(Outcome { succeeded, replies, now_ms: 1000 });
        let answers: Vec<_> = outcomes.into_iter().map(outcome).collect();
        Self { answers: answers.into(), asked: RefCell::default() }
    }

    /// Has no answer to give.
    pub fn failing(error: StoreError) -> Self {
        Self { answers: vec![Err(error)].into(), asked: RefCell::default() }
    }

    /// Has no answer to give once the outcomes have been given.
    pub fn then_failing(&self, error: StoreError) {
        self.answers.borrow_mut().push(Err(error));
    }

    /// Has one more outcome to give once the others have been given.
    pub fn then_answering(&self, succeeded: bool, replies: Vec<Reply>) {
        let outcome = Outcome { succeeded, replies, now_ms: 1000 };
        self.answers.borrow_mut().push(Ok(outcome));
    }

    /// The transaction that was asked for last.
    pub fn last_asked(&self) -> Txn {
        self.asked.borrow_mut().pop().expect("a transaction")
    }

    /// How many transactions were asked for.
    pub fn count(&self) -> usize {
        self.asked.borrow().len()
    }

    /// The one transaction that was asked for.
    pub fn asked(&self) -> Txn {
        let mut asked = self.asked.borrow_mut();
        assert_eq!(asked.len(), 1, "a rule is one transaction");
        asked.remove(0)
    }

    /// Whether the store was left alone.
    pub fn asked_nothing(&self) -> bool {
        self.asked.borrow().is_empty()
    }
}

impl Imports for Script {
    fn execute(&self, txn: &Txn) -> Result<Outcome, StoreError> {
        let copy = Txn {
            compare: txn.compare.clone(),
            success: txn.success.clone(),
            failure: txn.failure.clone(),
            durable: txn.durable,
        };
        self.asked.borrow_mut().push(copy);
        self.answers.borrow_mut().remove(0)
    }

    fn token(&self, length: u32) -> String {
        "T".repeat(length as usize)
    }

    fn uuid(&self) -> String {
        "00000000-0000-4000-8000-000000000000".into()
    }

    fn setting(&self, _: &str) -> Option<String> {
        None
    }
}

//! Conversions of transactions between the types of the component and those of the store, for
//! programs that link the rules natively.

session_store::wit_conversions!(crate::store);

impl From<&wit::Txn> for own::Txn {
    fn from(txn: &wit::Txn) -> Self {
        let wit::Txn { compare, success, failure, durable } = txn;
        Self {
            compare: all(compare.clone()),
            success: all(success.clone()),
            failure: all(failure.clone()),
            durable: *durable,
        }
    }
}

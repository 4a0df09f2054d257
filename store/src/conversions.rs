//! Converts transactions between the types generated from the WIT and the store's own. It is a
//! macro, as the host and the rules generate one set of types each.

/// Implements the conversions for the generated module `$wit`.
#[macro_export]
macro_rules! wit_conversions {
    ($wit:path) => {
        use $wit as wit;

        use $crate::transaction as own;

        impl From<wit::Txn> for own::Txn {
            fn from(txn: wit::Txn) -> Self {
                Self {
                    compare: all(txn.compare),
                    success: all(txn.success),
                    failure: all(txn.failure),
                    durable: txn.durable,
                }
            }
        }

        impl From<wit::Compare> for own::Compare {
            fn from(compare: wit::Compare) -> Self {
                let field = |test: wit::FieldTest, or_absent| Self::FieldEquals {
                    key: test.key,
                    field: test.field,
                    value: test.value.into(),
                    or_absent,
                };
                let member = |reference: wit::MemberRef, alive| Self::Member {
                    key: reference.key,
                    member: reference.member,
                    alive,
                };
                match compare {
                    wit::Compare::Exists(key) => Self::Exists(key),
                    wit::Compare::Absent(key) => Self::Absent(key),
                    wit::Compare::FieldEquals(test) => field(test, false),
                    wit::Compare::FieldEqualsOrAbsent(test) => field(test, true),
                    wit::Compare::FieldAmong(wit::FieldChoice { key, field, values }) => {
                        Self::FieldAmong { key, field, values: all(values) }
                    }
                    wit::Compare::CountEquals(wit::CountTest { key, field, number }) => {
                        Self::CountEquals { key, field, number }
                    }
                    wit::Compare::SizeAtMost(wit::SizeBound { key, except, limit }) => {
                        Self::SizeAtMost { key, except, limit }
                    }
                    wit::Compare::MemberPresent(reference) => member(reference, true),
                    wit::Compare::MemberAbsent(reference) => member(reference, false),
                    wit::Compare::MembersBelow(wit::MemberBound { key, limit }) => {
                        Self::MembersBelow { key, limit }
                    }
                }
            }
        }

        impl From<wit::Operation> for own::Operation {
            fn from(operation: wit::Operation) -> Self {
                match operation {
                    wit::Operation::HashSet(wit::HashSet { key, entries, ttl_ms }) => {
                        Self::HashSet { key, entries: all(entries), ttl: ttl_ms }
                    }
                    wit::Operation::HashGet(wit::HashGet { key, fields }) => {
                        Self::HashGet { key, fields }
                    }
                    wit::Operation::HashAdd(wit::HashAdd { key, field, delta }) => {
                        Self::HashAdd { key, field, delta }
                    }
                    wit::Operation::HashStamp(wit::HashStamp { key, field, later_ms }) => {
                        Self::HashStamp { key, field, later: later_ms }
                    }
                    wit::Operation::HashDelete(key) => Self::HashDelete(key),
                    wit::Operation::HashExpire(wit::Expiry { key, ttl_ms }) => {
                        Self::HashExpire { key, ttl: ttl_ms }
                    }
                    wit::Operation::HashMove(wit::HashMove { key, to, ttl_ms }) => {
                        Self::HashMove { key, to, ttl: ttl_ms }
                    }
                    wit::Operation::MemberSet(wit::MemberSet { key, member, ttl_ms }) => {
                        Self::MemberSet { key, member, ttl: ttl_ms }
                    }
                    wit::Operation::MemberRenew(wit::MemberSet { key, member, ttl_ms }) => {
                        Self::MemberRenew { key, member, ttl: ttl_ms }
                    }
                    wit::Operation::MemberSetUntil(wit::MemberUntil {
                        key,
                        member,
                        expires_at_ms,
                    }) => Self::MemberSetUntil { key, member, expires_at: expires_at_ms },
                    wit::Operation::MemberRemove(wit::MemberRef { key, member }) => {
                        Self::MemberRemove { key, member }
                    }
                    wit::Operation::MemberList(wit::MemberList { key, order, after, limit }) => {
                        Self::MemberList {
                            key,
                            order: match order {
                                wit::Order::SoonestFirst => own::Order::SoonestFirst,
                                wit::Order::LatestFirst => own::Order::LatestFirst,
                            },
                            after: after.map(|after| own::Member {
                                name: after.name,
                                expires_at: after.expires_at_ms,
                            }),
                            limit,
                        }
                    }
                    wit::Operation::MemberClear(wit::MemberClear {
                        key,
                        except,
                        record_prefix,
                        also_in,
                    }) => Self::MemberClear {
                        key,
                        except,
                        record_prefix,
                        also_in: also_in
                            .map(|copies| own::Copies { key: copies.key, prefix: copies.prefix }),
                    },
                    wit::Operation::AppendEvent(wit::Event { log, entries, keep }) => {
                        Self::AppendEvent { log, entries: all(entries), keep }
                    }
                }
            }
        }

        impl From<wit::Entry> for own::Entry {
            fn from(entry: wit::Entry) -> Self {
                Self { field: entry.field, value: entry.value.into() }
            }
        }

        impl From<own::Entry> for wit::Entry {
            fn from(entry: own::Entry) -> Self {
                Self { field: entry.field, value: entry.value.into() }
            }
        }

        impl From<own::Outcome> for wit::Outcome {
            fn from(outcome: own::Outcome) -> Self {
                Self {
                    succeeded: outcome.succeeded,
                    replies: all(outcome.replies),
                    now_ms: outcome.now,
                }
            }
        }

        impl From<own::Reply> for wit::Reply {
            fn from(reply: own::Reply) -> Self {
                match reply {
                    own::Reply::Deadline(deadline) => Self::Deadline(deadline),
                    own::Reply::Number(number) => Self::Number(number),
                    own::Reply::Record(hash) => Self::Record(hash.map(|hash| wit::Hash {
                        entries: all(hash.entries),
                        expires_at_ms: hash.expires_at,
                    })),
                    own::Reply::Existed(existed) => Self::Existed(existed),
                    own::Reply::Members { members, live } => {
                        Self::Members(wit::MemberPage { members: all(members), live })
                    }
                    own::Reply::Appended(id) => Self::Appended(id),
                }
            }
        }

        impl From<own::Member> for wit::Member {
            fn from(member: own::Member) -> Self {
                Self { name: member.name, expires_at_ms: member.expires_at }
            }
        }

        impl From<$crate::Error> for wit::StoreError {
            fn from(error: $crate::Error) -> Self {
                match error {
                    $crate::Error::Unavailable(message) => Self::Unavailable(message),
                    $crate::Error::Rejected(message) => Self::Rejected(message),
                    $crate::Error::Full(message) => Self::Full(message),
                }
            }
        }

        fn all<T: Into<U>, U>(items: Vec<T>) -> Vec<U> {
            items.into_iter().map(Into::into).collect()
        }
    };
}

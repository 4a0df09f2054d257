//! One transaction of a rule: its conditions, the operations if all hold, and the others.
//! Each operation gives a [`Handle`] to its reply, so no rule counts replies.

use std::marker::PhantomData;

use crate::fault::{Reason, fault, from_store};
use crate::faults::Fault;
use crate::imports::Imports;
use crate::store::{
    Compare, Copies, CountTest, Entry, Event, Expiry, FieldChoice, FieldTest, Hash, HashAdd,
    HashGet, HashMove, HashSet, HashStamp, Member, MemberBound, MemberClear, MemberList,
    MemberPage, MemberRef, MemberSet, MemberUntil, Operation, Order, Reply, SizeBound, Txn,
};

/// A transaction that is being put together.
#[derive(Debug)]
pub struct Transaction {
    /// The conditions.
    pub when: Conditions,
    /// The operations if all conditions hold.
    pub then: Branch,
    /// The operations if at least one condition does not hold.
    pub otherwise: Branch,
}

/// The conditions of a transaction.
#[derive(Debug, Default)]
pub struct Conditions(Vec<Compare>);

/// The operations of a branch, in order.
#[derive(Debug)]
pub struct Branch {
    operations: Vec<Operation>,
    succeeds: bool,
}

/// The reply to an operation, before it has come.
#[derive(Debug)]
pub struct Handle<T> {
    succeeds: bool,
    index: usize,
    reply: PhantomData<fn() -> T>,
}

impl<T> Clone for Handle<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Handle<T> {}

/// A deadline in milliseconds since the Unix epoch; none when there is no end.
pub type Deadline = Option<u64>;

/// Members of a set that were asked for, and how many are alive in it.
pub type Page = MemberPage;

/// The outcome of a transaction.
#[derive(Debug)]
pub struct Done {
    /// Whether all conditions held.
    pub succeeded: bool,
    /// The store's clock, in milliseconds since the Unix epoch.
    pub now_ms: u64,
    replies: Vec<Option<Reply>>,
}

impl Default for Transaction {
    fn default() -> Self {
        Self::new()
    }
}

impl Transaction {
    /// One that does nothing yet.
    pub fn new() -> Self {
        let branch = |succeeds| Branch { operations: Vec::new(), succeeds };
        Self { when: Conditions::default(), then: branch(true), otherwise: branch(false) }
    }

    /// Applies it.
    ///
    /// # Errors
    /// `STORE_UNAVAILABLE`, `STORE_REJECTED` or `STORE_FULL`.
    pub fn execute(self, imports: &impl Imports) -> Result<Done, Fault> {
        let outcome = imports.execute(&self.into_txn(imports.durable())).map_err(from_store)?;
        Ok(Done {
            succeeded: outcome.succeeded,
            now_ms: outcome.now_ms,
            replies: outcome.replies.into_iter().map(Some).collect(),
        })
    }

    fn into_txn(self, durable: bool) -> Txn {
        let Self { when, then, otherwise } = self;
        let (success, failure) = (then.operations, otherwise.operations);
        Txn { compare: when.0, success, failure, durable }
    }
}

impl Done {
    /// The reply to an operation of the branch that was taken. Each is there once.
    ///
    /// # Errors
    /// `STORE_REJECTED` when the store has replied with something else.
    pub fn take<T: FromReply>(&mut self, handle: Handle<T>) -> Result<T, Fault> {
        let taken =
            self.replies.get_mut(handle.index).filter(|_| handle.succeeds == self.succeeded);
        taken.and_then(Option::take).and_then(T::from_reply).ok_or_else(unexpected_replies)
    }
}

/// The store answered in another shape than the transaction asks for.
pub fn unexpected_replies() -> Fault {
    fault(Reason::StoreRejected, "The store gave an answer that does not fit the question.")
}

impl Conditions {
    /// A hash lives under the key.
    pub fn exists(&mut self, key: impl Into<String>) {
        self.0.push(Compare::Exists(key.into()));
    }

    /// No hash lives under the key.
    pub fn absent(&mut self, key: impl Into<String>) {
        self.0.push(Compare::Absent(key.into()));
    }

    /// A field of a hash has this value.
    pub fn field_is(&mut self, key: impl Into<String>, field: &str, value: &str) {
        self.field(key, field, value, false);
    }

    /// A field of a hash has this value, or is not there.
    pub fn field_is_or_absent(&mut self, key: impl Into<String>, field: &str, value: &str) {
        self.field(key, field, value, true);
    }

    fn field(&mut self, key: impl Into<String>, field: &str, value: &str, or_absent: bool) {
        let test = FieldTest { key: key.into(), field: field.into(), value: value.into() };
        self.0.push(match or_absent {
            true => Compare::FieldEqualsOrAbsent(test),
            false => Compare::FieldEquals(test),
        });
    }

    /// A field of a hash has one of these values.
    pub fn field_among(&mut self, key: impl Into<String>, field: &str, values: &[&[u8]]) {
        let values = values.iter().map(|value| value.to_vec()).collect();
        let choice = FieldChoice { key: key.into(), field: field.into(), values };
        self.0.push(Compare::FieldAmong(choice));
    }

    /// A field of a hash counts this number.
    pub fn count_is(&mut self, key: impl Into<String>, field: &str, number: u64) {
        let test = CountTest { key: key.into(), field: field.into(), number };
        self.0.push(Compare::CountEquals(test));
    }

    /// The values of a hash, without some fields, have at most this many bytes together.
    pub fn size_at_most(&mut self, key: impl Into<String>, except: Vec<String>, limit: u64) {
        self.0.push(Compare::SizeAtMost(SizeBound { key: key.into(), except, limit }));
    }

    /// A member of a set is alive.
    pub fn member(&mut self, key: impl Into<String>, member: impl Into<String>) {
        let member = MemberRef { key: key.into(), member: member.into() };
        self.0.push(Compare::MemberPresent(member));
    }

    /// A member of a set is not alive.
    pub fn no_member(&mut self, key: impl Into<String>, member: impl Into<String>) {
        let member = MemberRef { key: key.into(), member: member.into() };
        self.0.push(Compare::MemberAbsent(member));
    }

    /// Fewer members of a set are alive than `limit`.
    pub fn members_below(&mut self, key: impl Into<String>, limit: u32) {
        self.0.push(Compare::MembersBelow(MemberBound { key: key.into(), limit }));
    }
}

impl Branch {
    fn push<T>(&mut self, operation: Operation) -> Handle<T> {
        self.operations.push(operation);
        let index = self.operations.len() - 1;
        Handle { succeeds: self.succeeds, index, reply: PhantomData }
    }

    /// Whether it does nothing.
    pub fn is_empty(&self) -> bool {
        self.operations.is_empty()
    }

    /// Reads some fields of a hash.
    pub fn read(&mut self, key: impl Into<String>, fields: &[&str]) -> Handle<Option<Hash>> {
        let fields = Some(fields.iter().map(|&field| field.into()).collect());
        self.push(Operation::HashGet(HashGet { key: key.into(), fields }))
    }

    /// Reads a hash whole.
    pub fn read_whole(&mut self, key: impl Into<String>) -> Handle<Option<Hash>> {
        self.push(Operation::HashGet(HashGet { key: key.into(), fields: None }))
    }

    /// Writes fields of a hash and gives it a lifetime; the other fields stay.
    pub fn write(
        &mut self,
        key: impl Into<String>,
        entries: Vec<Entry>,
        ttl_ms: u64,
    ) -> Handle<Deadline> {
        self.push(Operation::HashSet(HashSet { key: key.into(), entries, ttl_ms: Some(ttl_ms) }))
    }

    /// Writes fields of a hash, whose deadline and other fields stay.
    pub fn update(&mut self, key: impl Into<String>, entries: Vec<Entry>) -> Handle<Deadline> {
        self.push(Operation::HashSet(HashSet { key: key.into(), entries, ttl_ms: None }))
    }

    /// Adds to a field that counts.
    pub fn add(&mut self, key: impl Into<String>, field: &str, delta: u64) -> Handle<u64> {
        self.push(Operation::HashAdd(HashAdd { key: key.into(), field: field.into(), delta }))
    }

    /// Writes the store's clock into a field, or a time that is later by this much.
    pub fn stamp(&mut self, key: impl Into<String>, field: &str, later_ms: u64) -> Handle<u64> {
        self.push(Operation::HashStamp(HashStamp {
            key: key.into(),
            field: field.into(),
            later_ms,
        }))
    }

    /// Deletes a hash; the reply says whether there was one.
    pub fn delete(&mut self, key: impl Into<String>) -> Handle<bool> {
        self.push(Operation::HashDelete(key.into()))
    }

    /// Gives a hash a new lifetime.
    pub fn expire(&mut self, key: impl Into<String>, ttl_ms: u64) -> Handle<Deadline> {
        self.push(Operation::HashExpire(Expiry { key: key.into(), ttl_ms }))
    }

    /// Moves a hash to another key.
    pub fn move_to(&mut self, key: impl Into<String>, to: String, ttl_ms: u64) -> Handle<Deadline> {
        self.push(Operation::HashMove(HashMove { key: key.into(), to, ttl_ms }))
    }

    /// Puts a member into a set, or gives it a new deadline.
    pub fn put(
        &mut self,
        key: impl Into<String>,
        member: impl Into<String>,
        ttl_ms: u64,
    ) -> Handle<Deadline> {
        self.push(Operation::MemberSet(MemberSet {
            key: key.into(),
            member: member.into(),
            ttl_ms,
        }))
    }

    /// Gives a member that is alive a new deadline.
    pub fn renew(
        &mut self,
        key: impl Into<String>,
        member: impl Into<String>,
        ttl_ms: u64,
    ) -> Handle<Deadline> {
        self.push(Operation::MemberRenew(MemberSet {
            key: key.into(),
            member: member.into(),
            ttl_ms,
        }))
    }

    /// Puts a member into a set with this deadline.
    pub fn put_until(
        &mut self,
        key: impl Into<String>,
        member: impl Into<String>,
        expires_at_ms: u64,
    ) -> Handle<Deadline> {
        let (key, member) = (key.into(), member.into());
        self.push(Operation::MemberSetUntil(MemberUntil { key, member, expires_at_ms }))
    }

    /// Removes a member; the reply says whether it was alive.
    pub fn remove(&mut self, key: impl Into<String>, member: impl Into<String>) -> Handle<bool> {
        self.push(Operation::MemberRemove(MemberRef { key: key.into(), member: member.into() }))
    }

    /// Lists members that are alive, those behind `after`.
    pub fn list(
        &mut self,
        key: impl Into<String>,
        order: Order,
        after: Option<Member>,
        limit: u32,
    ) -> Handle<Page> {
        self.push(Operation::MemberList(MemberList { key: key.into(), order, after, limit }))
    }

    /// Removes all members of a set but one, with the hash of each, whose key is the prefix and
    /// the member. The reply has those that were removed.
    pub fn clear(
        &mut self,
        key: impl Into<String>,
        except: Option<String>,
        record_prefix: Option<String>,
        also_in: Option<Copies>,
    ) -> Handle<Page> {
        self.push(Operation::MemberClear(MemberClear {
            key: key.into(),
            except,
            record_prefix,
            also_in,
        }))
    }

    /// Appends an event to a log, which keeps about this many.
    pub fn append(&mut self, log: String, entries: Vec<Entry>, keep: u32) {
        let _: Handle<()> = self.push(Operation::AppendEvent(Event { log, entries, keep }));
    }
}

/// The type that the reply to an operation becomes.
pub trait FromReply: Sized {
    /// None for a reply of another kind.
    fn from_reply(reply: Reply) -> Option<Self>;
}

impl FromReply for Option<Hash> {
    fn from_reply(reply: Reply) -> Option<Self> {
        if let Reply::Record(hash) = reply { Some(hash) } else { None }
    }
}

impl FromReply for Deadline {
    fn from_reply(reply: Reply) -> Option<Self> {
        if let Reply::Deadline(deadline) = reply { Some(deadline) } else { None }
    }
}

impl FromReply for u64 {
    fn from_reply(reply: Reply) -> Option<Self> {
        if let Reply::Number(number) = reply { Some(number.unsigned_abs()) } else { None }
    }
}

impl FromReply for bool {
    fn from_reply(reply: Reply) -> Option<Self> {
        if let Reply::Existed(existed) = reply { Some(existed) } else { None }
    }
}

impl FromReply for MemberPage {
    fn from_reply(reply: Reply) -> Option<Self> {
        if let Reply::Members(page) = reply { Some(page) } else { None }
    }
}

/// A field to write.
pub fn entry(field: &str, value: &str) -> Entry {
    Entry { field: field.into(), value: value.into() }
}

/// The text in a field; none when there is none.
pub fn text(hash: &Hash, field: &str) -> Option<String> {
    let entry = hash.entries.iter().find(|entry| entry.field == field)?;
    str::from_utf8(&entry.value).ok().map(str::to_owned)
}

/// The instant in a field, in milliseconds since the Unix epoch; none when there is none.
pub fn instant(hash: &Hash, field: &str) -> Option<u64> {
    text(hash, field)?.parse().ok()
}

/// Reads some fields of a hash, and the store's clock.
///
/// # Errors
/// `STORE_UNAVAILABLE`, `STORE_REJECTED`.
pub fn read(
    imports: &impl Imports,
    key: impl Into<String>,
    fields: &[&str],
) -> Result<(Option<Hash>, u64), Fault> {
    let mut transaction = Transaction::new();
    let hash = transaction.then.read(key, fields);
    let mut done = transaction.execute(imports)?;
    Ok((done.take(hash)?, done.now_ms))
}

/// Reads some fields of several hashes of one partition, and the store's clock.
///
/// # Errors
/// `STORE_UNAVAILABLE`, `STORE_REJECTED`.
pub fn read_all(
    imports: &impl Imports,
    keys: impl IntoIterator<Item = String>,
    fields: &[&str],
) -> Result<(Vec<Option<Hash>>, u64), Fault> {
    let mut transaction = Transaction::new();
    let hashes: Vec<_> = keys.into_iter().map(|key| transaction.then.read(key, fields)).collect();
    if hashes.is_empty() {
        return Ok((Vec::new(), 0));
    }
    let mut done = transaction.execute(imports)?;
    let hashes = hashes.into_iter().map(|hash| done.take(hash)).collect::<Result<_, _>>()?;
    Ok((hashes, done.now_ms))
}

/// Applies a transaction for each batch of items; a batch that is refused is applied by halves,
/// down to single items. `apply` gets a batch and where it begins, and says whether it has
/// succeeded.
///
/// # Errors
/// Those of `apply`, which end it.
pub fn by_halves<T>(
    items: &[T],
    batch_max: usize,
    mut apply: impl FnMut(usize, &[T]) -> Result<bool, Fault>,
) -> Result<(), Fault> {
    let starts = (0..items.len()).step_by(batch_max);
    let mut ranges: Vec<_> = starts.map(|at| at..items.len().min(at + batch_max)).rev().collect();
    while let Some(range) = ranges.pop() {
        if !apply(range.start, &items[range.clone()])? && range.len() > 1 {
            let middle = range.start + range.len() / 2;
            ranges.extend([middle..range.end, range.start..middle]);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    //! Tests of what a handle returns for a reply and when it returns nothing, of the reply to
    //! each operation, and of the batches that `by_halves` applies.

    use session_store::Error;

    use super::*;
    use crate::testing::World;

    const HASH: &str = "hash:{t}";
    const SET: &str = "set:{t}";

    fn taken<T: FromReply>(done: &mut Done, handle: Handle<T>) -> Result<(), String> {
        done.take(handle).map(drop).map_err(|fault| fault.reason)
    }

    #[test]
    fn a_reply_is_taken_once_and_from_the_branch_that_was_taken() {
        for succeeds in [true, false] {
            let world = World::new();
            let mut transaction = Transaction::new();
            match succeeds {
                true => transaction.when.absent(HASH),
                false => transaction.when.exists(HASH),
            }
            let then = [HASH, HASH].map(|key| transaction.then.read(key, &["a"]));
            let otherwise =
                [SET, SET].map(|key| transaction.otherwise.list(key, Order::SoonestFirst, None, 1));
            let mut done = transaction.execute(&world).unwrap();
            assert_eq!(done.succeeded, succeeds);
            let rejected = || Err(Reason::StoreRejected.name().to_owned());
            for index in [1, 0] {
                for repetition in 0..2 {
                    let mut expected = [rejected(), rejected()];
                    if repetition == 0 {
                        expected[usize::from(!succeeds)] = Ok(());
                    }
                    let found = [taken(&mut done, then[index]), taken(&mut done, otherwise[index])];
                    assert_eq!(found, expected, "{succeeds}, {index}, {repetition}");
                }
            }
        }
    }

    #[test]
    fn a_reply_of_another_kind_is_rejected() {
        fn fits<T: FromReply>(reply: &Reply) -> bool {
            let mut done = Done { succeeded: true, now_ms: 0, replies: vec![Some(reply.clone())] };
            let handle = Handle::<T> { succeeds: true, index: 0, reply: PhantomData };
            match taken(&mut done, handle) {
                Ok(()) => true,
                Err(reason) => {
                    assert_eq!(reason, Reason::StoreRejected);
                    false
                }
            }
        }
        let hash = Hash { entries: Vec::new(), expires_at_ms: Some(1) };
        for (reply, expected) in [
            (Reply::Record(Some(hash)), [true, false, false, false, false]),
            (Reply::Record(None), [true, false, false, false, false]),
            (Reply::Deadline(Some(1)), [false, true, false, false, false]),
            (Reply::Deadline(None), [false, true, false, false, false]),
            (Reply::Number(1), [false, false, true, false, false]),
            (Reply::Existed(false), [false, false, false, true, false]),
            (
                Reply::Members(MemberPage { members: Vec::new(), live: 0 }),
                [false, false, false, false, true],
            ),
            (Reply::Appended("1-0".into()), [false; 5]),
        ] {
            let found = [
                fits::<Option<Hash>>(&reply),
                fits::<Deadline>(&reply),
                fits::<u64>(&reply),
                fits::<bool>(&reply),
                fits::<Page>(&reply),
            ];
            assert_eq!(found, expected, "{reply:?}");
        }
    }

    #[test]
    fn a_reply_that_is_missing_is_rejected() {
        let mut done = Done { succeeded: true, now_ms: 0, replies: Vec::new() };
        let handle = Handle::<bool> { succeeds: true, index: 0, reply: PhantomData };
        assert_eq!(taken(&mut done, handle), Err(Reason::StoreRejected.name().into()));
    }

    #[test]
    fn each_operation_is_replied_to_as_its_handle_says() {
        let world = World::new();
        let start_ms = world.clock.now();
        let mut transaction = Transaction::new();
        let then = &mut transaction.then;
        let written = then.write(HASH, vec![entry("a", "1")], 5000);
        let updated = then.update(HASH, vec![entry("b", "2")]);
        let added = then.add(HASH, "a", 6);
        let stamped = then.stamp(HASH, "at", 7);
        let expiry = then.expire(HASH, 6000);
        then.append("log:{t}".into(), vec![entry("type", "x")], 10);
        let read = then.read(HASH, &["a"]);
        let whole = then.read_whole(HASH);
        let moved = then.move_to(HASH, "there:{t}".into(), 7000);
        let deleted = ["there:{t}", HASH].map(|key| then.delete(key));
        let put = then.put(SET, "one", 1000);
        let until = then.put_until(SET, "two", start_ms + 2000);
        let renewed = ["two", "none"].map(|member| then.renew(SET, member, 3000));
        let listed = then.list(SET, Order::LatestFirst, None, 1);
        let removed = ["one", "none"].map(|member| then.remove(SET, member));
        let cleared = then.clear(SET, None, None, None);
        let mut done = transaction.execute(&world).unwrap();
        assert_eq!((done.succeeded, done.now_ms), (true, start_ms));
        for (handle, expected) in [
            (written, Some(start_ms + 5000)),
            (updated, Some(start_ms + 5000)),
            (expiry, Some(start_ms + 6000)),
            (moved, Some(start_ms + 7000)),
            (put, Some(start_ms + 1000)),
            (until, Some(start_ms + 2000)),
            (renewed[0], Some(start_ms + 3000)),
            (renewed[1], None),
        ] {
            assert_eq!(done.take(handle).unwrap(), expected, "{handle:?}");
        }
        assert_eq!([added, stamped].map(|handle| done.take(handle).unwrap()), [7, start_ms + 7]);
        let read = done.take(read).unwrap().unwrap();
        assert_eq!((text(&read, "a"), text(&read, "b")), (Some("7".into()), None));
        let whole = done.take(whole).unwrap().unwrap();
        assert_eq!(
            (text(&whole, "b"), instant(&whole, "at")),
            (Some("2".into()), Some(start_ms + 7))
        );
        let existed =
            [deleted, removed].map(|handles| handles.map(|handle| done.take(handle).unwrap()));
        assert_eq!(existed, [[true, false]; 2]);
        let names = |page: Page| -> (Vec<String>, u32) {
            (page.members.into_iter().map(|member| member.name).collect(), page.live)
        };
        assert_eq!(names(done.take(listed).unwrap()), (vec!["two".into()], 2));
        assert_eq!(names(done.take(cleared).unwrap()).0, ["two"]);
    }

    #[test]
    fn each_error_of_the_store_has_its_fault() {
        for (error, reason) in [
            (Error::Unavailable("why".into()), Reason::StoreUnavailable),
            (Error::Rejected("why".into()), Reason::StoreRejected),
            (Error::Full("why".into()), Reason::StoreFull),
        ] {
            let world = World::new();
            world.fail_after(0, error);
            assert_eq!(read(&world, HASH, &["a"]).unwrap_err().reason, reason);
        }
    }

    #[test]
    fn without_keys_nothing_is_read() {
        let world = World::new();
        assert_eq!(read_all(&world, [], &["a"]).unwrap(), (Vec::new(), 0));
        assert_eq!(world.executed(), 0);
        let keys = [HASH, "other:{t}"].map(str::to_owned);
        let (hashes, now_ms) = read_all(&world, keys, &["a"]).unwrap();
        assert_eq!((hashes, now_ms), (vec![None, None], world.clock.now()));
        assert_eq!(world.executed(), 1);
    }

    /// The batches that are applied for this many items, and whether each succeeds: one with a
    /// refused item does not.
    fn batches(items: usize, batch_max: usize, refused: &[usize]) -> Vec<(Vec<usize>, bool)> {
        let items: Vec<_> = (0..items).collect();
        let mut batches = Vec::new();
        let applied = by_halves(&items, batch_max, |start, batch| {
            assert_eq!(start, batch[0], "where it begins");
            let succeeds = !batch.iter().any(|item| refused.contains(item));
            batches.push((batch.to_vec(), succeeds));
            Ok(succeeds)
        });
        applied.unwrap();
        batches
    }

    #[test]
    fn a_refused_batch_is_applied_by_halves() {
        type Batches<'a> = &'a [(&'a [usize], bool)];
        let cases: [(usize, usize, &[usize], Batches<'_>); 6] = [
            (0, 3, &[], &[]),
            (1, 3, &[0], &[(&[0], false)]),
            (5, 2, &[], &[(&[0, 1], true), (&[2, 3], true), (&[4], true)]),
            (3, 3, &[0], &[(&[0, 1, 2], false), (&[0], false), (&[1, 2], true)]),
            (
                4,
                4,
                &[2],
                &[
                    (&[0, 1, 2, 3], false),
                    (&[0, 1], true),
                    (&[2, 3], false),
                    (&[2], false),
                    (&[3], true),
                ],
            ),
            (4, 2, &[1], &[(&[0, 1], false), (&[0], true), (&[1], false), (&[2, 3], true)]),
        ];
        for (items, batch_max, refused, expected) in cases {
            let found = batches(items, batch_max, refused);
            let found: Vec<_> =
                found.iter().map(|(batch, succeeds)| (&batch[..], *succeeds)).collect();
            assert_eq!(found, expected, "{items} by {batch_max} without {refused:?}");
        }
    }

    #[test]
    fn each_item_is_settled_once_and_in_order_whatever_is_refused() {
        const ITEMS: usize = 7;
        for (batch_max, mask) in
            (1..=ITEMS + 1).flat_map(|max| (0..1_u32 << ITEMS).map(move |mask| (max, mask)))
        {
            let refused: Vec<_> = (0..ITEMS).filter(|item| (mask >> item) & 1 == 1).collect();
            let mut settled = Vec::new();
            for (batch, succeeds) in batches(ITEMS, batch_max, &refused) {
                assert!(batch.len() <= batch_max);
                // A batch is settled when it succeeds or cannot be halved.
                if succeeds || batch.len() == 1 {
                    settled.extend(batch);
                }
            }
            assert_eq!(settled, (0..ITEMS).collect::<Vec<_>>(), "{batch_max} without {refused:?}");
        }
    }

    #[test]
    fn an_error_ends_the_batches_by_halves() {
        let mut applied = Vec::new();
        let fault = by_halves(&[0, 1, 2, 3, 4, 5], 2, |start, _| {
            applied.push(start);
            if start == 2 { Err(unexpected_replies()) } else { Ok(true) }
        });
        assert_eq!(fault.unwrap_err().reason, Reason::StoreRejected);
        assert_eq!(applied, [0, 2]);
    }
}

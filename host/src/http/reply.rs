//! Replies as proto3 JSON: every field, unset ones with their default unless they are optional.
//! The members of each message come from the contract; how a type is written stands here.

use std::collections::{BTreeMap, HashMap};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use prost_types::{Duration, Timestamp};
use serde_json::value::RawValue;

use crate::http::instant;

/// A value of a reply.
pub trait Json {
    /// Whether the member is left out.
    fn is_absent(&self) -> bool {
        false
    }

    /// Appends the value.
    fn write(&self, out: &mut Vec<u8>);
}

/// A whole reply.
pub fn json(reply: &impl Json) -> Vec<u8> {
    let mut out = Vec::with_capacity(256);
    reply.write(&mut out);
    out
}

/// One member of a message in JSON, instead of the whole.
///
/// # Panics
/// Never: a message is a JSON object.
pub fn only(member: &str, message: &[u8]) -> Vec<u8> {
    let mut members: HashMap<&str, &RawValue> =
        serde_json::from_slice(message).expect("a message is an object");
    members.remove(member).map_or_else(Vec::new, |value| value.get().into())
}

/// An object that members are added to.
struct Object<'a> {
    out: &'a mut Vec<u8>,
    is_empty: bool,
}

impl<'a> Object<'a> {
    fn begin(out: &'a mut Vec<u8>) -> Self {
        out.push(b'{');
        Self { out, is_empty: true }
    }

    fn add(&mut self, name: &str, value: &impl Json) {
        if value.is_absent() {
            return;
        }
        if !std::mem::take(&mut self.is_empty) {
            self.out.push(b',');
        }
        string(self.out, name);
        self.out.push(b':');
        value.write(self.out);
    }

    fn end(self) {
        self.out.push(b'}');
    }
}

/// Appends a text as a JSON string.
pub fn string(out: &mut Vec<u8>, text: &str) {
    // Writing a string to memory does not fail.
    drop(serde_json::to_writer(out, text));
}

fn quoted(out: &mut Vec<u8>, text: &str) {
    out.push(b'"');
    out.extend_from_slice(text.as_bytes());
    out.push(b'"');
}

impl Json for String {
    fn write(&self, out: &mut Vec<u8>) {
        string(out, self);
    }
}

impl Json for Bytes {
    fn write(&self, out: &mut Vec<u8>) {
        quoted(out, &STANDARD.encode(self));
    }
}

impl Json for bool {
    fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(if *self { b"true" } else { b"false" });
    }
}

macro_rules! number {
    ($($type:ty)*) => {
        $(impl Json for $type {
            fn write(&self, out: &mut Vec<u8>) {
                out.extend_from_slice(itoa::Buffer::new().format(*self).as_bytes());
            }
        })*
    };
}

/// Numbers that JavaScript could not hold are text.
macro_rules! large_number {
    ($($type:ty)*) => {
        $(impl Json for $type {
            fn write(&self, out: &mut Vec<u8>) {
                quoted(out, itoa::Buffer::new().format(*self));
            }
        })*
    };
}

number!(i32 u32);
large_number!(i64 u64);

impl Json for Timestamp {
    fn write(&self, out: &mut Vec<u8>) {
        out.push(b'"');
        instant::write_timestamp(out, self);
        out.push(b'"');
    }
}

impl Json for Duration {
    fn write(&self, out: &mut Vec<u8>) {
        quoted(out, &self.to_string());
    }
}

impl Json for () {
    fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(b"{}");
    }
}

impl<T: Json> Json for Option<T> {
    fn is_absent(&self) -> bool {
        self.is_none()
    }

    fn write(&self, out: &mut Vec<u8>) {
        match self {
            Some(value) => value.write(out),
            None => out.extend_from_slice(b"null"),
        }
    }
}

impl<T: Json> Json for Vec<T> {
    fn write(&self, out: &mut Vec<u8>) {
        out.push(b'[');
        for (index, value) in self.iter().enumerate() {
            if index > 0 {
                out.push(b',');
            }
            value.write(out);
        }
        out.push(b']');
    }
}

impl<T: Json> Json for BTreeMap<String, T> {
    fn write(&self, out: &mut Vec<u8>) {
        let mut object = Object::begin(out);
        for (name, value) in self {
            object.add(name, value);
        }
        object.end();
    }
}

/// A message with its members, and those of its oneofs.
macro_rules! message {
    ($type:ty {
        $($name:literal $field:ident)*
    } $($oneof:ident { $($member:literal $variant:path,)* })*) => {
        impl Json for $type {
            #[allow(deprecated, reason = "callers still use what is deprecated")]
            fn write(&self, out: &mut Vec<u8>) {
                #[allow(unused_mut, reason = "a message may have no members")]
                let mut object = Object::begin(out);
                $(object.add($name, &self.$field);)*
                $(match &self.$oneof {
                    $(Some($variant(value)) => object.add($member, value),)*
                    None => {}
                })*
                object.end();
            }
        }
    };
}

include!(concat!(env!("OUT_DIR"), "/replies.rs"));

#[cfg(test)]
mod tests {
    use prost::Message;
    use prost_reflect::{DescriptorPool, DynamicMessage, SerializeOptions};

    use super::*;
    use crate::proto::DESCRIPTORS;
    use crate::proto::com::example::sm::{Home, Session};
    use crate::proto::session::booking::v1 as booking;
    use crate::proto::session::connections::v1 as connections;
    use crate::proto::session::events::v1 as events;
    use crate::proto::session::users::v1 as users;
    use crate::proto::sessionmanager::DefaultResponse;

    /// Compares a reply with the output of a library that encodes it by its descriptor.
    #[track_caller]
    fn compare(name: &str, camel_case: bool, reply: &(impl Json + Message)) {
        let pool = DescriptorPool::decode(DESCRIPTORS).expect("descriptors");
        let descriptor = pool.get_message_by_name(name).expect(name);
        let dynamic = DynamicMessage::decode(descriptor, &*reply.encode_to_vec()).expect("decodes");
        let options =
            SerializeOptions::new().use_proto_field_name(!camel_case).skip_default_fields(false);
        let mut expected = Vec::new();
        let mut serializer = serde_json::Serializer::new(&mut expected);
        dynamic.serialize_with_options(&mut serializer, &options).expect("serializes");
        let (found, expected) = (json(reply), String::from_utf8_lossy(&expected));
        assert_eq!(String::from_utf8_lossy(&found), expected, "{name}");
    }

    fn at(seconds: i64, nanos: i32) -> Option<Timestamp> {
        Some(Timestamp { seconds, nanos })
    }

    #[test]
    fn replies_are_what_proto3_json_makes_of_them() {
        compare("sessionmanager.DefaultResponse", false, &DefaultResponse::default());
        let done = DefaultResponse {
            code: "200".into(),
            message: "\u{1}\"\u{e9}\\".into(),
            version: Some(u64::MAX),
            expires_at: at(1_700_000_000, 123_000_000),
            session_key: Some(String::new()),
        };
        compare("sessionmanager.DefaultResponse", false, &done);
        let context = booking::Context {
            name: "n".into(),
            ttl: Some(Duration { seconds: 900, nanos: 5_000_000 }),
            fields: vec![booking::Field { max_bytes: u32::MAX, ..Default::default() }; 2],
            ..Default::default()
        };
        let contexts = booking::ListContextsReply { contexts: vec![context, Default::default()] };
        compare("session.booking.v1.ListContextsReply", false, &contexts);
        // The library has no order of a map, so there is one entry.
        let session = booking::Session {
            fields: [("a".into(), Bytes::from_static(b"\0\xff"))].into(),
            ..Default::default()
        };
        compare("session.booking.v1.Session", false, &session);
        compare("session.connections.v1.Presence", false, &connections::Presence::default());
        let stats = connections::Stats {
            pods: vec![connections::PodStats { users: 7, ..Default::default() }],
            ..Default::default()
        };
        compare("session.connections.v1.Stats", false, &stats);
        compare("session.connections.v1.CloseReply", false, &connections::CloseReply {});
        let connection = connections::Connection { connected_at: at(0, 0), ..Default::default() };
        let event = Some(connections::connect_reply::Event::Connected(connection));
        let connected = connections::ConnectReply { event };
        compare("session.connections.v1.ConnectReply", false, &connected);
        let nothing = connections::ConnectReply { event: None };
        compare("session.connections.v1.ConnectReply", false, &nothing);
        let event = events::Event { r#type: "t".into(), ..Default::default() };
        let reply =
            events::SubscribeReply { item: Some(events::subscribe_reply::Item::Event(event)) };
        compare("session.events.v1.SubscribeReply", false, &reply);
        let dated = users::DatedSession { create_date: at(-1, 1), ..Default::default() };
        let listed = users::ListByIdReply { sessions: [("id".into(), dated)].into() };
        compare("session.users.v1.ListByIdReply", false, &listed);
        let updated = users::UpdateReply {
            session: Some(users::Session { expiration_time: 5, ..Default::default() }),
            session_attributes: Some(users::Attributes::default()),
        };
        compare("session.users.v1.UpdateReply", false, &updated);
        let session =
            Session { device_id: "d".into(), session_id: "s".into(), expiration: i64::MIN };
        let home = Home { sessions: vec![session], nb_active_sessions: -1 };
        compare("com.example.sm.Home", true, &home);
    }

    #[test]
    fn a_reply_may_be_one_of_its_members() {
        let home = Home { sessions: vec![Session::default()], nb_active_sessions: 0 };
        let expected = r#"[{"deviceId":"","sessionId":"","expiration":"0"}]"#;
        assert_eq!(String::from_utf8_lossy(&only("sessions", &json(&home))), expected);
        assert_eq!(json(&()), b"{}");
        let fields = ["b", "a"].map(|name| (name.into(), Bytes::new()));
        let session = booking::Session { fields: fields.into(), ..Default::default() };
        assert!(String::from_utf8_lossy(&json(&session)).contains(r#"{"a":"","b":""}"#));
    }
}

//! The calls, by kind of session. Calls marked `again` may be repeated without harm, as the
//! contract says by `idempotency_level`: reads, heartbeats, and calls that release something by its
//! id. Calls marked `once` create something, or could undo a change that another caller made in
//! between.

use tonic::Streaming;
use tonic::transport::Channel;

use crate::proto::{booking, connections, events, sessionmanager, sm, smdevice, users};
use crate::{Client, Error, MESSAGE_BYTES_MAX};

macro_rules! may_repeat {
    (once) => {
        false
    };
    (again) => {
        true
    };
}

macro_rules! calls {
    ($client:ty, $service:ty {
        $($(#[$comment:meta])* $repeat:ident $method:ident($request:ty) -> $reply:ty;)*
    }) => {
        impl $client {
            $(
                $(#[$comment])*
                /// # Errors
                /// See [`Error`].
                pub async fn $method(&self, request: $request) -> Result<$reply, Error> {
                    let may_repeat = may_repeat!($repeat);
                    let send = |channel: Channel, request| async move {
                        let mut service = <$service>::new(channel)
                            .max_decoding_message_size(MESSAGE_BYTES_MAX);
                        service.$method(request).await
                    };
                    self.of().call(request, may_repeat, send).await
                }
            )*
        }
    };
}

macro_rules! kinds {
    ($($(#[$comment:meta])* $kind:ident $method:ident;)*) => {
        $(
            $(#[$comment])*
            #[derive(Clone)]
            pub struct $kind(Client);

            impl $kind {
                fn of(&self) -> &Client {
                    &self.0
                }
            }
        )*

        impl Client {
            $(
                $(#[$comment])*
                pub fn $method(&self) -> $kind {
                    $kind(self.clone())
                }
            )*
        }
    };
}

kinds! {
    /// Booking sessions of any context, by name.
    Booking booking;
    /// Users' sessions.
    Users users;
    /// Connections.
    Connections connections;
    /// Viewing sessions of homes.
    Viewing viewing;
    /// Viewing sessions of devices.
    Devices devices;
    /// Events of sessions.
    Events events;
}

impl Client {
    fn of(&self) -> &Self {
        self
    }
}

// The unary calls of each service, with the comments of the contract; see `build.rs`.
include!(concat!(env!("OUT_DIR"), "/calls.rs"));

impl Connections {
    /// Registers a connection, and holds it as long as the returned stream is kept.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn connect(
        &self,
        request: connections::ConnectRequest,
    ) -> Result<Streaming<connections::ConnectReply>, Error> {
        let send = |channel, request| async move {
            connections::connections_client::ConnectionsClient::new(channel).connect(request).await
        };
        self.0.open(request, send).await
    }
}

impl Events {
    /// Subscribes to events from now on, or after an event. After the stream has broken, subscribe
    /// again after the id of the last event received.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn subscribe(
        &self,
        request: events::SubscribeRequest,
    ) -> Result<Streaming<events::SubscribeReply>, Error> {
        let send = |channel, request| async move {
            events::events_client::EventsClient::new(channel).subscribe(request).await
        };
        self.of().open(request, send).await
    }
}

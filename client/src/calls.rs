//! The calls, by kind of session. Calls marked `again` may be repeated without harm: reads,
//! heartbeats, and calls that release something by its id. Calls marked `once` create something, or
//! could undo a change that another caller made in between.

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
    ($client:ty, $of:ident, $service:ty {
        $($(#[$comment:meta])* $repeat:ident $method:ident($request:ty) -> $reply:ty;)*
    }) => {
        impl $client {
            $(
                $(#[$comment])*
                ///
                /// # Errors
                /// See [`Error`].
                pub async fn $method(&self, request: $request) -> Result<$reply, Error> {
                    let may_repeat = may_repeat!($repeat);
                    let send = |channel: Channel, request| async move {
                        let mut service = <$service>::new(channel)
                            .max_decoding_message_size(MESSAGE_BYTES_MAX);
                        service.$method(request).await
                    };
                    self.$of().call(request, may_repeat, send).await
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

calls!(Client, of, sessionmanager::session_manager_client::SessionManagerClient<Channel> {
    /// Checks the health of the service.
    again health_check(sessionmanager::EmptyRequest) -> sessionmanager::DefaultResponse;
    /// Writes fields of a pre-order session.
    once set_session(sessionmanager::SessionData) -> sessionmanager::DefaultResponse;
    /// Reads a pre-order session.
    again get_session(sessionmanager::GetSessionRequest) -> sessionmanager::SessionData;
    /// Deletes a pre-order session.
    once delete_session(sessionmanager::GetSessionRequest) -> sessionmanager::DefaultResponse;
    /// Writes fields of an EZPay session.
    once set_session_ez_pay(sessionmanager::SessionEzPayData) -> sessionmanager::DefaultResponse;
    /// Reads an EZPay session.
    again get_session_ez_pay(sessionmanager::GetSessionRequest) -> sessionmanager::SessionEzPayData;
    /// Deletes an EZPay session.
    once delete_session_ez_pay(sessionmanager::GetSessionRequest) -> sessionmanager::DefaultResponse;
    /// Writes fields of a Cititrans session.
    once set_session_cititrans(sessionmanager::SessionDataCititrans) -> sessionmanager::DefaultResponse;
    /// Reads a Cititrans session.
    again get_session_cititrans(sessionmanager::GetSessionRequest) -> sessionmanager::SessionDataCititrans;
    /// Deletes a Cititrans session.
    once delete_session_cititrans(sessionmanager::GetSessionRequest) -> sessionmanager::DefaultResponse;
    /// Writes fields of a reschedule session.
    once set_session_reschedule(sessionmanager::SessionReschedule) -> sessionmanager::DefaultResponse;
    /// Reads a reschedule session; a read-once session is deleted by this.
    once get_session_reschedule(sessionmanager::GetSessionRequest) -> sessionmanager::SessionReschedule;
    /// Deletes a reschedule session.
    once delete_session_reschedule(sessionmanager::GetSessionRequest) -> sessionmanager::DefaultResponse;
    /// Writes fields of a rent session.
    once set_session_rent_revamp(sessionmanager::SessionRentRevamp) -> sessionmanager::DefaultResponse;
    /// Reads a rent session.
    again get_session_rent_revamp(sessionmanager::GetSessionRequest) -> sessionmanager::SessionRentRevamp;
    /// Deletes a rent session.
    once delete_session_rent_revamp(sessionmanager::GetSessionRequest) -> sessionmanager::DefaultResponse;
});

calls!(Booking, of, booking::booking_client::BookingClient<Channel> {
    /// Writes fields of a session.
    once set(booking::SetRequest) -> sessionmanager::DefaultResponse;
    /// Reads a session; a read-once session is deleted by this.
    once get(booking::GetRequest) -> booking::Session;
    /// Deletes a session.
    once delete(booking::DeleteRequest) -> sessionmanager::DefaultResponse;
    /// Locks a session.
    once lock(booking::LockRequest) -> booking::LockReply;
    /// Releases a lock.
    again unlock(booking::UnlockRequest) -> sessionmanager::DefaultResponse;
    /// Lists the contexts.
    again list_contexts(booking::ListContextsRequest) -> booking::ListContextsReply;
});

calls!(Users, of, users::user_sessions_client::UserSessionsClient<Channel> {
    /// Creates a session.
    once create(users::CreateRequest) -> users::CreateReply;
    /// Reads a session.
    again get(users::GetRequest) -> users::Session;
    /// Lists sessions of a user, the newest first.
    again list(users::ListRequest) -> users::ListReply;
    /// Lists all sessions of a user by their ids.
    again list_by_id(users::ListByIdRequest) -> users::ListByIdReply;
    /// Changes some attributes of a session.
    once update(users::UpdateRequest) -> users::UpdateReply;
    /// Closes a session; a closed session is not found.
    once delete(users::DeleteRequest) -> users::DeleteReply;
    /// Closes all sessions of a user, or all except one.
    once delete_all(users::DeleteAllRequest) -> users::DeleteAllReply;
});

calls!(Connections, of, connections::connections_client::ConnectionsClient<Channel> {
    /// Registers a connection. Repeated without an id, it registers another one.
    once register(connections::RegisterRequest) -> connections::Connection;
    /// Reads a live connection.
    again get(connections::GetRequest) -> connections::Connection;
    /// Sends a heartbeat of a live connection.
    again heartbeat(connections::HeartbeatRequest) -> connections::Connection;
    /// Sends heartbeats of the connections of a pod.
    again heartbeat_pod(connections::HeartbeatPodRequest) -> connections::HeartbeatPodReply;
    /// Closes a connection, live or not.
    once close(connections::CloseRequest) -> connections::CloseReply;
    /// Lists the connections of a user.
    again list_by_user(connections::ListByUserRequest) -> connections::ListByUserReply;
    /// Terminates all connections of a user.
    once terminate(connections::TerminateRequest) -> connections::TerminateReply;
    /// Reads whether a user is online.
    again get_presence(connections::GetPresenceRequest) -> connections::Presence;
    /// Lists the connections of a pod.
    again list_by_pod(connections::ListByPodRequest) -> connections::ListByPodReply;
    /// Drains a pod that is gone: closes its connections.
    once drain(connections::DrainRequest) -> connections::DrainReply;
    /// Counts connections.
    again get_stats(connections::GetStatsRequest) -> connections::Stats;
});

calls!(Viewing, of, sm::sm_client::SmClient<Channel> {
    /// Takes a slot of a home.
    once create_session(sm::SessionSetup) -> sm::SessionResponse;
    /// Sends a heartbeat of a slot.
    again heart_beat(sm::HeartBeatSession) -> sm::SessionResponse;
    /// Releases a slot.
    again tear_down(sm::TearDownSession) -> ();
    /// Sets the session limit of a home.
    once set_max_session(sm::MaxSession) -> ();
    /// Reads a home.
    again get_home(sm::GetHomeInfo) -> sm::Home;
});

calls!(Devices, of, smdevice::device_client::DeviceClient<Channel> {
    /// Takes a slot of the home of a device.
    once create_session_with_device(smdevice::SessionSetupWithDevice) -> sm::SessionResponse;
    /// Assigns a device to an account.
    once create_device(smdevice::CreateDeviceParam) -> ();
    /// Removes a device from its account.
    once delete_device(smdevice::DeleteDeviceParam) -> ();
    /// Reads the account of a device.
    again get_device(smdevice::GetDeviceInfo) -> smdevice::DeviceInfo;
});

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

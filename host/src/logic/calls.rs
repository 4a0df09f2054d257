//! The calls of the component, one line each: a function of the WIT by the name that the host
//! has for it.

#[cfg_attr(
    feature = "native-rules",
    allow(unused_imports, reason = "the linked rules answer for booking")
)]
pub use crate::logic::bindings::exports::session::manager::{
    booking, connections, maintenance, users, viewing,
};
use crate::logic::call::call;
use crate::logic::engine::Logic;
use crate::logic::failure::Failure;

/// Functions of an interface that answer with a reply or a fault.
macro_rules! calls {
    ($($interface:ident {
        $($(#[$attribute:meta])* $function:ident as $name:ident(
            $($argument:ident: $type:ty),*
        ) -> $reply:ty;)*
    })*) => {
        impl Logic {
            $($(
                #[doc = concat!("`", stringify!($interface), ".", stringify!($function), "`.")]
                ///
                /// # Errors
                /// See [`Failure`]; `wit/` says which faults there are.
                $(#[$attribute])*
                pub async fn $name(&self, $($argument: $type),*) -> Result<$reply, Failure> {
                    call!(self, $interface.$function($($argument),*))?.map_err(Failure::Fault)
                }
            )*)*
        }
    };
}

calls! {
    booking {
        #[cfg(not(feature = "native-rules"))]
        call_set as booking_set(write: &booking::Write) -> booking::Written;
        #[cfg(not(feature = "native-rules"))]
        call_get as booking_get(
            context: &str, session_key: &str, idempotency_key: Option<&str>
        ) -> booking::Session;
        #[cfg(not(feature = "native-rules"))]
        call_delete as booking_delete(
            context: &str,
            session_key: &str,
            condition: booking::Condition,
            lock_token: Option<&str>,
            idempotency_key: Option<&str>
        ) -> ();
        #[cfg(not(feature = "native-rules"))]
        call_lock as booking_lock(
            context: &str,
            session_key: &str,
            lock_token: Option<&str>,
            idempotency_key: Option<&str>
        ) -> booking::LockGrant;
        #[cfg(not(feature = "native-rules"))]
        call_unlock as booking_unlock(context: &str, session_key: &str, lock_token: &str) -> ();
    }
    connections {
        call_register as connections_register(
            user_id: &str, pod_id: &str, session_id: Option<&str>
        ) -> connections::Connection;
        call_get as connections_get(
            session_id: &str, user_id: Option<&str>, epoch: Option<&str>
        ) -> connections::Connection;
        call_heartbeat as connections_heartbeat(
            session_id: &str, user_id: Option<&str>, epoch: Option<&str>
        ) -> connections::Connection;
        call_heartbeat_pod as connections_heartbeat_pod(
            pod_id: &str, session_ids: Option<&[String]>, cursor: &str
        ) -> connections::Renewed;
        call_close as connections_close(
            session_id: &str, reason: &str, by: &str, user_id: Option<&str>, epoch: Option<&str>
        ) -> ();
        call_list_user as connections_of_user(user_id: &str) -> Vec<connections::Connection>;
        call_terminate_user as connections_terminate(
            user_id: &str, reason: &str, by: &str
        ) -> u32;
        call_presence as connections_presence(user_id: &str) -> u32;
        call_list_pod as connections_of_pod(pod_id: &str, cursor: &str) -> connections::Page;
        call_drain_pod as connections_drain(
            pod_id: &str, reason: &str, cursor: &str
        ) -> connections::Drained;
        call_stats as connections_stats(cursor: &str) -> connections::Count;
    }
    maintenance {
        call_sweep as sweep(log: u32) -> maintenance::Swept;
    }
    users {
        call_create as users_create(attributes: &users::Attributes) -> String;
        call_get as users_get(session_id: &str) -> users::Session;
        call_list as users_list(user_id: &str, page_size: i32, page_token: &str) -> users::Page;
        call_update as users_update(
            session_id: &str, attributes: &users::Attributes, clear: &[String]
        ) -> users::Session;
        call_close as users_close(session_id: &str) -> ();
        call_close_all as users_close_all(user_id: &str, keep: Option<&str>) -> u32;
    }
    viewing {
        #[cfg(not(feature = "native-rules"))]
        call_create as viewing_create(setup: &viewing::Setup) -> viewing::Slot;
        call_create_for_device as viewing_create_for_device(
            device_id: &str, replace: &[String]
        ) -> viewing::Slot;
        #[cfg(not(feature = "native-rules"))]
        call_heartbeat as viewing_heartbeat(account_id: &str, session_id: &str) -> viewing::Slot;
        call_tear_down as viewing_tear_down(account_id: &str, session_id: &str) -> ();
        call_set_max as viewing_set_max(account_id: &str, max_sessions: i32) -> ();
        call_get_home as viewing_home(account_id: &str) -> viewing::Home;
        call_register_device as viewing_register_device(device_id: &str, account_id: &str) -> ();
        call_forget_device as viewing_forget_device(device_id: &str) -> ();
        call_get_device as viewing_device(device_id: &str) -> String;
    }
}

impl Logic {
    /// `maintenance.describe-logs`.
    ///
    /// # Errors
    /// See [`Failure`]; there are no faults.
    pub async fn describe_logs(&self) -> Result<maintenance::LogCatalog, Failure> {
        call!(self, maintenance.call_describe_logs())
    }
}

//! The exports of a component: `catalog`, and any of the kinds of session. The host knows
//! before the first call which are missing, so that the wires do not offer them.

use wasmtime::Result;
use wasmtime::component::InstancePre;

use crate::logic::bindings::exports::session::manager as generated;
use crate::logic::instance::Instance;

/// An interface that a component may leave out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "documented in wit/")]
pub enum Interface {
    Booking,
    Connections,
    Maintenance,
    Users,
    Viewing,
}

impl Interface {
    /// All of them.
    pub const ALL: [Self; 5] =
        [Self::Booking, Self::Connections, Self::Maintenance, Self::Users, Self::Viewing];

    /// Its name in WIT.
    pub fn name(self) -> &'static str {
        match self {
            Self::Booking => "booking",
            Self::Connections => "connections",
            Self::Maintenance => "maintenance",
            Self::Users => "users",
            Self::Viewing => "viewing",
        }
    }

    /// What it is called towards callers.
    pub fn public_name(self) -> &'static str {
        match self {
            Self::Maintenance => "events",
            other => other.name(),
        }
    }

    /// The interface of this name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|interface| interface.name() == name)
    }
}

macro_rules! exports {
    ($($interface:ident)*) => {
        /// The exports of an instance.
        #[allow(missing_docs, reason = "documented in wit/")]
        #[cfg_attr(
            feature = "native-rules",
            allow(dead_code, reason = "the linked rules answer for booking")
        )]
        pub struct Exports {
            pub catalog: generated::catalog::Guest,
            $(pub $interface: Option<generated::$interface::Guest>,)*
        }

        /// Where a component has its exports.
        pub struct Indices {
            catalog: generated::catalog::GuestIndices,
            $($interface: Option<generated::$interface::GuestIndices>,)*
        }

        impl Indices {
            /// Finds the exports. The optional ones are looked for among `served`.
            ///
            /// # Errors
            /// When one lacks a function.
            pub fn find(pre: &InstancePre<Instance>, served: &[Interface]) -> Result<Self> {
                let serves =
                    |name| served.iter().any(|interface| interface.name() == name);
                Ok(Self {
                    catalog: generated::catalog::GuestIndices::new(pre)?,
                    $($interface: serves(stringify!($interface))
                        .then(|| generated::$interface::GuestIndices::new(pre))
                        .transpose()?,)*
                })
            }

            /// The exports of a fresh instance.
            ///
            /// # Errors
            /// When one has another type than this host was built for.
            pub fn load(
                &self,
                store: &mut wasmtime::Store<Instance>,
                instance: &wasmtime::component::Instance,
            ) -> Result<Exports> {
                Ok(Exports {
                    catalog: self.catalog.load(&mut *store, instance)?,
                    $($interface: match &self.$interface {
                        Some(indices) => Some(indices.load(&mut *store, instance)?),
                        None => None,
                    },)*
                })
            }
        }
    };
}

exports!(booking connections maintenance users viewing);

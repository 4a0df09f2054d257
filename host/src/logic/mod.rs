//! The logic engine: runs the rules of the component. A call pins one
//! generation from start to end, borrows one of its warm instances, and is
//! limited in processor time and memory. Only this room knows wasmtime.

mod bindings;
mod call;
mod calls;
mod compiler;
mod component;
mod conversions;
mod engine;
mod exports;
mod failure;
mod gates;
mod generation;
mod imports;
mod instance;
mod limits;
mod meter;
#[cfg(feature = "native-rules")]
mod native;
mod pool;
mod schema;
mod trial;
mod world;

pub use bindings::exports::session::manager::booking::{
    Condition, Field, LockGrant, Session, StoredField, Value, Write, Written,
};
pub use bindings::exports::session::manager::catalog::{
    Context, Description, Field as FieldDescription, Kind,
};
pub use bindings::exports::session::manager::viewing::{Home, Setup, Slot};
pub use bindings::session::manager::faults::{Ending, Fault, Violation};
pub use calls::{connections, maintenance, users};
pub use compiler::{COMMAND as COMPILE_COMMAND, Compiler, compile_input};
pub use engine::{BUILT_IN, Logic, NoWayBack, Swapped, check};
pub use exports::Interface;
pub use failure::Failure;
pub use gates::{COMPONENT_BYTES_MAX, Gate, Passed, Refusal, TOO_LARGE};
pub use generation::{End, Generation, Past};
pub use imports::without_store;
pub use limits::Limits;
pub use trial::Source;

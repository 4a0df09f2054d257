//! The gates that a candidate has to pass to become a generation, in this order. The first
//! gate that it does not pass says what the author of the component has to correct.

use std::time::{Duration, Instant};

/// The most bytes of a component.
pub const COMPONENT_BYTES_MAX: usize = 24 << 20;
/// The message for a component with more.
pub const TOO_LARGE: &str = "it is larger than 24 MiB";

/// One check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gate {
    /// It is not too large.
    Size,
    /// It was not rolled back before because it kept failing.
    Quarantine,
    /// It is a component of WebAssembly.
    Valid,
    /// It imports only what the world offers.
    Imports,
    /// It exports what the world demands.
    Exports,
    /// It compiles.
    Compiles,
    /// An instance of it starts.
    Instantiates,
    /// It describes itself, and makes sense.
    Describes,
    /// The stored sessions can still be read: its schema lacks nothing that the running
    /// one has.
    Schema,
}

impl Gate {
    /// Its name in reports, logs and metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Size => "size",
            Self::Quarantine => "quarantine",
            Self::Valid => "valid",
            Self::Imports => "imports",
            Self::Exports => "exports",
            Self::Compiles => "compiles",
            Self::Instantiates => "instantiates",
            Self::Describes => "describes",
            Self::Schema => "schema",
        }
    }
}

/// Why bytes cannot become a generation.
#[derive(Debug, thiserror::Error)]
#[error("gate {}: {message}", gate.name())]
pub struct Refusal {
    /// The gate they did not pass.
    pub gate: Gate,
    /// What to correct.
    pub message: String,
}

/// The most bytes of what is said about a component: its author's names are in it.
const MESSAGE_BYTES_MAX: usize = 4096;

impl Refusal {
    /// The message of a gate, cut when the component makes it too long.
    pub fn new(gate: Gate, message: impl Into<String>) -> Self {
        let mut message = message.into();
        if message.len() > MESSAGE_BYTES_MAX {
            let end = (0..=MESSAGE_BYTES_MAX).rev().find(|at| message.is_char_boundary(*at));
            message.truncate(end.unwrap_or(0));
            message.push('\u{2026}');
        }
        Self { gate, message }
    }
}

/// The gates that were passed, and how long each took.
#[derive(Debug, Default)]
pub struct Passed(pub Vec<(Gate, Duration)>);

impl Passed {
    /// Runs the check of a gate.
    ///
    /// # Errors
    /// The refusal of the check.
    pub fn gate<T>(
        &mut self,
        gate: Gate,
        check: impl FnOnce() -> Result<T, String>,
    ) -> Result<T, Refusal> {
        let started = Instant::now();
        let value = check().map_err(|message| Refusal::new(gate, message))?;
        self.0.push((gate, started.elapsed()));
        Ok(value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_has_an_end() {
        assert_eq!(Refusal::new(Gate::Exports, "short").message, "short");
        let long = Refusal::new(Gate::Exports, "\u{e9}".repeat(1 << 20)).message;
        assert!(long.len() <= MESSAGE_BYTES_MAX + 3 && long.ends_with('\u{2026}'));
    }
}

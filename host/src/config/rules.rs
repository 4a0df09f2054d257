//! Settings of the component, which contains the rules.

use std::path::Path;

use clap::Args;

use super::given::{given, text};
use super::values;

/// The component.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Rules")]
pub struct Rules {
    /// File of the component; empty runs the built-in one. A change of the file is a swap, and
    /// so is SIGHUP.
    #[arg(long, env = "COMPONENT", default_value = "", global = true, hide_default_value = true,
          value_parser = given(text))]
    component: String,

    /// Most calls of the rules at a time, of one address at most a quarter of them; each needs
    /// an instance.
    #[arg(long, env = "LOGIC_INSTANCES", default_value = "256", global = true,
          value_parser = given(values::instances))]
    pub logic_instances: u32,
}

impl Rules {
    /// The file of the component, if it is not the built-in one.
    pub fn component(&self) -> Option<&Path> {
        Some(Path::new(&self.component)).filter(|_| !self.component.is_empty())
    }
}

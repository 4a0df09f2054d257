//! The log as JSON, one object per line. The ids of a request are top-level fields, where programs
//! that collect logs expect them. Everything else is as `tracing_subscriber` writes it.

use std::fmt;

use serde_json::{Map, Value};
use tracing::{Event, Subscriber};
use tracing_subscriber::fmt::format::{Format, Json, JsonFields, Writer};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormattedFields};
use tracing_subscriber::registry::LookupSpan;

/// The fields of a request's span that become top-level fields.
const IDS: [&str; 2] = ["request_id", "trace_id"];

/// The format of a line.
pub struct JsonLine(Format<Json>);

impl JsonLine {
    /// The format of all lines.
    pub fn new() -> Self {
        Self(tracing_subscriber::fmt::format().json().flatten_event(true))
    }
}

impl<S> FormatEvent<S, JsonFields> for JsonLine
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, JsonFields>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut line = String::new();
        self.0.format_event(context, Writer::new(&mut line), event)?;
        let Some(scope) = context.event_scope() else { return writer.write_str(&line) };
        writer.write_str(line.trim_end().strip_suffix('}').unwrap_or(&line))?;
        for span in scope.from_root() {
            let extensions = span.extensions();
            let Some(fields) = extensions.get::<FormattedFields<JsonFields>>() else { continue };
            // The library has just written the fields as JSON.
            let fields: Map<String, Value> = serde_json::from_str(fields).unwrap_or_default();
            for id in IDS {
                if let Some(value) = fields.get(id) {
                    write!(writer, ",\"{id}\":{value}")?;
                }
            }
        }
        writer.write_str("}\n")
    }
}

//! The fields of spans and events in the text log, as the library writes them but without its code
//! for colours. Every request has a span, so this is called often.

use std::fmt::{self, Debug};

use tracing::field::{Field, Visit};
use tracing_subscriber::field::RecordFields;
use tracing_subscriber::fmt::FormatFields;
use tracing_subscriber::fmt::format::Writer;

/// The message of an event, which is written without its name.
const MESSAGE: &str = "message";

/// Writes `name=value`, separated by blanks.
pub struct PlainFields;

impl<'writer> FormatFields<'writer> for PlainFields {
    fn format_fields<R: RecordFields>(&self, writer: Writer<'writer>, fields: R) -> fmt::Result {
        let mut line = Line { writer, begun: false, result: Ok(()) };
        fields.record(&mut line);
        line.result
    }
}

struct Line<'writer> {
    writer: Writer<'writer>,
    begun: bool,
    result: fmt::Result,
}

impl Line<'_> {
    fn write(&mut self, field: &Field, value: impl FnOnce(&mut Writer<'_>) -> fmt::Result) {
        let name = field.name();
        // These describe an event of the `log` crate, and are not its fields.
        if self.result.is_err() || name.starts_with("log.") {
            return;
        }
        let begun = std::mem::replace(&mut self.begun, true);
        let writer = &mut self.writer;
        self.result = (|| {
            if begun {
                writer.write_char(' ')?;
            }
            if name != MESSAGE {
                writer.write_str(name.strip_prefix("r#").unwrap_or(name))?;
                writer.write_char('=')?;
            }
            value(writer)
        })();
    }
}

impl Visit for Line<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.write(field, |writer| write!(writer, "{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        let is_message = field.name() == MESSAGE;
        // Most values need no escapes.
        let is_plain = value.bytes().all(|byte| {
            (byte.is_ascii_graphic() || byte == b' ')
                && byte != b'"'
                && byte != b'\\'
                && byte != b'\''
        });
        self.write(field, |writer| match (is_message, is_plain) {
            (true, _) => writer.write_str(value),
            (false, true) => {
                writer.write_char('"')?;
                writer.write_str(value)?;
                writer.write_char('"')
            }
            (false, false) => write!(writer, "{value:?}"),
        });
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use tracing_subscriber::fmt::MakeWriter;
    use tracing_subscriber::layer::SubscriberExt as _;

    use super::*;

    #[derive(Clone, Default)]
    struct CapturedLog(Arc<Mutex<Vec<u8>>>);

    impl std::io::Write for CapturedLog {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().expect("no panic").extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    impl MakeWriter<'_> for CapturedLog {
        type Writer = Self;

        fn make_writer(&self) -> Self {
            self.clone()
        }
    }

    fn log() {
        let span = tracing::info_span!("request", protocol = "rest", id = %7, odd = "a\"b\n'é");
        let _entered = span.enter();
        tracing::info!(count = 3, r#type = "x y", why = ?Some("z"), "what \"happens\"");
        tracing::warn!("nothing beside it");
    }

    #[test]
    fn lines_are_those_of_the_library() {
        let [ours, theirs] = [CapturedLog::default(), CapturedLog::default()];
        let layer = |written: &CapturedLog| {
            let layer = tracing_subscriber::fmt::layer().with_writer(written.clone());
            layer.with_ansi(false).without_time()
        };
        let registry = tracing_subscriber::registry().with(layer(&ours).fmt_fields(PlainFields));
        tracing::subscriber::with_default(registry, log);
        let registry = tracing_subscriber::registry().with(layer(&theirs));
        tracing::subscriber::with_default(registry, log);
        let text = |written: &CapturedLog| {
            String::from_utf8(written.0.lock().expect("no panic").clone()).expect("UTF-8")
        };
        assert!(text(&ours).contains("protocol=\"rest\" id=7"), "{}", text(&ours));
        assert_eq!(text(&ours), text(&theirs));
    }
}

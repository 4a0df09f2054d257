//! What one instance of the component holds on the host's side: its sandbox,
//! its settings, its meter. Nothing in it outlives or is shared between
//! instances but the store behind them.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::AsyncWrite;
use wasmtime::ResourceLimiter;
use wasmtime::component::ResourceTable;
use wasmtime_wasi::cli::{IsTerminal, StdoutStream};
use wasmtime_wasi::{WasiCtx, WasiCtxView, WasiView};
use wasmtime_wasi_config::WasiConfigVariables;

use crate::logic::meter::Meter;
use crate::telemetry::LogicMetrics;
use session_store::Store;

/// The most elements of a table.
pub const TABLE_ELEMENTS_MAX: usize = 20_000;
/// The most lines of error output that all instances of a component may log.
const LOG_LINES_MAX: u32 = 100;
/// The most bytes of one such line.
const LOG_LINE_BYTES_MAX: usize = 1024;

/// The host's side of one instance.
pub struct Instance {
    /// Where its transactions go.
    pub store: Arc<dyn Store>,
    /// Where its transactions are counted.
    pub metrics: Arc<LogicMetrics>,
    /// The limits of its memories.
    pub memory: Memory,
    /// The meter of the present call.
    pub meter: Meter,
    /// What `wasi:config/store` answers.
    pub settings: WasiConfigVariables,
    wasi: WasiCtx,
    table: ResourceTable,
}

impl Instance {
    /// A sandbox with no files, no network, no environment and no arguments.
    pub fn new(
        store: Arc<dyn Store>,
        settings: &[(String, String)],
        memory_bytes: usize,
        cpu: Duration,
        metrics: Arc<LogicMetrics>,
        log_lines: Arc<AtomicU32>,
    ) -> Self {
        Self {
            store,
            metrics,
            memory: Memory { bytes: 0, bytes_max: memory_bytes },
            meter: Meter::new(cpu),
            settings: settings.iter().cloned().collect(),
            wasi: WasiCtx::builder()
                .allow_tcp(false)
                .allow_udp(false)
                .stderr(ErrorOutput { lines: log_lines })
                .build(),
            table: ResourceTable::new(),
        }
    }
}

/// The memories of one instance: what they have grown to, and what they may.
pub struct Memory {
    /// Bytes of all memories together, which never become fewer.
    pub bytes: usize,
    bytes_max: usize,
}

impl ResourceLimiter for Memory {
    fn memory_growing(
        &mut self,
        current: usize,
        desired: usize,
        maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        let bytes = self.bytes.saturating_add(desired.saturating_sub(current));
        if bytes > self.bytes_max || maximum.is_some_and(|maximum| desired > maximum) {
            return Ok(false);
        }
        self.bytes = bytes;
        Ok(true)
    }

    fn table_growing(
        &mut self,
        _: usize,
        desired: usize,
        maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        Ok(desired <= TABLE_ELEMENTS_MAX && maximum.is_none_or(|maximum| desired <= maximum))
    }
}

impl WasiView for Instance {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        WasiCtxView { ctx: &mut self.wasi, table: &mut self.table }
    }
}

/// The guest's error output, as lines of the log.
#[derive(Clone)]
struct ErrorOutput {
    /// How many were logged, by all instances.
    lines: Arc<AtomicU32>,
}

impl IsTerminal for ErrorOutput {
    fn is_terminal(&self) -> bool {
        false
    }
}

impl StdoutStream for ErrorOutput {
    fn async_stream(&self) -> Box<dyn AsyncWrite + Send + Sync> {
        Box::new(self.clone())
    }
}

impl AsyncWrite for ErrorOutput {
    fn poll_write(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        if self.lines.fetch_add(1, Ordering::Relaxed) < LOG_LINES_MAX {
            let shown = &bytes[..bytes.len().min(LOG_LINE_BYTES_MAX)];
            let text = String::from_utf8_lossy(shown);
            tracing::warn!(output = text.trim_end(), "the component wrote to its error output");
        }
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

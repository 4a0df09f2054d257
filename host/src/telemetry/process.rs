//! What the kernel counts for this process, under the usual names of Prometheus clients. Read at
//! each scrape; a value that cannot be read stays as it was.

use std::sync::{Mutex, PoisonError};

use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{Counter, IntGauge};
use rustix::process::{Resource, getrlimit};
use rustix::time::{ClockId, clock_gettime};

/// The metrics of the process.
pub struct ProcessMetrics {
    /// Held while the values are read. Two scrapes at once would add the same time twice.
    reading: Mutex<()>,
    cpu: Counter,
    resident: IntGauge,
    virtual_size: IntGauge,
    open_files: IntGauge,
    files_max: IntGauge,
    threads: IntGauge,
    started: IntGauge,
}

impl ProcessMetrics {
    /// All metrics at zero, except the start time.
    ///
    /// # Panics
    /// Never: names are constants.
    pub fn new() -> Self {
        let gauge = |name: &str, help: &str| IntGauge::new(name, help).expect("a constant name");
        let cpu = "Processor time used by user and system, in seconds.";
        let process = Self {
            reading: Mutex::default(),
            cpu: Counter::new("process_cpu_seconds_total", cpu).expect("a constant name"),
            resident: gauge("process_resident_memory_bytes", "Resident memory in bytes."),
            virtual_size: gauge("process_virtual_memory_bytes", "Virtual memory in bytes."),
            open_files: gauge("process_open_fds", "Open file descriptors."),
            files_max: gauge("process_max_fds", "Limit of open file descriptors."),
            threads: gauge("process_threads", "Threads."),
            started: gauge(
                "process_start_time_seconds",
                "Start of the process, in seconds since the epoch.",
            ),
        };
        if let Some(started) = start_time() {
            process.started.set(started);
        }
        process
    }

    fn read(&self) {
        let _reading = self.reading.lock().unwrap_or_else(PoisonError::into_inner);
        let used = clock_gettime(ClockId::ProcessCPUTime);
        let used = used.tv_sec as f64 + used.tv_nsec as f64 / 1e9;
        self.cpu.inc_by((used - self.cpu.get()).max(0.0));
        let page = i64::try_from(rustix::param::page_size()).unwrap_or(4096);
        if let Some(pages) = numbers("/proc/self/statm") {
            self.virtual_size.set(pages.first().map_or(0, |pages| pages * page));
            self.resident.set(pages.get(1).map_or(0, |pages| pages * page));
        }
        if let Ok(files) = std::fs::read_dir("/proc/self/fd") {
            // One of them is the directory being read.
            self.open_files.set(i64::try_from(files.count()).unwrap_or(i64::MAX) - 1);
        }
        let most = getrlimit(Resource::Nofile).current;
        self.files_max.set(most.map_or(i64::MAX, |most| i64::try_from(most).unwrap_or(i64::MAX)));
        if let Some(threads) = stat(THREADS) {
            self.threads.set(threads);
        }
    }

    fn metrics(&self) -> [&dyn Collector; 7] {
        [
            &self.cpu,
            &self.resident,
            &self.virtual_size,
            &self.open_files,
            &self.files_max,
            &self.threads,
            &self.started,
        ]
    }
}

impl Collector for ProcessMetrics {
    fn desc(&self) -> Vec<&Desc> {
        self.metrics().into_iter().flat_map(Collector::desc).collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        self.read();
        self.metrics().into_iter().flat_map(Collector::collect).collect()
    }
}

/// Fields of `/proc/self/stat`, as proc_pid_stat(5) numbers them.
const THREADS: usize = 20;
const START_TICKS: usize = 22;

/// A field of `/proc/self/stat`. The second field is the name of the program in parentheses,
/// which may contain anything.
fn stat(field: usize) -> Option<i64> {
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    let (_, behind) = stat.rsplit_once(')')?;
    behind.split_whitespace().nth(field - 3)?.parse().ok()
}

/// The numbers of a file that contains only numbers.
fn numbers(path: &str) -> Option<Vec<i64>> {
    let text = std::fs::read_to_string(path).ok()?;
    text.split_whitespace().map(|number| number.parse().ok()).collect()
}

/// The start of the process, in seconds since the epoch.
fn start_time() -> Option<i64> {
    let system = std::fs::read_to_string("/proc/stat").ok()?;
    let booted = system.lines().find_map(|line| line.strip_prefix("btime "))?;
    let ticks = stat(START_TICKS)?;
    let second = i64::try_from(rustix::param::clock_ticks_per_second()).ok()?;
    Some(booted.trim().parse::<i64>().ok()? + ticks / second)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_are_those_of_this_process() {
        let process = ProcessMetrics::new();
        let spun: u64 = (0..3_000_000_u64).map(std::hint::black_box).sum();
        assert!(spun > 0);
        assert_eq!(process.collect().len(), 7);
        let cpu = process.cpu.get();
        assert!(cpu > 0.0 && cpu.fract() != 0.0, "{cpu}");
        assert!(process.resident.get() > 1 << 20, "{}", process.resident.get());
        assert!(process.virtual_size.get() >= process.resident.get());
        let open = process.open_files.get();
        let files: Vec<_> =
            (0..64).map(|_| std::fs::File::open("/proc/self/stat").unwrap()).collect();
        process.read();
        // Other tests of this process may open and close files.
        let more = process.open_files.get() - open;
        assert!((32..=128).contains(&more), "{more} for {}", files.len());
        assert!(process.files_max.get() >= process.open_files.get());
        assert!(process.threads.get() >= 1);
        let now = std::fs::metadata("/proc/self").unwrap().modified().unwrap();
        let now = now.duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
        assert!(process.started.get().abs_diff(now as i64) < 3600, "{}", process.started.get());
    }
}

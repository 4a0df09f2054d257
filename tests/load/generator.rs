//! The load generators: wrk for HTTP/1.1, h2load for HTTP/2 and gRPC, redis-benchmark for Redis
//! itself. A run with failed requests is not a measurement, and ends the bench.

use std::io::Write;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use prost::Message;

/// A seed for each run, so that no two runs use the same numbers.
static SEED: AtomicU32 = AtomicU32::new(1);

/// The request that a generator sends.
#[derive(Clone)]
pub struct Request {
    /// The URL.
    pub url: String,
    /// `GET` or `PUT`; gRPC uses POST.
    pub method: &'static str,
    /// The body, as it is sent.
    pub body: Vec<u8>,
    /// The protocol.
    pub protocol: Protocol,
    /// The URL ends in a random number below this, a new one for each request.
    pub spread: Option<u64>,
}

/// A protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    Http1,
    Http2,
    Grpc,
    /// `HGETALL` of a key, without pipelining.
    Redis,
}

impl Protocol {
    /// Its name in the table.
    pub fn name(self) -> &'static str {
        match self {
            Self::Http1 => "HTTP/1.1",
            Self::Http2 => "HTTP/2",
            Self::Grpc => "gRPC",
            Self::Redis => "RESP",
        }
    }
}

/// The result of one run.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sample {
    /// Answered requests.
    pub requests: u64,
    /// Answered requests for each second.
    pub rate: f64,
    /// Latencies in microseconds.
    pub p50: f64,
    pub p99: f64,
    pub p999: f64,
}

impl Sample {
    /// The result of a run of this length, from its latencies in microseconds, in any order.
    pub fn new(mut latencies: Vec<f64>, length: Duration) -> Self {
        assert!(!latencies.is_empty(), "nothing was answered");
        latencies.sort_by(f64::total_cmp);
        let at = |share: f64| latencies[((latencies.len() - 1) as f64 * share) as usize];
        Self {
            requests: latencies.len() as u64,
            rate: latencies.len() as f64 / length.as_secs_f64(),
            p50: at(0.5),
            p99: at(0.99),
            p999: at(0.999),
        }
    }
}

/// A generator, which is killed when it does not end.
pub fn program(name: &str) -> Command {
    let mut command = Command::new("timeout");
    command.args(["120", name]);
    command
}

/// A message with the prefix of five bytes that gRPC requires.
pub fn grpc_frame(message: &impl Message) -> Vec<u8> {
    let message = message.encode_to_vec();
    let length = u32::try_from(message.len()).unwrap();
    [&[0], &length.to_be_bytes()[..], &message].concat()
}

impl Request {
    /// Sends as many requests as the server answers, one at a time on each connection.
    pub fn closed_loop(&self, connections: u32, duration: Duration) -> Sample {
        match self.protocol {
            Protocol::Http1 => self.wrk(connections, duration),
            Protocol::Http2 | Protocol::Grpc => self.h2load(connections, duration),
            Protocol::Redis => self.redis_benchmark(connections, duration),
        }
    }

    fn wrk(&self, connections: u32, duration: Duration) -> Sample {
        let (_, path) = self.url.split_at(self.url.find("/v1/").unwrap_or(self.url.len()));
        let each = self.spread.map_or(String::new(), |below| {
            format!(
                "request = function() return wrk.format(nil, \"{path}\" .. \
                 math.random(0, {below} - 1)) end\n"
            )
        });
        let mut body = tempfile::NamedTempFile::new().unwrap();
        body.write_all(&self.body).unwrap();
        let mut script = tempfile::NamedTempFile::with_suffix(".lua").unwrap();
        write!(
            script,
            "wrk.method = \"{}\"\n\
             wrk.body = io.open(\"{}\"):read(\"*a\")\n\
             wrk.headers[\"content-type\"] = \"application/json\"\n\
             math.randomseed({seed})\n\
             {each}\
             done = function(s, l)\n\
             local e = s.errors\n\
             print(string.format(\"RESULT %d %d %f %f %f %d\", s.requests, s.duration, \
             l:percentile(50), l:percentile(99), l:percentile(99.9), \
             e.connect + e.read + e.write + e.status + e.timeout))\n\
             end\n",
            self.method,
            body.path().display(),
            seed = SEED.fetch_add(1, Ordering::Relaxed)
        )
        .unwrap();
        // wrk accepts only whole seconds.
        let seconds = duration.as_secs_f64().ceil();
        let output = program("wrk")
            .args(["-t1", &format!("-c{connections}"), &format!("-d{seconds}s"), "-s"])
            .arg(script.path())
            .arg(&self.url)
            .output()
            .unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let result = text.lines().find_map(|line| line.strip_prefix("RESULT ")).expect(&text);
        let figures: Vec<f64> = result.split(' ').map(|figure| figure.parse().unwrap()).collect();
        let [requests, microseconds, p50, p99, p999, errors] = figures[..] else {
            panic!("{text}")
        };
        assert!(errors == 0.0, "{} {}: {text}", self.method, self.url);
        Sample { requests: requests as u64, rate: requests / microseconds * 1e6, p50, p99, p999 }
    }

    /// h2load gets a number of requests, because with a duration it may never end.
    fn h2load(&self, connections: u32, duration: Duration) -> Sample {
        let few = self.h2load_requests(connections, u64::from(connections) * 20);
        let many = (few.rate * duration.as_secs_f64()) as u64;
        let sample = self.h2load_requests(connections, many.max(few.requests));
        // The server has answered both.
        Sample { requests: few.requests + sample.requests, ..sample }
    }

    fn h2load_requests(&self, connections: u32, requests: u64) -> Sample {
        let log = tempfile::NamedTempFile::new().unwrap();
        let mut body = tempfile::NamedTempFile::new().unwrap();
        body.write_all(&self.body).unwrap();
        let kind = match self.protocol {
            Protocol::Grpc => "content-type: application/grpc",
            _ => "content-type: application/json",
        };
        let mut command = program("h2load");
        command
            .args(["-t1", "-m1", &format!("-c{connections}"), &format!("-n{requests}")])
            .arg(format!("--log-file={}", log.path().display()))
            .args(["-H", kind, "-H", "te: trailers"]);
        if !self.body.is_empty() {
            command.args(["-H", &format!(":method: {}", self.method), "-d"]).arg(body.path());
        }
        let output = command.arg(&self.url).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        // Start and duration in microseconds, with the status between them.
        let log = std::fs::read_to_string(log.path()).unwrap();
        let mut latencies = Vec::new();
        let (mut first, mut last) = (u64::MAX, 0);
        for line in log.lines() {
            let fields: Vec<u64> = line.split('\t').map(|field| field.parse().unwrap()).collect();
            assert_eq!(fields[1], 200, "{}: {text}", self.url);
            first = first.min(fields[0]);
            last = last.max(fields[0] + fields[2]);
            latencies.push(fields[2] as f64);
        }
        assert_eq!(latencies.len() as u64, requests, "{}: {text}", self.url);
        Sample::new(latencies, Duration::from_micros(last - first))
    }

    /// The URL is `port/database/key`.
    fn redis_benchmark(&self, connections: u32, duration: Duration) -> Sample {
        let mut parts = self.url.splitn(3, '/');
        let (port, database, key) =
            (parts.next().unwrap(), parts.next().unwrap(), parts.next().unwrap());
        // It needs a number of requests instead of a duration.
        let requests = (duration.as_secs_f64() * if connections == 1 { 2e4 } else { 1e5 }) as u64;
        let output = program("redis-benchmark")
            .args(["-p", port, "--dbnum", database, "--csv", "-c", &connections.to_string()])
            .args(["-n", &requests.to_string(), "HGETALL", key])
            .output()
            .unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        // "test","rps","avg","min","p50","p95","p99","max", times in milliseconds.
        let line = text.lines().rfind(|line| line.contains("HGETALL")).expect(&text);
        let fields: Vec<&str> = line.split("\",\"").map(|f| f.trim_matches('"')).collect();
        let figure = |place: usize| fields[place].parse::<f64>().unwrap();
        Sample {
            requests,
            rate: figure(1),
            p50: figure(4) * 1e3,
            p99: figure(6) * 1e3,
            p999: f64::NAN,
        }
    }
}

//! Settings of traces, with the names of Elastic and OpenTelemetry. The OpenTelemetry SDK reads
//! some more itself: OTEL_RESOURCE_ATTRIBUTES, the OTEL_SPAN_ limits, and
//! OTEL_EXPORTER_OTLP_TRACES_HEADERS, which win over ours as they are for traces only.

use std::collections::HashMap;
use std::time::Duration;

use clap::Args;
use http::{HeaderName, HeaderValue};
use percent_encoding::percent_decode_str;

use super::early_exit::EarlyExit;
use super::given::{SecretText, given, text};
use super::secret::Secret;
use super::values;
use crate::telemetry::traces::{Export, Sampling};

/// The path of a collector for traces.
const PATH: &str = "/v1/traces";

/// The export of traces.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Traces")]
pub struct Tracing {
    /// Server of Elastic APM, for traces over OTLP/HTTP. Empty sends none, unless
    /// OTEL_EXPORTER_OTLP_ENDPOINT is set.
    #[arg(long, env = "ELASTIC_APM_SERVER_URL", default_value = "", global = true,
          hide_default_value = true, hide_env_values = true, value_parser = given(text))]
    elastic_apm_server_url: String,

    /// Secret token of Elastic APM.
    #[arg(long, env = "ELASTIC_APM_SECRET_TOKEN", default_value = "", global = true,
          hide_default_value = true, hide_env_values = true, value_parser = SecretText)]
    elastic_apm_secret_token: String,

    /// File with the secret token of Elastic APM.
    #[arg(long, env = "ELASTIC_APM_SECRET_TOKEN_FILE", default_value = "", global = true,
          hide_default_value = true, value_parser = given(text))]
    elastic_apm_secret_token_file: String,

    /// Name of the service in traces; empty for OTEL_SERVICE_NAME, or APP_NAME.
    #[arg(long, env = "ELASTIC_APM_SERVICE_NAME", default_value = "", global = true,
          hide_default_value = true, value_parser = given(values::name))]
    elastic_apm_service_name: String,

    /// Environment in traces, such as staging.
    #[arg(long, env = "ELASTIC_APM_ENVIRONMENT", default_value = "", global = true,
          hide_default_value = true, value_parser = given(values::name))]
    elastic_apm_environment: String,

    /// How long Elastic APM may take to accept spans. No request waits for it.
    #[arg(long, env = "ELASTIC_APM_SERVER_TIMEOUT", default_value = "30s", global = true,
          value_parser = given(|text| unless_empty(text, "30s", values::timeout)))]
    elastic_apm_server_timeout: Duration,

    /// Collector of traces; they go to its path /v1/traces.
    #[arg(long, env = "OTEL_EXPORTER_OTLP_ENDPOINT", default_value = "", global = true,
          hide_default_value = true, hide_env_values = true, value_parser = given(text))]
    otel_exporter_otlp_endpoint: String,

    /// Collector of traces, with the path.
    #[arg(long, env = "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", default_value = "", global = true,
          hide_default_value = true, hide_env_values = true, value_parser = given(text))]
    otel_exporter_otlp_traces_endpoint: String,

    /// Headers for the collector: name=value,name=value, percent-encoded.
    #[arg(long, env = "OTEL_EXPORTER_OTLP_HEADERS", default_value = "", global = true,
          hide_default_value = true, hide_env_values = true, value_parser = SecretText)]
    otel_exporter_otlp_headers: String,

    /// File with the headers for the collector.
    #[arg(long, env = "OTEL_EXPORTER_OTLP_HEADERS_FILE", default_value = "", global = true,
          hide_default_value = true, value_parser = given(text))]
    otel_exporter_otlp_headers_file: String,

    /// How long the collector may take to accept spans, in milliseconds.
    #[arg(long, env = "OTEL_EXPORTER_OTLP_TIMEOUT", default_value = "10000", global = true,
          value_parser = given(|text| unless_empty(text, "10000", values::milliseconds)))]
    otel_exporter_otlp_timeout: Duration,

    /// Protocol of the collector: http/protobuf.
    #[arg(long, env = "OTEL_EXPORTER_OTLP_PROTOCOL", default_value = "http/protobuf",
          global = true,
          value_parser = given(|text| unless_empty(text, "http/protobuf", values::protocol)))]
    otel_exporter_otlp_protocol: String,

    /// Name of the service in traces.
    #[arg(long, env = "OTEL_SERVICE_NAME", default_value = "", global = true,
          hide_default_value = true, value_parser = given(values::name))]
    otel_service_name: String,

    /// Which requests are traced: always_on, always_off or traceidratio. With the prefix
    /// parentbased_ the decision of a caller that traces holds.
    #[arg(long, env = "OTEL_TRACES_SAMPLER", default_value = "parentbased_always_on",
          global = true,
          value_parser = given(|text| unless_empty(text, "parentbased_always_on", values::sampler)))]
    otel_traces_sampler: String,

    /// Share of the requests that traceidratio traces.
    #[arg(long, env = "OTEL_TRACES_SAMPLER_ARG", default_value = "1", global = true,
          value_parser = given(|text| unless_empty(text, "1", values::share)))]
    otel_traces_sampler_arg: f64,

    /// Exporter of traces: otlp, or none.
    #[arg(long, env = "OTEL_TRACES_EXPORTER", default_value = "otlp", global = true,
          value_parser = given(|text| unless_empty(text, "otlp", values::exporter)))]
    otel_traces_exporter: String,

    /// Send no traces, whatever else is set.
    #[arg(long, env = "OTEL_SDK_DISABLED", default_value = "false", global = true,
          value_parser = given(|text| unless_empty(text, "false", values::boolean)),
          num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    otel_sdk_disabled: bool,

    /// Most spans that wait to be sent; spans beyond it are lost.
    #[arg(long, env = "OTEL_BSP_MAX_QUEUE_SIZE", default_value = "2048", global = true,
          value_parser = given(|text| unless_empty(text, "2048", values::spans)))]
    otel_bsp_max_queue_size: usize,

    /// Most spans that are sent together.
    #[arg(long, env = "OTEL_BSP_MAX_EXPORT_BATCH_SIZE", default_value = "512", global = true,
          value_parser = given(|text| unless_empty(text, "512", values::spans)))]
    otel_bsp_max_export_batch_size: usize,

    /// How long spans wait to be sent together, in milliseconds.
    #[arg(long, env = "OTEL_BSP_SCHEDULE_DELAY", default_value = "5000", global = true,
          value_parser = given(|text| unless_empty(text, "5000", values::delay)))]
    otel_bsp_schedule_delay: Duration,
}

/// An empty value counts as absent, as OpenTelemetry defines it.
fn unless_empty<T>(
    text: &str,
    default: &str,
    read: fn(&str) -> Result<T, String>,
) -> Result<T, String> {
    read(if text.is_empty() { default } else { text })
}

impl Tracing {
    /// The export of traces; `None` if traces are off.
    ///
    /// # Errors
    /// If a URL, a token or the headers are not valid.
    pub fn export(&self, app_name: &str, instance: String) -> Result<Option<Export>, EarlyExit> {
        for (name, url) in [
            ("ELASTIC_APM_SERVER_URL", &self.elastic_apm_server_url),
            ("OTEL_EXPORTER_OTLP_ENDPOINT", &self.otel_exporter_otlp_endpoint),
            ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", &self.otel_exporter_otlp_traces_endpoint),
        ] {
            if !url.is_empty() && !values::is_url(url) {
                let expected = "http://host[:port][/path] or https://...";
                return Err(EarlyExit::of_value(name, url, expected));
            }
        }
        let mut headers = self.headers()?;
        let token = self.token().read()?;
        if self.otel_sdk_disabled || self.otel_traces_exporter == "none" {
            return Ok(None);
        }
        let (endpoint, timeout) = if !self.elastic_apm_server_url.is_empty() {
            if !token.bytes().all(|byte| byte.is_ascii_graphic()) {
                return Err(EarlyExit::of_secret(
                    "ELASTIC_APM_SECRET_TOKEN",
                    "visible ASCII characters",
                ));
            }
            if !token.is_empty() {
                headers.insert("authorization".into(), format!("Bearer {token}"));
            }
            (below(&self.elastic_apm_server_url), self.elastic_apm_server_timeout)
        } else if !self.otel_exporter_otlp_traces_endpoint.is_empty() {
            (self.otel_exporter_otlp_traces_endpoint.clone(), self.otel_exporter_otlp_timeout)
        } else if !self.otel_exporter_otlp_endpoint.is_empty() {
            (below(&self.otel_exporter_otlp_endpoint), self.otel_exporter_otlp_timeout)
        } else {
            return Ok(None);
        };
        let given = [&self.elastic_apm_service_name, &self.otel_service_name];
        let service_name = given.into_iter().find(|name| !name.is_empty());
        let environment = Some(&self.elastic_apm_environment).filter(|name| !name.is_empty());
        Ok(Some(Export {
            endpoint,
            headers,
            timeout,
            service_name: service_name.map_or(app_name, |name| name).into(),
            environment: environment.cloned(),
            instance,
            sampling: self.sampling(),
            queue: self.otel_bsp_max_queue_size,
            batch: self.otel_bsp_max_export_batch_size.min(self.otel_bsp_max_queue_size),
            delay: self.otel_bsp_schedule_delay,
        }))
    }

    fn token(&self) -> Secret<'_> {
        let (value, file) = (&self.elastic_apm_secret_token, &self.elastic_apm_secret_token_file);
        Secret::new("ELASTIC_APM_SECRET_TOKEN", value, file)
    }

    fn sampling(&self) -> Sampling {
        let by_parent = self.otel_traces_sampler.strip_prefix("parentbased_");
        let share = match by_parent.unwrap_or(&self.otel_traces_sampler) {
            "always_on" => 1.0,
            "always_off" => 0.0,
            _ => self.otel_traces_sampler_arg,
        };
        Sampling { share, by_parent: by_parent.is_some() }
    }

    fn headers(&self) -> Result<HashMap<String, String>, EarlyExit> {
        let (value, file) =
            (&self.otel_exporter_otlp_headers, &self.otel_exporter_otlp_headers_file);
        let given = Secret::new("OTEL_EXPORTER_OTLP_HEADERS", value, file).read()?;
        let pairs = given.split(',').map(str::trim);
        let header = |pair: &str| {
            let (name, value) = pair.split_once('=')?;
            let name = name.trim().parse::<HeaderName>().ok()?;
            let value = percent_decode_str(value.trim()).decode_utf8().ok()?;
            HeaderValue::from_str(&value).ok()?;
            Some((name.as_str().to_owned(), value.into_owned()))
        };
        let headers = pairs.filter(|pair| !pair.is_empty()).map(header).collect::<Option<_>>();
        headers.ok_or_else(|| {
            EarlyExit::of_secret("OTEL_EXPORTER_OTLP_HEADERS", "name=value,name=value")
        })
    }
}

fn below(url: &str) -> String {
    [url.trim_end_matches('/'), PATH].concat()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Settings;

    fn export(arguments: &[&str]) -> Result<Option<Export>, String> {
        let read = Settings::read(["session-manager"].iter().chain(arguments).map(Into::into));
        let (_, settings) = read.map_err(|exit| exit.text)?;
        settings.traces().map_err(|exit| exit.text)
    }

    #[test]
    fn traces_go_to_elastic_or_the_opentelemetry_collector() {
        assert!(export(&[]).expect("accepted").is_none());
        let elastic = [
            "--elastic-apm-server-url=http://apm:8200/",
            "--elastic-apm-secret-token=t",
            "--elastic-apm-environment=staging",
            "--otel-service-name=ours",
            "--otel-traces-sampler=traceidratio",
            "--otel-traces-sampler-arg=0.25",
        ];
        let found = export(&elastic).expect("accepted").expect("wanted");
        assert_eq!(found.endpoint, "http://apm:8200/v1/traces");
        assert_eq!(found.headers["authorization"], "Bearer t");
        assert_eq!((found.timeout, &*found.service_name), (Duration::from_secs(30), "ours"));
        assert_eq!(found.environment.as_deref(), Some("staging"));
        assert_eq!(found.sampling, Sampling { share: 0.25, by_parent: false });
        let endpoint = "--otel-exporter-otlp-endpoint=https://c/x";
        let headers = "--otel-exporter-otlp-headers=a=1, b=two%20words";
        let found = export(&[endpoint, headers]).expect("accepted").expect("wanted");
        assert_eq!(found.endpoint, "https://c/x/v1/traces");
        assert_eq!((&*found.headers["a"], &*found.headers["b"]), ("1", "two words"));
        assert_eq!(
            (found.timeout, &*found.service_name),
            (Duration::from_secs(10), "session-manager")
        );
        assert_eq!(found.sampling, Sampling { share: 1.0, by_parent: true });
        for off in ["--otel-sdk-disabled", "--otel-traces-exporter=none"] {
            assert!(export(&[endpoint, off]).expect("accepted").is_none(), "{off}");
        }
        let empty =
            ["sampler", "sampler-arg", "exporter"].map(|name| format!("--otel-traces-{name}="));
        let empty: Vec<&str> = empty.iter().map(String::as_str).collect();
        export(&[&[endpoint][..], &empty].concat()).expect("accepted").expect("wanted");
        let whole = "--otel-exporter-otlp-traces-endpoint=http://c/only";
        let found = export(&[endpoint, whole]).expect("accepted").expect("wanted");
        assert_eq!(found.endpoint, "http://c/only");
    }

    #[test]
    fn a_bad_value_is_refused_and_a_secret_one_is_not_shown() {
        for (argument, expected) in [
            (
                "--elastic-apm-server-url=ftp://user:secret@apm",
                "invalid value for ELASTIC_APM_SERVER_URL: expected http://host[:port][/path] or https://...",
            ),
            (
                "--otel-exporter-otlp-protocol=grpc",
                r#"invalid value "grpc" for OTEL_EXPORTER_OTLP_PROTOCOL: expected http/protobuf"#,
            ),
            (
                "--otel-traces-sampler=sometimes",
                r#"invalid value "sometimes" for OTEL_TRACES_SAMPLER: expected always_on, always_off or traceidratio, or one of them with the prefix parentbased_"#,
            ),
            (
                "--otel-exporter-otlp-endpoint=http://h/?key=secret",
                "invalid value for OTEL_EXPORTER_OTLP_ENDPOINT: expected http://host[:port][/path] or https://...",
            ),
            (
                "--otel-bsp-max-queue-size=99999999999999",
                r#"invalid value "99999999999999" for OTEL_BSP_MAX_QUEUE_SIZE: expected a number from 1 to 65536"#,
            ),
            (
                "--otel-bsp-schedule-delay=0",
                r#"invalid value "0" for OTEL_BSP_SCHEDULE_DELAY: expected a number of milliseconds from 10 to 60000"#,
            ),
            (
                "--otel-traces-exporter=zipkin",
                r#"invalid value "zipkin" for OTEL_TRACES_EXPORTER: expected otlp or none"#,
            ),
            (
                "--otel-traces-sampler-arg=2",
                r#"invalid value "2" for OTEL_TRACES_SAMPLER_ARG: expected a number from 0 to 1"#,
            ),
            (
                "--otel-exporter-otlp-headers=secret",
                "invalid value for OTEL_EXPORTER_OTLP_HEADERS: expected name=value,name=value",
            ),
        ] {
            assert_eq!(export(&[argument]).expect_err(argument), expected);
        }
        let elastic = ["--elastic-apm-server-url=http://a", "--elastic-apm-secret-token=a\nb"];
        let refused =
            "invalid value for ELASTIC_APM_SECRET_TOKEN: expected visible ASCII characters";
        assert_eq!(export(&elastic).expect_err(refused), refused);
    }
}

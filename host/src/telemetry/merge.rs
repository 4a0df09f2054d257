//! Adds up metrics that several registries count separately.

use std::collections::BTreeMap;

use prometheus::proto::{Bucket, Counter, Gauge, Histogram, Metric, MetricFamily, MetricType};

/// The metric families of all registries, with the values of equal series added up.
pub fn sum(registries: impl Iterator<Item = Vec<MetricFamily>>) -> Vec<MetricFamily> {
    let mut sums: BTreeMap<String, MetricFamily> = BTreeMap::new();
    for mut family in registries.flatten() {
        let Some(known) = sums.get_mut(family.name()) else {
            sums.insert(family.name().to_owned(), family);
            continue;
        };
        let kind = known.get_field_type();
        for metric in family.take_metric() {
            let series = known.mut_metric();
            match series.iter_mut().find(|known| known.get_label() == metric.get_label()) {
                Some(known) => add(known, &metric, kind),
                None => series.push(metric),
            }
        }
    }
    sums.into_values().collect()
}

fn add(sum: &mut Metric, more: &Metric, kind: MetricType) {
    match kind {
        MetricType::COUNTER => {
            let mut counter = Counter::default();
            counter.set_value(sum.get_counter().get_value() + more.get_counter().get_value());
            sum.set_counter(counter);
        }
        MetricType::GAUGE => {
            let mut gauge = Gauge::default();
            gauge.set_value(sum.get_gauge().get_value() + more.get_gauge().get_value());
            sum.set_gauge(gauge);
        }
        MetricType::HISTOGRAM => {
            let (one, other) = (sum.get_histogram(), more.get_histogram());
            let buckets = one.get_bucket().iter().zip(other.get_bucket()).map(|(one, other)| {
                let mut bucket = Bucket::default();
                bucket.set_upper_bound(one.upper_bound());
                bucket.set_cumulative_count(one.cumulative_count() + other.cumulative_count());
                bucket
            });
            let mut histogram = Histogram::default();
            histogram.set_bucket(buckets.collect());
            histogram.set_sample_count(one.get_sample_count() + other.get_sample_count());
            histogram.set_sample_sum(one.get_sample_sum() + other.get_sample_sum());
            sum.set_histogram(histogram);
        }
        // No metric here has another type.
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use prometheus::{Encoder, HistogramOpts, HistogramVec, IntCounterVec, Opts, Registry};

    #[test]
    fn series_with_the_same_labels_are_added_up() {
        let registry = |counts: &[(&str, u64)], seconds: f64| {
            let registry = Registry::new();
            let counter = IntCounterVec::new(Opts::new("calls_total", "Calls."), &["code"]);
            let counter = counter.expect("a counter");
            for (code, count) in counts {
                counter.with_label_values(&[code]).inc_by(*count);
            }
            let options = HistogramOpts::new("seconds", "Time.").buckets(vec![0.1, 1.0]);
            let histogram = HistogramVec::new(options, &["code"]).expect("a histogram");
            histogram.with_label_values(&["200"]).observe(seconds);
            registry.register(Box::new(counter)).expect("once");
            registry.register(Box::new(histogram)).expect("once");
            registry.gather()
        };
        let one = registry(&[("200", 2), ("404", 1)], 0.05);
        let other = registry(&[("200", 3), ("500", 7)], 0.5);
        let mut text = Vec::new();
        let sums = sum([one, other].into_iter());
        prometheus::TextEncoder::new().encode(&sums, &mut text).expect("renders");
        let text = String::from_utf8(text).expect("text");
        for line in [
            "calls_total{code=\"200\"} 5",
            "calls_total{code=\"404\"} 1",
            "calls_total{code=\"500\"} 7",
            "seconds_bucket{code=\"200\",le=\"0.1\"} 1",
            "seconds_bucket{code=\"200\",le=\"1\"} 2",
            "seconds_bucket{code=\"200\",le=\"+Inf\"} 2",
            "seconds_sum{code=\"200\"} 0.55",
            "seconds_count{code=\"200\"} 2",
        ] {
            assert!(text.contains(line), "{line} in {text}");
        }
    }
}

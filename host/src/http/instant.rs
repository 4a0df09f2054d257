//! Instants in JSON, as proto3's mapping has them: RFC 3339 in UTC, with a fraction only where
//! there is one. Written by hand, as each answer about a session has one and the general way
//! takes longer than all else that is written around a session.

use std::io::Write;

use prost_types::Timestamp;

use crate::api::timestamp;
use session_store::clock::Milliseconds;

const DAY_MS: u64 = 86_400_000;
/// The first instant whose year has five digits.
const YEAR_10000_MS: u64 = 253_402_300_800_000;

/// Appends an instant of a reply, without quotes.
pub fn write_timestamp(out: &mut Vec<u8>, at: &Timestamp) {
    let seconds = u64::try_from(at.seconds).ok().and_then(|seconds| seconds.checked_mul(1000));
    match (seconds, u64::try_from(at.nanos)) {
        (Some(of_seconds), Ok(nanos)) if nanos % 1_000_000 == 0 => {
            write(out, of_seconds + nanos / 1_000_000);
        }
        // Writing to memory does not fail.
        _ => drop(write!(out, "{at}")),
    }
}

/// Appends an instant, without quotes.
pub fn write(out: &mut Vec<u8>, at: Milliseconds) {
    if at >= YEAR_10000_MS {
        // Writing to memory does not fail.
        drop(write!(out, "{}", timestamp(at)));
        return;
    }
    let (days, of_day) = (at / DAY_MS, at % DAY_MS);
    let (year, month, day) = date(days);
    let (seconds, milliseconds) = (of_day / 1000, of_day % 1000);
    let mut text = *b"0000-00-00T00:00:00.000Z";
    for (at, digits, mut number) in [
        (0, 4, year),
        (5, 2, month),
        (8, 2, day),
        (11, 2, seconds / 3600),
        (14, 2, seconds / 60 % 60),
        (17, 2, seconds % 60),
        (20, 3, milliseconds),
    ] {
        for digit in text[at..at + digits].iter_mut().rev() {
            *digit = b'0' + (number % 10) as u8;
            number /= 10;
        }
    }
    match milliseconds {
        0 => {
            out.extend_from_slice(&text[..19]);
            out.push(b'Z');
        }
        _ => out.extend_from_slice(&text),
    }
}

/// Year, month and day of a number of days since 1970-01-01, in the Gregorian calendar. Years
/// are counted from March, so that a leap day is the last of one.
fn date(days: u64) -> (u64, u64, u64) {
    // Days since 0000-03-01, in eras of 400 years.
    let days = days + 719_468;
    let (era, of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let from_march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * from_march + 2) / 5 + 1;
    let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
    (era * 400 + year_of_era + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_instant_is_written_as_the_general_way_does_it() {
        let days = (0..3_000_000).step_by(97).map(|day| day * DAY_MS);
        let within = (0..DAY_MS).step_by(999_983).map(|of_day| 1_709_164_800_000 + of_day);
        let edges = [0, 1, 999, 1000, 951_782_400_000, YEAR_10000_MS - 1, YEAR_10000_MS];
        for at in days.chain(within).chain(edges) {
            let mut out = Vec::new();
            write(&mut out, at);
            assert_eq!(String::from_utf8_lossy(&out), timestamp(at).to_string(), "{at}");
        }
    }
}

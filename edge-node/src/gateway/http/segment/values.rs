//! Ids, moments and amounts as programs really send them. What can be read in one way only is read; what leaves a choice is not guessed.

use chrono::{DateTime, NaiveDate, NaiveDateTime};
use serde_json::{Number, Value};

/// Something that was read.
#[derive(Debug, Clone, PartialEq)]
pub struct Read<T> {
    pub value: T,
    /// How, where it is not in the form that is due.
    pub how: Option<&'static str>,
}

impl<T> Read<T> {
    fn as_due(value: T) -> Self {
        Self { value, how: None }
    }

    fn taken(value: T, how: &'static str) -> Self {
        Self { value, how: Some(how) }
    }
}

/// A text, or a number as JavaScript writes it: `42.0` is `42`.
pub fn text(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(digits(number)),
        _ => None,
    }
}

fn digits(number: &Number) -> String {
    /// Whole numbers up to here are exact.
    const EXACT_MAX: f64 = 9_007_199_254_740_992.0;
    match number.as_f64() {
        Some(float) if number.is_f64() && float.fract() == 0.0 && float.abs() <= EXACT_MAX => {
            format!("{float:.0}")
        }
        _ => number.to_string(),
    }
}

/// A moment from 1970 on, in milliseconds since then: RFC 3339, other forms of ISO 8601, or a number.
pub fn moment(value: &Value) -> Option<Read<u64>> {
    let read = match value {
        Value::String(text) => written(text.trim())?,
        Value::Number(number) => counted(number.as_f64()?)?,
        _ => return None,
    };
    Some(Read { value: u64::try_from(read.value).ok()?, how: read.how })
}

fn written(text: &str) -> Option<Read<i64>> {
    if let Ok(moment) = DateTime::parse_from_rfc3339(text) {
        return Some(Read::as_due(moment.timestamp_millis()));
    }
    // ISO 8601 as other programs write it: +0100, or no seconds. Which moment that is leaves no doubt.
    let zoned = ["%Y-%m-%dT%H:%M:%S%.f%z", "%Y-%m-%d %H:%M:%S%.f%z", "%Y-%m-%dT%H:%M%z"];
    let with_offset = text.strip_suffix('Z').map(|rest| format!("{rest}+0000"));
    let with_offset = with_offset.as_deref().unwrap_or(text);
    if let Some(moment) = zoned.iter().find_map(|form| DateTime::parse_from_str(with_offset, form).ok()) {
        return Some(Read::as_due(moment.timestamp_millis()));
    }
    if let Ok(moment) = DateTime::parse_from_rfc2822(text) {
        return Some(Read::taken(moment.timestamp_millis(), "read as a date of RFC 2822"));
    }
    let unzoned = ["%Y-%m-%dT%H:%M:%S%.f", "%Y-%m-%d %H:%M:%S%.f", "%Y-%m-%dT%H:%M", "%Y-%m-%d %H:%M"];
    if let Some(moment) = unzoned.iter().find_map(|form| NaiveDateTime::parse_from_str(text, form).ok()) {
        return Some(Read::taken(moment.and_utc().timestamp_millis(), "it has no zone, and was read as UTC"));
    }
    if let Ok(day) = NaiveDate::parse_from_str(text, "%Y-%m-%d") {
        let begun = day.and_hms_opt(0, 0, 0)?.and_utc();
        return Some(Read::taken(begun.timestamp_millis(), "it has no time, and was read as midnight UTC"));
    }
    let digits = text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    counted(text.parse().ok().filter(|_| digits)?)
}

/// Seconds of today have 10 digits, milliseconds 13, microseconds 16, nanoseconds 19: each unit begins where the one before would be
/// past the year 5000, and after 1973 in its own.
fn counted(number: f64) -> Option<Read<i64>> {
    let (ms, how) = match number {
        1.0..1e11 => (number * 1e3, "a number, read as seconds since 1970"),
        1e11..1e14 => (number, "a number, read as milliseconds since 1970"),
        1e14..1e17 => (number / 1e3, "a number, read as microseconds since 1970"),
        1e17..1e19 => (number / 1e6, "a number, read as nanoseconds since 1970"),
        // 0 is what a program has that knows no time.
        _ => return None,
    };
    Some(Read::taken(ms.round() as i64, how))
}

/// An amount: a number, as such or as text; or as people write money, where that leaves no choice.
pub fn amount(value: &Value) -> Option<Read<f64>> {
    let read = match value {
        Value::Number(number) => Read::as_due(number.as_f64()?),
        Value::String(text) => {
            let plain = text.bytes().all(|byte| byte.is_ascii_digit() || b"+-.eE".contains(&byte));
            match text.parse::<f64>().ok().filter(|_| plain) {
                Some(number) => Read::as_due(number),
                None => Read::taken(money(text)?, "read as money"),
            }
        }
        _ => return None,
    };
    Some(read).filter(|read| read.value.is_finite())
}

/// `€12.50`, `12,50 EUR`, `1.234,56`, `1'234.50`. Of two kinds of separators, the last is the decimal one; one alone before three digits
/// may be either.
fn money(text: &str) -> Option<f64> {
    const SYMBOLS: &str = "€$£¥₹₩₽₺₫₴₱฿¢₪₦";
    let beside = |c: char| c.is_alphabetic() || c.is_whitespace() || SYMBOLS.contains(c);
    let (sign, text) = match text.trim().replace('\u{2212}', "-").strip_prefix('-') {
        Some(rest) => (-1.0, rest.to_owned()),
        None => (1.0, text.trim().to_owned()),
    };
    let text = text.trim_matches(beside);
    let (sign, text) = match text.strip_prefix('-') {
        Some(rest) if sign > 0.0 => (-1.0, rest),
        _ => (sign, text),
    };
    let decimal = text.rfind(['.', ',']);
    let alone = decimal.is_some_and(|at| !text[..at].contains(['.', ',']));
    let (whole, fraction) = match decimal {
        // Once more: it parts thousands.
        Some(at) if !alone && text[..at].contains(&text[at..=at]) => (text, ""),
        Some(at) if alone && text.len() - at == 4 && &text[..at] != "0" => return None,
        Some(at) => (&text[..at], &text[at + 1..]),
        None => (text, ""),
    };
    let whole = thousands(whole)?;
    let sound = fraction.bytes().all(|byte| byte.is_ascii_digit())
        && (decimal.is_none() || !text.ends_with(['.', ',']));
    let number = format!("{whole}.{fraction}0").parse::<f64>().ok().filter(|_| sound)?;
    Some(sign * number)
}

/// Digits, in groups of three where they are in groups, with one separator.
fn thousands(text: &str) -> Option<String> {
    let separator = text.chars().find(|c| !c.is_ascii_digit());
    let groups: Vec<&str> = match separator {
        Some(separator) if separator.is_whitespace() || ".,'\u{2019}".contains(separator) => {
            text.split(separator).collect()
        }
        Some(_) => return None,
        None => vec![text],
    };
    let (first, rest) = groups.split_first()?;
    let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    let sound = !first.is_empty()
        && digits(first)
        && (rest.is_empty() || first.len() <= 3)
        && rest.iter().all(|group| group.len() == 3 && digits(group));
    sound.then(|| groups.concat())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn ids_may_be_numbers() {
        for (value, id) in [
            (json!("a"), Some("a")),
            (json!(42), Some("42")),
            (json!(42.0), Some("42")),
            (json!(-1), Some("-1")),
            (json!(1.5), Some("1.5")),
            (json!(u64::MAX), Some("18446744073709551615")),
            (json!(true), None),
            (json!(["a"]), None),
        ] {
            assert_eq!(text(&value).as_deref(), id, "{value}");
        }
    }

    #[test]
    fn moments_are_read_where_they_leave_no_doubt() {
        const DAY: u64 = 1_704_067_200_000;
        let due = [
            "2024-01-01T00:00:00Z",
            "2024-01-01T01:00:00.000+01:00",
            "2024-01-01T01:00:00+0100",
            "2024-01-01 00:00:00Z",
            "2024-01-01T00:00Z",
        ];
        for text in due {
            assert_eq!(moment(&json!(text)), Some(Read::as_due(DAY)), "{text}");
        }
        let taken = [
            json!("2024-01-01T00:00:00"),
            json!("2024-01-01 00:00:00.000"),
            json!("2024-01-01"),
            json!("Mon, 01 Jan 2024 00:00:00 GMT"),
            json!(1_704_067_200),
            json!(1_704_067_200.0),
            json!(DAY),
            json!("1704067200000"),
            json!(1_704_067_200_000_000_u64),
            json!("1704067200000000000"),
        ];
        for value in taken {
            let read = moment(&value).unwrap_or_else(|| panic!("{value}"));
            assert_eq!((read.value, read.how.is_some()), (DAY, true), "{value}");
        }
        for none in [
            json!("yesterday"),
            json!(""),
            json!("0001-01-01T00:00:00Z"),
            json!(0),
            json!(-1),
            json!(1e300),
            json!("1e400"),
            json!("NaN"),
            json!("01/02/2024"),
            json!(true),
            json!({}),
            json!("2024-13-01T00:00:00Z"),
        ] {
            assert_eq!(moment(&none), None, "{none}");
        }
    }

    #[test]
    fn amounts_are_read_where_they_leave_no_choice() {
        for (value, number) in
            [(json!(12.5), 12.5), (json!("12.50"), 12.5), (json!("-3"), -3.0), (json!("1e2"), 100.0)]
        {
            assert_eq!(amount(&value), Some(Read::as_due(number)), "{value}");
        }
        for (text, number) in [
            ("12,50", 12.5),
            ("1.234,56", 1_234.56),
            ("1,234.56", 1_234.56),
            ("€12.50", 12.5),
            ("12,50 €", 12.5),
            ("EUR 12.50", 12.5),
            ("-€12.50", -12.5),
            ("€-12.50", -12.5),
            ("\u{2212}12,50", -12.5),
            ("1 234,56", 1_234.56),
            ("1\u{a0}234", 1_234.0),
            ("1'234.50", 1_234.5),
            ("1.234.567", 1_234_567.0),
            ("1,234,567.8", 1_234_567.8),
            ("0,125", 0.125),
            (" 7 ", 7.0),
        ] {
            assert_eq!(amount(&json!(text)), Some(Read::taken(number, "read as money")), "{text}");
        }
        for none in [
            "1,234", "$1.234", "NaN", "inf", "Infinity", "1e400", "", "€", "12.50.3", "1,23,45", "12-50",
            "50%", "free", "1,", ",5x", "1 2",
        ] {
            assert_eq!(amount(&json!(none)), None, "{none}");
        }
        for none in [json!(null), json!([1]), json!(true), json!({"amount": 1})] {
            assert_eq!(amount(&none), None, "{none}");
        }
    }
}

//! JSON as programs really send it. Half a surrogate pair, a number that no double holds, Python's `NaN`, a raw line break in a text, or
//! nesting without end are mended here, each alone, so that none takes the rest of a message, or of a batch, along. What else is no JSON
//! (RFC 8259) stays so.

use std::borrow::Cow;

use super::notes::Reason;

/// Levels of objects and lists in a body; what is deeper is left out. serde_json reads 128.
const DEPTH_MAX: usize = 64;

/// Things in a body that are told one by one; those beyond are mended, too, and told as one. A body of one byte each would else be half a
/// million of them.
const REPAIRS_LEN_MAX: usize = 1_000;

/// A body that was looked through.
#[derive(Debug)]
pub struct Mended<'b> {
    /// What is to be read.
    pub text: Cow<'b, str>,
    /// What was done, in the order of the text.
    pub repairs: Vec<Repair>,
}

/// One thing that was mended.
#[derive(Debug, PartialEq, Eq)]
pub struct Repair {
    /// Where it stands in the mended text, in bytes.
    pub at: usize,
    pub reason: Reason,
    pub detail: String,
}

/// Mends it.
pub fn mend(body: &[u8]) -> Mended<'_> {
    match String::from_utf8_lossy(body.strip_prefix(b"\xef\xbb\xbf").unwrap_or(body)) {
        Cow::Borrowed(text) => {
            let (mended, repairs) = Mender::new(text).run();
            Mended { text: mended.map_or(Cow::Borrowed(text), Cow::Owned), repairs }
        }
        Cow::Owned(text) => {
            let (mended, mut repairs) = Mender::new(&text).run();
            let detail = "bytes that are not UTF-8 became U+FFFD".to_owned();
            repairs.insert(0, Repair { at: 0, reason: Reason::Text, detail });
            Mended { text: Cow::Owned(mended.unwrap_or(text)), repairs }
        }
    }
}

struct Mender<'t> {
    text: &'t str,
    /// Read to here.
    at: usize,
    /// In `out` to here.
    copied: usize,
    out: String,
    repairs: Vec<Repair>,
}

impl<'t> Mender<'t> {
    fn new(text: &'t str) -> Self {
        Self { text, at: 0, copied: 0, out: String::new(), repairs: Vec::new() }
    }

    /// The text, where it is another now.
    fn run(mut self) -> (Option<String>, Vec<Repair>) {
        let mut depth = 0_usize;
        while let Some(byte) = self.byte(0) {
            match byte {
                b'"' => self.string(),
                b'{' | b'[' if depth == DEPTH_MAX => self.too_deep(),
                b'{' | b'[' => {
                    depth += 1;
                    self.at += 1;
                }
                b'}' | b']' => {
                    depth = depth.saturating_sub(1);
                    self.at += 1;
                }
                b'-' | b'0'..=b'9' | b'I' | b'N' => self.number(),
                _ => self.at += 1,
            }
        }
        if self.copied == 0 && self.out.is_empty() {
            return (None, self.repairs);
        }
        self.out.push_str(&self.text[self.copied..]);
        (Some(self.out), self.repairs)
    }

    fn byte(&self, ahead: usize) -> Option<u8> {
        self.text.as_bytes().get(self.at + ahead).copied()
    }

    /// The next so many bytes become this.
    fn replace(&mut self, len: usize, with: &str) {
        self.out.push_str(&self.text[self.copied..self.at]);
        self.out.push_str(with);
        self.at += len;
        self.copied = self.at;
    }

    fn repair(&mut self, len: usize, with: &str, reason: Reason, detail: impl FnOnce() -> String) {
        let at = self.out.len() + self.at - self.copied;
        if self.repairs.len() < REPAIRS_LEN_MAX {
            self.repairs.push(Repair { at, reason, detail: detail() });
        } else if self.repairs.len() == REPAIRS_LEN_MAX {
            self.repairs.push(Repair {
                at,
                reason,
                detail: "what follows is mended, and not told".to_owned(),
            });
        }
        self.replace(len, with);
    }

    fn string(&mut self) {
        self.at += 1;
        while let Some(byte) = self.byte(0) {
            match byte {
                b'"' => {
                    self.at += 1;
                    return;
                }
                b'\\' => self.escape(),
                0..0x20 => {
                    let detail = || format!("the control character U+{byte:04X} stood in a text unescaped");
                    self.repair(1, &format!("\\u{byte:04x}"), Reason::Text, detail);
                }
                _ => self.at += 1,
            }
        }
    }

    /// A backslash and what belongs to it. Halves of a surrogate pair (RFC 8259, 8.2) are no characters.
    fn escape(&mut self) {
        match self.unit(0) {
            Some(0xd800..0xdc00) if matches!(self.unit(6), Some(0xdc00..0xe000)) => self.at += 12,
            Some(unit @ 0xd800..0xe000) => {
                let detail = || format!("\\u{unit:04x} is half a surrogate pair; it became U+FFFD");
                self.repair(6, "\\ufffd", Reason::Text, detail);
            }
            // The next may be half of a character that is no ASCII: it is looked at by itself.
            _ => self.at += if self.byte(1).is_some_and(|next| next.is_ascii()) { 2 } else { 1 },
        }
    }

    /// What `\u` and four digits say.
    fn unit(&self, ahead: usize) -> Option<u16> {
        let escape = self.text.as_bytes().get(self.at + ahead..self.at + ahead + 6)?;
        let hex = escape.strip_prefix(b"\\u").filter(|hex| hex.iter().all(u8::is_ascii_hexdigit))?;
        u16::from_str_radix(std::str::from_utf8(hex).ok()?, 16).ok()
    }

    /// A number, or what JavaScript and Python have beside numbers. As text it is whole, whatever a double holds.
    fn number(&mut self) {
        let rest = &self.text[self.at..];
        let len = rest.find(|c: char| !c.is_ascii_alphanumeric() && !"+-.".contains(c)).unwrap_or(rest.len());
        let number = &rest[..len];
        let digits = number.strip_prefix('-').unwrap_or(number);
        if matches!(digits, "NaN" | "Infinity") {
            let detail = || format!("{number} is no JSON; it is taken as text");
            self.repair(len, &format!("\"{number}\""), Reason::Number, detail);
        } else if !digits.is_empty() && digits.bytes().all(|digit| digit.is_ascii_digit()) {
            let kept = number.parse::<i64>().is_ok() || number.parse::<u64>().is_ok();
            if kept || (digits.len() > 1 && digits.starts_with('0')) {
                self.at += len;
            } else {
                self.replace(len, &format!("\"{number}\""));
            }
        } else if digits.starts_with(|c: char| c.is_ascii_digit())
            && number.parse::<f64>().is_ok_and(f64::is_infinite)
        {
            let detail = || {
                format!("{} is larger than a number can be; it is taken as text", super::notes::cut(number))
            };
            self.repair(len, &format!("\"{number}\""), Reason::Number, detail);
        } else {
            self.at += len.max(1);
        }
    }

    /// An object or a list that nobody reads.
    fn too_deep(&mut self) {
        let (mut depth, mut in_string, mut escaped) = (0_usize, false, false);
        let bytes = self.text.as_bytes().iter().enumerate().skip(self.at);
        for (at, byte) in bytes {
            match byte {
                _ if escaped => escaped = false,
                b'\\' if in_string => escaped = true,
                b'"' => in_string = !in_string,
                b'{' | b'[' if !in_string => depth += 1,
                b'}' | b']' if !in_string => depth -= 1,
                _ => {}
            }
            if depth == 0 {
                let detail = || format!("what is nested deeper than {DEPTH_MAX} levels is left out");
                return self.repair(at + 1 - self.at, "null", Reason::Depth, detail);
            }
        }
        self.at = self.text.len();
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn read(body: &[u8]) -> (Value, Vec<Reason>) {
        let mended = mend(body);
        let value =
            serde_json::from_str(&mended.text).unwrap_or_else(|error| panic!("{error}: {}", mended.text));
        (value, mended.repairs.iter().map(|repair| repair.reason).collect())
    }

    #[test]
    fn sound_json_is_left_alone() {
        for sound in [
            r#"{"a": "\ud83d\ude00 \\ud800 \" \u00e9", "n": [-1.5e3, 0, 18446744073709551615], "t": true, "z": null}"#,
            "\"é\\\\\"",
            "12",
        ] {
            let mended = mend(sound.as_bytes());
            assert!(matches!(mended.text, Cow::Borrowed(text) if text == sound), "{sound}");
            assert_eq!(mended.repairs, []);
        }
    }

    #[test]
    fn each_fault_is_mended_alone() {
        let text = [Reason::Text];
        assert_eq!(read(br#"["\ud800", 1]"#), (json!(["\u{fffd}", 1]), text.to_vec()));
        assert_eq!(read(br#"["\udc00\ud83d\ude00"]"#), (json!(["\u{fffd}\u{1f600}"]), text.to_vec()));
        assert_eq!(read(br#"["\ud800\u0041"]"#), (json!(["\u{fffd}A"]), text.to_vec()));
        assert_eq!(read(b"[\"a\nb\"]"), (json!(["a\nb"]), text.to_vec()));
        assert_eq!(read(b"[\"\xff\"]"), (json!(["\u{fffd}"]), text.to_vec()));
        assert_eq!(read(b"\xef\xbb\xbf[1]"), (json!([1]), vec![]));
        let number = [Reason::Number];
        assert_eq!(read(b"[1e400, 1]"), (json!(["1e400", 1]), number.to_vec()));
        assert_eq!(read(b"[-1e400]"), (json!(["-1e400"]), number.to_vec()));
        assert_eq!(
            read(b"[NaN, -Infinity]"),
            (json!(["NaN", "-Infinity"]), vec![Reason::Number, Reason::Number])
        );
        assert_eq!(read(b"[12345678901234567890123]"), (json!(["12345678901234567890123"]), vec![]));
    }

    #[test]
    fn what_is_too_deep_is_left_out_with_what_is_in_it() {
        let deep = format!("[1, {}\"]\\\"\"{}, 2]", "[".repeat(5_000), "]".repeat(5_000));
        let (value, reasons) = read(deep.as_bytes());
        assert_eq!((&value[0], &value[2], reasons), (&json!(1), &json!(2), vec![Reason::Depth]));
    }

    #[test]
    fn a_repair_is_where_it_stands() {
        let mended = mend(br#"[1e400, "\ud800"]"#);
        let at: Vec<usize> = mended.repairs.iter().map(|repair| repair.at).collect();
        assert_eq!(at, [1, mended.text.find("\\ufffd").unwrap()]);
    }

    #[test]
    fn however_many_faults_there_are_few_are_told() {
        let wrong = format!("[\"{}\"]", "\u{1}".repeat(100_000));
        let mended = mend(wrong.as_bytes());
        assert_eq!(mended.repairs.len(), REPAIRS_LEN_MAX + 1);
        let value: Value = serde_json::from_str(&mended.text).unwrap();
        assert_eq!(value[0].as_str().unwrap().len(), 100_000);
    }

    #[test]
    fn what_is_no_json_stays_none() {
        for wrong in [
            "[01]",
            "[1.]",
            "[\"\\x\"]",
            "[\"a",
            "[nan]",
            "[--1]",
            "[1 2]",
            "\\",
            "[\"\\é\"]",
            "{\"a\":\\ud800}",
        ] {
            assert!(serde_json::from_str::<Value>(&mend(wrong.as_bytes()).text).is_err(), "{wrong}");
        }
    }
}

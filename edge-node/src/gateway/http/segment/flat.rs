//! JSON of any depth as name–value pairs.

use proto::event::Attributes;
use proto::limits::{ATTRIBUTE_BYTES_MAX, ATTRIBUTES_MAX};
use serde_json::{Map, Value};

/// How many were left out, where some were.
const LEFT_OUT: &str = "_left_out";

/// `{"a": {"b": 1}}` is `a.b = 1`; a list is its JSON. What is too long, or too much, is left out, and how much that was is said
/// in `_left_out`, and beside the pairs.
pub fn flat(object: &Map<String, Value>) -> (Attributes, u64) {
    let mut pairs = Pairs { kept: Vec::new(), left_out: 0 };
    pairs.add("", object);
    if pairs.left_out > 0 {
        pairs.kept.truncate(ATTRIBUTES_MAX - 1);
        pairs.kept.push((LEFT_OUT.to_owned(), pairs.left_out.to_string()));
    }
    (pairs.kept, pairs.left_out)
}

struct Pairs {
    kept: Attributes,
    left_out: u64,
}

impl Pairs {
    /// One place is kept for the number of those that have none. As deep as serde_json reads: 128 levels.
    fn add(&mut self, prefix: &str, object: &Map<String, Value>) {
        for (name, value) in object {
            if self.kept.len() == ATTRIBUTES_MAX - 1 || prefix.len() + name.len() > ATTRIBUTE_BYTES_MAX {
                // Not looked into: that would cost more than it tells.
                self.left_out += u64::from(!value.is_null());
                continue;
            }
            let name = format!("{prefix}{name}");
            let text = match value {
                Value::Null => continue,
                Value::Object(inner) => {
                    self.add(&format!("{name}."), inner);
                    continue;
                }
                Value::String(text) => text.clone(),
                Value::Bool(_) | Value::Number(_) | Value::Array(_) => value.to_string(),
            };
            if text.len() <= ATTRIBUTE_BYTES_MAX {
                self.kept.push((name, text));
            } else {
                self.left_out += 1;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn of(value: Value) -> Attributes {
        flat(value.as_object().unwrap()).0
    }

    #[test]
    fn names_are_paths() {
        let pairs = of(
            json!({"plan": "gold", "address": {"city": "Graz", "geo": {"lat": 47.07}}, "tags": [1, "b"], "no": null}),
        );
        let text: Vec<String> = pairs.iter().map(|(name, value)| format!("{name}={value}")).collect();
        assert_eq!(text, ["address.city=Graz", "address.geo.lat=47.07", "plan=gold", "tags=[1,\"b\"]"]);
    }

    #[test]
    fn what_does_not_fit_is_counted() {
        let many: Map<String, Value> = (0..40).map(|n| (format!("k{n:02}"), json!(n))).collect();
        let (pairs, left_out) = flat(&many);
        assert_eq!((pairs.len(), left_out), (ATTRIBUTES_MAX, 9));
        assert_eq!(pairs.last().unwrap(), &("_left_out".to_owned(), "9".to_owned()));
        let long =
            of(json!({"a": "x".repeat(ATTRIBUTE_BYTES_MAX), "b": "x".repeat(ATTRIBUTE_BYTES_MAX + 1)}));
        assert_eq!(long.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), ["a", "_left_out"]);
        proto::event::check_attributes(&long).unwrap();
    }
}

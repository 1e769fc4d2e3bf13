//! Cutting the upstream's answer to what the policy lets out.

use alloc::{collections::BTreeMap, string::String};

use serde_json::{Map, Value};
use toani_protocol::{
    canonical::{self, Json},
    limits::RESULT_BYTES_MAX,
    policy::{Output, OutputType},
};

/// The answer lacks what the policy requires, or is no JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the upstream's answer is not what the policy expects")]
pub(crate) struct Unusable;

/// Takes the named values out of a response. A value of another type than the policy says counts
/// as absent.
pub(crate) fn cut(body: &[u8], outputs: &BTreeMap<String, Output>) -> Result<Json, Unusable> {
    let mut result = Map::new();
    if outputs.is_empty() {
        return Ok(Json(Value::Object(result)));
    }
    let answer: Value = serde_json::from_slice(body).map_err(|_| Unusable)?;
    for (name, output) in outputs {
        let found = answer.pointer(&output.pointer).filter(|value| fits(value, output));
        match found {
            Some(value) => {
                result.insert(name.clone(), value.clone());
            }
            None if output.required => return Err(Unusable),
            None => {}
        }
    }
    let result = Value::Object(result);
    // Also refuses numbers that two readers may read differently.
    let bytes = canonical::encode_value(&result).map_err(|_| Unusable)?;
    if bytes.len() > RESULT_BYTES_MAX { Err(Unusable) } else { Ok(Json(result)) }
}

fn fits(value: &Value, output: &Output) -> bool {
    let max = usize::try_from(output.max).unwrap_or(usize::MAX);
    let scalar = |value: &Value| match value {
        Value::String(text) => text.len() <= RESULT_BYTES_MAX,
        Value::Number(_) | Value::Bool(_) => canonical::encode_value(value).is_ok(),
        _ => false,
    };
    match (output.r#type, value) {
        (OutputType::String, Value::String(text)) => text.len() <= max,
        (OutputType::Integer, Value::Number(number)) => {
            number.is_i64() && canonical::encode_value(value).is_ok()
        }
        (OutputType::Number, Value::Number(_)) | (OutputType::Boolean, Value::Bool(_)) => {
            scalar(value)
        }
        (OutputType::List, Value::Array(items)) => items.len() <= max && items.iter().all(scalar),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString;
    use serde_json::json;

    fn outputs(document: Value) -> BTreeMap<String, Output> {
        serde_json::from_value(document).unwrap()
    }

    #[test]
    fn only_what_is_named_and_typed_goes_out() {
        let outputs = outputs(json!({
            "balance": {"pointer": "/account/balance", "type": "number", "required": true},
            "id": {"pointer": "/account/id", "type": "integer"},
            "name": {"pointer": "/account/owner~1name", "type": "string", "max": 4},
            "tags": {"pointer": "/tags", "type": "list", "max": 2},
            "ok": {"pointer": "/ok", "type": "boolean"},
        }));
        let body = json!({
            "account": {"balance": 12.5, "id": 7, "owner/name": "Anna", "secret": "no"},
            "tags": ["a", 1], "ok": true, "more": 1,
        });
        let cut_ = cut(body.to_string().as_bytes(), &outputs).unwrap();
        assert_eq!(
            cut_.0,
            json!({"balance": 12.5, "id": 7, "name": "Anna", "tags": ["a", 1], "ok": true})
        );
        let body = json!({
            "account": {"balance": 1, "id": 1.5, "owner/name": "Annabel"},
            "tags": [["a"]], "ok": "true",
        });
        assert_eq!(cut(body.to_string().as_bytes(), &outputs).unwrap().0, json!({"balance": 1}));
        for bad in ["", "{}", "[1]", "{\"account\":{\"balance\":\"1\"}}", "\u{0}"] {
            assert_eq!(cut(bad.as_bytes(), &outputs), Err(Unusable), "{bad}");
        }
        let unsafe_integer = br#"{"account":{"balance":9007199254740993}}"#;
        assert_eq!(cut(unsafe_integer, &outputs), Err(Unusable));
    }
}

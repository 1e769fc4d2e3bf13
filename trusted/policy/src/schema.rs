//! JSON Schema, in the part of its vocabulary that leaves nothing open.
//!
//! Keywords: `type`, `properties`, `required`, `additionalProperties` (only `false`), `items`,
//! `enum`, `const`, `minimum`, `maximum`, `minLength`, `maxLength`, `minItems`, `maxItems`,
//! `title`, `description`. Any other makes the policy invalid. Objects are closed, texts and lists
//! have a maximum even where none is written.

use alloc::{boxed::Box, collections::BTreeMap, string::String, vec::Vec};

use serde_json::{Map, Number, Value};
use toani_protocol::limits::PARAMS_MAX;

/// Longest text, in characters, where `maxLength` is not given; and the most it may be.
const TEXT_LENGTH_DEFAULT: u64 = 1024;
const TEXT_LENGTH_MAX: u64 = 32 * 1024;
/// Most items where `maxItems` is not given; and the most it may be.
const ITEMS_DEFAULT: u64 = 100;
const ITEMS_MAX: u64 = 1_000;
const CHOICES_MAX: usize = 1_000;
const DEPTH_MAX: usize = 8;

/// A schema that is not of the documented vocabulary.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SchemaError {
    #[error("a keyword that is not in the documented vocabulary")]
    UnknownKeyword,
    #[error("a keyword with a value of the wrong kind, or one that does not go with the type")]
    Malformed,
    #[error("type is missing or not one of string, integer, number, boolean, array, object")]
    Type,
    #[error("objects are closed: additionalProperties may only be false")]
    OpenObject,
    #[error("required names a property that is not defined")]
    Required,
    #[error("nested too deeply, or too many properties or choices")]
    TooLarge,
}

/// A compiled schema.
#[derive(Debug, Clone, PartialEq)]
pub struct Schema {
    kind: Kind,
    /// From `enum` and `const`.
    choices: Option<Vec<Value>>,
}

#[derive(Debug, Clone, PartialEq)]
enum Kind {
    Text { min: u64, max: u64 },
    Integer(Range<i64>),
    Number(Range<f64>),
    Boolean,
    List { items: Box<Schema>, min: u64, max: u64 },
    Object { properties: BTreeMap<String, Property> },
}

/// Both ends are in it.
#[derive(Debug, Clone, PartialEq)]
struct Range<T> {
    min: Option<T>,
    max: Option<T>,
}

impl<T: PartialOrd> Range<T> {
    fn holds(&self, value: Option<T>) -> bool {
        let fits = |value: T| {
            let (min, max) = (self.min.as_ref(), self.max.as_ref());
            min.is_none_or(|min| value >= *min) && max.is_none_or(|max| value <= *max)
        };
        value.is_some_and(fits)
    }
}

#[derive(Debug, Clone, PartialEq)]
struct Property {
    schema: Schema,
    required: bool,
}

impl Schema {
    /// Compiles a schema document.
    pub fn compile(document: &Value) -> Result<Self, SchemaError> {
        compile(document, 0)
    }

    /// Whether a value satisfies the schema.
    pub fn accepts(&self, value: &Value) -> bool {
        let chosen = self.choices.as_ref().is_none_or(|choices| choices.contains(value));
        chosen && self.kind.accepts(value)
    }

    /// Whether this is the schema of an object.
    pub fn is_object(&self) -> bool {
        matches!(self.kind, Kind::Object { .. })
    }

    /// Whether values are texts, numbers or booleans, so that they can stand in a URL.
    pub fn is_scalar(&self) -> bool {
        !matches!(self.kind, Kind::Object { .. } | Kind::List { .. })
    }

    /// Whether values are integers of at least zero.
    pub fn is_natural(&self) -> bool {
        matches!(self.kind, Kind::Integer(Range { min: Some(min), .. }) if min >= 0)
    }

    /// A property's schema and whether it is required.
    pub fn property(&self, name: &str) -> Option<(&Schema, bool)> {
        match &self.kind {
            Kind::Object { properties } => {
                properties.get(name).map(|property| (&property.schema, property.required))
            }
            _ => None,
        }
    }
}

impl Kind {
    fn accepts(&self, value: &Value) -> bool {
        match (self, value) {
            (Self::Text { min, max }, Value::String(text)) => {
                within(text.chars().count(), *min, *max)
            }
            (Self::Integer(range), Value::Number(number)) => range.holds(number.as_i64()),
            (Self::Number(range), Value::Number(number)) => range.holds(number.as_f64()),
            (Self::Boolean, Value::Bool(_)) => true,
            (Self::List { items, min, max }, Value::Array(values)) => {
                within(values.len(), *min, *max) && values.iter().all(|value| items.accepts(value))
            }
            (Self::Object { properties }, Value::Object(map)) => {
                let known = map.iter().all(|(name, value)| {
                    properties.get(name).is_some_and(|property| property.schema.accepts(value))
                });
                let complete = properties
                    .iter()
                    .all(|(name, property)| !property.required || map.contains_key(name));
                known && complete
            }
            _ => false,
        }
    }
}

fn within(count: usize, min: u64, max: u64) -> bool {
    u64::try_from(count).is_ok_and(|count| count >= min && count <= max)
}

fn compile(document: &Value, depth: usize) -> Result<Schema, SchemaError> {
    let map = document.as_object().ok_or(SchemaError::Malformed)?;
    if depth > DEPTH_MAX {
        return Err(SchemaError::TooLarge);
    }
    let kind_name = map.get("type").and_then(Value::as_str).ok_or(SchemaError::Type)?;
    let (kind, own): (Kind, &[&str]) = match kind_name {
        "string" => (text(map)?, &["minLength", "maxLength"]),
        "integer" => (Kind::Integer(bounds(map, Number::as_i64)?), &["minimum", "maximum"]),
        "number" => (Kind::Number(bounds(map, Number::as_f64)?), &["minimum", "maximum"]),
        "boolean" => (Kind::Boolean, &[]),
        "array" => (list(map, depth)?, &["items", "minItems", "maxItems"]),
        "object" => (object(map, depth)?, &["properties", "required", "additionalProperties"]),
        _ => return Err(SchemaError::Type),
    };
    for key in map.keys() {
        let common = matches!(key.as_str(), "type" | "title" | "description" | "enum" | "const");
        if !common && !own.contains(&key.as_str()) {
            return Err(SchemaError::UnknownKeyword);
        }
    }
    Ok(Schema { kind, choices: choices(map)? })
}

fn choices(map: &Map<String, Value>) -> Result<Option<Vec<Value>>, SchemaError> {
    match (map.get("enum"), map.get("const")) {
        (None, None) => Ok(None),
        (None, Some(only)) => Ok(Some(alloc::vec![only.clone()])),
        (Some(Value::Array(list)), None) if list.len() > CHOICES_MAX => Err(SchemaError::TooLarge),
        (Some(Value::Array(list)), None) if !list.is_empty() => Ok(Some(list.clone())),
        _ => Err(SchemaError::Malformed),
    }
}

fn count(map: &Map<String, Value>, key: &str, default: u64) -> Result<u64, SchemaError> {
    match map.get(key) {
        None => Ok(default),
        Some(value) => value.as_u64().ok_or(SchemaError::Malformed),
    }
}

fn bounds<T>(
    map: &Map<String, Value>,
    read: impl Fn(&Number) -> Option<T>,
) -> Result<Range<T>, SchemaError> {
    let bound = |key| match map.get(key) {
        None => Ok(None),
        Some(Value::Number(number)) => read(number).map(Some).ok_or(SchemaError::Malformed),
        Some(_) => Err(SchemaError::Malformed),
    };
    Ok(Range { min: bound("minimum")?, max: bound("maximum")? })
}

fn text(map: &Map<String, Value>) -> Result<Kind, SchemaError> {
    let min = count(map, "minLength", 0)?;
    let max = count(map, "maxLength", TEXT_LENGTH_DEFAULT)?;
    if max > TEXT_LENGTH_MAX { Err(SchemaError::TooLarge) } else { Ok(Kind::Text { min, max }) }
}

fn list(map: &Map<String, Value>, depth: usize) -> Result<Kind, SchemaError> {
    let items = compile(map.get("items").ok_or(SchemaError::Malformed)?, depth.saturating_add(1))?;
    let min = count(map, "minItems", 0)?;
    let max = count(map, "maxItems", ITEMS_DEFAULT)?;
    if max > ITEMS_MAX {
        return Err(SchemaError::TooLarge);
    }
    Ok(Kind::List { items: Box::new(items), min, max })
}

fn object(map: &Map<String, Value>, depth: usize) -> Result<Kind, SchemaError> {
    if map.get("additionalProperties").is_some_and(|value| *value != Value::Bool(false)) {
        return Err(SchemaError::OpenObject);
    }
    let empty = Map::new();
    let documents = match map.get("properties") {
        None => &empty,
        Some(Value::Object(documents)) => documents,
        Some(_) => return Err(SchemaError::Malformed),
    };
    if documents.len() > PARAMS_MAX {
        return Err(SchemaError::TooLarge);
    }
    let mut properties = BTreeMap::new();
    for (name, document) in documents {
        let schema = compile(document, depth.saturating_add(1))?;
        properties.insert(name.clone(), Property { schema, required: false });
    }
    for name in required(map)? {
        properties.get_mut(name).ok_or(SchemaError::Required)?.required = true;
    }
    Ok(Kind::Object { properties })
}

fn required(map: &Map<String, Value>) -> Result<Vec<&str>, SchemaError> {
    match map.get("required") {
        None => Ok(Vec::new()),
        Some(Value::Array(names)) => {
            names.iter().map(|name| name.as_str().ok_or(SchemaError::Malformed)).collect()
        }
        Some(_) => Err(SchemaError::Malformed),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn accepts_and_refuses() {
        let schema = Schema::compile(&json!({
            "type": "object",
            "properties": {
                "symbol": {"type": "string", "enum": ["ACME", "INIT"]},
                "quantity": {"type": "integer", "minimum": 1, "maximum": 100},
                "limit": {"type": "number", "minimum": 0.5},
                "tags": {"type": "array", "items": {"type": "string", "maxLength": 3}, "maxItems": 2},
                "dry": {"type": "boolean", "const": true},
            },
            "required": ["symbol", "quantity"],
        }))
        .unwrap();
        for good in [
            json!({"symbol": "ACME", "quantity": 1}),
            json!({"symbol": "INIT", "quantity": 100, "limit": 7, "tags": ["abc"], "dry": true}),
        ] {
            assert!(schema.accepts(&good), "{good}");
        }
        for bad in [
            json!({"symbol": "ACME"}),
            json!({"symbol": "OTHR", "quantity": 1}),
            json!({"symbol": "ACME", "quantity": 0}),
            json!({"symbol": "ACME", "quantity": 101}),
            json!({"symbol": "ACME", "quantity": 1.5}),
            json!({"symbol": "ACME", "quantity": "1"}),
            json!({"symbol": "ACME", "quantity": null}),
            json!({"symbol": "ACME", "quantity": 1, "limit": 0.25}),
            json!({"symbol": "ACME", "quantity": 1, "tags": ["abcd"]}),
            json!({"symbol": "ACME", "quantity": 1, "tags": ["a", "b", "c"]}),
            json!({"symbol": "ACME", "quantity": 1, "dry": false}),
            json!({"symbol": "ACME", "quantity": 1, "extra": 1}),
            json!([]),
        ] {
            assert!(!schema.accepts(&bad), "{bad}");
        }
    }

    #[test]
    fn an_unknown_keyword_makes_it_invalid() {
        for (bad, error) in [
            (json!({"type": "string", "pattern": ".*"}), SchemaError::UnknownKeyword),
            (json!({"type": "string", "minimum": 1}), SchemaError::UnknownKeyword),
            (json!({"type": "object", "additionalProperties": true}), SchemaError::OpenObject),
            (json!({"type": "object", "required": ["a"]}), SchemaError::Required),
            (json!({"type": ["string", "null"]}), SchemaError::Type),
            (json!({"properties": {}}), SchemaError::Type),
            (json!({"type": "string", "maxLength": 99999}), SchemaError::TooLarge),
            (json!({"type": "string", "maxLength": "9"}), SchemaError::Malformed),
            (json!({"type": "integer", "enum": []}), SchemaError::Malformed),
            (json!(true), SchemaError::Malformed),
        ] {
            assert_eq!(Schema::compile(&bad), Err(error), "{bad}");
        }
    }
}

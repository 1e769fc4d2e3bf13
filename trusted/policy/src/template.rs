//! Templates: where params go, and how they are written there.
//!
//! A param can fill one path segment, one query value, one header value, or one place in a body
//! tree. It can add nothing beside itself.

use alloc::{collections::BTreeMap, format, string::String, vec::Vec};

use serde_json::{Map, Value};
use toani_protocol::{
    canonical::{self, Json},
    limits::{HEADERS_MAX, PATH_SEGMENTS_MAX, QUERY_MAX},
    policy::{Injection, Template},
    reason::Reason,
};

use crate::{schema::Schema, verified::PolicyProblem};

/// A template whose every place was checked against the params' schema.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct CompiledTemplate {
    path: Vec<Place>,
    query: Vec<(String, Place)>,
    headers: Vec<(String, Place)>,
    body: Option<Value>,
}

/// A literal text, or a param.
#[derive(Debug, Clone, PartialEq)]
enum Place {
    Literal(String),
    Param(String),
}

/// Path, query, headers and body, with all params in place.
#[derive(Debug)]
pub(crate) struct Rendered {
    pub(crate) path: String,
    pub(crate) query: Vec<(String, String)>,
    pub(crate) headers: BTreeMap<String, String>,
    pub(crate) body: Option<Json>,
}

/// Headers that belong to the connector or to the credential.
const HEADERS_RESERVED: &[&str] = &[
    "authorization",
    "connection",
    "content-length",
    "content-type",
    "cookie",
    "expect",
    "host",
    "keep-alive",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// Whether a header may be set by a template or named for an injection.
pub(crate) fn is_free_header(name: &str) -> bool {
    let token = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'_';
    !name.is_empty()
        && name.len() <= 64
        && name.bytes().all(token)
        && !HEADERS_RESERVED.contains(&name)
}

/// RFC 3986, section 3.3: what may stand in a path segment as it is. No percent: a literal segment
/// has one spelling.
fn is_literal_segment(text: &str) -> bool {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=:@".contains(&b);
    !text.is_empty() && text != "." && text != ".." && text.bytes().all(plain)
}

impl CompiledTemplate {
    pub(crate) fn compile(
        template: &Template,
        injection: Option<&Injection>,
        params: &Schema,
    ) -> Result<Self, PolicyProblem> {
        let path = path(&template.path, params)?;
        if template.query.len() > QUERY_MAX || template.headers.len() > HEADERS_MAX {
            return Err(PolicyProblem::TooMany);
        }
        let mut query = Vec::new();
        for (name, value) in &template.query {
            let injected = matches!(injection, Some(Injection::Query(own)) if own == name);
            if name.is_empty() || injected {
                return Err(PolicyProblem::Query);
            }
            query.push((percent_encode(name), place(&value.0, params)?));
        }
        let mut headers = Vec::new();
        for (name, value) in &template.headers {
            let injected = matches!(injection, Some(Injection::Header(own)) if own == name);
            let place = place(&value.0, params)?;
            let literal_fits = !matches!(&place, Place::Literal(text) if !is_header_value(text));
            if !is_free_header(name) || injected || !literal_fits {
                return Err(PolicyProblem::Header);
            }
            headers.push((name.clone(), place));
        }
        let body = template.body.as_ref().map(|body| body.0.clone());
        if let Some(tree) = &body {
            check_body(tree, params)?;
        }
        Ok(Self { path, query, headers, body })
    }

    /// Fills in params that the schema has accepted.
    pub(crate) fn fill(&self, params: &Map<String, Value>) -> Result<Rendered, Reason> {
        let mut path = String::new();
        for segment in &self.path {
            path.push('/');
            match segment {
                Place::Literal(text) => path.push_str(text),
                Place::Param(name) => path.push_str(&segment_text(params.get(name))?),
            }
        }
        let mut query = Vec::new();
        for (name, place) in &self.query {
            if let Some(text) = place.text(params)? {
                query.push((name.clone(), percent_encode(&text)));
            }
        }
        let mut headers = BTreeMap::new();
        for (name, place) in &self.headers {
            if let Some(text) = place.text(params)? {
                if !is_header_value(&text) {
                    return Err(Reason::ParamsUnrenderable);
                }
                headers.insert(name.clone(), text);
            }
        }
        let body = self.body.as_ref().and_then(|tree| fill_body(tree, params)).map(Json);
        Ok(Rendered { path, query, headers, body })
    }
}

impl Place {
    /// The text of this place; nothing for a param that is absent.
    fn text(&self, params: &Map<String, Value>) -> Result<Option<String>, Reason> {
        match self {
            Self::Literal(text) => Ok(Some(text.clone())),
            Self::Param(name) => params.get(name).map(scalar_text).transpose(),
        }
    }
}

fn path(text: &str, params: &Schema) -> Result<Vec<Place>, PolicyProblem> {
    let body = text.strip_prefix('/').ok_or(PolicyProblem::Path)?;
    let mut segments = Vec::new();
    let count = body.split('/').count();
    if count > PATH_SEGMENTS_MAX {
        return Err(PolicyProblem::TooMany);
    }
    for (i, part) in body.split('/').enumerate() {
        let last = i.saturating_add(1) == count;
        let name = part.strip_prefix('{').and_then(|rest| rest.strip_suffix('}'));
        segments.push(match name {
            Some(name) => match params.property(name) {
                Some((schema, true)) if schema.is_scalar() => Place::Param(String::from(name)),
                _ => return Err(PolicyProblem::Placeholder),
            },
            // A path may end in a slash, and "/" is a path.
            None if is_literal_segment(part) || (part.is_empty() && last) => {
                Place::Literal(String::from(part))
            }
            None => return Err(PolicyProblem::Path),
        });
    }
    Ok(segments)
}

/// The param that a value stands for, if it is `{"$param": "name"}`.
fn placeholder(value: &Value) -> Result<Option<&str>, PolicyProblem> {
    let Some(map) = value.as_object() else { return Ok(None) };
    match map.get("$param") {
        Some(Value::String(name)) if map.len() == 1 => Ok(Some(name)),
        Some(_) => Err(PolicyProblem::Placeholder),
        None => Ok(None),
    }
}

fn place(value: &Value, params: &Schema) -> Result<Place, PolicyProblem> {
    if let Some(name) = placeholder(value)? {
        return match params.property(name) {
            Some((schema, _)) if schema.is_scalar() => Ok(Place::Param(String::from(name))),
            _ => Err(PolicyProblem::Placeholder),
        };
    }
    scalar_text(value).map(Place::Literal).map_err(|_| PolicyProblem::Placeholder)
}

fn check_body(tree: &Value, params: &Schema) -> Result<(), PolicyProblem> {
    if let Some(name) = placeholder(tree)? {
        return params.property(name).map(|_| ()).ok_or(PolicyProblem::Placeholder);
    }
    match tree {
        Value::Object(map) => map.values().try_for_each(|item| check_body(item, params)),
        Value::Array(items) => items.iter().try_for_each(|item| check_body(item, params)),
        _ => Ok(()),
    }
}

/// The tree with its params; nothing where the tree is a param that is absent.
fn fill_body(tree: &Value, params: &Map<String, Value>) -> Option<Value> {
    if let Ok(Some(name)) = placeholder(tree) {
        return params.get(name).cloned();
    }
    Some(match tree {
        Value::Object(map) => Value::Object(
            map.iter()
                .filter_map(|(key, item)| fill_body(item, params).map(|value| (key.clone(), value)))
                .collect(),
        ),
        Value::Array(items) => {
            Value::Array(items.iter().filter_map(|item| fill_body(item, params)).collect())
        }
        leaf => leaf.clone(),
    })
}

/// One param as one encoded segment: never empty, never `.` or `..`.
fn segment_text(value: Option<&Value>) -> Result<String, Reason> {
    let text = scalar_text(value.ok_or(Reason::ParamsUnrenderable)?)?;
    if text.is_empty() || text == "." || text == ".." || text.chars().any(char::is_control) {
        return Err(Reason::ParamsUnrenderable);
    }
    Ok(percent_encode(&text))
}

/// The text of a text, number or boolean; numbers as RFC 8785 writes them.
fn scalar_text(value: &Value) -> Result<String, Reason> {
    match value {
        Value::String(text) => Ok(text.clone()),
        Value::Number(_) | Value::Bool(_) => canonical::encode_value(value)
            .ok()
            .and_then(|bytes| String::from_utf8(bytes).ok())
            .ok_or(Reason::ParamsUnrenderable),
        _ => Err(Reason::ParamsUnrenderable),
    }
}

/// Visible ASCII and inner spaces.
fn is_header_value(text: &str) -> bool {
    !text.is_empty()
        && text.len() <= 4096
        && text.trim() == text
        && text.bytes().all(|b| b == b' ' || b.is_ascii_graphic())
}

/// RFC 3986: all but the unreserved characters, in upper-case hexadecimal.
fn percent_encode(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use toani_protocol::policy::Method;

    fn compile(path: &str, rest: Value) -> Result<CompiledTemplate, PolicyProblem> {
        let params = Schema::compile(&json!({
            "type": "object",
            "properties": {
                "id": {"type": "string"}, "n": {"type": "number"}, "note": {"type": "string"},
                "list": {"type": "array", "items": {"type": "string"}},
            },
            "required": ["id"],
        }))
        .unwrap();
        let mut template = json!({"method": "GET", "path": path});
        template.as_object_mut().unwrap().extend(rest.as_object().unwrap().clone());
        let template: Template = serde_json::from_value(template).unwrap();
        assert_eq!(template.method, Method::Get);
        CompiledTemplate::compile(&template, Some(&Injection::Header("x-key".into())), &params)
    }

    fn fill(template: &CompiledTemplate, params: Value) -> Result<Rendered, Reason> {
        template.fill(params.as_object().unwrap())
    }

    #[test]
    fn one_param_is_one_segment() {
        let template = compile("/v1/{id}/orders", json!({})).unwrap();
        let path = |id: &str| fill(&template, json!({ "id": id })).map(|r| r.path);
        assert_eq!(path("a b"), Ok("/v1/a%20b/orders".into()));
        assert_eq!(path("../../transfers"), Ok("/v1/..%2F..%2Ftransfers/orders".into()));
        assert_eq!(path("x?y#z%2f"), Ok("/v1/x%3Fy%23z%252f/orders".into()));
        for bad in ["", ".", "..", "a\nb", "a\u{7f}"] {
            assert_eq!(path(bad), Err(Reason::ParamsUnrenderable), "{bad:?}");
        }
    }

    #[test]
    fn absent_params_leave_their_entries_out() {
        let rest = json!({
            "query": {"q": {"$param": "note"}, "fixed": "1"},
            "headers": {"x-note": {"$param": "note"}},
            "body": {"a": {"$param": "note"}, "b": [{"$param": "n"}, 7], "c": {"d": {"$param": "list"}}},
        });
        let template = compile("/", rest).unwrap();
        let bare = fill(&template, json!({"id": "x"})).unwrap();
        assert_eq!(bare.query, [("fixed".into(), "1".into())]);
        assert!(bare.headers.is_empty());
        assert_eq!(bare.body, Some(Json(json!({"b": [7], "c": {}}))));
        let full = fill(&template, json!({"id": "x", "note": "a&b", "n": 1.5, "list": ["$param"]}));
        let full = full.unwrap();
        assert_eq!(full.query, [("fixed".into(), "1".into()), ("q".into(), "a%26b".into())]);
        assert_eq!(
            full.body,
            Some(Json(json!({"a": "a&b", "b": [1.5, 7], "c": {"d": ["$param"]}})))
        );
    }

    #[test]
    fn headers_refuse_control_characters() {
        let template = compile("/", json!({"headers": {"x-note": {"$param": "note"}}})).unwrap();
        for bad in ["a\r\nb: c", "a\0", "é", "", " a"] {
            let result = fill(&template, json!({"id": "x", "note": bad}));
            assert_eq!(result.map(|r| r.path), Err(Reason::ParamsUnrenderable), "{bad:?}");
        }
    }

    #[test]
    fn templates_that_leave_something_open_are_invalid() {
        for (path, rest) in [
            ("v1", json!({})),
            ("/a/../b", json!({})),
            ("/a//b", json!({})),
            ("/a%2f", json!({})),
            ("/a?b", json!({})),
            ("/x{id}", json!({})),
            ("/{note}", json!({})),
            ("/{other}", json!({})),
            ("/{list}", json!({})),
            ("/", json!({"query": {"a": {"$param": "list"}}})),
            ("/", json!({"query": {"a": {"$param": "other"}}})),
            ("/", json!({"headers": {"Authorization": "x"}})),
            ("/", json!({"headers": {"host": "x"}})),
            ("/", json!({"headers": {"x-key": "x"}})),
            ("/", json!({"headers": {"x-a": "a\nb"}})),
            ("/", json!({"body": {"a": {"$param": "other"}}})),
            ("/", json!({"body": {"a": {"$param": "id", "b": 1}}})),
        ] {
            assert!(compile(path, rest.clone()).is_err(), "{path} {rest}");
        }
    }
}

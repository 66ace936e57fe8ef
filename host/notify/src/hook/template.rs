//! Bodies of hooks: text in which values of the context are put.
//!
//! `{{job.id}}` stands for a value as text, escaped so that in a JSON body it belongs between quotation marks;
//! `{{json job}}` stands for a value as JSON, whatever it is. A path goes through objects by key and through arrays by
//! number. A value that is not there is an error, never an empty text; a JSON body is checked to be one before it is
//! sent. There are no conditions and no loops: whoever needs them reads the context.

use serde_json::Value;
use ureq::http::HeaderValue;

use crate::error::{Error, ErrorKind, Result};

const LONGEST_TEMPLATE: usize = 64 << 10;

/// What a body is made of, hence how values are escaped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Media {
    Json,
    PlainText,
}

impl Media {
    /// By the media type in the settings; JSON where there is none.
    pub(super) fn of(header: Option<&HeaderValue>) -> Result<Self> {
        let Some(header) = header else { return Ok(Self::Json) };
        let text = header.to_str().unwrap_or_default().to_ascii_lowercase();
        let essence = text.split(';').next().unwrap_or_default().trim();
        match essence {
            "text/plain" => Ok(Self::PlainText),
            _ if essence == "application/json" || essence.ends_with("+json") => Ok(Self::Json),
            // Put in unescaped, a VM's name could change what the body says.
            _ => {
                Err(Error::invalid("a body with values in it is JSON or text/plain: change the Content-Type"))
            }
        }
    }
}

/// A body to be filled.
#[derive(Debug)]
pub(super) struct Template {
    parts: Vec<Part>,
    media: Media,
}

#[derive(Debug)]
enum Part {
    Literal(String),
    Value { path: String, whole: bool },
}

impl Template {
    pub(super) fn parse(text: &str, media: Media) -> Result<Self> {
        if text.len() > LONGEST_TEMPLATE {
            return Err(Error::invalid(format!("the body is longer than {LONGEST_TEMPLATE} bytes")));
        }
        let (mut parts, mut rest) = (Vec::new(), text);
        while let Some((literal, after)) = rest.split_once("{{") {
            let Some((inner, behind)) = after.split_once("}}") else {
                return Err(Error::invalid("the body has a '{{' without its '}}'"));
            };
            parts.push(Part::Literal(literal.to_owned()));
            parts.push(value(inner.trim())?);
            rest = behind;
        }
        parts.push(Part::Literal(rest.to_owned()));
        Ok(Self { parts, media })
    }

    pub(super) fn render(&self, context: &Value) -> Result<String> {
        let mut text = String::new();
        for part in &self.parts {
            match part {
                Part::Literal(literal) => text.push_str(literal),
                Part::Value { path, whole } => {
                    let value = find(context, path).ok_or_else(|| {
                        Error::invalid(format!("the body asks for '{path}', which the context does not have"))
                    })?;
                    text.push_str(&self.put(value, *whole));
                }
            }
        }
        if self.media == Media::Json {
            serde_json::from_str::<serde::de::IgnoredAny>(&text).map_err(|error| {
                let context = "the body is no JSON once its values are in: \
                               write \"{{path}}\" in quotation marks, or {{json path}} without";
                Error::caused(ErrorKind::Invalid, context, error)
            })?;
        }
        Ok(text)
    }

    fn put(&self, value: &Value, whole: bool) -> String {
        if whole {
            return value.to_string();
        }
        let text = match value {
            Value::String(text) => text.clone(),
            other => other.to_string(),
        };
        match self.media {
            Media::PlainText => text,
            Media::Json => {
                let quoted = Value::String(text).to_string();
                quoted[1..quoted.len() - 1].to_owned()
            }
        }
    }
}

fn value(inner: &str) -> Result<Part> {
    let (whole, path) = match inner.strip_prefix("json ") {
        Some(path) => (true, path.trim()),
        None => (false, inner),
    };
    if path.is_empty() || path.split('.').any(str::is_empty) || path.contains(char::is_whitespace) {
        return Err(Error::invalid(
            "the body has a '{{…}}' that names no value: write {{path.to.value}} or {{json path.to.value}}",
        ));
    }
    Ok(Part::Value { path: path.to_owned(), whole })
}

fn find<'a>(context: &'a Value, path: &str) -> Option<&'a Value> {
    path.split('.').try_fold(context, |value, key| match value {
        Value::Object(members) => members.get(key),
        Value::Array(items) => items.get(key.parse::<usize>().ok()?),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn render(text: &str, media: Media, context: &Value) -> Result<String> {
        Template::parse(text, media)?.render(context)
    }

    #[test]
    fn values_are_put_where_they_are_asked_for() {
        let context = json!({"vm": {"name": "web \"1\"\n"}, "tags": ["a", "b"], "bytes": 7, "none": null});
        let body = r#"{"text": "{{vm.name}} has {{ bytes }} and {{tags.1}}", "all": {{json tags}}, "x": {{json none}}}"#;
        let made: Value = serde_json::from_str(&render(body, Media::Json, &context).unwrap()).unwrap();
        assert_eq!(made, json!({"text": "web \"1\"\n has 7 and b", "all": ["a", "b"], "x": null}));
        assert_eq!(
            render("{{vm.name}}|{{tags}}", Media::PlainText, &context).unwrap(),
            "web \"1\"\n|[\"a\",\"b\"]"
        );
        assert_eq!(render("[{\"a\":{\"b\":1}}]", Media::Json, &context).unwrap(), "[{\"a\":{\"b\":1}}]");
    }

    #[test]
    fn what_cannot_be_is_said() {
        let context = json!({"a": "x", "list": [1]});
        for (body, words) in [
            ("{{a", "without its"),
            ("{{}}", "names no value"),
            ("{{a b}}", "names no value"),
            ("{{a..b}}", "names no value"),
            ("{{json a b}}", "names no value"),
            ("\"{{b}}\"", "'b'"),
            ("\"{{a.b}}\"", "'a.b'"),
            ("{{list.1}}", "'list.1'"),
            ("{{a}}", "no JSON"),
        ] {
            let error = render(body, Media::Json, &context).expect_err(body);
            assert_eq!(error.kind(), ErrorKind::Invalid);
            assert!(error.to_string().contains(words), "{body}: {error}");
        }
        assert!(Template::parse(&"x".repeat(LONGEST_TEMPLATE + 1), Media::Json).is_err());
    }

    #[test]
    fn only_media_that_can_be_escaped_take_values() {
        let of = |text| Media::of(Some(&HeaderValue::from_static(text)));
        assert_eq!(Media::of(None).unwrap(), Media::Json);
        assert_eq!(of("application/JSON; charset=utf-8").unwrap(), Media::Json);
        assert_eq!(of("application/cloudevents+json").unwrap(), Media::Json);
        assert_eq!(of("text/plain;charset=utf-8").unwrap(), Media::PlainText);
        assert!(of("application/x-www-form-urlencoded").is_err());
        assert!(of("text/xml").is_err());
    }

    proptest! {
        #[test]
        fn no_value_leaves_its_quotation_marks(name in "\\PC*|[\"\\\\{}\\n\\x00-\\x1f]{0,9}") {
            let made = render("{\"n\":\"{{n}}\"}", Media::Json, &json!({ "n": name })).unwrap();
            prop_assert_eq!(serde_json::from_str::<Value>(&made).unwrap(), json!({ "n": name }));
        }

        #[test]
        fn foreign_templates_make_no_panic(text in "(\\{\\{|\\}\\}|json |a|\\.|\\PC){0,30}") {
            let _ = render(&text, Media::PlainText, &json!({"a": {"a": 1}}));
        }
    }
}

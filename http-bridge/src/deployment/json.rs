//! JSON that remembers where it stands, and JSON that loses nothing.
//!
//! ```text
//!   text ──Cursor──▶ members, items, scalars     each knows its line, its column and its path
//!             └────▶ Json ──▶ text               members in their order, numbers as they were written
//! ```
//!
//! A [`Cursor`] is for reading what we know, a [`Json`] for keeping what we do not. Cursors borrow from the text, so a
//! place is a difference of two addresses. Members given twice are errors: Go takes the last, others the first, and a
//! file that two programs read differently is no configuration.

use std::{
    collections::HashMap,
    fmt::{self, Write},
};

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::problem::{Place, Problem, Problems, Severity};

/// How deep objects and arrays may nest. Known members need 6.
const NESTING_MAX: usize = 32;

/// Members that one object may have; a deployment has 26. They are looked for one after the other, so this also keeps
/// reading 1 MiB from taking seconds.
const MEMBERS_MAX: usize = 1024;

/// Any JSON value. Numbers keep their text, objects the order of their members.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Json {
    /// `null`
    Null,
    /// `true`, `false`
    Bool(bool),
    /// A number, as it was written.
    Number(Box<str>),
    /// A string.
    Text(String),
    /// An array.
    List(Vec<Self>),
    /// An object.
    Object(Object),
}

/// The members of an object, in their order, each name once.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Object(Vec<(String, Json)>);

impl Object {
    /// The member with this name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Json> {
        self.0.iter().find(|(n, _)| n == name).map(|(_, value)| value)
    }

    /// The member with this name, to be changed.
    pub fn get_mut(&mut self, name: &str) -> Option<&mut Json> {
        self.0.iter_mut().find(|(n, _)| n == name).map(|(_, value)| value)
    }

    /// Sets a member; a new one goes to the end.
    pub fn set(&mut self, name: &str, value: impl Into<Json>) {
        let value = value.into();
        match self.get_mut(name) {
            Some(old) => *old = value,
            None => self.0.push((name.to_owned(), value)),
        }
    }

    /// Takes a member out.
    pub fn remove(&mut self, name: &str) -> Option<Json> {
        let at = self.0.iter().position(|(n, _)| n == name)?;
        Some(self.0.remove(at).1)
    }

    /// The members in their order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Json)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value))
    }

    /// Whether it has no member.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl Json {
    /// Reads any JSON; for what was written by ourselves, or has no fields of interest.
    pub fn parse(text: &str) -> Result<Self, Problems> {
        let mut problems = Problems::default();
        let value = Cursor::document(text, &mut problems).map(|c| c.to_json(&mut problems));
        match value {
            Some(value) if !problems.has_errors() => Ok(value),
            _ => Err(problems),
        }
    }

    /// The text of a string.
    #[must_use]
    pub fn as_text(&self) -> Option<&str> {
        if let Self::Text(text) = self { Some(text) } else { None }
    }

    /// The members of an object.
    #[must_use]
    pub fn as_object(&self) -> Option<&Object> {
        if let Self::Object(object) = self { Some(object) } else { None }
    }

    /// The text in several lines, members indented by two blanks, as people edit it.
    #[must_use]
    pub fn to_pretty(&self) -> String {
        let mut text = String::new();
        self.write(&mut text, Some(0));
        text.push('\n');
        text
    }

    fn write(&self, to: &mut String, indent: Option<usize>) {
        match self {
            Self::Null => to.push_str("null"),
            Self::Bool(value) => to.push_str(if *value { "true" } else { "false" }),
            Self::Number(text) => to.push_str(text),
            Self::Text(text) => quote(text, to),
            Self::List(items) => {
                write_all(to, indent, ['[', ']'], items, |to, item, deeper| item.write(to, deeper));
            }
            Self::Object(Object(members)) => {
                write_all(to, indent, ['{', '}'], members, |to, (name, value), deeper| {
                    quote(name, to);
                    to.push_str(if deeper.is_some() { ": " } else { ":" });
                    value.write(to, deeper);
                });
            }
        }
    }
}

fn write_all<T>(
    to: &mut String,
    indent: Option<usize>,
    [open, close]: [char; 2],
    items: &[T],
    mut write: impl FnMut(&mut String, &T, Option<usize>),
) {
    let deeper = indent.map(|depth| depth + 1);
    let new_line = |to: &mut String, indent: Option<usize>| {
        if let Some(depth) = indent {
            to.push('\n');
            to.extend(std::iter::repeat_n("  ", depth));
        }
    };
    to.push(open);
    for (index, item) in items.iter().enumerate() {
        if index > 0 {
            to.push(',');
        }
        new_line(to, deeper);
        write(to, item, deeper);
    }
    if !items.is_empty() {
        new_line(to, indent);
    }
    to.push(close);
}

fn quote(text: &str, to: &mut String) {
    to.push_str(&serde_json::to_string(text).expect("a string is JSON"));
}

/// The compact text.
impl fmt::Display for Json {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = String::new();
        self.write(&mut text, None);
        f.write_str(&text)
    }
}

impl From<&str> for Json {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<String> for Json {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

impl From<bool> for Json {
    fn from(value: bool) -> Self {
        Self::Bool(value)
    }
}

impl From<u64> for Json {
    fn from(value: u64) -> Self {
        Self::Number(value.to_string().into())
    }
}

impl From<Object> for Json {
    fn from(object: Object) -> Self {
        Self::Object(object)
    }
}

impl<T: Into<Self>> From<Vec<T>> for Json {
    fn from(items: Vec<T>) -> Self {
        Self::List(items.into_iter().map(Into::into).collect())
    }
}

impl<const N: usize> From<[(&str, Json); N]> for Object {
    fn from(members: [(&str, Json); N]) -> Self {
        Self(members.into_iter().map(|(name, value)| (name.to_owned(), value)).collect())
    }
}

/// A value within a text that is being read.
#[derive(Clone)]
pub(super) struct Cursor<'a> {
    whole: &'a str,
    value: &'a str,
    path: String,
    depth: usize,
}

/// What kind of value a cursor stands on, for messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Null,
    Bool,
    Number,
    Text,
    List,
    Object,
}

impl Kind {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Bool => "true or false",
            Self::Number => "a number",
            Self::Text => "a text",
            Self::List => "a list",
            Self::Object => "an object",
        }
    }
}

impl<'a> Cursor<'a> {
    /// The outermost value. `None` if the text is no JSON.
    pub(super) fn document(text: &'a str, problems: &mut Problems) -> Option<Self> {
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        match serde_json::from_str::<&RawValue>(text) {
            Ok(value) => {
                Some(Self { whole: text, value: value.get(), path: "$".to_owned(), depth: 0 })
            }
            Err(error) => {
                let place = Place { line: error.line(), column: error.column().max(1) };
                let what = error.to_string();
                let what = what.split(" at line ").next().unwrap_or_default();
                let advice =
                    "correct the JSON there or just before; a comma, a quote or a brace is usual";
                problems.push(Severity::Error, || Problem {
                    severity: Severity::Error,
                    place: Some(place),
                    path: "$".to_owned(),
                    what: format!("no JSON: {what}"),
                    advice: advice.to_owned(),
                });
                None
            }
        }
    }

    /// The value as it stands in the text.
    pub(super) fn raw(&self) -> &'a str {
        self.value
    }

    pub(super) fn kind(&self) -> Kind {
        match self.value.as_bytes().first() {
            Some(b'{') => Kind::Object,
            Some(b'[') => Kind::List,
            Some(b'"') => Kind::Text,
            Some(b't' | b'f') => Kind::Bool,
            Some(b'n') | None => Kind::Null,
            _ => Kind::Number,
        }
    }

    pub(super) fn is_null(&self) -> bool {
        self.kind() == Kind::Null
    }

    pub(super) fn place(&self) -> Place {
        Place::of(self.whole, self.value)
    }

    /// Notes that this value is wrong.
    pub(super) fn error(&self, what: impl Into<String>, advice: &str, problems: &mut Problems) {
        self.note(Severity::Error, what.into(), advice, problems);
    }

    /// The same, with a text that costs something to make.
    fn error_with(&self, problems: &mut Problems, text: impl FnOnce() -> (String, String)) {
        let severity = Severity::Error;
        problems.push(severity, || {
            let (what, advice) = text();
            Problem { severity, place: Some(self.place()), path: self.path.clone(), what, advice }
        });
    }

    /// Notes that this value is strange.
    pub(super) fn warn(&self, what: impl Into<String>, advice: &str, problems: &mut Problems) {
        self.note(Severity::Warning, what.into(), advice, problems);
    }

    fn note(&self, severity: Severity, what: String, advice: &str, problems: &mut Problems) {
        problems.push(severity, || Problem {
            severity,
            place: Some(self.place()),
            path: self.path.clone(),
            what,
            advice: advice.to_owned(),
        });
    }

    /// Notes that another kind of value is wanted here.
    fn wrong_kind(&self, wanted: Kind, problems: &mut Problems) {
        let what = format!("{} is wanted here, and this is {}", wanted.name(), self.kind().name());
        self.error(what, "write the value in the form that docs/cli.md shows", problems);
    }

    /// The text of a string.
    pub(super) fn text(&self, problems: &mut Problems) -> Option<String> {
        if self.kind() != Kind::Text {
            self.wrong_kind(Kind::Text, problems);
            return None;
        }
        serde_json::from_str(self.value)
            .map_err(|error| {
                let what = error.to_string();
                let what = what.split(" at line ").next().unwrap_or_default().to_owned();
                self.error(format!("no text: {what}"), "write the character itself", problems);
            })
            .ok()
    }

    /// The members of an object, each name once.
    pub(super) fn members(&self, problems: &mut Problems) -> Option<Vec<(String, Self)>> {
        if self.kind() != Kind::Object {
            self.wrong_kind(Kind::Object, problems);
            return None;
        }
        let members = self.inside::<Members<'a>>(problems)?.0;
        if members.len() > MEMBERS_MAX {
            let what =
                format!("{} members in one object are more than {MEMBERS_MAX}", members.len());
            self.error(what, "no deployment needs that; remove what is not used", problems);
            return None;
        }
        let mut read: Vec<(String, Self)> = Vec::with_capacity(members.len());
        let mut first_places: HashMap<String, Self> = HashMap::with_capacity(members.len());
        for (name_text, value) in members {
            let at = Self {
                whole: self.whole,
                value: name_text,
                path: self.path.clone(),
                depth: self.depth + 1,
            };
            let name = at.text(problems)?;
            let path = child(&self.path, &name);
            let at = Self { path, ..at };
            if let Some(first) = first_places.get(&name) {
                at.error_with(problems, || {
                    let what = format!("{name:?} is given a second time");
                    let first = first.place();
                    let advice = "keep one of them: programs differ in which they take";
                    (what, format!("the first is in {first}; {advice}"))
                });
                continue;
            }
            read.push((name.clone(), Self { value, ..at.clone() }));
            first_places.insert(name, at);
        }
        Some(read)
    }

    /// The elements of an array.
    pub(super) fn items(&self, problems: &mut Problems) -> Option<Vec<Self>> {
        if self.kind() != Kind::List {
            self.wrong_kind(Kind::List, problems);
            return None;
        }
        let items = self.inside::<Items<'a>>(problems)?.0;
        let item = |(index, value)| Self {
            whole: self.whole,
            value,
            path: format!("{}[{index}]", self.path),
            depth: self.depth + 1,
        };
        Some(items.into_iter().enumerate().map(item).collect())
    }

    /// What stands between the brackets.
    fn inside<T: Deserialize<'a>>(&self, problems: &mut Problems) -> Option<T> {
        if self.depth >= NESTING_MAX {
            let what = format!("more than {NESTING_MAX} levels of objects and lists");
            self.error(what, "no deployment needs that; remove what is inside", problems);
            return None;
        }
        serde_json::from_str(self.value)
            .map_err(|error| self.error(error.to_string(), "correct the JSON there", problems))
            .ok()
    }

    /// The value as it is, for keeping.
    pub(super) fn to_json(&self, problems: &mut Problems) -> Json {
        match self.kind() {
            Kind::Null => Json::Null,
            Kind::Bool => Json::Bool(self.value == "true"),
            Kind::Number => Json::Number(self.value.into()),
            Kind::Text => Json::Text(self.text(problems).unwrap_or_default()),
            Kind::List => {
                let items = self.items(problems).unwrap_or_default();
                Json::List(items.iter().map(|item| item.to_json(problems)).collect())
            }
            Kind::Object => {
                let members = self.members(problems).unwrap_or_default();
                let keep = |(name, value): (String, Self)| (name, value.to_json(problems));
                Json::Object(Object(members.into_iter().map(keep).collect()))
            }
        }
    }
}

/// The path of a member: `$.prod.conf`, or `$["a b"]` where a dot would not do.
fn child(path: &str, name: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-');
    let mut text = path.to_owned();
    if !name.is_empty() && name.chars().all(is_plain) {
        let _ = write!(text, ".{name}");
    } else {
        let _ = write!(text, "[{name:?}]");
    }
    text
}

/// Members with their names still in quotes, so that these have a place.
struct Members<'a>(Vec<(&'a str, &'a str)>);

impl<'de> Deserialize<'de> for Members<'de> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Collect;
        impl<'de> Visitor<'de> for Collect {
            type Value = Members<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members = Vec::new();
                while let Some((name, value)) = map.next_entry::<&'de RawValue, &'de RawValue>()? {
                    members.push((name.get(), value.get()));
                }
                Ok(Members(members))
            }
        }
        from.deserialize_map(Collect)
    }
}

struct Items<'a>(Vec<&'a str>);

impl<'de> Deserialize<'de> for Items<'de> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Collect;
        impl<'de> Visitor<'de> for Collect {
            type Value = Items<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list")
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
                let mut items = Vec::new();
                while let Some(item) = seq.next_element::<&'de RawValue>()? {
                    items.push(item.get());
                }
                Ok(Items(items))
            }
        }
        from.deserialize_seq(Collect)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn complaint(text: &str) -> String {
        Json::parse(text).unwrap_err().to_string()
    }

    #[test]
    fn values_keep_their_order_and_their_numbers() {
        let text = r#"{"z":1e400,"a":[0.10,-0,18446744073709551616],"é\"\n":{"":null},"b":true,"c":[],"d":{}}"#;
        assert_eq!(Json::parse(text).unwrap().to_string(), text);
        let pretty = Json::parse(text).unwrap().to_pretty();
        assert!(pretty.contains("{\n  \"z\": 1e400,\n  \"a\": [\n    0.10,"), "{pretty}");
        assert_eq!(Json::parse(&pretty).unwrap().to_string(), text);
    }

    #[test]
    fn a_name_given_twice_is_found_at_any_depth_and_by_its_meaning() {
        let text = "{\"a\": [\n  {\"x\": 1, \"y\": 2,\n   \"\\u0078\": 3}]}";
        let complaint = complaint(text);
        assert!(complaint.contains("3:4: $.a[0].x: \"x\" is given a second time"), "{complaint}");
        assert!(complaint.contains("the first is in line 2, column 4"), "{complaint}");
    }

    #[test]
    fn broken_json_is_shown_where_it_breaks() {
        assert!(complaint("{\"a\": 1,\n \"b\" 2}").starts_with("2:6: $: no JSON: expected `:`"));
        assert!(complaint("").contains("1:1: $: no JSON: EOF"));
        assert!(complaint("{} {}").contains("1:4: $: no JSON: trailing characters"));
        assert!(complaint(r#"["\ud800"]"#).contains("$[0]: no text"));
    }

    #[test]
    fn nesting_has_an_end() {
        let nested = |depth| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
        assert!(Json::parse(&nested(NESTING_MAX)).is_ok());
        assert!(complaint(&nested(NESTING_MAX + 1)).contains("more than 32 levels"));
        assert!(complaint(&nested(200_000)).contains("more than 32 levels"));
    }

    #[test]
    fn members_have_an_end() {
        let object = |count: usize| {
            let members: Vec<String> = (0..count).map(|i| format!("\"m{i}\":0")).collect();
            format!("{{\"a\":{{{}}}}}", members.join(","))
        };
        assert!(Json::parse(&object(MEMBERS_MAX)).is_ok());
        let said = complaint(&object(MEMBERS_MAX + 1));
        assert!(said.contains("$.a: 1025 members in one object are more than 1024"), "{said}");
    }

    proptest! {
        #[test]
        fn nothing_panics_and_what_parses_prints_to_the_same(text in r#"(\PC|[\[\]{}:,"0-9\\])*"#) {
            if let Ok(value) = Json::parse(&text) {
                prop_assert_eq!(Json::parse(&value.to_string()).unwrap(), value.clone());
                prop_assert_eq!(Json::parse(&value.to_pretty()).unwrap(), value);
            }
        }
    }
}

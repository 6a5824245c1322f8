//! From TOML to plain data: serde's errors kept apart by kind, each with the place of what is wrong. Uses:
//! nothing of ours but the words of the config. Never does I/O.

use std::fmt;
use std::ops::Range;

use serde::de::value::StrDeserializer;
use serde::de::{
    DeserializeSeed, Deserializer, EnumAccess, Error as _, IntoDeserializer, MapAccess, SeqAccess,
    Unexpected, VariantAccess, Visitor,
};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::Config;
use super::document::Document;
use super::words::{Fault, at_line};

/// Parses `text`, or says at which line what is wrong.
pub(super) fn parse(text: &str) -> Result<Config, String> {
    let line_of = |offset: usize| {
        let before = text.get(..offset).unwrap_or(text);
        1 + before.matches('\n').count()
    };
    let table = DeTable::parse(text).map_err(|error| {
        let what = error.message().to_string();
        match error.span() {
            Some(span) => at_line(text, line_of(span.start), &what),
            None => what,
        }
    })?;
    let span = table.span();
    let root = Node {
        value: &DeValue::Table(table.into_inner()),
        span,
    };
    let document = <Document as serde::Deserialize>::deserialize(root).map_err(|error| {
        let what = error.fault.to_string();
        match error.span {
            // What is wrong with the whole has no line of its own.
            Some(span) if span.start > 0 || span.end < text.len() => {
                at_line(text, line_of(span.start), &what)
            }
            _ => what,
        }
    })?;
    document.into_config()
}

/// What is wrong, and where.
#[derive(Debug)]
struct TomlError {
    fault: Fault,
    span: Option<Range<usize>>,
}

impl TomlError {
    /// Names the place, unless a closer one is named already.
    fn at(mut self, span: &Range<usize>) -> Self {
        self.span.get_or_insert_with(|| span.clone());
        self
    }
}

impl fmt::Display for TomlError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.fault.fmt(f)
    }
}

impl std::error::Error for TomlError {}

impl From<Fault> for TomlError {
    fn from(fault: Fault) -> Self {
        TomlError { fault, span: None }
    }
}

impl serde::de::Error for TomlError {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Fault::Other(message.to_string()).into()
    }

    fn invalid_type(unexpected: Unexpected<'_>, expected: &dyn serde::de::Expected) -> Self {
        Fault::wrong(&unexpected, expected).into()
    }

    fn invalid_value(unexpected: Unexpected<'_>, expected: &dyn serde::de::Expected) -> Self {
        Fault::wrong(&unexpected, expected).into()
    }

    fn unknown_variant(variant: &str, expected: &'static [&'static str]) -> Self {
        Fault::unknown_word(variant, expected).into()
    }

    fn unknown_field(field: &str, expected: &'static [&'static str]) -> Self {
        Fault::unknown_key(field, expected).into()
    }
}

/// A value and its place.
struct Node<'a> {
    value: &'a DeValue<'a>,
    span: Range<usize>,
}

impl<'a> Node<'a> {
    fn of(value: &'a Spanned<DeValue<'a>>) -> Self {
        Node {
            span: value.span(),
            value: value.get_ref(),
        }
    }

    fn visit<'de, V: Visitor<'de>>(&self, visitor: V) -> Result<V::Value, TomlError> {
        match self.value {
            DeValue::String(text) => visitor.visit_str(text),
            DeValue::Integer(number) => {
                let (digits, radix) = (number.as_str(), number.radix());
                match (
                    u64::from_str_radix(digits, radix),
                    i64::from_str_radix(digits, radix),
                ) {
                    (Ok(number), _) => visitor.visit_u64(number),
                    (_, Ok(number)) => visitor.visit_i64(number),
                    _ => Err(TomlError::custom(format!(
                        "got {digits}, expected a number of 64 bits"
                    ))),
                }
            }
            DeValue::Float(number) => match number.as_str().parse() {
                Ok(number) => visitor.visit_f64(number),
                Err(_) => visitor.visit_str(number.as_str()),
            },
            DeValue::Boolean(is_true) => visitor.visit_bool(*is_true),
            DeValue::Datetime(time) => visitor.visit_string(time.to_string()),
            DeValue::Array(items) => visitor.visit_seq(Items {
                items: items.iter(),
            }),
            DeValue::Table(table) => visitor.visit_map(Keys {
                entries: table.iter(),
                value: None,
            }),
        }
    }
}

impl<'de> Deserializer<'de> for Node<'_> {
    type Error = TomlError;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, TomlError> {
        self.visit(visitor).map_err(|error| error.at(&self.span))
    }

    // TOML has no null: a key that is there has a value.
    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, TomlError> {
        let span = self.span.clone();
        visitor.visit_some(self).map_err(|error| error.at(&span))
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        visitor: V,
    ) -> Result<V::Value, TomlError> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _name: &'static str,
        _variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, TomlError> {
        let visited = match self.value {
            DeValue::String(word) => {
                let word: StrDeserializer<'_, TomlError> = (&**word).into_deserializer();
                visitor.visit_enum(word)
            }
            DeValue::Table(table) if table.len() == 1 => match table.iter().next() {
                Some((key, value)) => visitor.visit_enum(Variant {
                    word: key.get_ref(),
                    node: Node::of(value),
                }),
                None => Err(TomlError::custom("expected one word")),
            },
            DeValue::Table(_) => Err(TomlError::custom("expected one word, got several")),
            _ => self.visit(visitor),
        };
        visited.map_err(|error| error.at(&self.span))
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf
        unit unit_struct seq tuple tuple_struct map struct identifier ignored_any
    }
}

struct Items<'a, I: Iterator<Item = &'a Spanned<DeValue<'a>>>> {
    items: I,
}

impl<'a, 'de, I: Iterator<Item = &'a Spanned<DeValue<'a>>>> SeqAccess<'de> for Items<'a, I> {
    type Error = TomlError;

    fn next_element_seed<T: DeserializeSeed<'de>>(
        &mut self,
        seed: T,
    ) -> Result<Option<T::Value>, TomlError> {
        let item = self.items.next();
        item.map(|item| seed.deserialize(Node::of(item)))
            .transpose()
    }
}

type Entry<'a> = (
    &'a Spanned<std::borrow::Cow<'a, str>>,
    &'a Spanned<DeValue<'a>>,
);

struct Keys<'a, I: Iterator<Item = Entry<'a>>> {
    entries: I,
    value: Option<&'a Spanned<DeValue<'a>>>,
}

impl<'a, 'de, I: Iterator<Item = Entry<'a>>> MapAccess<'de> for Keys<'a, I> {
    type Error = TomlError;

    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, TomlError> {
        let Some((key, value)) = self.entries.next() else {
            return Ok(None);
        };
        self.value = Some(value);
        let (word, span) = (key.get_ref(), key.span());
        // A key that is a number, as an id is, is written as text here.
        let found = match word.parse::<u64>() {
            Ok(_) => seed.deserialize(NumberOrWord(word)),
            Err(_) => {
                let word: StrDeserializer<'_, TomlError> = (&**word).into_deserializer();
                seed.deserialize(word)
            }
        };
        found.map(Some).map_err(|error| error.at(&span))
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, TomlError> {
        match self.value.take() {
            Some(value) => seed.deserialize(Node::of(value)),
            None => Err(TomlError::custom("a value was asked for before its key")),
        }
    }
}

/// A key of digits.
struct NumberOrWord<'a>(&'a str);

impl<'de> Deserializer<'de> for NumberOrWord<'_> {
    type Error = TomlError;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, TomlError> {
        match self.0.parse() {
            Ok(number) => visitor.visit_u64(number),
            Err(_) => visitor.visit_str(self.0),
        }
    }

    fn deserialize_identifier<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, TomlError> {
        visitor.visit_str(self.0)
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf
        option unit unit_struct newtype_struct seq tuple tuple_struct map struct enum ignored_any
    }
}

/// A word with what belongs to it.
struct Variant<'a> {
    word: &'a str,
    node: Node<'a>,
}

impl<'a, 'de> EnumAccess<'de> for Variant<'a> {
    type Error = TomlError;
    type Variant = Node<'a>;

    fn variant_seed<V: DeserializeSeed<'de>>(
        self,
        seed: V,
    ) -> Result<(V::Value, Node<'a>), TomlError> {
        let word: StrDeserializer<'_, TomlError> = self.word.into_deserializer();
        Ok((seed.deserialize(word)?, self.node))
    }
}

impl<'de> VariantAccess<'de> for Node<'_> {
    type Error = TomlError;

    fn unit_variant(self) -> Result<(), TomlError> {
        Err(TomlError::custom("expected the word alone").at(&self.span))
    }

    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Result<T::Value, TomlError> {
        seed.deserialize(self)
    }

    fn tuple_variant<V: Visitor<'de>>(
        self,
        _len: usize,
        visitor: V,
    ) -> Result<V::Value, TomlError> {
        self.deserialize_any(visitor)
    }

    fn struct_variant<V: Visitor<'de>>(
        self,
        _fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, TomlError> {
        self.deserialize_any(visitor)
    }
}

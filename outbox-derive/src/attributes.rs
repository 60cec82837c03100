//! What is written in `#[outbox(…)]`.

use syn::parse::ParseStream;
use syn::punctuated::Punctuated;
use syn::spanned::Spanned;
use syn::token::Paren;
use syn::{Attribute, Error, LitStr, Path, Result, Token, parenthesized};

syn::custom_keyword!(none);

/// Where attributes may stand.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    /// On the struct or the enum.
    Type,
    /// On a variant of an enum.
    Variant,
}

/// What the attributes of a type or a variant say.
#[derive(Default)]
pub(crate) struct Attributes {
    pub(crate) topic: Option<LitStr>,
    pub(crate) key: Option<Key>,
    pub(crate) krate: Option<Path>,
}

/// The fields of a key.
#[derive(Clone)]
pub(crate) enum Key {
    /// Names of fields, at least one.
    Fields(Vec<LitStr>),
    /// No key, where the enum has one.
    None,
}

impl Attributes {
    pub(crate) fn read(attributes: &[Attribute], place: Place) -> Result<Self> {
        let mut read = Self::default();
        for attribute in attributes.iter().filter(|attribute| attribute.path().is_ident("outbox")) {
            attribute.parse_nested_meta(|meta| {
                if meta.path.is_ident("topic") {
                    let topic: LitStr = meta.value()?.parse()?;
                    check_topic(&topic)?;
                    set(&mut read.topic, topic, &meta.path, "topic")
                } else if meta.path.is_ident("key") {
                    let key = key(meta.value()?, place)?;
                    set(&mut read.key, key, &meta.path, "key")
                } else if meta.path.is_ident("crate") && place == Place::Type {
                    let path: LitStr = meta.value()?.parse()?;
                    let path = path.parse_with(Path::parse_mod_style).map_err(|_| {
                        Error::new(path.span(), "`crate` is not a path, such as \"outbox_core\"")
                    })?;
                    set(&mut read.krate, path, &meta.path, "crate")
                } else {
                    let expected = match place {
                        Place::Type => "`topic`, `key` or `crate`",
                        Place::Variant => "`topic` or `key`",
                    };
                    Err(meta.error(format!("unknown attribute, expected {expected}")))
                }
            })?;
        }
        Ok(read)
    }
}

fn set<T>(slot: &mut Option<T>, value: T, path: &Path, name: &str) -> Result<()> {
    if slot.is_some() {
        return Err(Error::new(path.span(), format!("`{name}` is set twice")));
    }
    *slot = Some(value);
    Ok(())
}

fn check_topic(topic: &LitStr) -> Result<()> {
    let problem = match topic.value() {
        text if text.is_empty() => "the topic is empty; name a destination",
        text if text.contains('\0') => {
            "the topic contains a NUL character, which databases and brokers cannot keep"
        }
        _ => return Ok(()),
    };
    Err(Error::new(topic.span(), problem))
}

fn key(value: ParseStream<'_>, place: Place) -> Result<Key> {
    if value.peek(LitStr) {
        return Ok(Key::Fields(vec![value.parse()?]));
    }
    if value.peek(Paren) {
        let names;
        let parentheses = parenthesized!(names in value);
        let names: Punctuated<LitStr, Token![,]> = Punctuated::parse_terminated(&names)?;
        if names.is_empty() {
            return Err(Error::new(parentheses.span.join(), "the key has no field"));
        }
        return Ok(Key::Fields(names.into_iter().collect()));
    }
    if place == Place::Variant && value.peek(none) {
        value.parse::<none>()?;
        return Ok(Key::None);
    }
    Err(value.error(match place {
        Place::Type => "expected a field in quotes, or several: \"order_id\" or (\"tenant\", \"order_id\")",
        Place::Variant => {
            "expected a field in quotes, several, or none: \"order_id\", (\"tenant\", \"order_id\") or none"
        }
    }))
}

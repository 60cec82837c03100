//! From the fields of a key to the expression that computes it.

use proc_macro2::{Ident, Span, TokenStream};
use quote::{format_ident, quote, quote_spanned};
use syn::ext::IdentExt;
use syn::spanned::Spanned;
use syn::{Error, Field, Fields, GenericArgument, LitStr, Member, PathArguments, Result, Type};

use crate::attributes::Key;

/// A key, ready for the generated code.
pub(crate) struct Expanded {
    /// The fields that are bound, for a pattern, each with the name of its variable.
    pub(crate) bindings: Vec<(Member, Ident)>,
    /// An expression of the type `Option<String>` over these variables, which are references.
    pub(crate) expression: TokenStream,
    /// The types that have to implement `Display`.
    pub(crate) displayed: Vec<Type>,
}

/// What has the fields, for errors.
pub(crate) struct Owner {
    /// Its name, such as "the variant `Paid`".
    pub(crate) name: String,
    /// What to do about a field that it does not have, apart from naming another one.
    pub(crate) advice: &'static str,
}

/// Finds the fields of a key.
pub(crate) fn expand(key: Option<&Key>, fields: &Fields, owner: &Owner) -> Result<Expanded> {
    let names: &[LitStr] = match key {
        Some(Key::Fields(names)) => names,
        Some(Key::None) | None => &[],
    };
    let mut expanded = Expanded {
        bindings: Vec::new(),
        expression: quote!(::core::option::Option::None::<::std::string::String>),
        displayed: Vec::new(),
    };
    if names.is_empty() {
        return Ok(expanded);
    }
    let mut values = Vec::new();
    let mut variables = Vec::new();
    for (number, name) in names.iter().enumerate() {
        let (member, field) = find(name, fields, owner)?;
        let variable = format_ident!("__key_{number}", span = Span::mixed_site());
        let inner = optional(&field.ty);
        let text = quote_spanned!(field.ty.span()=> ::std::string::ToString::to_string);
        values.push(if inner.is_some() {
            quote!(::core::option::Option::map(::core::option::Option::as_ref(#variable), #text))
        } else {
            quote!(::core::option::Option::Some(#text(#variable)))
        });
        expanded.displayed.push(inner.unwrap_or(&field.ty).clone());
        expanded.bindings.push((member, variable.clone()));
        variables.push(variable);
    }
    expanded.expression = if let [value] = &values[..] {
        quote!(#value)
    } else {
        quote! {
            match (#(#values,)*) {
                (#(::core::option::Option::Some(#variables),)*) => {
                    ::core::option::Option::Some([#(#variables),*].join("/"))
                }
                _ => ::core::option::Option::None,
            }
        }
    };
    Ok(expanded)
}

fn find<'f>(name: &LitStr, fields: &'f Fields, owner: &Owner) -> Result<(Member, &'f Field)> {
    let wanted = name.value();
    let members = || fields.members().zip(fields);
    if let Some(found) = members().find(|(member, _)| text(member) == wanted) {
        return Ok(found);
    }
    let known: Vec<String> = members().map(|(member, _)| format!("`{}`", text(&member))).collect();
    let known =
        if known.is_empty() { "it has none".to_owned() } else { format!("it has {}", known.join(", ")) };
    let Owner { name: owner, advice } = owner;
    Err(Error::new(name.span(), format!("{owner} has no field `{wanted}`; {known}{advice}")))
}

fn text(member: &Member) -> String {
    match member {
        Member::Named(name) => name.unraw().to_string(),
        Member::Unnamed(index) => index.index.to_string(),
    }
}

/// The type in an `Option`, by its name: a macro sees no types.
fn optional(ty: &Type) -> Option<&Type> {
    let Type::Path(path) = ty else { return None };
    let last = path.path.segments.last().filter(|last| last.ident == "Option")?;
    let PathArguments::AngleBracketed(arguments) = &last.arguments else { return None };
    match arguments.args.first() {
        Some(GenericArgument::Type(inner)) => Some(inner),
        _ => None,
    }
}

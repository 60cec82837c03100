//! The implementation that the macro generates.

use proc_macro2::TokenStream;
use quote::{quote, quote_spanned};
use syn::spanned::Spanned;
use syn::{Data, DataEnum, DeriveInput, Error, Fields, LitStr, Path, Result, Type, Variant, parse_quote};

use crate::attributes::{Attributes, Place};
use crate::keys::{self, Owner};

pub(crate) fn expand(input: &DeriveInput) -> Result<TokenStream> {
    let attributes = Attributes::read(&input.attrs, Place::Type)?;
    let krate: Path = attributes.krate.clone().unwrap_or_else(|| parse_quote!(::outbox));
    let (values, displayed) = match &input.data {
        Data::Struct(data) => of_struct(input, &attributes, &data.fields)?,
        Data::Enum(data) => of_enum(input, &attributes, data)?,
        Data::Union(union) => {
            let message = "OutboxMessage can be derived for a struct or an enum, not for a union";
            return Err(Error::new(union.union_token.span(), message));
        }
    };

    let name = &input.ident;
    let mut generics = input.generics.clone();
    let predicates = &mut generics.make_where_clause().predicates;
    for ty in displayed {
        predicates.push(parse_display(&ty));
    }
    let serialize = quote_spanned!(name.span()=> Self: #krate::__derive::Serialize);
    predicates.push(parse_quote!(#serialize));
    let (impl_generics, type_generics, where_clause) = generics.split_for_impl();
    Ok(quote! {
        #[automatically_derived]
        impl #impl_generics #krate::OutboxMessage for #name #type_generics #where_clause {
            fn to_message(&self) -> #krate::Result<#krate::Message> {
                let (topic, key) = #values;
                let builder = #krate::Message::json(topic, self)?;
                let builder = match key {
                    ::core::option::Option::Some(key) => builder.key(key),
                    ::core::option::Option::None => builder,
                };
                builder.build()
            }
        }
    })
}

/// A bound with the place of the field's type, for the error of a type without `Display`.
fn parse_display(ty: &Type) -> syn::WherePredicate {
    let display = quote_spanned!(ty.span()=> #ty: ::core::fmt::Display);
    parse_quote!(#display)
}

/// An expression for the topic and the key, and the types of the key's fields.
type Values = (TokenStream, Vec<Type>);

fn of_struct(input: &DeriveInput, attributes: &Attributes, fields: &Fields) -> Result<Values> {
    let name = &input.ident;
    let topic = attributes.topic.as_ref().ok_or_else(|| no_topic(name.span(), &format!("`{name}`")))?;
    let owner = Owner { name: format!("`{name}`"), advice: "" };
    let key = keys::expand(attributes.key.as_ref(), fields, &owner)?;
    let (members, variables): (Vec<_>, Vec<_>) = key.bindings.into_iter().unzip();
    let expression = key.expression;
    let values = quote!({
        let Self { #(#members: #variables,)* .. } = self;
        (#topic, #expression)
    });
    Ok((values, key.displayed))
}

fn of_enum(input: &DeriveInput, attributes: &Attributes, data: &DataEnum) -> Result<Values> {
    if data.variants.is_empty() {
        let name = &input.ident;
        return Err(Error::new(
            name.span(),
            format!("`{name}` has no variants, so there are no messages of it"),
        ));
    }
    let mut arms = Vec::new();
    let mut displayed = Vec::new();
    let mut errors: Option<Error> = None;
    for variant in &data.variants {
        match of_variant(attributes, variant) {
            Ok((arm, mut types)) => {
                arms.push(arm);
                displayed.append(&mut types);
            }
            // All variants with an error are reported at once.
            Err(error) => match &mut errors {
                Some(errors) => errors.combine(error),
                None => errors = Some(error),
            },
        }
    }
    if let Some(errors) = errors {
        return Err(errors);
    }
    Ok((quote!(match self { #(#arms)* }), displayed))
}

fn of_variant(of_enum: &Attributes, variant: &Variant) -> Result<Values> {
    let name = &variant.ident;
    let own = Attributes::read(&variant.attrs, Place::Variant)?;
    let topic: &LitStr = own
        .topic
        .as_ref()
        .or(of_enum.topic.as_ref())
        .ok_or_else(|| no_topic(name.span(), &format!("the variant `{name}`")))?;
    let advice = match own.key {
        Some(_) => "",
        None => "; add #[outbox(key = none)] to the variant if it has no key",
    };
    let owner = Owner { name: format!("the variant `{name}`"), advice };
    let key = keys::expand(own.key.as_ref().or(of_enum.key.as_ref()), &variant.fields, &owner)?;
    let (members, variables): (Vec<_>, Vec<_>) = key.bindings.into_iter().unzip();
    let expression = key.expression;
    let arm = quote!(Self::#name { #(#members: #variables,)* .. } => (#topic, #expression),);
    Ok((arm, key.displayed))
}

fn no_topic(span: proc_macro2::Span, what: &str) -> Error {
    Error::new(span, format!("{what} has no topic; add #[outbox(topic = \"…\")]"))
}

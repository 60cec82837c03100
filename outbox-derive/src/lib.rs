#![doc = include_str!("../README.md")]

mod attributes;
mod expand;
mod keys;

use proc_macro::TokenStream;
use syn::{DeriveInput, parse_macro_input};

/// Implements `OutboxMessage` for a struct or an enum; see the [documentation of the crate](crate).
#[proc_macro_derive(OutboxMessage, attributes(outbox))]
pub fn outbox_message(input: TokenStream) -> TokenStream {
    let input = parse_macro_input!(input as DeriveInput);
    expand::expand(&input).unwrap_or_else(syn::Error::into_compile_error).into()
}

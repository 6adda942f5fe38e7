//! Secrets on the command line and in the environment.

use std::{ffi::OsStr, marker::PhantomData, str::FromStr};

use clap::{
    Arg, Command, Error,
    builder::{TypedValueParser, ValueParserFactory},
    error::ErrorKind,
};

use crate::verify::{BadSecret, github, standard, stripe, telegram};

/// Parses a secret. clap's own parsers repeat a refused value in the error, and a mistyped secret is close to
/// the real one.
#[derive(Debug, Clone)]
pub struct Masked<T>(PhantomData<T>);

impl<T> TypedValueParser for Masked<T>
where
    T: FromStr<Err = BadSecret> + Clone + Send + Sync + 'static,
{
    type Value = T;

    fn parse_ref(&self, command: &Command, arg: Option<&Arg>, value: &OsStr) -> Result<T, Error> {
        let refused = |why: &str| {
            let arg = arg.map(Arg::to_string).unwrap_or_default();
            Error::raw(ErrorKind::ValueValidation, format!("{arg}: {why}\n")).with_cmd(command)
        };
        let text = value.to_str().ok_or_else(|| refused("it is not UTF-8"))?;
        text.parse()
            .map_err(|why: BadSecret| refused(&why.to_string()))
    }
}

macro_rules! masked {
    ($($secret:ty),*) => {$(
        impl ValueParserFactory for $secret {
            type Parser = Masked<Self>;

            fn value_parser() -> Masked<Self> {
                Masked(PhantomData)
            }
        }
    )*};
}

masked!(
    standard::Secret,
    stripe::Secret,
    github::Secret,
    telegram::Secret
);

//! Secrets on the command line, in the environment and in files.

use std::{ffi::OsStr, fmt::Display, fs, marker::PhantomData, str::FromStr};

use clap::{
    Arg, Command, Error,
    builder::{TypedValueParser, ValueParserFactory},
    error::ErrorKind,
};

use super::source::Secrets;
use crate::verify::{BadSecret, github, standard, stripe, telegram};

/// Parses a secret. clap's own parsers repeat a refused value in the error, and a mistyped secret is close to
/// the real one.
#[derive(Debug, Clone)]
pub struct Masked<T>(PhantomData<T>);

impl<T> TypedValueParser for Masked<T>
where
    T: FromStr<Err: Display> + Clone + Send + Sync + 'static,
{
    type Value = T;

    fn parse_ref(&self, command: &Command, arg: Option<&Arg>, value: &OsStr) -> Result<T, Error> {
        let refused = |why: &str| {
            let arg = arg.map(Arg::to_string).unwrap_or_default();
            Error::raw(ErrorKind::ValueValidation, format!("{arg}: {why}\n")).with_cmd(command)
        };
        let text = value.to_str().ok_or_else(|| refused("it is not UTF-8"))?;
        text.parse()
            .map_err(|why: T::Err| refused(&why.to_string()))
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
    telegram::Secret,
    SecretFile
);

/// The secrets of a file. A line is the name of a variable, `=` and a secret, or a Standard Webhooks secret alone.
#[derive(Debug, Clone)]
pub struct SecretFile(pub Secrets);

impl FromStr for SecretFile {
    type Err = String;

    /// Reads the file at `path`.
    fn from_str(path: &str) -> Result<Self, String> {
        let text =
            fs::read_to_string(path).map_err(|error| format!("cannot read the file: {error}"))?;
        let mut secrets = Secrets::default();
        for (number, line) in (1..).zip(text.lines().map(str::trim_end)) {
            if !line.is_empty() && !line.starts_with('#') {
                add(&mut secrets, line).map_err(|why| format!("line {number}: {why}"))?;
            }
        }
        Ok(Self(secrets))
    }
}

fn add(secrets: &mut Secrets, line: &str) -> Result<(), BadSecret> {
    match line.split_once('=') {
        Some(("STRIPE_WEBHOOK_SECRET", secret)) => secrets.stripe.push(secret.parse()?),
        Some(("GITHUB_WEBHOOK_SECRET", secret)) => secrets.github.push(secret.parse()?),
        Some(("TELEGRAM_SECRET_TOKEN", secret)) => secrets.telegram.push(secret.parse()?),
        Some(("WEBHOOK_SECRET", secret)) => secrets.standard.push(secret.parse()?),
        _ => secrets.standard.push(line.parse()?),
    }
    Ok(())
}

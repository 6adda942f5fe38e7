//! The query of a request: known parameters, each at most once and not empty. Unknown ones are
//! ignored.

use std::{fmt::Display, str::FromStr};

use hyper::Uri;

use super::Problem;

/// The parameters of one request.
#[derive(Debug, Clone, Copy)]
pub struct Query<'a>(&'a str);

impl<'a> Query<'a> {
    /// The query of `uri`.
    pub fn of(uri: &'a Uri) -> Self {
        Self(uri.query().unwrap_or_default())
    }

    /// The value of `name`, if it is there. No value that a server here takes needs an escape, so
    /// `%` stands for itself and is refused by the value's own grammar.
    ///
    /// # Errors
    /// 400 if it is repeated, empty or not a `T`.
    pub fn get<T: FromStr<Err: Display>>(self, name: &str) -> Result<Option<T>, Problem> {
        let pairs = self
            .0
            .split('&')
            .map(|pair| pair.split_once('=').unwrap_or((pair, "")));
        let mut values = pairs
            .filter(|(key, _)| *key == name)
            .map(|(_, value)| value);
        let Some(value) = values.next() else {
            return Ok(None);
        };
        if values.next().is_some() {
            return Err(Problem::bad_request(format!(
                "parameter {name} is repeated"
            )));
        }
        if value.is_empty() {
            return Err(Problem::bad_request(format!("parameter {name} is empty")));
        }
        let invalid =
            |error: T::Err| Problem::bad_request(format!("parameter {name}={value}: {error}"));
        value.parse().map(Some).map_err(invalid)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limit(uri: &str) -> Result<Option<u16>, String> {
        let uri: Uri = uri.parse().unwrap();
        Query::of(&uri)
            .get("limit")
            .map_err(|problem| problem.detail)
    }

    #[test]
    fn a_known_parameter_is_there_once_and_not_empty() {
        assert_eq!(limit("/"), Ok(None));
        assert_eq!(limit("/?limits=9&x&=&unknown=1&unknown=2"), Ok(None));
        assert_eq!(limit("/?a=1&limit=7"), Ok(Some(7)));
        assert_eq!(
            limit("/?limit=7&limit=7"),
            Err("parameter limit is repeated".into())
        );
        assert_eq!(limit("/?limit="), Err("parameter limit is empty".into()));
        assert_eq!(limit("/?limit"), Err("parameter limit is empty".into()));
        assert!(
            limit("/?limit=x")
                .unwrap_err()
                .starts_with("parameter limit=x: ")
        );
        assert!(limit("/?limit=%37").is_err());
    }
}

//! The query of a request. A known parameter occurs at most once and is not empty. Unknown parameters are
//! ignored.

use std::{fmt::Display, str::FromStr};

use hyper::Uri;

use super::problem::Problem;

/// The parameters of one request.
#[derive(Debug, Clone, Copy)]
pub struct Query<'a>(&'a str);

impl<'a> Query<'a> {
    /// The query of `uri`.
    pub fn of(uri: &'a Uri) -> Self {
        Self(uri.query().unwrap_or_default())
    }

    /// The value of the parameter `name`, or `None` if the query has no such parameter. `%` is not decoded,
    /// because no valid value needs it. A value with `%` fails to parse.
    ///
    /// # Errors
    /// 400 if the parameter is repeated, empty or not a `T`.
    pub fn get<T: FromStr<Err: Display>>(self, name: &str) -> Result<Option<T>, Problem> {
        let mut values = self.values(name);
        let Some(value) = values.next() else {
            return Ok(None);
        };
        let detail = match (value.parse(), values.next()) {
            (_, Some(_)) => format!("parameter {name} is repeated"),
            (_, None) if value.is_empty() => format!("parameter {name} is empty"),
            (Err(error), None) => format!("parameter {name}={value:.100}: {error}"),
            (Ok(value), None) => return Ok(Some(value)),
        };
        Err(Problem::bad_request(detail))
    }

    /// Every value of the parameter `name`, as it stands.
    pub fn values(self, name: &str) -> impl DoubleEndedIterator<Item = &'a str> {
        self.0.split('&').filter_map(move |pair| {
            let rest = pair.strip_prefix(name)?;
            if rest.is_empty() {
                Some(rest)
            } else {
                rest.strip_prefix('=')
            }
        })
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

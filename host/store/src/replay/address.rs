//! Where a Redis is.

use std::{fmt, net::IpAddr, path::PathBuf, str::FromStr};

const PORT: u16 = 6379;

/// Why an address of a Redis is refused. It is not repeated, for it may hold a password.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    #[error(
        "a replay store is redis://127.0.0.1:PORT/DATABASE, rediss://HOST:PORT/DATABASE, or \
         unix:///PATH; port and database may be left out"
    )]
    Form,
    #[error(
        "a password stands in the address; it comes from --replay-password-file, and an address \
         names at most the user, as in rediss://USER@HOST"
    )]
    Password,
    #[error(
        "redis:// is not encrypted and stays on this machine: 127.0.0.1, [::1] or localhost; use \
         rediss:// to another one, with --replay-ca"
    )]
    Plaintext,
}

/// `redis://` on loopback, `rediss://` (TLS 1.3) anywhere, or `unix://` and a path. Without a
/// password.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RedisAddress {
    pub(super) place: Place,
    pub(super) user: Option<String>,
    pub(super) database: u32,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Place {
    /// An address or `localhost`; whether that is loopback is looked at again when it is connected.
    Plain(Host),
    Tls(Host),
    Unix(PathBuf),
}

/// A DNS name, or an address without brackets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Host {
    pub(super) name: String,
    pub(super) port: u16,
}

impl fmt::Display for RedisAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.place {
            Place::Plain(host) => write!(f, "redis://{host}/{}", self.database),
            Place::Tls(host) => write!(f, "rediss://{host}/{}", self.database),
            Place::Unix(path) => write!(f, "unix://{}", path.display()),
        }
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name.contains(':') {
            true => write!(f, "[{}]:{}", self.name, self.port),
            false => write!(f, "{}:{}", self.name, self.port),
        }
    }
}

impl Host {
    fn is_loopback(&self) -> bool {
        let address = self.name.parse::<IpAddr>();
        self.name == "localhost" || address.is_ok_and(|address| address.is_loopback())
    }
}

impl FromStr for Host {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let (name, port) = match text.strip_prefix('[') {
            Some(rest) => rest.split_once(']').ok_or(AddressError::Form)?,
            None => text.split_at(text.find(':').unwrap_or(text.len())),
        };
        let port = match port.strip_prefix(':') {
            Some(port) => port.parse().map_err(|_| AddressError::Form)?,
            None if port.is_empty() => PORT,
            None => return Err(AddressError::Form),
        };
        let bracketed = text.starts_with('[');
        let letters =
            |c: char| c.is_ascii_alphanumeric() || ".-".contains(c) || bracketed && c == ':';
        if name.is_empty() || !name.chars().all(letters) {
            return Err(AddressError::Form);
        }
        Ok(Self { name: name.to_owned(), port })
    }
}

impl FromStr for RedisAddress {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let (scheme, rest) = text.split_once("://").ok_or(AddressError::Form)?;
        if scheme == "unix" {
            let path = PathBuf::from(rest);
            let place =
                path.is_absolute().then_some(Place::Unix(path)).ok_or(AddressError::Form)?;
            return Ok(Self { place, user: None, database: 0 });
        }
        let (authority, database) = rest.split_once('/').unwrap_or((rest, ""));
        let (user, host) = match authority.rsplit_once('@') {
            Some((user, _)) if user.contains(':') => return Err(AddressError::Password),
            Some((user, host)) => (Some(user.to_owned()), host),
            None => (None, authority),
        };
        let database = match database {
            "" => 0,
            number => number.parse().map_err(|_| AddressError::Form)?,
        };
        let host = host.parse::<Host>()?;
        let place = match scheme {
            "redis" if host.is_loopback() => Place::Plain(host),
            "redis" => return Err(AddressError::Plaintext),
            "rediss" => Place::Tls(host),
            _ => return Err(AddressError::Form),
        };
        Ok(Self { place, user, database })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_and_shown() {
        for (text, shown) in [
            ("redis://127.0.0.1", "redis://127.0.0.1:6379/0"),
            ("redis://localhost:7000/3", "redis://localhost:7000/3"),
            ("redis://[::1]:7000", "redis://[::1]:7000/0"),
            ("rediss://toani@redis.example", "rediss://redis.example:6379/0"),
            ("rediss://192.0.2.7:7000/1", "rediss://192.0.2.7:7000/1"),
            ("unix:///run/redis/redis.sock", "unix:///run/redis/redis.sock"),
        ] {
            assert_eq!(text.parse::<RedisAddress>().unwrap().to_string(), shown);
        }
        let user = "rediss://toani@redis.example".parse::<RedisAddress>().unwrap().user;
        assert_eq!(user.as_deref(), Some("toani"));
    }

    #[test]
    fn plaintext_stays_on_this_machine_and_passwords_out_of_addresses() {
        let parse = |text: &str| text.parse::<RedisAddress>().unwrap_err();
        for text in ["redis://192.0.2.7", "redis://redis.example:6379/0", "redis://[2001:db8::1]"] {
            assert_eq!(parse(text), AddressError::Plaintext, "{text}");
        }
        for text in ["redis://:secret@127.0.0.1", "rediss://u:secret@redis.example/0"] {
            let error = parse(text);
            assert_eq!(error, AddressError::Password, "{text}");
            assert!(!error.to_string().contains("secret"));
        }
        let none = ["", "127.0.0.1", "http://127.0.0.1", "redis://", "redis://127.0.0.1:port"];
        let none = none.into_iter().chain(["unix://socket", "redis://127.0.0.1/x", "redis://[::1"]);
        for text in none.chain(["rediss://a b", "rediss://a:b:c", "rediss://::1"]) {
            assert_eq!(parse(text), AddressError::Form, "{text}");
        }
    }
}

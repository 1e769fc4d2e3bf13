//! Names, hashes and times, each a type of its own.

use alloc::string::{String, ToString};
use core::fmt;

use data_encoding::{BASE32_NOPAD, HEXLOWER};
use serde::{Deserialize, Deserializer, Serialize, de};
use sha2::{Digest, Sha256};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use crate::text::{bytes_as_text, debug_as_text, serde_as_text};

/// A text that is not an id, a hash or a time of the expected form.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not of the expected form: {0}")]
pub struct FormError(pub &'static str);

const ID_FORM: &str = "an id is 1 to 63 of a-z, 0-9, _ and -, and begins with a letter or digit";

fn is_id(text: &str) -> bool {
    let mut bytes = text.bytes();
    let head = bytes.next().is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    head && text.len() <= 63
        && bytes.all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_' || b == b'-')
}

macro_rules! ids {
    ($($(#[$doc:meta])* $name:ident;)*) => {$(
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
        #[serde(transparent)]
        pub struct $name(String);

        impl $name {
            /// Accepts `[a-z0-9][a-z0-9_-]{0,62}`.
            pub fn new(text: &str) -> Result<Self, FormError> {
                if is_id(text) { Ok(Self(text.to_string())) } else { Err(FormError(ID_FORM)) }
            }

            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl core::str::FromStr for $name {
            type Err = FormError;
            fn from_str(text: &str) -> Result<Self, FormError> {
                Self::new(text)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(reader: D) -> Result<Self, D::Error> {
                Self::new(&String::deserialize(reader)?).map_err(de::Error::custom)
            }
        }

        debug_as_text!($name);
    )*};
}

ids! {
    /// `t` and 52 characters of base32: the hash of the tenant's first policy key.
    TenantId;
    /// An agent, as its policy names it.
    AgentId;
    /// Whom the agent claims to act for.
    UserId;
    /// A person with keys, as a policy names one.
    PersonId;
    /// A policy of a tenant.
    PolicyId;
    /// An upstream service, as a policy defines it.
    ServiceId;
    /// An action of a service.
    ActionName;
    /// A quota of a policy.
    QuotaId;
    /// The part of a tenant's vault that one policy may use.
    Namespace;
    /// A credential in a namespace.
    CredentialId;
    /// One life of the enclave.
    BootId;
    /// One action, from its request to its end.
    ActionId;
    /// One execution of an action.
    ExecutionId;
}

fn base32(bytes: &[u8]) -> String {
    BASE32_NOPAD.encode(bytes).to_ascii_lowercase()
}

impl TenantId {
    /// The tenant whose first policy key this is.
    pub fn of_first_key(key: &crate::sign::PublicKey) -> Self {
        let hash = Hash::of_labelled("toani/v1/tenant", key.to_string().as_bytes());
        Self(alloc::format!("t{}", base32(hash.as_bytes())))
    }
}

macro_rules! random_ids {
    ($($name:ident = $form:literal;)*) => {$(
        impl $name {
            pub fn from_random(bytes: [u8; 16]) -> Self {
                Self(alloc::format!($form, base32(&bytes)))
            }
        }
    )*};
}

random_ids! {
    BootId = "boot_{}";
    ActionId = "act_{}";
    ExecutionId = "exe_{}";
}

/// A SHA-256 hash; `sha256:HEX` in JSON, 32 bytes in postcard.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Hash([u8; 32]);

impl Hash {
    pub const ZERO: Self = Self([0; 32]);

    pub const fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// SHA-256 of the bytes alone.
    pub fn of(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }

    /// SHA-256 over `label`, a zero byte and the bytes: hashes of two kinds never meet.
    pub fn of_labelled(label: &str, bytes: &[u8]) -> Self {
        Self::of_parts(label, &[bytes])
    }

    /// SHA-256 over `label`, a zero byte and the parts one after the other. Parts of variable
    /// length are the caller's to delimit.
    pub fn of_parts(label: &str, parts: &[&[u8]]) -> Self {
        let mut hasher = Sha256::new();
        hasher.update(label.as_bytes());
        hasher.update([0]);
        for part in parts {
            hasher.update(part);
        }
        Self(hasher.finalize().into())
    }

    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

bytes_as_text! {
    Hash as [u8; 32]: "sha256:" HEXLOWER,
    "a hash is sha256: and 64 lower-case hexadecimal digits"
}
debug_as_text!(Hash, Time);

/// Milliseconds since 1970-01-01T00:00:00Z; RFC 3339 in UTC in JSON.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Time(u64);

impl Time {
    /// 9999-12-31T23:59:59.999Z: RFC 3339 ends there.
    pub const MAX: Self = Self(253_402_300_799_999);

    pub const fn from_ms(ms: u64) -> Self {
        if ms > Self::MAX.0 { Self::MAX } else { Self(ms) }
    }

    pub const fn ms(self) -> u64 {
        self.0
    }

    pub const fn plus_ms(self, ms: u64) -> Self {
        Self::from_ms(self.0.saturating_add(ms))
    }

    /// How long after `earlier` this is; zero if it is not.
    pub const fn ms_since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }

    /// Days since 1970-01-01.
    pub const fn day(self) -> u64 {
        self.0 / 86_400_000
    }
}

impl fmt::Display for Time {
    /// RFC 3339, as short as it goes: a fraction only where there is one, without zeros at its end.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let nanoseconds = i128::from(self.0).saturating_mul(1_000_000);
        let moment =
            OffsetDateTime::from_unix_timestamp_nanos(nanoseconds).map_err(|_| fmt::Error)?;
        // By hand: the library's formatting needs std.
        let (year, month, day) = moment.to_calendar_date();
        let (hour, minute, second, ms) = moment.to_hms_milli();
        let month = u8::from(month);
        write!(f, "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}")?;
        match ms {
            0 => {}
            ms if ms % 100 == 0 => write!(f, ".{}", ms / 100)?,
            ms if ms % 10 == 0 => write!(f, ".{:02}", ms / 10)?,
            ms => write!(f, ".{ms:03}")?,
        }
        f.write_str("Z")
    }
}

impl core::str::FromStr for Time {
    type Err = FormError;

    fn from_str(text: &str) -> Result<Self, FormError> {
        let error = FormError("a time is RFC 3339 in UTC, to the millisecond");
        let moment = OffsetDateTime::parse(text, &Rfc3339).map_err(|_| error)?;
        let nanoseconds = moment.unix_timestamp_nanos();
        let ms = u64::try_from(nanoseconds / 1_000_000).map_err(|_| error)?;
        let exact = nanoseconds % 1_000_000 == 0;
        if exact && ms <= Self::MAX.0 { Ok(Self(ms)) } else { Err(error) }
    }
}

serde_as_text!(Time, u64, |ms| Ok(Self::from_ms(ms)));

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_have_one_form() {
        for good in ["a", "0", "buy_stock", "t-1", &"a".repeat(63)] {
            assert!(AgentId::new(good).is_ok(), "{good}");
        }
        for bad in ["", "_a", "-a", "A", "a.b", "a/b", "ä", "a b", &"a".repeat(64)] {
            assert!(AgentId::new(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn times_are_rfc_3339_in_utc() {
        let time = Time::from_ms(1_773_224_100_000);
        assert_eq!(time.to_string(), "2026-03-11T10:15:00Z");
        assert_eq!("2026-03-11T10:15:00Z".parse(), Ok(time));
        assert_eq!("2026-03-11T10:15:00.25Z".parse(), Ok(time.plus_ms(250)));
        for (ms, end) in [(7, "00.007Z"), (70, "00.07Z"), (700, "00.7Z"), (123, "00.123Z")] {
            let text = time.plus_ms(ms).to_string();
            assert!(text.ends_with(end), "{text}");
            assert_eq!(text.parse(), Ok(time.plus_ms(ms)));
        }
        for bad in ["", "2026-03-11", "2026-03-11T10:15:00", "1969-12-31T23:59:59Z"] {
            assert!(bad.parse::<Time>().is_err(), "{bad}");
        }
    }

    #[test]
    fn labels_keep_hashes_apart() {
        assert_ne!(Hash::of_labelled("a", b"bc"), Hash::of_labelled("ab", b"c"));
        let text = Hash::of(b"").to_string();
        assert_eq!(text, "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
        assert_eq!(text.parse(), Ok(Hash::of(b"")));
        assert!(text.to_uppercase().parse::<Hash>().is_err());
    }

    proptest::proptest! {
        #[test]
        fn a_time_is_written_as_the_library_writes_it(
            ms in 0..=Time::MAX.0, coarse in proptest::sample::select(&[1, 10, 100, 1_000][..])
        ) {
            let time = Time::from_ms(ms / coarse * coarse);
            let nanoseconds = i128::from(time.0) * 1_000_000;
            let moment = OffsetDateTime::from_unix_timestamp_nanos(nanoseconds).unwrap();
            proptest::prop_assert_eq!(time.to_string(), moment.format(&Rfc3339).unwrap());
            proptest::prop_assert_eq!(time.to_string().parse(), Ok(time));
        }
    }
}

//! Types with a text of their own: the text stands in JSON, something shorter in postcard.

/// Enums whose variants have one stable name each, the same in documents and in code.
macro_rules! names {
    ($(
        $(#[$doc:meta])*
        $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $text:literal,)* }
    )*) => {$(
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
        pub enum $name {
            $($(#[$variant_doc])* #[serde(rename = $text)] $variant,)*
        }

        impl $name {
            /// The stable name.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text,)* }
            }
        }
    )*};
}

/// Debug as Display.
macro_rules! debug_as_text {
    ($($name:ident),*) => {$(
        impl core::fmt::Debug for $name {
            fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
                core::fmt::Display::fmt(self, f)
            }
        }
    )*};
}

/// Serde of a type around `$raw`: what Display writes and FromStr reads, or `$raw` in postcard.
macro_rules! serde_as_text {
    ($name:ident, $raw:ty, $of_raw:expr) => {
        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, writer: S) -> Result<S::Ok, S::Error> {
                if writer.is_human_readable() {
                    writer.collect_str(self)
                } else {
                    <$raw>::from(alloc::borrow::ToOwned::to_owned(&self.0)).serialize(writer)
                }
            }
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(reader: D) -> Result<Self, D::Error> {
                let value: Result<Self, crate::ids::FormError> = if reader.is_human_readable() {
                    alloc::string::String::deserialize(reader)?.parse()
                } else {
                    $of_raw(<$raw>::deserialize(reader)?)
                };
                value.map_err(serde::de::Error::custom)
            }
        }
    };
}

/// The text of a type around bytes: a prefix, then the bytes in an encoding. `$form` says so to
/// who wrote it otherwise.
macro_rules! bytes_as_text {
    ($name:ident as $raw:ty: $prefix:literal $encoding:ident, $form:literal) => {
        impl core::fmt::Display for $name {
            fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
                f.write_str($prefix)?;
                f.write_str(&$encoding.encode(&self.0))
            }
        }

        impl core::str::FromStr for $name {
            type Err = crate::ids::FormError;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                let error = crate::ids::FormError($form);
                let body = text.strip_prefix($prefix).ok_or(error)?;
                let bytes = $encoding.decode(body.as_bytes()).map_err(|_| error)?;
                bytes.try_into().map(Self).map_err(|_| error)
            }
        }

        crate::text::serde_as_text!($name, $raw, |bytes: $raw| {
            bytes.try_into().map(Self).map_err(|_| crate::ids::FormError($form))
        });
    };
}

pub(crate) use {bytes_as_text, debug_as_text, names, serde_as_text};

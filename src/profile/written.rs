//! How numbers, ranges and structures are written in TOML.
//!
//! A number is a TOML integer (`0x3000`) or text (`"0x3000"`); it is printed as text in hexadecimal, because TOML's
//! own integers end at 2^63 and kernel addresses do not.

use std::{
    collections::BTreeMap,
    fmt::{self, Display},
};

use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{Error as _, MapAccess, Visitor},
    ser::SerializeMap,
};

use super::{Member, Struct};
use crate::addr::{Hex, LinkAddr, PhysRange, hex_bytes, parse_number};

/// A number however it is written.
struct Number(u64);

impl<'de> Deserialize<'de> for Number {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Written;
        impl Visitor<'_> for Written {
            type Value = Number;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number of 64 bits, or text such as \"0x3000\"")
            }

            fn visit_u64<E: serde::de::Error>(self, value: u64) -> Result<Number, E> {
                Ok(Number(value))
            }

            fn visit_i64<E: serde::de::Error>(self, value: i64) -> Result<Number, E> {
                u64::try_from(value).map(Number).map_err(|_| E::custom(format!("{value} is below 0")))
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Number, E> {
                parse_number(text).map(Number).map_err(E::custom)
            }
        }
        deserializer.deserialize_any(Written)
    }
}

pub(super) mod number {
    use super::*;

    #[expect(clippy::ref_option, reason = "the signature serde's `with` asks for")]
    pub(in super::super) fn serialize<S: Serializer>(
        value: &Option<u64>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        value.map(Hex).serialize(serializer)
    }

    pub(in super::super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<u64>, D::Error> {
        Number::deserialize(deserializer).map(|number| Some(number.0))
    }
}

pub(super) mod port {
    use super::*;

    #[expect(clippy::ref_option, reason = "the signature serde's `with` asks for")]
    pub(in super::super) fn serialize<S: Serializer>(
        value: &Option<u16>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        value.map(|port| Hex(port.into())).serialize(serializer)
    }

    pub(in super::super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<u16>, D::Error> {
        let Number(value) = Number::deserialize(deserializer)?;
        u16::try_from(value)
            .map(Some)
            .map_err(|_| D::Error::custom(format!("{value:#x} has more than 16 bits")))
    }
}

pub(super) mod bytes {
    use super::*;

    #[expect(clippy::ref_option, reason = "the signature serde's `with` asks for")]
    pub(in super::super) fn serialize<S: Serializer>(
        value: &Option<Vec<u8>>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        value.as_deref().map(hex_bytes).serialize(serializer)
    }

    pub(in super::super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<Vec<u8>>, D::Error> {
        let text = String::deserialize(deserializer)?;
        let digits: Option<Vec<u8>> = text.chars().map(|c| c.to_digit(16).map(|digit| digit as u8)).collect();
        let bytes = |digits: Vec<u8>| -> Option<Vec<u8>> {
            let pairs = digits.chunks(2).map(|pair| match pair {
                [high, low] => Some(high << 4 | low),
                _ => None,
            });
            pairs.collect()
        };
        let bytes = digits.and_then(bytes).filter(|bytes| !bytes.is_empty());
        let wrong = || D::Error::custom(format!("`{text}` is not bytes as pairs of hexadecimal digits"));
        bytes.map(Some).ok_or_else(wrong)
    }
}

pub(super) mod ranges {
    use super::*;

    pub(in super::super) fn serialize<S: Serializer>(
        ranges: &[PhysRange],
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(ranges.iter().map(PhysRange::to_string))
    }

    pub(in super::super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Vec<PhysRange>, D::Error> {
        let texts = Vec::<String>::deserialize(deserializer)?;
        texts.iter().map(|text| text.parse().map_err(D::Error::custom)).collect()
    }
}

pub(super) mod symbols {
    use super::*;

    pub(in super::super) fn serialize<S: Serializer>(
        symbols: &BTreeMap<String, LinkAddr>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        symbols.serialize(serializer)
    }

    pub(in super::super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<BTreeMap<String, LinkAddr>, D::Error> {
        let written = BTreeMap::<String, Number>::deserialize(deserializer)?;
        Ok(written.into_iter().map(|(name, Number(addr))| (name, LinkAddr::new(addr))).collect())
    }
}

impl Serialize for Struct {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        if let Some(size) = self.size {
            map.serialize_entry("size", &size)?;
        }
        for (name, member) in &self.members {
            map.serialize_entry(name, member)?;
        }
        map.end()
    }
}

impl<'de> Deserialize<'de> for Struct {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Table;
        impl<'de> Visitor<'de> for Table {
            type Value = Struct;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a table of members")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Struct, A::Error> {
                let mut layout = Struct::default();
                while let Some(name) = map.next_key::<String>()? {
                    if name == "size" {
                        layout.size = Some(map.next_value::<Number>()?.0);
                    } else {
                        layout.members.insert(name, map.next_value()?);
                    }
                }
                Ok(layout)
            }
        }
        deserializer.deserialize_map(Table)
    }
}

impl Serialize for Member {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Some(size) = self.size else { return self.offset.serialize(serializer) };
        let mut map = serializer.serialize_map(Some(2))?;
        map.serialize_entry("offset", &self.offset)?;
        map.serialize_entry("size", &size)?;
        map.end()
    }
}

impl<'de> Deserialize<'de> for Member {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Place;
        impl<'de> Visitor<'de> for Place {
            type Value = Member;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an offset in bytes, or { offset = BYTES, size = BYTES }")
            }

            fn visit_u64<E: serde::de::Error>(self, offset: u64) -> Result<Member, E> {
                Ok(Member { offset, size: None })
            }

            fn visit_i64<E: serde::de::Error>(self, offset: i64) -> Result<Member, E> {
                let offset = u64::try_from(offset).map_err(|_| E::custom(below_zero(offset)))?;
                Ok(Member { offset, size: None })
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Member, E> {
                Ok(Member { offset: parse_number(text).map_err(E::custom)?, size: None })
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Member, A::Error> {
                let (mut offset, mut size) = (None, None);
                while let Some(key) = map.next_key::<String>()? {
                    let Number(value) = map.next_value()?;
                    match key.as_str() {
                        "offset" => offset = Some(value),
                        "size" => size = Some(value),
                        _ => return Err(A::Error::unknown_field(&key, &["offset", "size"])),
                    }
                }
                let offset = offset.ok_or_else(|| A::Error::missing_field("offset"))?;
                Ok(Member { offset, size })
            }
        }
        deserializer.deserialize_any(Place)
    }
}

fn below_zero(value: impl Display) -> String {
    format!("{value} is below 0")
}

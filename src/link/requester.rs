//! The requester ID: who a TLP comes from, and where its completions are routed back to.
//!
//! It must be the adapter's own bus, device and function on the target (PCI Express Base Specification,
//! section 2.2.4.2); a completion for any other ID never reaches the adapter.

use std::{fmt, str::FromStr};

/// Bus, device and function of a PCI Express function, written `BB:DD.F` as `lspci` does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Requester(u16);

/// A requester ID not written as `BB:DD.F`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a requester ID BB:DD.F as lspci prints it (hexadecimal, such as 1b:00.0)")]
pub struct ParseRequesterError(String);

impl Requester {
    /// The ID with this 16-bit value: bus in the high byte, then 5 bits of device and 3 of function.
    #[must_use]
    pub const fn from_raw(raw: u16) -> Self {
        Self(raw)
    }

    /// The 16-bit value.
    #[must_use]
    pub const fn raw(self) -> u16 {
        self.0
    }
}

impl fmt::Display for Requester {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:02x}:{:02x}.{:x}", self.0 >> 8, self.0 >> 3 & 0x1f, self.0 & 7)
    }
}

impl FromStr for Requester {
    type Err = ParseRequesterError;

    fn from_str(text: &str) -> Result<Self, ParseRequesterError> {
        let field = |digits: &str, most: u16| {
            let plain = (1..=2).contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_hexdigit());
            plain.then(|| u16::from_str_radix(digits, 16).ok()).flatten().filter(|&value| value <= most)
        };
        let parse = || {
            let (bus, rest) = text.trim().split_once(':')?;
            let (device, function) = rest.split_once('.')?;
            Some(Self(field(bus, 0xff)? << 8 | field(device, 0x1f)? << 3 | field(function, 7)?))
        };
        parse().ok_or_else(|| ParseRequesterError(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_form() {
        for (text, raw) in
            [("1b:00.0", 0x1b00), ("1b:01.0", 0x1b08), ("ff:1f.7", 0xffff), ("00:02.1", 0x0011)]
        {
            let requester: Requester = text.parse().unwrap();
            assert_eq!(requester.raw(), raw);
            assert_eq!(requester.to_string(), text);
        }
        for text in ["", "1b:00", "1b:20.0", "1b:00.8", "100:00.0", "+1:00.0", "1b00", "0000:1b:00.0"] {
            assert!(text.parse::<Requester>().is_err(), "{text}");
        }
    }
}

//! One line of a `.config` file, as `scripts/kconfig/confdata.c` writes it.
//!
//! Input: bytes from the target, hostile. Output: what the line says, or that it is no such line. Knows nothing of
//! pages or files.

/// The kernel's longest option names have some sixty characters.
const MAX_NAME: usize = 128;

/// The longest comments are the titles of menus.
const MAX_COMMENT: usize = 256;

/// What every option begins with.
pub(super) const PREFIX: &str = "CONFIG_";
const UNSET_START: &str = "# CONFIG_";
const UNSET_END: &str = " is not set";

/// A line of a configuration file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Line<'a> {
    /// `CONFIG_NAME=value` or `# CONFIG_NAME is not set`.
    Option(Setting<'a>),
    /// Any other `# text`.
    Comment,
    /// Nothing.
    Blank,
}

/// An option and what it is set to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Setting<'a> {
    /// Without `CONFIG_`.
    pub name: &'a str,
    /// As written, quotes included; `None` for `is not set`.
    pub value: Option<&'a str>,
}

impl<'a> Line<'a> {
    /// What a line, without its newline, says; `None` when a configuration file has no such line.
    #[must_use]
    pub fn parse(line: &'a [u8]) -> Option<Self> {
        let line = std::str::from_utf8(line).ok()?;
        if line.is_empty() {
            return Some(Self::Blank);
        }
        if let Some(rest) = line.strip_prefix(PREFIX) {
            let (name, value) = rest.split_once('=')?;
            return (is_name(name) && is_value(value))
                .then_some(Self::Option(Setting { name, value: Some(value) }));
        }
        let unset = line.strip_prefix(UNSET_START).and_then(|rest| rest.strip_suffix(UNSET_END));
        if let Some(name) = unset {
            return is_name(name).then_some(Self::Option(Setting { name, value: None }));
        }
        let comment = line == "#" || line.starts_with("# ");
        // A comment that begins as an option does is an option that was torn.
        let torn = line.starts_with(UNSET_START);
        (comment && !torn && line.len() <= MAX_COMMENT && is_text(line)).then_some(Self::Comment)
    }

    /// The option, if this is one.
    #[must_use]
    pub fn setting(self) -> Option<Setting<'a>> {
        match self {
            Self::Option(setting) => Some(setting),
            Self::Comment | Self::Blank => None,
        }
    }
}

/// The version in `# Linux/x86 VERSION Kernel Configuration`.
#[must_use]
pub fn header_version(line: &[u8]) -> Option<&str> {
    let line = std::str::from_utf8(line).ok()?;
    let rest = line.strip_prefix("# Linux/")?.strip_suffix(" Kernel Configuration")?;
    let (_, version) = rest.split_once(' ')?;
    (version.starts_with(|c: char| c.is_ascii_digit()) && version.len() < 64 && !version.contains(' '))
        .then_some(version)
}

/// Whether `bytes` can stand in such a file at all, cut anywhere.
pub(super) fn is_fragment(bytes: &[u8]) -> bool {
    match std::str::from_utf8(bytes) {
        Ok(text) => is_text(text),
        // A character may be cut in two by the page's edge.
        Err(error) => {
            error.error_len().is_none()
                && bytes
                    .get(..error.valid_up_to())
                    .and_then(|text| std::str::from_utf8(text).ok())
                    .is_some_and(is_text)
        }
    }
}

fn is_text(text: &str) -> bool {
    text.chars().all(|c| !c.is_control() || c == '\t')
}

fn is_name(name: &str) -> bool {
    !name.is_empty() && name.len() <= MAX_NAME && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

/// `y`, `m`, a number or a quoted string.
fn is_value(value: &str) -> bool {
    if let Some(rest) = value.strip_prefix('"') {
        return is_text(value) && closes_at_its_end(rest);
    }
    let digits = value.strip_prefix('-').unwrap_or(value);
    let number = match digits.strip_prefix("0x").or_else(|| digits.strip_prefix("0X")) {
        Some(hex) => !hex.is_empty() && hex.len() <= 16 && hex.bytes().all(|b| b.is_ascii_hexdigit()),
        None => !digits.is_empty() && digits.len() <= 20 && digits.bytes().all(|b| b.is_ascii_digit()),
    };
    matches!(value, "y" | "m") || number
}

/// Whether the quote that closes a string, given without its first one, is its last character and its only one that
/// is not escaped.
fn closes_at_its_end(rest: &str) -> bool {
    let mut bytes = rest.bytes();
    while let Some(byte) = bytes.next() {
        match byte {
            b'\\' => {
                bytes.next();
            }
            b'"' => return bytes.next().is_none(),
            _ => {}
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn check(line: &str) -> String {
        match Line::parse(line.as_bytes()) {
            Some(Line::Option(Setting { name, value: Some(value) })) => format!("{name} is {value}"),
            Some(Line::Option(Setting { name, value: None })) => format!("{name} is off"),
            Some(other) => format!("{other:?}"),
            None => "no".to_owned(),
        }
    }

    #[test]
    fn lines() {
        assert_eq!(check("CONFIG_64BIT=y"), "64BIT is y");
        assert_eq!(check("CONFIG_SND_SOC_ES8316_i2c=m"), "SND_SOC_ES8316_i2c is m");
        assert_eq!(check("# CONFIG_WERROR is not set"), "WERROR is off");
        assert_eq!(
            check("CONFIG_ILLEGAL_POINTER_VALUE=0xdead000000000000"),
            "ILLEGAL_POINTER_VALUE is 0xdead000000000000"
        );
        assert_eq!(check("CONFIG_A=-12"), "A is -12");
        assert_eq!(check(r#"CONFIG_A="x \" = y""#), r#"A is "x \" = y""#);
        assert_eq!(check("# General setup"), "Comment");
        assert_eq!(check("#"), "Comment");
        assert_eq!(check(""), "Blank");
        for torn in [
            "CONFIG_A",
            "CONFIG_A=",
            "CONFIG_A=n",
            "CONFIG_A=yCONFIG_B=y",
            "CONFIG_A=ym",
            "CONFIG_A=\"x",
            "CONFIG_A=\"x\\\"",
            "CONFIG_A=\"x\"y\"",
            "CONFIG_=y",
            "CONFIG_A B=y",
            "CONFIG_A=0x",
            "CONFIG_A=12k",
            "# CONFIG_A is not",
            "# CONFIG_A is not setCONFIG_B=y",
            "# CONFIG_A=y",
            "ONFIG_A=y",
            "#x",
            "# \u{1}",
        ] {
            assert_eq!(check(torn), "no", "{torn}");
        }
    }

    #[test]
    fn header() {
        assert_eq!(header_version(b"# Linux/x86 6.1.192 Kernel Configuration"), Some("6.1.192"));
        assert_eq!(header_version(b"# Linux/x86_64 4.15.18 Kernel Configuration"), Some("4.15.18"));
        assert_eq!(header_version(b"# Linux/x86 Kernel Configuration"), None);
        assert_eq!(header_version(b"# Linux/x86 6.1 or so Kernel Configuration"), None);
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_line_or_not(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = (Line::parse(&bytes), header_version(&bytes), is_fragment(&bytes));
        }

        #[test]
        fn what_is_written_is_read(name in "[A-Z0-9_]{1,40}", value in "y|m|[0-9]{1,9}|0x[0-9a-f]{1,16}|\"[a-z ]{0,20}\"") {
            let line = format!("CONFIG_{name}={value}");
            let expected = Setting { name: &name, value: Some(&value) };
            prop_assert_eq!(Line::parse(line.as_bytes()).and_then(Line::setting), Some(expected));
        }
    }
}

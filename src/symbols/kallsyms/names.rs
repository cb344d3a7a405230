//! `kallsyms_names`: a length and that many tokens for each symbol; expanded, the letter of its type and its name.
//!
//! The length is one byte; since 73bbb94466fd (6.1) two, seven bits in each, where the first has its highest bit set.
//! `kallsyms_markers` has the offset of every 256th name. Source: `scripts/kallsyms.c`, `kernel/kallsyms.c`.

use super::{FormatError, Tokens};

/// Names between two markers.
pub const MARKED: usize = 256;

/// `KSYM_NAME_LEN` is 512 at most, the letter of the type comes on top.
const MAX_EXPANDED: usize = 1 + 512;

/// All names of a kernel take some 4 MiB; a few bytes of a hostile table could stand for gigabytes.
const MAX_TEXT: usize = 64 << 20;

/// How the length of a name is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lengths {
    /// One byte (before 6.1).
    Byte,
    /// One byte, or two.
    ByteOrTwo,
}

/// Where a name's tokens are, and where the next name begins.
fn entry(bytes: &[u8], at: usize, lengths: Lengths) -> Option<(std::ops::Range<usize>, usize)> {
    let first = usize::from(*bytes.get(at)?);
    let (start, len) = match lengths {
        Lengths::ByteOrTwo if first & 0x80 != 0 => {
            (at + 2, first & 0x7f | usize::from(*bytes.get(at + 1)?) << 7)
        }
        _ => (at + 1, first),
    };
    let end = start.checked_add(len)?;
    // The type alone takes a letter: no name is empty.
    (len > 0 && len <= MAX_EXPANDED && end <= bytes.len()).then_some((start..end, end))
}

/// Steps over `count` names: how many bytes they take, and the offset of every [`MARKED`]th.
///
/// # Errors
/// [`FormatError::Name`]: the name that ends past `bytes` or has an impossible length.
pub fn measure(bytes: &[u8], count: usize, lengths: Lengths) -> Result<(usize, Vec<u64>), FormatError> {
    let (mut at, mut marks) = (0, Vec::new());
    for index in 0..count {
        if index.is_multiple_of(MARKED) {
            marks.push(at as u64);
        }
        (_, at) = entry(bytes, at, lengths).ok_or(FormatError::Name { index })?;
    }
    Ok((at, marks))
}

/// The names of a table, in its order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Names {
    text: String,
    /// Letter of the type, and where the name ends; it begins where the one before it ends.
    entries: Vec<(u8, u32)>,
}

impl Names {
    /// Expands `count` names.
    ///
    /// # Errors
    /// [`FormatError::Name`]: the first name that is not one.
    pub fn expand(
        bytes: &[u8],
        count: usize,
        lengths: Lengths,
        tokens: &Tokens,
    ) -> Result<Self, FormatError> {
        let mut names = Self::default();
        let (mut at, mut expanded) = (0, Vec::new());
        for index in 0..count {
            let wrong = FormatError::Name { index };
            let (range, next) = entry(bytes, at, lengths).ok_or(wrong.clone())?;
            expanded.clear();
            for token in bytes.get(range).unwrap_or_default() {
                tokens.expand(*token, &mut expanded);
                if expanded.len() > MAX_EXPANDED {
                    return Err(wrong);
                }
            }
            match expanded.split_first() {
                Some((letter, name)) if letter.is_ascii_graphic() && names.text.len() < MAX_TEXT => {
                    names.push(*letter, name);
                }
                _ => return Err(wrong),
            }
            at = next;
        }
        Ok(names)
    }

    pub(super) fn push(&mut self, letter: u8, name: &[u8]) {
        self.text.push_str(&String::from_utf8_lossy(name));
        self.entries.push((letter, u32::try_from(self.text.len()).unwrap_or(u32::MAX)));
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Letter of the type and name of the symbol at `index`.
    #[must_use]
    pub fn get(&self, index: usize) -> Option<(u8, &str)> {
        let start = match index.checked_sub(1) {
            Some(before) => self.entries.get(before)?.1,
            None => 0,
        };
        let (letter, end) = *self.entries.get(index)?;
        Some((letter, self.text.get(start as usize..end as usize)?))
    }

    /// Position of the first symbol of that name.
    #[must_use]
    pub fn position(&self, name: &str) -> Option<usize> {
        (0..self.len()).find(|index| self.get(*index).is_some_and(|(_, own)| own == name))
    }
}

//! The tokens of kallsyms: what each of the 256 byte values of a compressed name stands for.
//!
//! `kallsyms_token_table` is 256 NUL-terminated strings, `kallsyms_token_index` their 256 offsets of 16 bits. A byte
//! that occurs in some name stands for itself, so the strings of '0' to '9' follow one another: a run of twenty bytes
//! that is rare, and that the index then proves. Source: `scripts/kallsyms.c`.

use std::ops::Range;

use memchr::memmem;

use super::FormatError;

/// Byte values.
pub const TOKENS: usize = 256;
/// Bytes of `kallsyms_token_index`.
pub const INDEX_LEN: usize = TOKENS * 2;
/// The index counts in 16 bits; the last string follows its last offset.
pub const MAX_TABLE_LEN: usize = (1 << 16) + MAX_TOKEN_LEN + 1;

/// A token is part of a name: `KSYM_NAME_LEN` is 512 at most.
const MAX_TOKEN_LEN: usize = 512;

const DIGITS: &[u8] = b"0\x001\x002\x003\x004\x005\x006\x007\x008\x009\x00";
const FIRST_DIGIT: usize = b'0' as usize;
const AFTER_DIGITS: usize = TOKENS - FIRST_DIGIT - 10;

/// What each byte of a compressed name stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tokens {
    text: Vec<u8>,
    ranges: Vec<Range<usize>>,
}

/// Where the two tables lie in the bytes searched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokensAt {
    /// Start of `kallsyms_token_table`.
    pub table: usize,
    /// Start of `kallsyms_token_index`.
    pub index: usize,
    /// What they say.
    pub tokens: Tokens,
}

impl Tokens {
    /// Reads the tables. `table` may be longer than the table.
    ///
    /// # Errors
    /// [`FormatError::Tokens`] when the index is not that of the table.
    pub fn parse(table: &[u8], index: &[u8]) -> Result<Self, FormatError> {
        let wrong = |token| FormatError::Tokens { token };
        let (offsets, _) = index.get(..INDEX_LEN).ok_or(wrong(0))?.as_chunks::<2>();
        let mut ranges = Vec::with_capacity(TOKENS);
        let mut next = 0;
        for (token, offset) in offsets.iter().enumerate() {
            let start = usize::from(u16::from_le_bytes(*offset));
            let text = table.get(start..).ok_or(wrong(token))?;
            let text = text.get(..text.len().min(MAX_TOKEN_LEN + 1)).unwrap_or_default();
            let len = memchr::memchr(0, text).ok_or(wrong(token))?;
            // Names are printed: a token that could not be is damage.
            let readable = text.iter().take(len).all(|byte| !byte.is_ascii_control());
            if start != next || !readable {
                return Err(wrong(token));
            }
            ranges.push(start..start + len);
            next = start + len + 1;
        }
        Ok(Self { text: table.get(..next).unwrap_or_default().to_vec(), ranges })
    }

    /// Looks for the two tables.
    #[must_use]
    pub fn find(bytes: &[u8]) -> Option<TokensAt> {
        memmem::find_iter(bytes, DIGITS).find_map(|digits| Self::around(bytes, digits))
    }

    /// The tables, if the strings of the digits begin at `digits`.
    fn around(bytes: &[u8], digits: usize) -> Option<TokensAt> {
        let rest = digits + DIGITS.len();
        let tail = bytes.get(rest..bytes.len().min(rest + MAX_TABLE_LEN))?;
        let end = rest + memchr::memchr_iter(0, tail).nth(AFTER_DIGITS - 1)? + 1;
        [8, 4, 2].iter().find_map(|align| {
            let index = end.next_multiple_of(*align);
            let offset: &[u8; 2] = bytes.get(index + FIRST_DIGIT * 2..)?.first_chunk()?;
            let table = digits.checked_sub(usize::from(u16::from_le_bytes(*offset)))?;
            let tokens = Self::parse(bytes.get(table..end)?, bytes.get(index..)?).ok()?;
            Some(TokensAt { table, index, tokens })
        })
    }

    /// Appends what `token` stands for.
    pub(super) fn expand(&self, token: u8, to: &mut Vec<u8>) {
        let range = self.ranges.get(usize::from(token)).cloned().unwrap_or_default();
        to.extend_from_slice(self.text.get(range).unwrap_or_default());
    }
}

//! A place in the kernel as a person names it: a symbol or an address.

use super::Relocated;
use crate::addr::{VirtAddr, parse_address, parse_size};

/// A text that is neither a symbol nor an address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PlaceError {
    /// No symbol of this name.
    #[error("there is no symbol `{text}`{}, and it is no address", meant(similar.as_deref()))]
    Unknown {
        /// As given.
        text: String,
        /// The symbol that was probably meant.
        similar: Option<String>,
    },
    /// It might be a symbol, and none are known.
    #[error("`{text}` is no address, and no symbols of this kernel are known")]
    NoSymbols {
        /// As given.
        text: String,
    },
}

fn meant(similar: Option<&str>) -> String {
    similar.map(|name| format!(" (did you mean `{name}`?)")).unwrap_or_default()
}

/// The run-time address that `text` names: one of `symbols`, or else an address as [`parse_address`] reads it. As in C and
/// in `/proc/kallsyms` offsets, a `&` may stand before it, and bytes to add or take away after it: `init_task+0x10`.
///
/// # Errors
/// [`PlaceError`] with the symbol that was probably meant.
pub fn find(symbols: Option<&Relocated>, text: &str) -> Result<VirtAddr, PlaceError> {
    let text = text.strip_prefix('&').unwrap_or(text);
    let (base, sign, offset) = match text.char_indices().rfind(|(_, c)| matches!(c, '+' | '-')) {
        Some((at, sign)) => {
            (text.get(..at), sign, text.get(at + 1..).and_then(|digits| parse_size(digits.trim()).ok()))
        }
        None => (None, '+', None),
    };
    // A name may have a sign in it.
    match (exactly(symbols, text), base.zip(offset)) {
        (Err(_), Some((base, offset))) => {
            let base = exactly(symbols, base.trim_end())?;
            Ok(if sign == '+' { base.wrapping_add(offset) } else { base.wrapping_sub(offset) })
        }
        (found, _) => found,
    }
}

fn exactly(symbols: Option<&Relocated>, text: &str) -> Result<VirtAddr, PlaceError> {
    let symbols = symbols.filter(|symbols| symbols.table().is_available());
    if let Some(addr) = symbols.and_then(|symbols| symbols.find(text)) {
        return Ok(addr);
    }
    let unknown = || match symbols {
        Some(symbols) => PlaceError::Unknown { text: text.to_owned(), similar: similar(symbols, text) },
        None => PlaceError::NoSymbols { text: text.to_owned() },
    };
    parse_address(text).map(VirtAddr::new).map_err(|_| unknown())
}

/// The symbol nearest to `text`, of those that are as good as the same.
fn similar(symbols: &Relocated, text: &str) -> Option<String> {
    // Two slips, in a name that is more than those.
    let most = 2.min(text.len() / 3);
    let mut best: Option<(usize, String)> = None;
    symbols.table().for_each(&mut |symbol| {
        let name = symbol.name;
        // Names come from the target too: what a terminal would obey is none.
        if name.len().abs_diff(text.len()) > most || !name.bytes().all(|byte| byte.is_ascii_graphic()) {
            return;
        }
        let distance = strsim::damerau_levenshtein(text, name);
        let better = |(least, kept): &(usize, String)| (distance, name) < (*least, kept.as_str());
        if distance <= most && best.as_ref().is_none_or(better) {
            best = Some((distance, name.to_owned()));
        }
    });
    best.map(|(_, name)| name)
}

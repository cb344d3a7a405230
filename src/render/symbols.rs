//! Symbols as `/proc/kallsyms` lists them.

use std::fmt;

use super::printable;
use crate::addr::Hex;

/// A line of the listing.
#[derive(Debug, Clone, Copy, serde::Serialize)]
pub struct SymbolRow<'a> {
    /// Where it is.
    pub addr: Hex,
    /// Its type as `nm` prints it.
    pub letter: char,
    /// Its name.
    pub name: &'a str,
    /// Its module; `None` for the kernel itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub module: Option<&'a str>,
}

/// Address, type, name and module, a line each.
///
/// # Errors
/// The writer's own.
pub fn symbols<'a>(
    out: &mut dyn fmt::Write,
    rows: impl IntoIterator<Item = &'a SymbolRow<'a>>,
) -> fmt::Result {
    for SymbolRow { addr, letter, name, module } in rows {
        let letter = if letter.is_control() { '?' } else { *letter };
        write!(out, "{:016x} {letter} {}", addr.0, printable(name))?;
        match module {
            Some(module) => writeln!(out, "\t[{}]", printable(module))?,
            None => writeln!(out)?,
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_module_stands_behind_a_tab_and_nothing_drives_the_terminal() {
        let row = |letter, name, module| SymbolRow { addr: Hex(0x1000), letter, name, module };
        let mut text = String::new();
        symbols(&mut text, &[row('A', "cpu_tss_rw", None), row('\n', "x\x1b[2J", Some("demo"))]).unwrap();
        assert_eq!(text, "0000000000001000 A cpu_tss_rw\n0000000000001000 ? x\\u{1b}[2J\t[demo]\n");
    }
}

//! A small reader of C declarations, so that the synthetic kernel is written down the way kernel people read
//! kernels: as structs, variables and functions.
//!
//! Input: source text and constants. Output: [`Declarations`]: types laid out by the x86-64 System V ABI, the
//! variables with their sections, the functions with whom they call. Only the subset of C that the sources in
//! `machine/source` use is read; anything else is an error with file and line. Beyond C it knows
//! `__at(N)` (a member's offset, a variable's link address), `__size(N)` (of a struct), `__aligned(N)`,
//! `__packed`, and the sections `__rodata`, `__data`, `__percpu`, `__init`, `__bss`.

mod lexer;
mod parser;
mod table;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

pub use table::TypeTable;

use crate::types::TypeId;

/// What `#ifdef` asks for and what array lengths are made of.
pub type Constants = BTreeMap<&'static str, u64>;

/// A source file: its name, as debug information gives it, and its text.
pub type Source = (&'static str, &'static str);

/// Why the sources cannot be read: a mistake in them, never in a target.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{file}:{line}: {reason}")]
pub struct SourceError {
    /// File name.
    pub file: String,
    /// Line, from 1.
    pub line: u32,
    /// What is wrong.
    pub reason: String,
}

/// Where a variable lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Section {
    /// Read-only after boot.
    RoData,
    /// Initialised.
    Data,
    /// One copy for each processor.
    PerCpu,
    /// Used while booting.
    Init,
    /// Zero at first.
    Bss,
}

/// A variable of the kernel.
#[derive(Debug, Clone)]
pub struct Variable {
    /// Its name.
    pub name: String,
    /// Its type.
    pub ty: TypeId,
    /// Where the linker puts it.
    pub section: Section,
    /// Alignment asked for beyond the type's own.
    pub align: u64,
    /// Link address, when the source insists on one.
    pub at: Option<u64>,
    /// Visible beyond its file.
    pub external: bool,
    /// Index of its file among the sources.
    pub file: usize,
}

/// A function of the kernel.
#[derive(Debug, Clone)]
pub struct Function {
    /// Its name.
    pub name: String,
    /// The functions it calls, in order.
    pub calls: Vec<String>,
    /// Index of its file among the sources.
    pub file: usize,
}

/// Everything the sources declare.
#[derive(Debug, Clone, Default)]
pub struct Declarations {
    /// The types.
    pub types: TypeTable,
    /// The variables, in order.
    pub variables: Vec<Variable>,
    /// The functions, in order.
    pub functions: Vec<Function>,
}

/// Reads `sources` as one translation unit.
///
/// # Errors
/// [`SourceError`] at the first thing that is not understood.
pub fn read(sources: &[Source], constants: &Constants) -> Result<Declarations, SourceError> {
    let mut declarations = Declarations::default();
    for (index, (file, text)) in sources.iter().enumerate() {
        let tokens = lexer::tokens(file, text, constants)?;
        parser::read_file(&mut declarations, constants, file, index, tokens)?;
    }
    Ok(declarations)
}

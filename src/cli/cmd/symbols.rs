//! `symbols`: what the kernel's own memory says of its symbols and types, as a vmlinux, as a file of its modules' or as
//! a list.

use std::{
    error::Error,
    iter,
    path::{Path, PathBuf},
    time::Instant,
};

use serde::Serialize;

use crate::{
    addr::Hex,
    cli::{Outcome, file, out, target::Listing},
    kernel::{
        KernelError,
        module_symbols::{self, LoadedSymbol},
    },
    mem::Fault,
    render::{self, SymbolRow},
    symbols::kallsyms::KernelSymbol,
};

/// The file has the kernel's symbols, all its types and the prototypes of its functions, as gdb, drgn and pahole read
/// them, at the addresses it was linked at: use it in place of the distribution's vmlinux.
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Args {
    #[command(flatten)]
    listing: Listing,

    /// The vmlinux to make; a file that exists is replaced once the new one is whole
    #[arg(short, long, value_name = "FILE", required_unless_present = "list")]
    output: Option<PathBuf>,

    /// Make a file of the modules loaded now, to load into gdb beside the vmlinux: add-symbol-file FILE
    #[arg(long, conflicts_with = "list")]
    modules: bool,

    /// Print the symbols as /proc/kallsyms does: address, type, name, module
    #[arg(long, conflicts_with = "output")]
    list: bool,
}

pub(in crate::cli) fn run(args: &Args, quiet: bool) -> anyhow::Result<Outcome> {
    match &args.output {
        Some(path) => write(args, path, quiet),
        None => list(args, quiet),
    }
}

fn own(symbol: KernelSymbol<'_>) -> SymbolRow<'_> {
    SymbolRow { addr: Hex(symbol.addr.raw()), letter: symbol.letter, name: symbol.name, module: None }
}

fn loaded(symbol: &LoadedSymbol) -> SymbolRow<'_> {
    let LoadedSymbol { addr, letter, name, module, .. } = symbol;
    SymbolRow { addr: Hex(addr.raw()), letter: *letter, name, module: Some(module) }
}

fn list(args: &Args, quiet: bool) -> anyhow::Result<Outcome> {
    let session = args.listing.open(quiet)?;
    let table = session.kallsyms.table()?;
    let (modules, outcome) = match module_symbols::list(&session.kernel) {
        Ok(modules) => (modules, Outcome::Done),
        Err(error) if is_of_the_link(&error) => return Err(error.into()),
        Err(error) => {
            out::notice(&format!("nettlp-gdb: the kernel's own symbols only: {error}"));
            (Vec::new(), Outcome::Partial)
        }
    };
    let rows = table.in_table_order().map(own).chain(modules.iter().map(loaded));
    let rows: Vec<SymbolRow<'_>> = rows.collect();
    args.listing.print(&session, &rows, |text| render::symbols(text, &rows))?;
    Ok(outcome)
}

/// Whether the target gave no answer at all, so that nothing is known of its modules.
fn is_of_the_link(error: &KernelError) -> bool {
    let mut causes = iter::successors(Some(error as &(dyn Error + 'static)), |cause| (*cause).source());
    causes.any(|cause| matches!(cause.downcast_ref(), Some(Fault::Link(error)) if error.is_unanswered()))
}

/// What making a file says in the end; in JSON as it is.
#[derive(Debug, Serialize)]
struct Summary<'a> {
    file: &'a Path,
    bytes: usize,
    symbols: usize,
    types: usize,
    functions: usize,
    variables: usize,
    seconds: f64,
}

fn write(args: &Args, path: &Path, quiet: bool) -> anyhow::Result<Outcome> {
    args.listing.refuse_own(path)?;
    file::check(path)?;
    let start = Instant::now();
    let session = args.listing.open(quiet)?;
    let made = if args.modules { session.synthesize_modules() } else { session.synthesize() }?;
    file::write(path, &made.bytes)?;
    let summary = Summary {
        file: path,
        bytes: made.bytes.len(),
        symbols: made.symbols,
        types: made.types,
        functions: made.functions,
        variables: made.variables,
        seconds: start.elapsed().as_secs_f64(),
    };
    if args.listing.json {
        out::json_lines([&summary])?;
    } else {
        let Summary { bytes, symbols, types, functions, variables, seconds, .. } = summary;
        out::text(&format!(
            "{}: {symbols} symbols, {types} types, {functions} functions and {variables} variables with their types; \
             {bytes} bytes, {seconds:.1} s\n",
            path.display(),
        ))?;
    }
    args.listing.report(&session);
    Ok(Outcome::Done)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        addr::{PhysAddr, VirtAddr},
        link::LinkError,
        mem::MemError,
        paging::{VirtError, VirtFault},
    };

    #[test]
    fn a_link_that_is_dead_is_told_from_damaged_memory() {
        let (phys, addr, len) = (PhysAddr::new(0x1000), VirtAddr::new(0x2000), 8);
        let failed = |fault| {
            let source = MemError { addr: phys, len, fault };
            KernelError::Read {
                step: "reading",
                source: VirtError { addr, len, fault: VirtFault::Data(source) },
            }
        };
        let timeout = LinkError::Timeout { addr: phys, len, attempts: 5 };
        assert!(is_of_the_link(&failed(Fault::Link(timeout.clone()))));
        let source = MemError { addr: phys, len, fault: Fault::Link(timeout) };
        let table = VirtError { addr, len, fault: VirtFault::Table { level: 1, source } };
        assert!(is_of_the_link(&KernelError::Read { step: "reading", source: table }));
        assert!(!is_of_the_link(&failed(Fault::Link(LinkError::UnsupportedRequest { addr: phys, len }))));
        assert!(!is_of_the_link(&failed(Fault::Hole)));
    }
}

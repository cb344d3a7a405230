//! `symbols`: the symbols of the running kernel, from its own memory; those of modules too where there are types.

use crate::{
    addr::Hex,
    cli::{Outcome, out, target::Listing},
    kernel::{
        KernelError,
        module_symbols::{self, LoadedSymbol},
    },
    render::{self, SymbolRow},
    symbols::kallsyms::KernelSymbol,
};

#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Args {
    #[command(flatten)]
    listing: Listing,

    /// Print them as /proc/kallsyms does: address, type, name, module
    #[arg(long, required = true)]
    list: bool,
}

fn own(symbol: KernelSymbol<'_>) -> SymbolRow<'_> {
    SymbolRow { addr: Hex(symbol.addr.raw()), letter: symbol.letter, name: symbol.name, module: None }
}

fn loaded(symbol: &LoadedSymbol) -> SymbolRow<'_> {
    let LoadedSymbol { addr, letter, name, module, .. } = symbol;
    SymbolRow { addr: Hex(addr.raw()), letter: *letter, name, module: Some(module) }
}

pub(in crate::cli) fn run(args: &Args, quiet: bool) -> anyhow::Result<Outcome> {
    let session = args.listing.open(quiet)?;
    let table = session.kallsyms.table()?;
    let (modules, outcome) = match module_symbols::list(&session.kernel) {
        Ok(modules) => (modules, Outcome::Done),
        Err(error @ KernelError::NeedsVmlinux { .. }) => {
            out::notice(&format!("nettlp-gdb: the kernel's own symbols only: {error}"));
            (Vec::new(), Outcome::Partial)
        }
        Err(error) => return Err(error.into()),
    };
    let rows = table.in_table_order().map(own).chain(modules.iter().map(loaded));
    let rows: Vec<SymbolRow<'_>> = rows.collect();
    if args.listing.json {
        out::json_lines(&rows)?;
    } else {
        out::rendered(|text| render::symbols(text, &rows))?;
    }
    args.listing.report(&session);
    Ok(outcome)
}

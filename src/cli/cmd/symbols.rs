//! `symbols`: the symbols of the running kernel, from its own memory; those of modules too where there are types.

use serde::Serialize;

use crate::{
    addr::Hex,
    cli::{Outcome, out, target::Listing},
    kernel::{
        KernelError,
        module_symbols::{self, LoadedSymbol},
    },
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

/// A line of the listing.
#[derive(Serialize)]
struct Row<'a> {
    addr: Hex,
    letter: char,
    name: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    module: Option<&'a str>,
}

impl<'a> Row<'a> {
    fn of_kernel(symbol: KernelSymbol<'a>) -> Self {
        Self { addr: Hex(symbol.addr.raw()), letter: symbol.letter, name: symbol.name, module: None }
    }

    fn of_module(symbol: &'a LoadedSymbol) -> Self {
        let module = Some(&*symbol.module);
        Self { addr: Hex(symbol.addr.raw()), letter: symbol.letter, name: &symbol.name, module }
    }
}

pub(in crate::cli) fn run(args: &Args, quiet: bool) -> anyhow::Result<Outcome> {
    let session = args.listing.open(quiet)?;
    let table = session.kallsyms.table()?;
    let (loaded, outcome) = match module_symbols::list(&session.kernel) {
        Ok(loaded) => (loaded, Outcome::Done),
        Err(error @ KernelError::NeedsVmlinux { .. }) => {
            out::notice(&format!("nettlp-gdb: the kernel's own symbols only: {error}"));
            (Vec::new(), Outcome::Partial)
        }
        Err(error) => return Err(error.into()),
    };
    let rows: Vec<Row<'_>> =
        table.in_table_order().map(Row::of_kernel).chain(loaded.iter().map(Row::of_module)).collect();
    if args.listing.json {
        out::json_lines(&rows)?;
    } else {
        out::rendered(|text| {
            rows.iter().try_for_each(|row| {
                write!(text, "{:016x} {} {}", row.addr.0, row.letter, row.name)?;
                match row.module {
                    Some(module) => writeln!(text, "\t[{module}]"),
                    None => writeln!(text),
                }
            })
        })?;
    }
    args.listing.report(&session);
    Ok(outcome)
}

//! `man`: the manual page, of the program and of every command.

use clap::CommandFactory;

use crate::cli::{Cli, Outcome, out};

pub(in crate::cli) fn run() -> anyhow::Result<Outcome> {
    let mut command = Cli::command();
    command.build();
    let mut page = Vec::new();
    clap_mangen::Man::new(command.clone()).render(&mut page)?;
    for subcommand in command.get_subcommands().filter(|command| command.get_name() != "help") {
        let man = clap_mangen::Man::new(subcommand.clone());
        page.extend(format!(".SH \"NETTLP-GDB {}\"\n", subcommand.get_name().to_uppercase()).bytes());
        man.render_description_section(&mut page)?;
        man.render_synopsis_section(&mut page)?;
        man.render_options_section(&mut page)?;
    }
    out::bytes(&page)?;
    Ok(Outcome::Done)
}

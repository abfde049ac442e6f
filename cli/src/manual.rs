//! `levee completions` and `levee man`: made from the commands themselves.

use std::io::Write;
use std::path::{Path, PathBuf};

use clap::Command;
use clap_complete::Shell;
use clap_mangen::Man;

use crate::codes::Code;
use crate::error::CliError;
use crate::output::print;

#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
bash  levee completions bash > ~/.local/share/bash-completion/completions/levee
zsh   levee completions zsh > \"${fpath[1]}/_levee\"
fish  levee completions fish > ~/.config/fish/completions/levee.fish
")]
pub struct CompletionsArgs {
    shell: Shell,
}

#[derive(Debug, clap::Args)]
pub struct ManArgs {
    /// The command whose page is written, like `topic create`; that of levee without one.
    #[arg(value_name = "COMMAND")]
    command: Vec<String>,
    /// Write the pages of all commands into this folder; made if it is missing.
    #[arg(long, value_name = "DIR", conflicts_with = "command")]
    dir: Option<PathBuf>,
}

pub fn completions(args: &CompletionsArgs, mut levee: Command) -> Result<(), CliError> {
    // The generator panics where it cannot write.
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut levee, "levee", &mut script);
    let mut out = std::io::stdout().lock();
    out.write_all(&script)?;
    Ok(out.flush()?)
}

pub fn man(args: &ManArgs, mut levee: Command) -> Result<(), CliError> {
    levee.build();
    if let Some(dir) = &args.dir {
        let failed = |error: std::io::Error| {
            let why = format!("pages cannot be written to {}: {error}", dir.display());
            CliError::of(Code::LocalFile, why).next_step("name a folder that can be written to")
        };
        std::fs::create_dir_all(dir).map_err(failed)?;
        let count = pages(&levee, "levee", dir).map_err(failed)?;
        return print(format_args!("wrote {count} pages to {}", dir.display()));
    }
    let mut found = &levee;
    let mut name = "levee".to_owned();
    for word in &args.command {
        found = found.find_subcommand(word).ok_or_else(|| {
            CliError::usage(format!("{name} has no command {word:?}"))
                .next_step(format!("{name} --help lists them"))
        })?;
        name = format!("{name}-{}", found.get_name());
    }
    let page = page(found, &name)?;
    let mut out = std::io::stdout().lock();
    out.write_all(&page)?;
    Ok(out.flush()?)
}

/// A page for a command and each below it; how many.
fn pages(command: &Command, name: &str, dir: &Path) -> std::io::Result<usize> {
    std::fs::write(dir.join(format!("{name}.1")), page(command, name)?)?;
    let mut count = 1;
    for sub in command.get_subcommands().filter(|sub| sub.get_name() != "help") {
        count += pages(sub, &format!("{name}-{}", sub.get_name()), dir)?;
    }
    Ok(count)
}

fn page(command: &Command, name: &str) -> std::io::Result<Vec<u8>> {
    let command = command.clone().name(name.to_owned()).disable_help_subcommand(true);
    let mut page = Vec::new();
    Man::new(command).manual("Levee").render(&mut page)?;
    Ok(page)
}

//! `levee explain`: what an error means and what to do.

use levee_broker::config::nearest;
use serde_json::{Value, json};

use crate::codes::{Code, Explanation, exit_help};
use crate::error::CliError;
use crate::output::{Output, OutputArgs, print, print_json, table};

#[derive(Debug, clap::Args)]
pub struct Args {
    /// The name in an error's brackets, like UNKNOWN_TOPIC; without it all of them are listed.
    #[arg(value_name = "ERROR")]
    name: Option<String>,
    #[command(flatten)]
    output: OutputArgs,
}

pub fn run(args: &Args) -> Result<(), CliError> {
    let all = Code::ALL.iter().map(|code| code.explanation());
    let Some(name) = &args.name else {
        return match args.output.output {
            Output::Json => print_json(&all.map(json).collect()),
            Output::Text => {
                let row = |e: &Explanation| {
                    vec![e.name.to_owned(), (e.exit as u8).to_string(), e.meaning.to_owned()]
                };
                print(format_args!(
                    "{}\n\n{}",
                    table(&["ERROR", "EXIT", "MEANING"], all.map(row)),
                    exit_help().trim_end()
                ))
            }
        };
    };
    let asked = name.trim_matches(['(', ')']).to_uppercase().replace(['-', ' '], "_");
    let names = all.clone().map(|explanation| explanation.name);
    let Some(found) = all.clone().find(|explanation| explanation.name == asked) else {
        let step = match nearest(&asked, names) {
            Some(near) => format!("did you mean {near}?"),
            None => "`levee explain` lists all of them".to_owned(),
        };
        return Err(CliError::usage(format!("{name:?} is no error of Levee")).next_step(step));
    };
    match args.output.output {
        Output::Json => print_json(&json(found)),
        Output::Text => print(format_args!(
            "{}\n\n  {}\n\n  What to do: {}\n\n  Exit code {}: {}",
            found.name,
            found.meaning,
            found.remedy,
            found.exit as u8,
            found.exit.meaning()
        )),
    }
}

fn json(explanation: &Explanation) -> Value {
    json!({
        "error": explanation.name,
        "exit_code": explanation.exit as u8,
        "meaning": explanation.meaning,
        "remedy": explanation.remedy,
    })
}

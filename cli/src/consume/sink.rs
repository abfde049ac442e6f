//! Records on standard output: chosen, counted, written.

use std::io::{BufWriter, Stdout, Write};

use super::Args;
use super::sources::Found;
use crate::error::CliError;
use crate::filter::Filter;
use crate::format::Format;
use crate::jsonl;
use crate::output::Output;

/// What is written at once.
const BUFFER_BYTES: usize = 256 << 10;

pub(super) struct Sink {
    out: BufWriter<Stdout>,
    /// How many more may be shown.
    left: Option<u64>,
    filter: Filter,
    look: Look,
}

enum Look {
    Json { meta_only: bool },
    Text(Format),
}

impl Sink {
    pub(super) fn new(args: &Args) -> Self {
        let plain = |text| Format::parse(text).expect("a format of ours");
        let given = &args.look;
        let look = match &given.format {
            _ if given.json || given.output == Output::Json => {
                Look::Json { meta_only: given.meta_only }
            }
            Some(format) => Look::Text(format.clone()),
            None if given.meta_only => {
                Look::Text(plain("%t/%p@%o\\t%d{rfc3339}\\t%k\\t%V\\t%h\\n"))
            }
            None => Look::Text(match &given.key_delimiter {
                Some(delimiter) => Format::keyed(delimiter),
                None => plain("%v\\n"),
            }),
        };
        let out = BufWriter::with_capacity(BUFFER_BYTES, std::io::stdout());
        Self { out, left: args.num, filter: args.filter.clone(), look }
    }

    pub(super) fn is_full(&self) -> bool {
        self.left == Some(0)
    }

    pub(super) fn write(&mut self, found: &Found) -> Result<(), CliError> {
        let (topic, partition) = (&found.topic, found.partition);
        for record in found.records.iter().filter(|r| self.filter.lets_through(&r.data)) {
            match &mut self.left {
                Some(0) => break,
                Some(left) => *left -= 1,
                None => {}
            }
            match &self.look {
                Look::Text(format) => format.write(&mut self.out, topic, partition, record)?,
                Look::Json { meta_only } => {
                    let line = jsonl::write(topic, partition, record, *meta_only);
                    writeln!(self.out, "{}", line.map_err(std::io::Error::from)?)?;
                }
            }
        }
        Ok(())
    }

    pub(super) fn flush(&mut self) -> Result<(), CliError> {
        Ok(self.out.flush()?)
    }
}

//! `levee dev`: a broker with the defaults of a desk: a folder as bucket, topics of class `local`.

use levee_broker::config::Mode;

use crate::error::CliError;
use crate::serve::{ServeArgs, serve};

pub type Args = ServeArgs;

pub async fn run(args: Args) -> Result<(), CliError> {
    serve(args, Mode::Dev).await
}

//! `levee broker`: a broker in production: the bucket must be named, topics are of class `object`.

use levee_broker::config::Mode;

use crate::error::CliError;
use crate::serve::{ServeArgs, serve};

pub type Args = ServeArgs;

pub async fn run(args: Args) -> Result<(), CliError> {
    serve(args, Mode::Broker).await
}

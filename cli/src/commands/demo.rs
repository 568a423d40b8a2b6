//! `deltabus demo`.

use crate::arguments::{Demo, Global};
use crate::error::{Error, Exit};

/// Runs the command.
pub(crate) async fn demo(_global: &Global, _options: Demo) -> Result<Exit, Error> {
    Ok(Exit::Done)
}

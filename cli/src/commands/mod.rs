//! One file for each command.

pub(crate) mod administration;
pub(crate) mod bus;
pub(crate) mod cases;
pub(crate) mod certificates;
pub(crate) mod check;
pub(crate) mod compare;
pub(crate) mod conflicts;
pub(crate) mod control;
pub(crate) mod copy;
pub(crate) mod dead_letters;
pub(crate) mod decide;
pub(crate) mod demo;
pub(crate) mod diff;
pub(crate) mod log;
pub(crate) mod manage;
pub(crate) mod page;
pub(crate) mod plan;
pub(crate) mod receive;
pub(crate) mod restore;
pub(crate) mod shell;
pub(crate) mod status;
pub(crate) mod transmit;
pub(crate) mod verify;
pub(crate) mod who;

use deltabus_record::text::printable;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::error::{Error, Exit};

/// Waits until all tasks have ended. The first that fails stops the others.
pub(crate) async fn finish<E>(mut tasks: JoinSet<Result<(), E>>, stop: &CancellationToken) -> Result<Exit, Error>
where
    E: Into<Error> + 'static,
{
    let mut failed = None;
    while let Some(ended) = tasks.join_next().await {
        let result = match ended {
            Ok(result) => result.map_err(Into::into),
            Err(error) => Err(Error::Trouble(format!("a task ended badly: {error}"))),
        };
        if let Err(error) = result {
            stop.cancel();
            failed.get_or_insert(error);
        }
    }
    failed.map_or(Ok(Exit::Done), Err)
}

/// An error with its causes, for a log line.
pub(crate) fn one_line(error: &dyn std::error::Error) -> String {
    // What a file or a peer had in it may be there: nothing of it reaches the terminal but text.
    printable(&deltabus_bus::causes(error).replace('\n', " "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_one_line_without_anything_that_a_terminal_obeys() {
        let error = std::io::Error::other("a\nb\u{1b}]0;title\u{7}\r\0\u{9b}31m ü");
        assert_eq!(one_line(&error), "a b\\u{1b}]0;title\\u{7}\\r\\u{0}\\u{9b}31m ü");
    }
}

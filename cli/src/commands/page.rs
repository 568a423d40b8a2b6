//! `deltabus page`: a link that lets a browser in to the manager's page.

use std::process::{Command, Stdio};

use crate::arguments::{Global, Page};
use crate::commands::administration::administrator;
use crate::error::{Error, Exit};

/// What opens an address in a browser.
const OPENER: &str = if cfg!(target_os = "macos") { "open" } else { "xdg-open" };

/// Runs the command.
pub(crate) async fn page(global: &Global, options: Page) -> Result<Exit, Error> {
    let client = administrator(global).await?;
    let (link, seconds) = client.page().await?;
    println!("{link}");
    if !global.quiet {
        eprintln!("good once, for {seconds} seconds: whoever opens it is `{}` there", client.identity().name());
        if let Some(fingerprint) = client.identity().authority()? {
            eprintln!(
                "A browser doesn't know the manager's authority unless it was given the manager's `ca.pem`, and warns. SHA-256 of \
                 that certificate: {fingerprint}"
            );
        }
    }
    if options.open {
        let mut opener = Command::new(OPENER);
        opener.arg(&link).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let opened = opener.status().is_ok_and(|status| status.success());
        if !opened {
            return Err(Error::Trouble(format!("`{OPENER}` opens no browser here; open the link yourself")));
        }
    }
    Ok(Exit::Done)
}

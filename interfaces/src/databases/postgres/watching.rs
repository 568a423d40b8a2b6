//! Notifications by `LISTEN`.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use tokio::task::AbortHandle;
use tokio_postgres::{AsyncMessage, NoTls};

use super::connection::{Failure, Server};
use super::runtime;
use super::settings::Settings;
use super::table::quote;
use crate::{Notify, Result, Signal, Watching};

/// How long to wait before listening again on a server that went away: polling goes on meanwhile.
const AGAIN_AFTER: Duration = Duration::from_secs(5);

/// Ends listening when dropped.
struct Listening(AbortHandle);

impl Drop for Listening {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Signals whenever something is sent on `channel`, on a connection of its own that comes again after it broke off.
pub(super) fn listen(server: &Arc<Server>, channel: &str, notify: Notify) -> Result<Watching> {
    let settings = server.settings.clone();
    let sql = format!("LISTEN {}", quote(channel));
    let task = runtime::spawn(async move {
        loop {
            if let Err(error) = hear(&settings, &sql, &notify).await {
                tracing::warn!(place = settings.place, %error, "listening was interrupted; polling goes on");
            }
            tokio::time::sleep(AGAIN_AFTER).await;
            // Something may have been missed.
            notify(Signal::Written);
        }
    });
    let task = task.map_err(|error| Failure::Io(error).into_error(server.place(), "listening"))?;
    Ok(Watching::new(Listening(task.abort_handle())))
}

async fn hear(settings: &Settings, sql: &str, notify: &Notify) -> Result<(), Failure> {
    if settings.tls.off {
        let (client, connection) = settings.config.connect(NoTls).await?;
        return follow(client, connection, sql, notify).await;
    }
    let (client, connection) = settings.config.connect(settings.tls.connector().map_err(Failure::Io)?).await?;
    follow(client, connection, sql, notify).await
}

async fn follow<S, T>(
    client: tokio_postgres::Client,
    mut connection: tokio_postgres::Connection<S, T>,
    sql: &str,
    notify: &Notify,
) -> Result<(), Failure>
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
    T: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
{
    let mut messages = futures::stream::poll_fn(|context| connection.poll_message(context));
    let begun = client.batch_execute(sql);
    let mut begun = std::pin::pin!(begun);
    let mut listening = false;
    loop {
        tokio::select! {
            result = &mut begun, if !listening => {
                result?;
                listening = true;
            }
            message = messages.next() => match message {
                Some(Ok(AsyncMessage::Notification(_))) => notify(Signal::Written),
                Some(Ok(_)) => {}
                Some(Err(error)) => return Err(error.into()),
                None => return Err(Failure::gone()),
            }
        }
    }
}

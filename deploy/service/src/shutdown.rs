//! Shutdown as a value that is passed in: whoever runs for long holds a token and ends when it is cancelled. And the signal that asks
//! for settings to be read again.

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// Resolves nothing by itself; see [`on_signals`].
pub type Shutdown = CancellationToken;

/// A token that is cancelled by SIGTERM or SIGINT. Must be called inside a tokio runtime.
pub fn on_signals() -> std::io::Result<Shutdown> {
    use tokio::signal::unix::{SignalKind, signal};
    let shutdown = Shutdown::new();
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let token = shutdown.clone();
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => tracing::info!("SIGTERM: shutting down"),
            _ = interrupt.recv() => tracing::info!("SIGINT: shutting down"),
            () = token.cancelled() => {}
        }
        token.cancel();
    });
    Ok(shutdown)
}

/// Changes with every SIGHUP, which no longer ends the process from now on. Must be called inside a tokio runtime.
pub fn hangups() -> std::io::Result<watch::Receiver<u64>> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut hangup = signal(SignalKind::hangup())?;
    let (told, hears) = watch::channel(0);
    tokio::spawn(async move {
        while hangup.recv().await.is_some() {
            told.send_modify(|count| *count += 1);
            if told.is_closed() {
                return;
            }
        }
    });
    Ok(hears)
}

//! When somebody wants the benchmark to end early.

use tokio::signal::unix::{SignalKind, signal};

/// Returns at SIGINT or SIGTERM.
pub async fn asked_to_end() {
    let mut terminated = match signal(SignalKind::terminate()) {
        Ok(terminated) => terminated,
        Err(error) => {
            eprintln!("adrastea: failed to watch for SIGTERM: {error}");
            return std::future::pending().await;
        }
    };
    tokio::select! {
        _ = tokio::signal::ctrl_c() => {}
        _ = terminated.recv() => {}
    }
}

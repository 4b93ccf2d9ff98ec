//! Tells systemd, where it runs the daemon, that the store is up to date, that the daemon lives, and that it ends.

use highwater_client::Client;
use sd_notify::NotifyState;
use tokio_util::task::AbortOnDropHandle;

/// How many times in the time that systemd allows the daemon says that it lives.
const SIGNS_OF_LIFE: u32 = 2;

/// Notifies as long as the value lives. Elsewhere than under systemd it does nothing.
pub(crate) fn notify(client: &Client) -> AbortOnDropHandle<()> {
    let mut applied = client.subscribe();
    let watchdog = sd_notify::watchdog_enabled();
    AbortOnDropHandle::new(tokio::spawn(async move {
        let ready = async {
            // Even a pull with nothing new applies a page, which has the new cursor.
            while applied.recv().await.is_ok_and(|page| page.more) {}
            say(NotifyState::Ready);
            std::future::pending::<()>().await;
        };
        let alive = async {
            let Some(within) = watchdog else {
                return std::future::pending().await;
            };
            let mut signs = tokio::time::interval(within / SIGNS_OF_LIFE);
            loop {
                signs.tick().await;
                say(NotifyState::Watchdog);
            }
        };
        tokio::join!(ready, alive);
    }))
}

/// Tells that the daemon ends, by its own will.
pub(crate) fn stopping() {
    say(NotifyState::Stopping);
}

fn say(state: NotifyState<'_>) {
    if let Err(error) = sd_notify::notify(&[state]) {
        tracing::warn!(%error, "cannot notify systemd");
    }
}

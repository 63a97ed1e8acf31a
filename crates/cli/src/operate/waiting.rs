//! Waiting for what a cluster does by itself: ask, look, show, and ask again.

use std::time::Duration;

use coda_client::ClientError;
use indicatif::{ProgressBar, ProgressStyle};
use tokio::time::Instant;

use crate::errors::CliError;

/// Between two questions.
const POLL: Duration = Duration::from_millis(500);
/// A wait that lasts this long shows that something is still alive.
const TICK: Duration = Duration::from_millis(120);
/// What looks as if it could not go on is looked at so often before that is believed: leaders change, nodes start.
pub const STUCK_LOOKS: u32 = 20;

/// A wait that a person sees as a bar or a spinner; nothing is drawn where standard error is no terminal.
pub struct Waiting {
    bar: ProgressBar,
    started: Instant,
    timeout: Option<Duration>,
    poll: Duration,
}

impl Waiting {
    pub fn spinner(timeout: Option<Duration>) -> Self {
        Self::new(ProgressBar::new_spinner(), timeout)
    }

    /// Its length is known when something was seen.
    pub fn bar(timeout: Option<Duration>) -> Self {
        let style = ProgressStyle::with_template("{spinner} [{bar:30}] {pos}/{len}  {msg}");
        let style = style.unwrap_or_else(|_| ProgressStyle::default_bar());
        Self::new(ProgressBar::new(0).with_style(style), timeout)
    }

    fn new(bar: ProgressBar, timeout: Option<Duration>) -> Self {
        bar.enable_steady_tick(TICK);
        Self { bar, started: Instant::now(), timeout, poll: POLL }
    }

    pub fn say(&self, message: impl Into<String>) {
        self.bar.set_message(message.into());
    }

    /// So much is left. The most that was ever left is all there is.
    pub fn left(&self, left: u64) {
        let total = self.bar.length().unwrap_or(0).max(left);
        self.bar.set_length(total);
        self.bar.set_position(total - left);
    }

    /// Asks until `look` finds what is waited for. What passes by itself is waited out: no leader, or no node.
    /// `what` has not happened, says the error after the user's time.
    pub async fn until<T, R>(
        &self,
        what: &str,
        ask: impl AsyncFn() -> Result<T, ClientError>,
        mut look: impl FnMut(&Self, T) -> Result<Option<R>, CliError>,
    ) -> Result<R, CliError> {
        let asking = async {
            loop {
                match ask().await {
                    Ok(seen) => {
                        if let Some(found) = look(self, seen)? {
                            return Ok(found);
                        }
                    }
                    Err(error @ ClientError::Deadline { .. }) => self.say(error.to_string()),
                    Err(error) => return Err(error.into()),
                }
                tokio::time::sleep(self.poll).await;
            }
        };
        let found = match self.timeout {
            Some(timeout) => tokio::time::timeout_at(self.started + timeout, asking)
                .await
                .unwrap_or_else(|_| Err(CliError::not_yet(what, self.started.elapsed().as_millis()))),
            None => asking.await,
        };
        self.bar.finish_and_clear();
        found
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use coda_protocol::reject::Reject;

    use super::*;

    #[tokio::test]
    async fn what_passes_is_waited_out_and_what_is_refused_is_not() {
        let asked = Cell::new(0);
        let ask = async || {
            asked.set(asked.get() + 1);
            match asked.get() {
                1 => Err(ClientError::Deadline { ms: 1, last: None }),
                2..=5 => Ok(asked.get()),
                _ => Err(ClientError::Refused(Reject::NotDrained { node: 3 })),
            }
        };
        let waiting = Waiting { poll: Duration::ZERO, ..Waiting::bar(None) };
        let four = waiting.until("", ask, |_, seen| Ok((seen == 4).then_some(seen))).await;
        assert_eq!(four.unwrap(), 4);
        let refused = waiting.until("", ask, |_, _| Ok(None::<()>)).await.unwrap_err();
        assert_eq!((refused.code, asked.get()), ("CODA2042", 6));
    }

    #[tokio::test]
    async fn the_users_time_ends_it() {
        let waiting = Waiting::spinner(Some(Duration::from_millis(20)));
        let never = waiting.until("node 4 is not active yet", async || Ok(()), |_, ()| Ok(None::<()>)).await;
        let error = never.unwrap_err();
        assert_eq!((error.code, error.exit.status()), ("CODA4320", 124));
        assert!(error.message.starts_with("node 4 is not active yet, not within "), "{}", error.message);
    }

    #[test]
    fn a_bar_never_runs_backwards() {
        let waiting = Waiting::bar(None);
        let seen = [3, 2, 5, 0].map(|left| {
            waiting.left(left);
            (waiting.bar.position(), waiting.bar.length().unwrap())
        });
        assert_eq!(seen, [(0, 3), (1, 3), (0, 5), (5, 5)], "only when there is more to do than before");
    }
}

//! Who does what takes long, so that the threads of the runtime do not wait for a disk.

use std::io;

#[cfg(feature = "sim")]
use crate::sim::Life;

/// Threads; or, in a simulation, the one thread that there is, after as long as a disk would have taken.
#[derive(Clone, Debug, Default)]
pub struct Workshop(Kind);

#[derive(Clone, Debug, Default)]
enum Kind {
    #[default]
    Threads,
    #[cfg(feature = "sim")]
    Here(Life),
}

impl Workshop {
    #[cfg(feature = "sim")]
    pub(crate) fn simulated(life: Life) -> Self {
        Self(Kind::Here(life))
    }

    /// Does work that blocks, elsewhere, and waits for it. It is done even if nobody waits any more.
    ///
    /// # Errors
    /// When the work has panicked, or the runtime is stopping.
    pub async fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> io::Result<T> {
        match &self.0 {
            Kind::Threads => tokio::task::spawn_blocking(work).await.map_err(io::Error::other),
            #[cfg(feature = "sim")]
            Kind::Here(life) => {
                let life = life.clone();
                let work = async move {
                    life.answer().await;
                    work()
                };
                tokio::spawn(work).await.map_err(io::Error::other)
            }
        }
    }

    /// Begins work that waits and blocks in turn, on a thread of its own.
    ///
    /// # Errors
    /// When no thread can be started.
    #[expect(clippy::disallowed_methods, reason = "it blocks a thread of its own")]
    pub(crate) fn begin(&self, name: &str, work: impl Future<Output = ()> + Send + 'static) -> io::Result<()> {
        match &self.0 {
            Kind::Threads => {
                let work = move || futures::executor::block_on(work);
                std::thread::Builder::new().name(name.into()).spawn(work).map(drop)
            }
            #[cfg(feature = "sim")]
            Kind::Here(_) => {
                tokio::spawn(work);
                Ok(())
            }
        }
    }

    /// Whose one thread does everything, if there are no others.
    #[cfg(feature = "sim")]
    pub(crate) fn life(&self) -> Option<&Life> {
        match &self.0 {
            Kind::Threads => None,
            Kind::Here(life) => Some(life),
        }
    }

    /// Whether others go on while this thread waits.
    pub(crate) fn has_threads(&self) -> bool {
        match &self.0 {
            Kind::Threads => true,
            #[cfg(feature = "sim")]
            Kind::Here(_) => false,
        }
    }
}

//! One run in a process of its own: statics of all crates are as fresh as its memory, and what hangs can be killed.

use std::io::Read;
use std::process::{Command, Stdio};
use std::time::Duration;

use coda_protocol::planted::Bug;

use crate::run::Verdict;

/// A run that takes longer than this does not end. Counted in looks: a machine that was stopped blames nobody.
const PATIENCE: Duration = Duration::from_secs(180);
const LOOK_EVERY: Duration = Duration::from_millis(2);
const LOOKS_MAX: u128 = PATIENCE.as_millis() / LOOK_EVERY.as_millis();

/// What to run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Order {
    pub seed: u64,
    /// These faults alone, by number.
    pub only: Option<Vec<usize>>,
    /// Trouble ends after so many milliseconds.
    pub trouble_ms: Option<u64>,
    pub planted: Option<Bug>,
}

impl Order {
    #[must_use]
    pub fn of(seed: u64) -> Self {
        Self { seed, ..Self::default() }
    }

    /// Arguments of `coda-sim` that do the same.
    #[must_use]
    pub fn arguments(&self) -> Vec<String> {
        let mut arguments = vec!["seed".to_owned(), self.seed.to_string()];
        if let Some(only) = &self.only {
            let numbers: Vec<String> = only.iter().map(usize::to_string).collect();
            arguments.push(format!("--only={}", numbers.join(",")));
        }
        if let Some(ms) = self.trouble_ms {
            arguments.push(format!("--trouble-ms={ms}"));
        }
        if let Some(bug) = self.planted {
            arguments.push(format!("--planted={bug}"));
        }
        arguments
    }

    /// One line that shows what happens in it.
    #[must_use]
    pub fn command(&self) -> String {
        let arguments = self.arguments();
        let (seed, options) = (&arguments[1], arguments[2..].join(" "));
        format!("make sim-seed SEED={seed} ARGS=\"{}\"", format!("{options} --trace").trim())
    }

    /// Runs it. Blocks.
    ///
    /// # Errors
    /// When the process hangs, or ends without a verdict.
    #[expect(clippy::disallowed_methods, reason = "a thread waits for a process, outside of any runtime")]
    pub fn run(&self) -> Result<Verdict, String> {
        let program = std::env::current_exe().map_err(|error| error.to_string())?;
        let mut command = Command::new(program);
        command.args(self.arguments()).arg("--json").stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().map_err(|error| error.to_string())?;
        let (mut stdout, mut stderr) = (child.stdout.take().expect("piped"), child.stderr.take().expect("piped"));
        let errors = std::thread::spawn(move || {
            let mut text = String::new();
            let _ = stderr.read_to_string(&mut text);
            text
        });
        let out = std::thread::spawn(move || {
            let mut text = String::new();
            let _ = stdout.read_to_string(&mut text);
            text
        });
        let mut looks = 0;
        let status = loop {
            if let Some(status) = child.try_wait().map_err(|error| error.to_string())? {
                break status;
            }
            if looks == LOOKS_MAX {
                let _ = child.kill();
                let _ = child.wait();
                return Err(format!("it has not ended after {PATIENCE:?}"));
            }
            looks += 1;
            std::thread::sleep(LOOK_EVERY);
        };
        let text = out.join().unwrap_or_default();
        let verdict = text.lines().next_back().and_then(|line| serde_json::from_str(line).ok());
        verdict.ok_or_else(|| {
            let errors = errors.join().unwrap_or_default();
            let errors: Vec<&str> = errors.lines().rev().take(5).collect();
            format!(
                "it ended without a verdict, {status}: {}",
                errors.into_iter().rev().collect::<Vec<_>>().join(" / ")
            )
        })
    }

    /// What it finds, if anything; a process that fails is a finding too.
    #[must_use]
    pub fn problems(&self) -> Vec<String> {
        match self.run() {
            Ok(verdict) => verdict.problems,
            Err(why) => vec![format!("process: {why}")],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_is_repeated_by_one_line() {
        assert_eq!(Order::of(7).command(), r#"make sim-seed SEED=7 ARGS="--trace""#);
        let order = Order { only: Some(vec![4, 5]), trouble_ms: Some(900), ..Order::of(21) };
        assert_eq!(order.command(), r#"make sim-seed SEED=21 ARGS="--only=4,5 --trouble-ms=900 --trace""#);
    }
}

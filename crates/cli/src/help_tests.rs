//! What `--help` says, word for word, and that the command trees hold together.

use clap::{Command, CommandFactory, Parser};

use crate::expect::expect;
use crate::{admin, topics, user};

fn help(root: Command, path: &[&str]) -> String {
    let mut root = root;
    root.build();
    let mut command = &mut root;
    for word in path {
        command = command.find_subcommand_mut(word).unwrap_or_else(|| panic!("no command {word}"));
    }
    let text = command.render_long_help().to_string();
    // The options that every command has are held once, with the program itself.
    let shared = if path.is_empty() { text.len() } else { text.find("\nGlobal options:").unwrap_or(text.len()) };
    let rest = text[shared..].find("\nExamples:").map_or("", |at| &text[shared + at..]);
    let text = format!("{}{rest}", &text[..shared]);
    text.lines().map(|line| format!("{}\n", line.trim_end())).collect()
}

#[test]
fn the_command_trees_hold_together() {
    user::Cli::command().debug_assert();
    admin::Cli::command().debug_assert();
}

#[test]
fn help_reads_as_agreed() {
    let user = |path: &[&str]| help(user::Cli::command(), path);
    expect("help/coda.txt", &user(&[]));
    expect("help/coda-dev.txt", &user(&["dev"]));
    expect("help/coda-serve.txt", &user(&["serve"]));
    expect("help/coda-run.txt", &user(&["run"]));
    expect("help/coda-workflow-start.txt", &user(&["workflow", "start"]));
    expect("help/coda-workflow-result.txt", &user(&["workflow", "result"]));
    expect("help/coda-task-submit.txt", &user(&["task", "submit"]));
    expect("help/coda-queue-describe.txt", &user(&["queue", "describe"]));
    let admin = |path: &[&str]| help(admin::Cli::command(), path);
    expect("help/coda-admin.txt", &admin(&[]));
    expect("help/coda-admin-queue.txt", &admin(&["queue"]));
    expect("help/coda-admin-cluster.txt", &admin(&["cluster"]));
    expect("help/coda-admin-cluster-init.txt", &admin(&["cluster", "init"]));
    expect("help/coda-admin-cluster-token-create.txt", &admin(&["cluster", "token", "create"]));
    expect("help/coda-admin-cluster-join.txt", &admin(&["cluster", "join"]));
    expect("help/coda-admin-cluster-status.txt", &admin(&["cluster", "status"]));
    expect("help/coda-admin-cluster-health.txt", &admin(&["cluster", "health"]));
    expect("help/coda-admin-cluster-verify.txt", &admin(&["cluster", "verify"]));
    expect("help/coda-admin-node.txt", &admin(&["node"]));
    expect("help/coda-admin-node-status.txt", &admin(&["node", "status"]));
    expect("help/coda-admin-node-drain.txt", &admin(&["node", "drain"]));
    expect("help/coda-admin-node-remove.txt", &admin(&["node", "remove"]));
    expect("help/coda-admin-node-replace.txt", &admin(&["node", "replace"]));
    expect("help/coda-admin-leader-transfer.txt", &admin(&["leader", "transfer"]));
    expect("help/coda-admin-rebalance.txt", &admin(&["rebalance"]));
    expect("help/coda-admin-config.txt", &admin(&["config"]));
    expect("help/coda-admin-config-get.txt", &admin(&["config", "get"]));
    expect("help/coda-admin-config-set.txt", &admin(&["config", "set"]));
    expect("help/coda-admin-support-bundle.txt", &admin(&["support-bundle"]));
    expect("help/coda-admin-cert.txt", &admin(&["cert"]));
    expect("help/coda-admin-cert-ca.txt", &admin(&["cert", "ca"]));
    expect("help/coda-admin-cert-node.txt", &admin(&["cert", "node"]));
    expect("help/coda-admin-cert-show.txt", &admin(&["cert", "show"]));
    expect("help/coda-admin-config-check.txt", &admin(&["config", "check"]));
}

#[test]
fn every_command_teaches_by_example() {
    fn check(command: &Command, path: &str) {
        let path = format!("{path} {}", command.get_name());
        assert!(command.get_about().is_some(), "{path} has no sentence");
        if command.has_subcommands() {
            command.get_subcommands().for_each(|child| check(child, &path));
        } else if command.get_name() != "help" {
            let after = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            assert!(after.starts_with("Examples:\n"), "{path} has no examples");
        }
    }
    check(&user::Cli::command(), "");
    check(&admin::Cli::command(), "");
}

/// An id that two arguments share fails only when a command line is read.
#[test]
fn what_operators_are_shown_can_be_typed() {
    fn check(command: &Command, typed: &mut usize) {
        let after = command.get_after_help().map(ToString::to_string).unwrap_or_default();
        for line in after.lines().map(str::trim).filter(|line| line.starts_with("coda-admin ")) {
            // What the shell does with it, and what is said of it, stands behind.
            let ends = ["   ", " | ", " |", " > ", " && ", " || "].iter().filter_map(|end| line.find(end));
            let words = line[..ends.min().unwrap_or(line.len())].split_whitespace();
            if let Err(error) = admin::Cli::try_parse_from(words) {
                panic!("{line}: {error}");
            }
            *typed += 1;
        }
        command.get_subcommands().for_each(|child| check(child, typed));
    }
    let mut typed = 0;
    check(&admin::Cli::command(), &mut typed);
    assert!(typed > 60, "{typed}");
}

#[test]
fn no_topic_hides_behind_a_command() {
    for name in topics::names().split(", ") {
        assert!(topics::find(name).is_some());
        assert!(user::Cli::command().find_subcommand(name).is_none(), "{name}");
    }
}

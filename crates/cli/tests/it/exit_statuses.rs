//! Exit statuses and the form of errors, where no node is needed.

use std::net::UdpSocket;
use std::path::Path;
use std::process::{Command, Output};

use crate::support::{ADMIN, CODA, ca_file};

/// Runs in an empty folder with an empty environment, so that no node of the developer is found.
fn coda(folder: &Path, program: &str, arguments: &[&str]) -> Output {
    Command::new(program).args(arguments).current_dir(folder).env_clear().output().unwrap()
}

fn status(program: &str, arguments: &[&str]) -> i32 {
    let folder = tempfile::tempdir().unwrap();
    let output = coda(folder.path(), program, arguments);
    assert_eq!(String::from_utf8_lossy(&output.stdout), "", "standard output is for data");
    output.status.code().unwrap()
}

#[test]
fn help_and_completions_are_data_and_succeed() {
    let folder = tempfile::tempdir().unwrap();
    for (program, arguments) in [
        (CODA, &["--help"] as &[&str]),
        (CODA, &["help"]),
        (CODA, &["help", "workflow", "start"]),
        (CODA, &["help", "exit-codes"]),
        (CODA, &["completions", "bash"]),
        (CODA, &["completions", "zsh"]),
        (ADMIN, &["completions", "fish"]),
        (ADMIN, &["--version"]),
    ] {
        let output = coda(folder.path(), program, arguments);
        assert_eq!(output.status.code(), Some(0), "{arguments:?}");
        assert!(!output.stdout.is_empty() && output.stderr.is_empty(), "{arguments:?}");
    }
}

#[test]
fn wrong_usage_is_2_and_nothing_is_sent() {
    for arguments in [
        &["frobnicate"] as &[&str],
        &["workflow", "start"],
        &["workflow", "start", "w", "--priority", "10"],
        &["workflow", "start", "w", "--input", "7"],
        &["workflow", "start", ""],
        &["workflow", "result", "not-an-id"],
        &["queue", "list", "--timeout", "soon"],
        &["run", "--", "/no/such/program"],
        &["run", "-n", "0", "--", "true"],
        &["dev", "--ephemeral", "--data-dir", "x"],
        &["dev", "--address", "127.0.0.1:4747"],
        &["help", "frobnication"],
    ] {
        assert_eq!(status(CODA, arguments), 2, "{arguments:?}");
    }
    assert_eq!(status(ADMIN, &["queue", "pause"]), 2);
}

#[test]
fn without_any_configuration_the_error_says_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let output = coda(folder.path(), CODA, &["queue", "list"]);
    let told = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(told.starts_with("error[CODA4001]: no Coda node is configured: run `coda dev`"), "{told}");
    assert!(told.ends_with("help: `coda help connecting` tells all the ways\n"), "{told}");
}

#[test]
fn no_node_is_unavailable() {
    let folder = tempfile::tempdir().unwrap();
    let ca = ca_file(folder.path());
    // Bound and silent: nobody else can take the port, and nobody answers.
    let silent = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = silent.local_addr().unwrap().to_string();
    for arguments in [
        &["workflow", "start", "w"] as &[&str],
        &["queue", "list"],
        &["workflow", "result", "0192f0c1-5f3c-7c3e-9d52-0a6f6e1f7a01"],
    ] {
        let connection = ["--address", &address, "--ca", &ca, "--timeout", "200ms"];
        let output = coda(folder.path(), CODA, &[arguments, &connection].concat());
        let told = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(5), "{arguments:?}: {told}");
        assert!(told.starts_with("error[CODA4007]: ") && told.contains("\nhelp: start one with `coda dev`"), "{told}");
    }
}

#[test]
fn environment_variables_that_are_empty_are_not_set() {
    let folder = tempfile::tempdir().unwrap();
    let output = Command::new(CODA)
        .args(["queue", "list"])
        .current_dir(folder.path())
        .env_clear()
        .envs([("CODA_ADDRESS", ""), ("CODA_CA", "")])
        .output()
        .unwrap();
    assert!(String::from_utf8_lossy(&output.stderr).starts_with("error[CODA4001]"));
}

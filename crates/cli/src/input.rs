//! The arguments of workflows and tasks: the JSON that the SDKs read, an object of names or an array of positions.

use std::io::Read;

use coda_protocol::limits::PAYLOAD_BYTES_MAX;
use coda_protocol::payload::Payload;
use serde_json::Value;

use crate::errors::CliError;

/// Reads `JSON`, `@file` or `-` (standard input) into a payload.
pub fn read(source: &str) -> Result<Payload, CliError> {
    match source.strip_prefix('@') {
        _ if source == "-" => payload("standard input", &read_all("standard input", std::io::stdin().lock())?),
        Some(path) => {
            let file = std::fs::File::open(path)
                .map_err(|error| CliError::bad_input(format!("cannot read {path}: {error}")))?;
            payload(path, &read_all(path, file)?)
        }
        None => payload("--input", source),
    }
}

/// One byte more than is allowed is enough to know that it is too much.
fn read_all(place: &str, from: impl Read) -> Result<String, CliError> {
    let mut text = String::new();
    from.take(PAYLOAD_BYTES_MAX as u64 + 1)
        .read_to_string(&mut text)
        .map_err(|error| CliError::bad_input(format!("cannot read {place}: {error}")))?;
    Ok(text)
}

fn payload(place: &str, text: &str) -> Result<Payload, CliError> {
    if text.len() > PAYLOAD_BYTES_MAX {
        let message = format!("{place} has more than the {PAYLOAD_BYTES_MAX} bytes allowed");
        return Err(CliError::bad_input(message).help("store the data elsewhere and pass a reference"));
    }
    let value: Value =
        serde_json::from_str(text).map_err(|error| CliError::bad_input(format!("{place} is not JSON: {error}")))?;
    match value {
        // The text itself travels, not the parsed value: large numbers and the order of names survive.
        Value::Object(_) | Value::Array(_) => Ok(Payload::json(text.trim().to_owned())),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {
            Err(CliError::bad_input(format!("{place} is neither a JSON object nor a JSON array")))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objects_are_named_arguments_and_arrays_positions() {
        let data = |source| read(source).unwrap().data;
        assert_eq!(data(r#" {"b": 12345678901234567890123, "a": 1} "#), r#"{"b": 12345678901234567890123, "a": 1}"#);
        assert_eq!(data("[1, \"x\"]"), "[1, \"x\"]");
    }

    #[test]
    fn a_file_is_named_with_an_at_sign() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "{\"order\": 7}\n").unwrap();
        assert_eq!(read(&format!("@{}", file.path().display())).unwrap().data, "{\"order\": 7}");
    }

    #[test]
    fn anything_else_is_refused_with_an_example() {
        let large = format!("[\"{}\"]", "x".repeat(PAYLOAD_BYTES_MAX));
        for source in ["", "7", "\"text\"", "null", "{", "project_id=1", "@/no/such/file", &large] {
            let error = read(source).unwrap_err();
            assert_eq!((error.code, error.exit.status()), ("CODA4301", 2));
            assert!(error.help.is_some());
        }
    }
}

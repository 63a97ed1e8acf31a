//! Bodies: what decodes encodes to what decodes to the same, and no check of it panics.

#![no_main]

use coda_engine::command::Command;
use coda_engine::entry::Entry;
use coda_protocol::codec;
use coda_protocol::frame::{Hello, Welcome};
use coda_protocol::push::Push;
use coda_protocol::reply::Answer;
use coda_protocol::request::Request;
use libfuzzer_sys::fuzz_target;
use serde::Serialize;
use serde::de::DeserializeOwned;

// The first byte says what the rest is.
fuzz_target!(|data: &[u8]| {
    let Some((kind, body)) = data.split_first() else { return };
    match kind % 7 {
        0 => drop(round::<Request>(body)),
        1 => drop(round::<Push>(body)),
        2 => drop(round::<Answer>(body)),
        3 => drop(round::<Hello>(body)),
        4 => drop(round::<Welcome>(body)),
        5 => drop(round::<Entry>(body)),
        _ => {
            if let Some(command) = round::<Command>(body) {
                drop(command.check());
            }
        }
    }
});

fn round<T: Serialize + DeserializeOwned + PartialEq + std::fmt::Debug>(body: &[u8]) -> Option<T> {
    let value: T = codec::decode("body", body).ok()?;
    let bytes = codec::encode(&value);
    let again: T = codec::decode("body", &bytes).expect("our own bytes");
    assert_eq!(value, again);
    assert_eq!(codec::encode(&again), bytes);
    Some(value)
}

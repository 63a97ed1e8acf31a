//! One program for all targets: `CODA_FUZZ_TARGET` says which. `run.sh` starts it.

#![no_main]

use std::sync::LazyLock;

use coda_fuzz_targets::Target;
use libfuzzer_sys::fuzz_target;

static TARGET: LazyLock<&'static Target> = LazyLock::new(|| {
    let name = std::env::var("CODA_FUZZ_TARGET").expect("CODA_FUZZ_TARGET names what to fuzz");
    Target::named(&name)
});

fuzz_target!(|data: &[u8]| {
    TARGET.run(data);
});

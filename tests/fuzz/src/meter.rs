//! How much memory something takes: the system's allocator, counted by thread.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

#[global_allocator]
static METER: Meter = Meter;

struct Meter;

thread_local! {
    static LIVE: Cell<isize> = const { Cell::new(0) };
    static PEAK: Cell<isize> = const { Cell::new(0) };
}

/// The most bytes that were allocated at once by this thread within `what`, beside those that were before.
pub fn peak_of(what: impl FnOnce()) -> usize {
    let before = LIVE.get();
    PEAK.set(before);
    what();
    usize::try_from(PEAK.get() - before).unwrap_or(0)
}

fn changed(by: isize) {
    // A thread that ends may have lost its counters already.
    let _ = LIVE.try_with(|live| {
        live.set(live.get() + by);
        let _ = PEAK.try_with(|peak| peak.set(peak.get().max(live.get())));
    });
}

#[expect(unsafe_code, reason = "an allocator that counts is an allocator; it passes everything on as it is")]
// SAFETY: every call goes to the system's allocator unchanged, and counting allocates nothing.
unsafe impl GlobalAlloc for Meter {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        changed(layout.size().cast_signed());
        // SAFETY: the caller keeps the contract of `GlobalAlloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        changed(layout.size().cast_signed());
        // SAFETY: as in `alloc`.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        changed(-layout.size().cast_signed());
        // SAFETY: as in `alloc`.
        unsafe { System.dealloc(at, layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, bytes: usize) -> *mut u8 {
        changed(bytes.cast_signed() - layout.size().cast_signed());
        // SAFETY: as in `alloc`.
        unsafe { System.realloc(at, layout, bytes) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_taken_at_once_is_counted_and_what_was_given_back_is_not() {
        let peak = peak_of(|| {
            drop(vec![0_u8; 1 << 20]);
            drop(Vec::<u8>::with_capacity(3 << 20));
        });
        assert!((3 << 20..4 << 20).contains(&peak), "{peak}");
    }
}

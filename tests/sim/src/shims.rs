//! The system calls through which time and chance come into a program, answered by the simulation on its own thread.
//!
//! The linker prefers what a program defines to what the C library does, so these functions are the ones that std, ring
//! and every crate call. On all threads but the simulation's they do what the C library's do. Nothing of this is in any
//! other program: they are linked into `coda-sim` alone.
//!
//! Deliberately absent: files, and the network, whose seam is `Network` in the broker and the client.

#![expect(unsafe_code, reason = "functions of the C library are defined here, and its own are called")]

use std::cell::Cell;
use std::ffi::{CStr, c_int, c_long, c_uint, c_void};
use std::sync::atomic::{AtomicPtr, Ordering};
use std::time::{Duration, Instant};

/// Where the monotonic clock stands when a simulation begins. Not zero: programs subtract from it.
const BOOT_NS: u64 = 1_000_000_000_000_000;
/// What day it is then: 2026-01-01.
pub const EPOCH_S: u64 = 1_767_225_600;
const NS_PER_S: u64 = 1_000_000_000;

/// What this thread's simulation says of time and chance.
struct Machine {
    simulated: Cell<bool>,
    /// Since the simulation began.
    now_ns: Cell<u64>,
    /// How far the wall clock of the host that runs now is from the true one.
    wall_ahead_ms: Cell<i64>,
    random: Cell<u64>,
    /// Asking tokio what time it is asks this clock where tokio does not know.
    asking: Cell<bool>,
    began: Cell<Option<Instant>>,
    host: Cell<(&'static str, u8)>,
}

thread_local! {
    static MACHINE: Machine = const {
        Machine {
            simulated: Cell::new(false),
            now_ns: Cell::new(0),
            wall_ahead_ms: Cell::new(0),
            random: Cell::new(0),
            asking: Cell::new(false),
            began: Cell::new(None),
            host: Cell::new(("", 0)),
        }
    };
}

/// From now on this thread lives in virtual time.
///
/// fastrand, from which come the delays between attempts to connect, asks the system for nothing but the time and the
/// thread, and once in a thread: all seeds would have the same, or, of a thread that has used it before, none.
pub fn simulate(seed: u64) {
    fastrand::seed(seed);
    MACHINE.with(|machine| {
        machine.random.set(seed);
        machine.now_ns.set(0);
        machine.simulated.set(true);
        machine.began.set(Some(Instant::now()));
    });
}

/// The time outside of all hosts.
pub fn set_now(since_start: Duration) {
    MACHINE.with(|machine| machine.now_ns.set(since_start.as_nanos() as u64));
}

/// What a host has for itself: its chance, and how wrong its wall clock is.
#[derive(Clone, Debug)]
pub struct Surroundings {
    pub name: (&'static str, u8),
    pub random: u64,
    pub wall_ahead_ms: i64,
}

/// Runs as a host: chance is drawn from its own source, and its wall clock is asked.
pub fn within<T>(surroundings: &mut Surroundings, run: impl FnOnce() -> T) -> T {
    MACHINE.with(|machine| {
        let outside = machine.random.replace(surroundings.random);
        let ahead = machine.wall_ahead_ms.replace(surroundings.wall_ahead_ms);
        let host = machine.host.replace(surroundings.name);
        let result = run();
        surroundings.random = machine.random.replace(outside);
        machine.wall_ahead_ms.set(ahead);
        machine.host.set(host);
        result
    })
}

/// Since the simulation began.
#[must_use]
pub fn now() -> Duration {
    MACHINE.with(|machine| Duration::from_nanos(machine.now_ns.get()))
}

/// Who runs now.
#[must_use]
pub fn host_name() -> String {
    match MACHINE.with(|machine| machine.host.get()) {
        ("", _) => "-".into(),
        (name, number) => format!("{name}{number}"),
    }
}

impl Machine {
    /// The clock of the runtime that runs now: a host's own may go wrong. Else the simulation's.
    fn since_boot_ns(&self) -> u64 {
        let mut ns = self.now_ns.get();
        if let Some(began) = self.began.get()
            && !self.asking.replace(true)
        {
            if tokio::runtime::Handle::try_current().is_ok() {
                ns = tokio::time::Instant::now().into_std().saturating_duration_since(began).as_nanos() as u64;
            }
            self.asking.set(false);
        }
        BOOT_NS + ns
    }

    /// SplitMix64.
    fn next_random(&self) -> u64 {
        let state = self.random.get().wrapping_add(0x9e37_79b9_7f4a_7c15);
        self.random.set(state);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn fill(&self, bytes: &mut [u8]) {
        for chunk in bytes.chunks_mut(8) {
            let random = self.next_random().to_le_bytes();
            chunk.copy_from_slice(&random[..chunk.len()]);
        }
    }
}

/// None on a thread that is not simulated, or that is ending.
fn simulated<T>(answer: impl FnOnce(&Machine) -> T) -> Option<T> {
    MACHINE.try_with(|machine| machine.simulated.get().then(|| answer(machine))).ok().flatten()
}

/// The C library's function of this name, behind ours.
fn real(cache: &AtomicPtr<c_void>, name: &CStr) -> *mut c_void {
    let known = cache.load(Ordering::Relaxed);
    if !known.is_null() {
        return known;
    }
    // SAFETY: the name is a C string, and the answer is checked before it is used.
    let found = unsafe { libc::dlsym(libc::RTLD_NEXT, name.as_ptr()) };
    if found.is_null() {
        // SAFETY: always.
        unsafe { libc::abort() };
    }
    cache.store(found, Ordering::Relaxed);
    found
}

/// As the C library's.
///
/// # Safety
/// `at` is a timespec that may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn clock_gettime(clock: libc::clockid_t, at: *mut libc::timespec) -> c_int {
    let ns = simulated(|machine| match clock {
        libc::CLOCK_REALTIME | libc::CLOCK_REALTIME_COARSE => {
            let ahead = machine.wall_ahead_ms.get() * 1_000_000;
            (EPOCH_S * NS_PER_S + machine.since_boot_ns() - BOOT_NS).saturating_add_signed(ahead)
        }
        _ => machine.since_boot_ns(),
    });
    if let Some(ns) = ns {
        let time = libc::timespec { tv_sec: (ns / NS_PER_S) as libc::time_t, tv_nsec: (ns % NS_PER_S) as c_long };
        // SAFETY: the caller gave a place for it.
        unsafe { at.write(time) };
        return 0;
    }
    static REAL: AtomicPtr<c_void> = AtomicPtr::new(std::ptr::null_mut());
    type Function = unsafe extern "C" fn(libc::clockid_t, *mut libc::timespec) -> c_int;
    // SAFETY: this is the C library's function of this name and type, and the arguments are the caller's.
    unsafe { std::mem::transmute::<*mut c_void, Function>(real(&REAL, c"clock_gettime"))(clock, at) }
}

/// As the C library's.
///
/// # Safety
/// So many bytes may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn getrandom(bytes: *mut c_void, length: usize, flags: c_uint) -> isize {
    // SAFETY: the caller gave so many bytes.
    if simulated(|machine| machine.fill(unsafe { std::slice::from_raw_parts_mut(bytes.cast(), length) })).is_some() {
        return length as isize;
    }
    static REAL: AtomicPtr<c_void> = AtomicPtr::new(std::ptr::null_mut());
    type Function = unsafe extern "C" fn(*mut c_void, usize, c_uint) -> isize;
    // SAFETY: this is the C library's function of this name and type, and the arguments are the caller's.
    unsafe { std::mem::transmute::<*mut c_void, Function>(real(&REAL, c"getrandom"))(bytes, length, flags) }
}

/// As the C library's, which takes any number of arguments: up to six, all of them words.
///
/// # Safety
/// As the call with this number.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn syscall(
    number: c_long,
    a: c_long,
    b: c_long,
    c: c_long,
    d: c_long,
    e: c_long,
    f: c_long,
) -> c_long {
    if number == libc::SYS_getrandom {
        // SAFETY: the first two arguments of this call are where to write and how much.
        return unsafe { getrandom(a as *mut c_void, b as usize, c as c_uint) } as c_long;
    }
    static REAL: AtomicPtr<c_void> = AtomicPtr::new(std::ptr::null_mut());
    type Function = unsafe extern "C" fn(c_long, ...) -> c_long;
    // SAFETY: this is the C library's function of this name, and the arguments are the caller's.
    unsafe { std::mem::transmute::<*mut c_void, Function>(real(&REAL, c"syscall"))(number, a, b, c, d, e, f) }
}

//! A library that a program loads before all others (`LD_PRELOAD`): its wall clock is as many seconds away from the machine's as
//! the file says that `DELTABUS_TEST_CLOCK` names, each time it is read.
//!
//! Built by `deltabus_tests::clock` with `rustc` alone, and no part of the workspace: taking a function of the C library's
//! place can't be done without `unsafe`.

use std::ffi::{OsString, c_int, c_long};
use std::sync::OnceLock;

const CLOCK_REALTIME: c_int = 0;

#[cfg(target_arch = "x86_64")]
const CLOCK_GETTIME: c_long = 228;
#[cfg(not(target_arch = "x86_64"))]
const CLOCK_GETTIME: c_long = 113;

#[repr(C)]
pub struct Time {
    seconds: i64,
    nanoseconds: i64,
}

unsafe extern "C" {
    fn syscall(number: c_long, ...) -> c_long;
}

fn shift() -> i64 {
    static FILE: OnceLock<Option<OsString>> = OnceLock::new();
    let file = FILE.get_or_init(|| std::env::var_os("DELTABUS_TEST_CLOCK"));
    let text = file.as_ref().and_then(|file| std::fs::read_to_string(file).ok());
    text.and_then(|text| text.trim().parse().ok()).unwrap_or(0)
}

/// The C library's `clock_gettime`, asked of the kernel.
///
/// # Safety
/// As there: `time` is where a time may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn clock_gettime(clock: c_int, time: *mut Time) -> c_int {
    let result = unsafe { syscall(CLOCK_GETTIME, c_long::from(clock), time) };
    if result == 0 && clock == CLOCK_REALTIME {
        unsafe { (*time).seconds += shift() };
    }
    result as c_int
}

//! How much memory and time one input may take.

#![allow(unsafe_code, reason = "an allocator that counts has to be one")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// What one input may allocate at a time, beyond what was there before. Inputs are of some kilobytes, and those of the tests
/// `bombs` of a megabyte or two; a message may decompress to a megabyte whatever its length (`bus::wire`), and what is
/// decoded takes some seventy times its bytes at worst: an update that names nothing but slots.
pub const BYTES_MAX: usize = 128 * 1024 * 1024;

/// How long the processor may work on one input; what it does for others meanwhile doesn't count. Some microseconds are usual,
/// some milliseconds where a file is written, and two seconds for the largest number that may be, where nothing is optimized;
/// this leaves room for a slower machine, and none for what grows with the square of its input.
pub const TIME_MAX: Duration = Duration::from_secs(20);

static NOW: AtomicUsize = AtomicUsize::new(0);
static MOST: AtomicUsize = AtomicUsize::new(0);

/// The system's allocator, which counts what is taken from it; a program makes it its own with `#[global_allocator]`.
pub struct Counting;

// SAFETY: every call goes to the system's allocator as it came; counting touches no memory but its own.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        took(layout.size());
        // SAFETY: the caller keeps the contract of `GlobalAlloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        NOW.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller keeps the contract of `GlobalAlloc`.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // Both may be there at the same time.
        took(size);
        // SAFETY: the caller keeps the contract of `GlobalAlloc`.
        let moved = unsafe { System.realloc(pointer, layout, size) };
        NOW.fetch_sub(if moved.is_null() { size } else { layout.size() }, Ordering::Relaxed);
        moved
    }
}

fn took(size: usize) {
    let now = NOW.fetch_add(size, Ordering::Relaxed) + size;
    MOST.fetch_max(now, Ordering::Relaxed);
}

/// What a run took.
#[derive(Clone, Copy, Debug)]
pub struct Taken {
    /// The most bytes at a time, beyond those at its beginning; 0 where nobody counts.
    pub bytes: usize,
    /// How long the processor worked on it.
    pub time: Duration,
}

/// Runs `work` alone, and says what it took.
pub fn measured(work: impl FnOnce()) -> Taken {
    let before = NOW.load(Ordering::Relaxed);
    MOST.store(before, Ordering::Relaxed);
    let begun = processor_time();
    work();
    let time = processor_time().saturating_sub(begun);
    Taken { bytes: MOST.load(Ordering::Relaxed).saturating_sub(before), time }
}

/// How long the processor has worked for this process.
fn processor_time() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap_or_default())
}

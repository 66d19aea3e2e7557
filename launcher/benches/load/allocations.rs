//! Counts what is allocated; gives the memory itself to the system's allocator.

use std::{
    alloc::{GlobalAlloc, Layout, System},
    sync::atomic::{AtomicU64, Ordering::Relaxed},
};

pub struct Counting;

/// Of the whole process.
#[derive(Clone, Copy, Debug)]
pub struct Count {
    pub count: u64,
    pub bytes: u64,
}

static COUNT: AtomicU64 = AtomicU64::new(0);
static BYTES: AtomicU64 = AtomicU64::new(0);

pub fn so_far() -> Count {
    Count { count: COUNT.load(Relaxed), bytes: BYTES.load(Relaxed) }
}

// SAFETY: every call goes to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        COUNT.fetch_add(1, Relaxed);
        BYTES.fetch_add(layout.size() as u64, Relaxed);
        // SAFETY: the caller's promises are those of the inner allocator.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as above; it was allocated there.
        unsafe { System.dealloc(pointer, layout) }
    }
}

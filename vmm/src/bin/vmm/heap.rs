//! The command's heap: one for all threads, and the same with each C library.
//!
//! musl's own asks the kernel for each group of a few objects, and gives it back: half of all system calls
//! of a start. What it has before this one: it keeps what it knows of the heap apart from the objects, and
//! stops where that is damaged.
//!
//! The lock is the standard library's, which waits a moment before it asks the kernel to. With a mutex of
//! musl's, threads that start together and allocate would call the kernel at each lock and unlock.

use dlmalloc::Dlmalloc;
use std::alloc::{GlobalAlloc, Layout};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// A heap for all threads.
pub(crate) struct Heap(Mutex<Dlmalloc>);

impl Heap {
    pub(crate) const fn new() -> Self {
        Self(Mutex::new(Dlmalloc::new()))
    }

    fn lock(&self) -> MutexGuard<'_, Dlmalloc> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// SAFETY: dlmalloc keeps what the trait promises, and is called by one thread at a time; neither it nor the
// lock allocates or unwinds.
unsafe impl GlobalAlloc for Heap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller keeps what the trait asks for, which is what dlmalloc asks for.
        unsafe { self.lock().malloc(layout.size(), layout.align()) }
    }

    unsafe fn dealloc(&self, object: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { self.lock().free(object, layout.size(), layout.align()) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as above.
        unsafe { self.lock().calloc(layout.size(), layout.align()) }
    }

    unsafe fn realloc(&self, object: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: as above.
        unsafe { self.lock().realloc(object, layout.size(), layout.align(), size) }
    }
}

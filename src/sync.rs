//! Locks, and the primitives that loom replaces when it explores `in_flight`.

#[cfg(not(loom))]
mod imp {
    use std::task::Waker;

    pub(crate) use std::sync::atomic::AtomicUsize;
    pub(crate) use std::sync::{Arc, Mutex};

    /// [`futures::task::AtomicWaker`] under the method names of loom's.
    #[derive(Debug)]
    pub(crate) struct AtomicWaker(futures::task::AtomicWaker);

    impl AtomicWaker {
        pub(crate) const fn new() -> Self {
            Self(futures::task::AtomicWaker::new())
        }

        pub(crate) fn register_by_ref(&self, waker: &Waker) {
            self.0.register(waker);
        }

        pub(crate) fn wake(&self) {
            self.0.wake();
        }
    }
}

#[cfg(loom)]
mod imp {
    pub(crate) use loom::future::AtomicWaker;
    pub(crate) use loom::sync::atomic::AtomicUsize;
    pub(crate) use loom::sync::{Arc, Mutex};
}

pub(crate) use imp::{Arc, AtomicUsize, AtomicWaker, Mutex};
pub(crate) use std::sync::atomic::Ordering;

/// The lock, also after a panic of its last holder: what is locked here is whole between any two statements.
pub(crate) fn lock<T: ?Sized>(mutex: &std::sync::Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
}

//! Where a process may be made to die, for tests.

/// A place where the process may die between two steps that must not come apart. In a build with the feature
/// `failpoints`, `FAILPOINTS='name=return'` makes it die here at once, as by a kill: nothing is unwound, flushed or
/// told to anyone (`name=2*off->return`: at the third time). Without the feature this is nothing.
#[cfg(feature = "failpoints")]
pub fn crash_point(name: &'static str) {
    fail::fail_point!(name, |_| std::process::abort());
}

/// Nothing: only a build with the feature `failpoints` can die here.
#[cfg(not(feature = "failpoints"))]
#[inline(always)]
pub const fn crash_point(_name: &'static str) {}

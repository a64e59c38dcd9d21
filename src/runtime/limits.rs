//! What the operating system lets a process do: dump its memory, open files.

/// Turns core dumps off: one would hold keys, passwords and players' data. Every program calls this first, the
/// operator's commands included.
#[allow(clippy::print_stderr, reason = "there are no logs yet")]
pub fn leave_no_core() {
    use rustix::process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit};
    // The first keeps a dump from programs that collect them, too.
    let undumpable = set_dumpable_behavior(DumpableBehavior::NotDumpable)
        .and_then(|()| setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) }));
    if let Err(error) = undumpable {
        eprintln!("warning: core dumps cannot be turned off: {error}");
    }
}

/// Takes as many open files as the process may have: the usual 1,024 are used up by a tenth of the connections that a
/// listener takes.
pub fn raise_open_files() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }) {
        tracing::warn!(%error, "cannot raise the limit on open files");
    }
}

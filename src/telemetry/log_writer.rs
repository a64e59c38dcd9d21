//! Log lines on their way out. A thread of its own writes them, so that a log that nobody reads (a full pipe, a stuck
//! collector) stops nobody who has something to say: what does not fit is left out, counted and told of later.

use std::io::{ErrorKind, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

/// Most bytes of lines that wait to be written.
const MAX_WAITING: usize = 4 * 1024 * 1024;
/// How long the thread waits where nothing is taken at the moment.
const FULL_PAUSE: Duration = Duration::from_millis(10);
/// What a line costs beside its bytes.
const LINE_OVERHEAD: usize = 64;

/// Lines that were left out since the start of the process.
static LEFT_OUT: AtomicU64 = AtomicU64::new(0);

/// How many lines this process has left out.
pub fn left_out() -> u64 {
    LEFT_OUT.load(Ordering::Relaxed)
}

/// Takes lines for the thread that writes them.
#[derive(Debug, Clone)]
pub struct LogWriter {
    lines: Sender<Vec<u8>>,
    queue: Arc<Queue>,
}

#[derive(Debug, Default)]
struct Queue {
    /// Bytes of the lines that wait, the one that is being written among them.
    waiting: Mutex<usize>,
    written: Condvar,
    /// Lines left out that nobody was told of yet.
    unsaid: AtomicU64,
}

impl Queue {
    fn leave_out(&self) {
        self.unsaid.fetch_add(1, Ordering::Relaxed);
        LEFT_OUT.fetch_add(1, Ordering::Relaxed);
    }
}

impl LogWriter {
    /// Starts the thread. `say` makes the line that tells how many were left out.
    ///
    /// # Errors
    /// The operating system gives no thread.
    pub fn start(
        out: impl Write + Send + 'static,
        say: impl Fn(u64) -> Vec<u8> + Send + 'static,
    ) -> std::io::Result<Self> {
        let (lines, taken) = channel();
        let queue = Arc::<Queue>::default();
        let of_thread = Arc::clone(&queue);
        std::thread::Builder::new().name("log".to_owned()).spawn(move || write(out, &taken, &of_thread, say))?;
        Ok(Self { lines, queue })
    }

    /// Takes a line, or leaves it out when too much waits already. Never waits.
    pub fn line(&self, line: Vec<u8>) {
        let cost = line.len() + LINE_OVERHEAD;
        {
            let mut waiting = self.queue.waiting.lock().unwrap_or_else(PoisonError::into_inner);
            if *waiting + cost > MAX_WAITING {
                self.queue.leave_out();
                return;
            }
            *waiting += cost;
        }
        // The thread ends only when all who send have gone.
        let _ = self.lines.send(line);
    }

    /// Waits until everything is written, for at most `limit`.
    pub fn flush(&self, limit: Duration) {
        let waiting = self.queue.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let _ = self.queue.written.wait_timeout_while(waiting, limit, |waiting| *waiting > 0);
    }
}

/// Writes whole lines to somewhere that may refuse in the middle of one.
struct Lines<W> {
    out: W,
    /// The last line broke off: the next one must not be glued to it.
    cut: bool,
}

impl<W: Write> Lines<W> {
    fn write(&mut self, line: &[u8]) -> std::io::Result<()> {
        if self.cut {
            self.write_some(b"\n")?;
            self.cut = false;
        }
        let mut left = line;
        while !left.is_empty() {
            let written = self.write_some(left).inspect_err(|_| self.cut = left.len() < line.len())?;
            left = &left[written..];
        }
        Ok(())
    }

    /// Waits for somewhere that does not block and takes nothing at the moment, as it would for somewhere that blocks.
    fn write_some(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        loop {
            match self.out.write(bytes) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => std::thread::sleep(FULL_PAUSE),
                written => return written,
            }
        }
    }
}

fn write(out: impl Write, lines: &Receiver<Vec<u8>>, queue: &Queue, say: impl Fn(u64) -> Vec<u8>) {
    let mut out = Lines { out, cut: false };
    for line in lines {
        // A log that is gone (a closed pipe, a full disk) is no reason to stop; its lines are left out like others.
        if out.write(&line).is_err() {
            queue.leave_out();
        } else {
            let unsaid = queue.unsaid.swap(0, Ordering::Relaxed);
            if unsaid > 0 && out.write(&say(unsaid)).is_err() {
                queue.unsaid.fetch_add(unsaid, Ordering::Relaxed);
            }
        }
        let mut waiting = queue.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        *waiting -= line.len() + LINE_OVERHEAD;
        queue.written.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Somewhere that takes nothing before it is told to.
    struct Stuck(Receiver<()>, Arc<Mutex<Vec<u8>>>);

    impl Write for Stuck {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            // Once all who could tell are gone everything is taken.
            let _ = self.0.recv();
            self.1.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    /// A disk that is full for so many writes.
    struct Full(u64, Arc<Mutex<Vec<u8>>>);

    impl Write for Full {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            if self.0 > 0 {
                self.0 -= 1;
                return Err(std::io::ErrorKind::StorageFull.into());
            }
            self.1.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    /// Takes this many bytes at a time, and then once nothing for this reason.
    struct Cutting(Option<(usize, std::io::ErrorKind)>, usize, Arc<Mutex<Vec<u8>>>);

    impl Write for Cutting {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            let taken = match self.0 {
                Some((0, why)) => {
                    self.0 = None;
                    return Err(why.into());
                }
                Some((left, why)) => {
                    self.0 = Some((left - 1, why));
                    self.1.min(bytes.len())
                }
                None => bytes.len(),
            };
            self.2.lock().unwrap().extend_from_slice(&bytes[..taken]);
            Ok(taken)
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    /// What is written of three lines to somewhere that takes three bytes and then fails once.
    fn cut(why: std::io::ErrorKind) -> String {
        let seen = Arc::<Mutex<Vec<u8>>>::default();
        let out = Cutting(Some((1, why)), 3, Arc::clone(&seen));
        let writer = LogWriter::start(out, |count| format!("left out: {count}\n").into_bytes()).unwrap();
        for line in ["first\n", "second\n", "third\n"] {
            writer.line(line.into());
        }
        writer.flush(Duration::from_secs(60));
        let written = seen.lock().unwrap().clone();
        String::from_utf8(written).unwrap()
    }

    #[test]
    fn a_line_that_was_cut_ends_before_the_next_begins() {
        assert_eq!(cut(std::io::ErrorKind::StorageFull), "fir\nsecond\nleft out: 1\nthird\n");
    }

    #[test]
    fn somewhere_that_takes_nothing_for_a_moment_gets_every_line_whole() {
        for why in [std::io::ErrorKind::WouldBlock, std::io::ErrorKind::Interrupted] {
            assert_eq!(cut(why), "first\nsecond\nthird\n");
        }
    }

    #[test]
    fn lines_that_cannot_be_written_are_counted_and_told_of_once_there_is_room() {
        let (before, seen) = (left_out(), Arc::<Mutex<Vec<u8>>>::default());
        let out = Full(3, Arc::clone(&seen));
        let writer = LogWriter::start(out, |count| format!("left out: {count}\n").into_bytes()).unwrap();
        for line in ["a\n", "b\n", "c\n", "d\n", "e\n"] {
            writer.line(line.into());
        }
        writer.flush(Duration::from_secs(60));
        assert_eq!(String::from_utf8(seen.lock().unwrap().clone()).unwrap(), "d\nleft out: 3\ne\n");
        assert!(left_out() >= before + 3);
    }

    #[test]
    fn a_log_that_nobody_reads_stops_nobody_and_says_what_it_left_out() {
        let (go, told) = channel();
        let seen = Arc::<Mutex<Vec<u8>>>::default();
        let out = Stuck(told, Arc::clone(&seen));
        let writer = LogWriter::start(out, |count| format!("left out: {count}\n").into_bytes()).unwrap();
        let line = vec![b'x'; 1_024];
        let fit = MAX_WAITING / (line.len() + LINE_OVERHEAD);
        for _ in 0..fit + 7 {
            writer.line(line.clone());
        }
        assert!(left_out() >= 7);
        writer.flush(Duration::from_millis(10));
        drop(go);
        writer.flush(Duration::from_secs(60));
        let text = String::from_utf8(seen.lock().unwrap().clone()).unwrap();
        assert_eq!(text.matches("left out: 7\n").count(), 1);
        assert_eq!(text.matches('x').count(), fit * line.len());
        writer.line(b"again\n".to_vec());
        writer.flush(Duration::from_secs(60));
        assert!(seen.lock().unwrap().ends_with(b"again\n"));
    }
}

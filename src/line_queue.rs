//! Lines on their way to a log. A thread writes them, so that nobody else waits for who reads them.

use std::io;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use tokio::sync::Notify;

use crate::metrics::Counter;
use crate::printable::in_words;

/// How long lines that wait at the end of the program may take.
const FLUSH_TIME: Duration = Duration::from_millis(500);

/// The buffers keep no more than this once a burst is over.
const IDLE_BYTES: usize = 64 << 10;

/// Lines that wait to be written, in order. What finds no room, or cannot be written, is lost and counted.
#[derive(Debug)]
pub struct LineQueue {
    bytes_max: usize,
    state: Mutex<State>,
    changed: Condvar,
    is_open: AtomicBool,
    lost: Counter,
    /// Tells when lines are lost.
    has_lost: Notify,
}

#[derive(Debug)]
struct State {
    waiting: Vec<u8>,
    is_writing: bool,
    is_closed: bool,
    /// Why the last lines could not be written.
    failure: Option<io::Error>,
}

/// Waits for the lines that are still to be written when it is dropped, for a short time.
#[derive(Debug)]
pub struct Flush(&'static LineQueue);

impl LineQueue {
    /// A queue for so many bytes of lines, twice: as many may be about to be written.
    #[must_use]
    pub const fn new(bytes_max: usize) -> Self {
        let state = State { waiting: Vec::new(), is_writing: false, is_closed: false, failure: None };
        Self {
            bytes_max,
            state: Mutex::new(state),
            changed: Condvar::new(),
            is_open: AtomicBool::new(false),
            lost: Counter::new(),
            has_lost: Notify::const_new(),
        }
    }

    /// Starts to write to `out`. To be called once.
    ///
    /// # Errors
    /// When there can be no thread.
    pub fn start(&'static self, out: impl AsFd + Send + 'static) -> io::Result<Flush> {
        self.start_when_open(|| Ok(out))
    }

    /// The same, once `open` has brought what is written to, however long that takes. If it brings nothing, lines wait
    /// for ever, until they are too many.
    ///
    /// # Errors
    /// As [`LineQueue::start`].
    pub fn start_when_open<T: AsFd>(
        &'static self,
        open: impl FnOnce() -> io::Result<T> + Send + 'static,
    ) -> io::Result<Flush> {
        let write = move || {
            if let Ok(out) = open() {
                self.write_lines(&out);
            }
        };
        std::thread::Builder::new().name("log".to_owned()).spawn(write)?;
        self.is_open.store(true, Ordering::Release);
        Ok(Flush(self))
    }

    /// Whether it was started.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.is_open.load(Ordering::Acquire)
    }

    /// Adds a whole line, or loses it. Never waits for a reader or a disk.
    pub fn push(&self, line: &[u8]) {
        let mut state = self.state();
        if self.bytes_max - state.waiting.len() < line.len() {
            drop(state);
            return self.lose(1);
        }
        let was_empty = state.waiting.is_empty();
        state.waiting.extend_from_slice(line);
        drop(state);
        if was_empty {
            self.changed.notify_all();
        }
    }

    /// Counts lines that never reached their log.
    pub fn lose(&self, lines: u64) {
        self.lost.add_many(lines);
        self.has_lost.notify_one();
    }

    /// How many lines were lost since the start.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.lost.get()
    }

    /// Waits until lines were lost since this was asked last. For one task.
    pub async fn has_lost(&self) {
        self.has_lost.notified().await;
    }

    /// Waits until everything is written, for so long at most.
    pub fn settle(&self, time: Duration) {
        let is_busy = |state: &mut State| state.is_writing || !state.waiting.is_empty();
        // Whatever comes of it, nobody waits any longer.
        let _ = self.changed.wait_timeout_while(self.state(), time, is_busy);
    }

    /// Why no line gets through at the moment; `None`: they do.
    #[must_use]
    pub fn trouble(&self) -> Option<String> {
        let state = self.state();
        match &state.failure {
            Some(error) => Some(in_words(error)),
            None if state.waiting.is_empty() => None,
            None => Some("nobody takes them".to_owned()),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write_lines(&self, out: &impl AsFd) {
        let mut lines = Vec::new();
        let mut is_line_open = false;
        loop {
            let mut state = self.state();
            state.is_writing = false;
            self.changed.notify_all();
            while state.waiting.is_empty() {
                if state.is_closed {
                    return;
                }
                state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
            }
            lines.clear();
            lines.shrink_to(IDLE_BYTES);
            std::mem::swap(&mut lines, &mut state.waiting);
            state.is_writing = true;
            drop(state);
            let result = write_all(out, &lines, &mut is_line_open);
            self.state().failure = match result {
                Ok(()) => None,
                Err((error, rest)) => {
                    self.lose(rest.iter().filter(|byte| **byte == b'\n').count() as u64);
                    Some(error.into())
                }
            };
        }
    }
}

/// Writes lines, or gives the rest of them. `is_line_open`: what was written last does not end a line.
fn write_all<'a>(out: &impl AsFd, lines: &'a [u8], is_line_open: &mut bool) -> Result<(), (Errno, &'a [u8])> {
    let mut rest = lines;
    while !rest.is_empty() {
        // A line that broke off must not take the next one with it.
        let starts_anew = *is_line_open && rest.len() == lines.len();
        let next = if starts_anew { b"\n".as_slice() } else { rest };
        match rustix::io::write(out, next) {
            Ok(0) => return Err((Errno::IO, rest)),
            Ok(_) if starts_anew => *is_line_open = false,
            Ok(written) => {
                *is_line_open = rest[written - 1] != b'\n';
                rest = &rest[written..];
            }
            Err(Errno::INTR) => {}
            // Somebody else who has the same standard error made it so.
            Err(Errno::AGAIN) => drop(poll(&mut [PollFd::new(out, PollFlags::OUT)], None)),
            Err(error) => return Err((error, rest)),
        }
    }
    Ok(())
}

impl Drop for Flush {
    fn drop(&mut self) {
        self.0.state().is_closed = true;
        self.0.changed.notify_all();
        self.0.settle(FLUSH_TIME);
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, pipe};
    use std::time::Instant;

    use super::*;

    /// A queue of its own, for as long as the tests run.
    fn queue(bytes_max: usize) -> &'static LineQueue {
        Box::leak(Box::new(LineQueue::new(bytes_max)))
    }

    #[test]
    fn a_reader_that_stands_still_holds_nobody_up_and_costs_whole_lines_that_are_counted() {
        let (mut reader, writer) = pipe().unwrap();
        let queue = queue(10_000);
        let flush = queue.start(writer).unwrap();
        let started = Instant::now();
        for number in 0..100_000 {
            queue.push(format!("line {number:06}\n").as_bytes());
        }
        assert!(started.elapsed() < Duration::from_secs(1), "{:?}", started.elapsed());
        assert_eq!(queue.trouble().as_deref(), Some("nobody takes them"));
        drop(flush);
        assert!(started.elapsed() < Duration::from_secs(2), "{:?}", started.elapsed());
        let lost = queue.lost();
        // What had to wait longer than the end of the program is written here, because this program goes on.
        let mut text = vec![0; (100_000 - usize::try_from(lost).unwrap()) * "line 000000\n".len()];
        reader.read_exact(&mut text).unwrap();
        let text = String::from_utf8(text).unwrap();
        assert!(text.lines().is_sorted() && text.lines().all(|line| line.len() == "line 000000".len()));
    }

    #[test]
    fn lines_that_cannot_be_written_are_counted() {
        let queue = queue(10_000);
        let flush = queue.start(std::fs::File::create("/dev/full").unwrap()).unwrap();
        queue.push(b"a\nb\n");
        drop(flush);
        assert_eq!(queue.lost(), 2);
        assert!(queue.trouble().unwrap().contains("No space left"), "{:?}", queue.trouble());
    }

    #[test]
    fn every_line_is_written_before_the_end() {
        let (mut reader, writer) = pipe().unwrap();
        let queue = queue(1 << 20);
        let flush = queue.start(writer).unwrap();
        (0..1000).for_each(|number| queue.push(format!("{number}\n").as_bytes()));
        drop(flush);
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        assert_eq!(text.lines().count(), 1000);
        assert_eq!(queue.lost(), 0);
    }
}

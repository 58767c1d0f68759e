//! Where log lines go, and how they look.

use std::fmt;
use std::fs::File;
use std::io::{self, IsTerminal, Write};
use std::os::unix::fs::OpenOptionsExt as _;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::sync::OnceLock;
use std::time::SystemTime;

use rustix::fs::fstat;
use tracing::level_filters::LevelFilter;
use tracing::subscriber::Interest;
use tracing::{Event, Level, Metadata, Subscriber};
use tracing_appender::non_blocking::{NonBlocking, WorkerGuard};
use tracing_subscriber::filter::dynamic_filter_fn;
use tracing_subscriber::fmt::format::{FmtSpan, Writer};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields, MakeWriter};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Layer, Registry};

use crate::settings::LogFormat;

/// A place for log lines.
#[derive(Clone, Copy, Debug)]
pub enum Log<'a> {
    /// Standard error, in the stock daemon's format.
    Classic(LevelFilter),
    /// The system's log, as the stock daemon's background process does: faults only.
    Syslog,
    /// Standard error, for people or collectors.
    Modern {
        /// As in `tracing_subscriber::EnvFilter`.
        filter: &'a str,
        /// For people or collectors.
        format: LogFormat,
        /// Whether journald reads the lines: it stamps them itself, and takes their level from a prefix.
        under_journald: bool,
    },
}

/// The target of events that say who did what to the daemon's nodes, from where: what an audit log keeps.
pub const AUDIT: &str = "repmd::audit";

/// Where these events go besides the log, once [`audit_to`] has said so.
static AUDIT_LOG: OnceLock<NonBlocking> = OnceLock::new();

/// Sends the log lines of this process to `log`. To be called once.
pub fn start(log: Log<'_>) {
    let lines = tracing_subscriber::fmt::layer::<Registry>().with_ansi(false);
    let lines = match log {
        Log::Classic(level) => {
            lines.with_writer(io::stderr).event_format(ClassicLine::Stderr).with_filter(level).boxed()
        }
        Log::Syslog => {
            lines.with_writer(Syslog).event_format(ClassicLine::Syslog).with_filter(LevelFilter::WARN).boxed()
        }
        Log::Modern { filter, format, under_journald } => {
            let filter = EnvFilter::new(filter);
            let lines = lines
                .with_writer(io::stderr)
                .with_ansi(io::stderr().is_terminal())
                .with_span_events(FmtSpan::CLOSE)
                .with_target(false);
            match (format, under_journald) {
                (LogFormat::Text, false) => lines.with_filter(filter).boxed(),
                (LogFormat::Text, true) => {
                    lines.without_time().map_event_format(WithLevelPrefix).with_filter(filter).boxed()
                }
                (LogFormat::Json, false) => lines.json().flatten_event(true).with_filter(filter).boxed(),
                (LogFormat::Json, true) => {
                    let lines = lines.json().flatten_event(true);
                    lines.map_event_format(WithLevelPrefix).with_filter(filter).boxed()
                }
            }
        }
    };
    tracing_subscriber::registry().with(lines).with(audit_layer()).init();
}

/// Whether journald reads standard error: `stream` is the variable `JOURNAL_STREAM`, which is also there in
/// programs whose standard error leads elsewhere.
#[must_use]
pub fn is_journald(stream: Option<&str>) -> bool {
    let Ok(stderr) = fstat(io::stderr()) else { return false };
    stream == Some(&format!("{}:{}", stderr.st_dev, stderr.st_ino))
}

/// Opens an audit log, to which lines are appended.
///
/// # Errors
/// When it cannot be opened.
pub fn open_audit_log(path: &Path) -> io::Result<File> {
    File::options().append(true).create(true).mode(0o640).open(path)
}

/// Keeps the events of [`AUDIT`] in `file`, one JSON object a line. A thread writes them, so that nobody waits
/// for a disk; the last are written when the guard goes. To be called once.
pub fn audit_to(file: File) -> WorkerGuard {
    let (log, guard) = tracing_appender::non_blocking(file);
    let _ = AUDIT_LOG.set(log);
    guard
}

fn audit_layer<S: Subscriber + for<'a> LookupSpan<'a>>() -> impl Layer<S> {
    let is_audited = |event: &Metadata<'_>| event.target() == AUDIT && *event.level() <= Level::INFO;
    let filter = dynamic_filter_fn(move |event, _| is_audited(event) && AUDIT_LOG.get().is_some())
        .with_callsite_filter(
            move |event| {
                if is_audited(event) { Interest::sometimes() } else { Interest::never() }
            },
        )
        .with_max_level_hint(LevelFilter::INFO);
    let lines = tracing_subscriber::fmt::layer().json().flatten_event(true).with_target(false);
    lines.with_current_span(false).with_span_list(false).with_writer(AuditLog).with_filter(filter)
}

/// Writes to [`AUDIT_LOG`].
struct AuditLog;

impl MakeWriter<'_> for AuditLog {
    type Writer = NonBlocking;

    fn make_writer(&self) -> NonBlocking {
        AUDIT_LOG.get().expect("the filter passes nothing before").clone()
    }
}

/// Lines that begin with their level as journald reads it: `<4>` is a warning.
struct WithLevelPrefix<F>(F);

impl<S, N, F: FormatEvent<S, N>> FormatEvent<S, N> for WithLevelPrefix<F>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let priority = match *event.metadata().level() {
            Level::ERROR => 3,
            Level::WARN => 4,
            Level::INFO => 6,
            Level::DEBUG | Level::TRACE => 7,
        };
        write!(writer, "<{priority}>")?;
        self.0.format_event(context, writer, event)
    }
}

/// The stock daemon's two formats.
#[derive(Clone, Copy)]
enum ClassicLine {
    /// `epmd: Tue Nov 24 10:26:10 2026: text\r\n`
    Stderr,
    /// `<priority>epmd: text`, one datagram each.
    Syslog,
}

impl<S, N> FormatEvent<S, N> for ClassicLine
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        match self {
            Self::Stderr => {
                let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
                let now = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
                write!(writer, "epmd: {}: ", repmd_sys::ctime(now))?;
                context.format_fields(writer.by_ref(), event)?;
                writer.write_str("\r\n")
            }
            Self::Syslog => {
                // The facility of daemons (3 * 8) and the level of errors (3), for every line.
                writer.write_str("<27>epmd: ")?;
                context.format_fields(writer, event)
            }
        }
    }
}

/// The system's log, reached anew for each line: lines are rare, and the log may be restarted.
#[derive(Clone, Copy)]
struct Syslog;

impl MakeWriter<'_> for Syslog {
    type Writer = Self;

    fn make_writer(&self) -> Self {
        Self
    }
}

impl Write for Syslog {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        // A machine without a system log is no reason to fail; nor is one whose log is slow.
        let sent = UnixDatagram::unbound().and_then(|socket| {
            socket.set_nonblocking(true)?;
            socket.send_to(line, "/dev/log")
        });
        Ok(sent.unwrap_or(line.len()))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

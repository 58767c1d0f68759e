//! Where log lines go, and how they look.

use std::fmt;
use std::fs::File;
use std::io::{self, IsTerminal, Stderr, Write};
use std::os::unix::fs::OpenOptionsExt as _;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use rustix::fs::{Access, OFlags, access, fstat};
use tokio::time::sleep;
use tracing::field::Field;
use tracing::level_filters::LevelFilter;
use tracing::subscriber::Interest;
use tracing::{Event, Level, Metadata, Subscriber, error, warn};
use tracing_subscriber::field::MakeExt as _;
use tracing_subscriber::filter::{Targets, dynamic_filter_fn};
use tracing_subscriber::fmt::format::{FmtSpan, Writer, debug_fn};
use tracing_subscriber::fmt::writer::EitherWriter;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields, MakeWriter};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Layer, Registry};

use crate::line_queue::{Flush, LineQueue};
use crate::metrics::Counter;
use crate::printable::{as_value, escaped, escaped_json, in_words};

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

/// The target of events that say what a request was answered, at the level of debugging: one for each request.
pub const REQUESTS: &str = "repmd::requests";

/// The lines of standard error, and, counted alone, those of the system's log.
static LOG: LineQueue = LineQueue::new(1 << 20);

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// For collectors: one object a line.
    Json,
}

/// The lines of the audit log, once [`audit_to`] has said where they go.
static AUDIT_LOG: LineQueue = LineQueue::new(8 << 20);

/// How long to wait before saying that lines were lost: more will be, most likely.
const LOSS_PAUSE: Duration = Duration::from_secs(1);

/// Sends the log lines of this process to `log`. To be called once. A thread writes them, so that nobody waits for a
/// reader; the last are written when the value that it returns is dropped.
#[must_use = "lines that still wait are lost with it"]
pub fn start(log: Log<'_>) -> Option<Flush> {
    let lines = tracing_subscriber::fmt::layer::<Registry>().with_ansi(false);
    let (lines, flush) = match log {
        Log::Syslog => {
            let lines = lines.with_writer(Syslog).fmt_fields(debug_fn(write_field).delimited(" "));
            let lines = lines.event_format(ClassicLine::Syslog).with_filter(LevelFilter::WARN).boxed();
            (lines, None)
        }
        Log::Classic(level) => {
            let lines = lines.with_writer(StandardError).fmt_fields(debug_fn(write_field).delimited(" "));
            let lines = lines.event_format(ClassicLine::Stderr).with_filter(classic(level)).boxed();
            (lines, queue_standard_error())
        }
        Log::Modern { filter, format, under_journald } => {
            let filter = EnvFilter::new(filter);
            let lines = lines.with_writer(StandardError).with_span_events(FmtSpan::CLOSE).with_target(false);
            let lines = match format {
                LogFormat::Text => {
                    let lines = lines.fmt_fields(debug_fn(write_field).delimited(" "));
                    if under_journald {
                        lines.without_time().map_event_format(WithLevelPrefix).with_filter(filter).boxed()
                    } else {
                        lines.with_ansi(io::stderr().is_terminal()).with_filter(filter).boxed()
                    }
                }
                LogFormat::Json => {
                    let lines = lines.json().flatten_event(true).map_event_format(EscapedJson);
                    if under_journald {
                        lines.map_event_format(WithLevelPrefix).with_filter(filter).boxed()
                    } else {
                        lines.with_filter(filter).boxed()
                    }
                }
            };
            (lines, queue_standard_error())
        }
    };
    tracing_subscriber::registry().with(lines).with(audit_layer()).init();
    flush
}

/// `None` where there can be no thread: then whoever says something waits for the reader.
fn queue_standard_error() -> Option<Flush> {
    LOG.start(rustix::stdio::stderr()).ok()
}

/// How many lines were lost since the start: of the log, and of the audit log.
#[must_use]
pub fn lost_lines() -> [u64; 2] {
    [LOG.lost() + SYSLOG_LOST.get(), AUDIT_LOG.lost()]
}

/// Waits until the lines of now are written, for so long at most: another program is about to take this one's place.
pub fn settle(time: Duration) {
    [&LOG, &AUDIT_LOG].into_iter().filter(|log| log.is_open()).for_each(|log| log.settle(time));
}

/// Says how many lines were lost, once others get through again. Never ends.
pub async fn tell_of_losses() {
    let log = tell_of_losses_of(&LOG, |_| {}, |lines| warn!(lines, "lines of the log were lost"));
    let audit_log = tell_of_losses_of(
        &AUDIT_LOG,
        |reason| error!(reason, "the audit log loses lines"),
        |lines| warn!(target: AUDIT, lines, "lines of the audit log were lost"),
    );
    tokio::join!(log, audit_log);
}

async fn tell_of_losses_of(log: &LineQueue, begins: impl Fn(&str), ended: impl Fn(u64)) {
    let mut told = 0;
    loop {
        log.has_lost().await;
        if log.lost() == told {
            continue;
        }
        begins(log.trouble().as_deref().unwrap_or("too many at once"));
        loop {
            sleep(LOSS_PAUSE).await;
            if log.trouble().is_none() {
                break;
            }
        }
        let lost = log.lost();
        ended(lost - told);
        told = lost;
    }
}

/// The stock daemon says each request and answer from the first `-d` on.
fn classic(level: LevelFilter) -> Targets {
    let requests = if level < LevelFilter::INFO { level } else { level.max(LevelFilter::DEBUG) };
    Targets::new().with_default(level).with_target(REQUESTS, requests)
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
    // A pipe that nobody reads is an error, and not a wait.
    let at_once = OFlags::NONBLOCK.bits().cast_signed();
    File::options().append(true).create(true).mode(0o640).custom_flags(at_once).open(path)
}

/// Whether [`open_audit_log`] would succeed. It makes no file.
///
/// # Errors
/// When it would not.
pub fn check_audit_log(path: &Path) -> io::Result<()> {
    let at_once = OFlags::NONBLOCK.bits().cast_signed();
    match File::options().append(true).custom_flags(at_once).open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let folder = path.parent().ok_or(io::ErrorKind::InvalidInput)?;
            Ok(access(folder, Access::WRITE_OK | Access::EXEC_OK)?)
        }
        opened => opened.map(drop),
    }
}

/// The file of an audit log.
#[derive(Debug)]
pub enum AuditLog {
    /// It is open.
    Open(File),
    /// Its disk has not answered yet; lines wait for it, and are lost where too many do.
    Later(PathBuf),
}

/// Keeps the events of [`AUDIT`] in a file, one JSON object a line. A thread writes them, so that nobody waits
/// for a disk; the last are written when the value that it returns is dropped. To be called once.
///
/// # Errors
/// When there can be no thread.
pub fn audit_to(log: AuditLog) -> io::Result<Flush> {
    match log {
        AuditLog::Open(file) => AUDIT_LOG.start(file),
        AuditLog::Later(path) => AUDIT_LOG.start_when_open(move || {
            let opened = open_audit_log(&path);
            opened.inspect_err(|error| error!(path = %path.display(), error = %in_words(&error), "cannot open the audit log"))
        }),
    }
}

fn audit_layer<S: Subscriber + for<'a> LookupSpan<'a>>() -> impl Layer<S> {
    let is_audited = |event: &Metadata<'_>| event.target() == AUDIT && *event.level() <= Level::INFO;
    let filter = dynamic_filter_fn(move |event, _| is_audited(event) && AUDIT_LOG.is_open())
        .with_callsite_filter(
            move |event| {
                if is_audited(event) { Interest::sometimes() } else { Interest::never() }
            },
        )
        .with_max_level_hint(LevelFilter::INFO);
    let lines = tracing_subscriber::fmt::layer().json().flatten_event(true).with_target(false);
    let lines = lines.with_current_span(false).with_span_list(false).map_event_format(EscapedJson);
    lines.with_writer(|| Line(&AUDIT_LOG)).with_filter(filter)
}

/// Where a line goes that a thread is to write.
struct Line(&'static LineQueue);

impl Write for Line {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.0.push(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// [`LOG`], or standard error itself where nobody writes for the queue.
struct StandardError;

impl MakeWriter<'_> for StandardError {
    type Writer = EitherWriter<Line, Stderr>;

    fn make_writer(&self) -> Self::Writer {
        if LOG.is_open() { EitherWriter::A(Line(&LOG)) } else { EitherWriter::B(io::stderr()) }
    }
}

/// Writes a field for people: nothing in it can act on their terminal, or look like another field.
fn write_field(writer: &mut Writer<'_>, field: &Field, value: &dyn fmt::Debug) -> fmt::Result {
    let value = format!("{value:?}");
    let name = field.name();
    if name == "message" {
        // The end of a span is the only message that comes as a value, and so in quotes.
        if value == "\"close\"" { writer.write_str("close") } else { writer.write_str(&escaped(&value)) }
    } else if writer.has_ansi_escapes() {
        write!(writer, "\x1b[3m{name}\x1b[0m\x1b[2m=\x1b[0m{}", as_value(&value))
    } else {
        write!(writer, "{name}={}", as_value(&value))
    }
}

/// Lines of JSON that people may read too: without characters that act on their terminal.
struct EscapedJson<F>(F);

impl<S, N, F: FormatEvent<S, N>> FormatEvent<S, N> for EscapedJson<F>
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
        let mut line = String::new();
        self.0.format_event(context, Writer::new(&mut line), event)?;
        writer.write_str(&escaped_json(&line))
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
    /// `<11>Nov 24 10:26:10 epmd: epmd: text`, one datagram each.
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
                write!(writer, "epmd: {}: ", ctime_now())?;
                context.format_fields(writer.by_ref(), event)?;
                writer.write_str("\r\n")
            }
            Self::Syslog => {
                write!(writer, "{}epmd: ", syslog_head())?;
                context.format_fields(writer, event)
            }
        }
    }
}

/// As the C library begins a line: the facility of users (1 * 8) and the level of errors (3), for every line; the local
/// time; the program's name.
fn syslog_head() -> String {
    let now = ctime_now();
    // Without the day of the week and the year.
    format!("<11>{} epmd: ", now.get(4..19).unwrap_or_default())
}

fn ctime_now() -> String {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    repmd_sys::ctime(i64::try_from(now.as_secs()).unwrap_or(i64::MAX))
}

/// Lines that the system's log did not take, and those of them that it has been told of.
static SYSLOG_LOST: Counter = Counter::new();
static SYSLOG_TOLD: AtomicU64 = AtomicU64::new(0);

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
        let log = UnixDatagram::unbound().and_then(|log| {
            log.set_nonblocking(true)?;
            log.connect("/dev/log")?;
            log.send(line)?;
            Ok(log)
        });
        let Ok(log) = log else {
            SYSLOG_LOST.add();
            return Ok(line.len());
        };
        let lost = SYSLOG_LOST.get();
        let told = SYSLOG_TOLD.load(Ordering::Relaxed);
        if told < lost {
            let line = format!("{}epmd: {} lines of the log were lost", syslog_head(), lost - told);
            if log.send(line.as_bytes()).is_ok() {
                SYSLOG_TOLD.store(lost, Ordering::Relaxed);
            }
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

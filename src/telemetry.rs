//! Where log lines go, and how they look.

use std::fmt;
use std::io::{self, IsTerminal, Write};
use std::os::unix::net::UnixDatagram;
use std::time::SystemTime;

use tracing::level_filters::LevelFilter;
use tracing::{Event, Subscriber};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields, MakeWriter};
use tracing_subscriber::registry::LookupSpan;

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
        /// Off where whoever reads the lines stamps them.
        with_time: bool,
    },
}

/// Sends the log lines of this process to `log`. To be called once.
pub fn start(log: Log<'_>) {
    let builder = tracing_subscriber::fmt().with_ansi(false);
    match log {
        Log::Classic(level) => {
            builder.with_max_level(level).with_writer(io::stderr).event_format(ClassicLine::Stderr).init();
        }
        Log::Syslog => {
            builder
                .with_max_level(LevelFilter::WARN)
                .with_writer(Syslog)
                .event_format(ClassicLine::Syslog)
                .init();
        }
        Log::Modern { filter, format, with_time } => {
            let builder = tracing_subscriber::fmt()
                .with_env_filter(EnvFilter::new(filter))
                .with_writer(io::stderr)
                .with_ansi(io::stderr().is_terminal())
                .with_target(false);
            match (format, with_time) {
                (LogFormat::Json, _) => builder.json().flatten_event(true).init(),
                (LogFormat::Text, true) => builder.init(),
                (LogFormat::Text, false) => builder.without_time().init(),
            }
        }
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

//! What the service manager is told, by the protocol of systemd's `sd_notify(3)`: that the daemon serves, how it is,
//! that its event loop turns, and that it stops; and the descriptors that it is given to keep.

use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::BorrowedFd;
use std::os::unix::net::UnixDatagram;
use std::sync::Arc;
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix, sendmsg_addr};
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::printable::in_words;
use crate::registry::Readiness;

/// What it shows while all is well.
const SERVING: &str = "Processing port mapping requests...";

/// How long a message may wait for room in the manager's queue.
const ROOM_TIME: Duration = Duration::from_secs(10);
const ROOM_PAUSE: Duration = Duration::from_millis(20);

/// Where the service manager listens, and how often it wants to hear from the event loop.
#[derive(Debug)]
pub struct ServiceManager {
    channel: Arc<Channel>,
    /// A longer silence means that the daemon is stuck.
    watchdog: Option<Duration>,
}

impl ServiceManager {
    /// The one that the environment names, for this process. `None`: there is none.
    ///
    /// # Errors
    /// When its address cannot be used.
    pub fn find(variable: &dyn Fn(&str) -> Option<String>) -> io::Result<Option<Self>> {
        let Some(name) = variable("NOTIFY_SOCKET").filter(|name| !name.is_empty()) else { return Ok(None) };
        let address = match name.strip_prefix('@') {
            // A name of its own, which is no file.
            Some(name) => SocketAddrUnix::new_abstract_name(name.as_bytes()),
            None => SocketAddrUnix::new(&*name),
        };
        let socket = UnixDatagram::unbound()?;
        socket.set_nonblocking(true)?;
        let is_for_us = variable("WATCHDOG_PID").is_none_or(|pid| pid == std::process::id().to_string());
        let watchdog = variable("WATCHDOG_USEC").and_then(|text| text.parse().ok());
        let watchdog = watchdog.filter(|time| is_for_us && 0 < *time).map(Duration::from_micros);
        Ok(Some(Self { channel: Arc::new(Channel { socket, address: address? }), watchdog }))
    }

    /// Tells that the daemon serves, and then what operators must know, until it stops. To be called where the wire is
    /// served: the watchdog watches that event loop.
    pub fn keep_informed(self, readiness: watch::Receiver<Readiness>, stop: CancellationToken) {
        let manager = Arc::new(self);
        tokio::spawn(Arc::clone(&manager).feed_watchdog());
        tokio::spawn(async move { manager.report(readiness, stop).await });
    }

    async fn report(&self, mut readiness: watch::Receiver<Readiness>, stop: CancellationToken) {
        self.tell(&format!("READY=1\nSTATUS={SERVING}\nMAINPID={}\n", std::process::id())).await;
        loop {
            tokio::select! {
                () = stop.cancelled() => return self.tell("STOPPING=1\n").await,
                changed = readiness.changed() => if changed.is_err() { return },
            }
            let complaints = readiness.borrow_and_update().complaints.join("; ");
            let status =
                if complaints.is_empty() { SERVING.to_owned() } else { format!("Degraded: {complaints}") };
            // A newline would begin another assignment.
            self.tell(&format!("STATUS={}\n", status.replace('\n', " "))).await;
        }
    }

    /// At half the time, as `sd_watchdog_enabled(3)` recommends.
    async fn feed_watchdog(self: Arc<Self>) {
        let Some(time) = self.watchdog else { return };
        let mut turns = interval(time / 2);
        turns.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            turns.tick().await;
            // If there is no room, the next one will do.
            let _ = self.channel.send("WATCHDOG=1\n", &[]);
        }
    }

    async fn tell(&self, state: &str) {
        if let Err(error) = self.channel.tell(state, &[]).await {
            warn!(error = %in_words(&error), "cannot notify the service manager");
        }
    }

    /// Where it keeps descriptors for the next run of this process, if it does: systemd says so in `FDSTORE` from
    /// version 254 on, and for earlier ones the unit does.
    #[must_use]
    pub fn descriptor_store(&self, variable: &dyn Fn(&str) -> Option<String>) -> Option<DescriptorStore> {
        let most = variable("FDSTORE").and_then(|text| text.parse().ok()).filter(|most| 0 < *most)?;
        Some(DescriptorStore { channel: Arc::clone(&self.channel), most })
    }
}

/// Descriptors that the service manager keeps, and passes to the next run of this process.
#[derive(Debug)]
pub struct DescriptorStore {
    channel: Arc<Channel>,
    /// How many it keeps at most.
    pub most: usize,
}

impl DescriptorStore {
    /// The most descriptors of one call: what the kernel passes at once (`SCM_MAX_FD`).
    pub const BATCH_MAX: usize = 253;

    /// Lets the manager keep copies of these under one name. Those that it has already, it keeps once.
    pub async fn keep(&self, name: &str, descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
        self.channel.tell(&format!("FDSTORE=1\nFDNAME={name}\n"), descriptors).await
    }

    /// The same as [`DescriptorStore::remove`], if there is room for it now.
    pub fn forget(&self, name: &str) {
        // Where there is none, nothing is lost but a precaution.
        let _ = self.channel.send(&removal(name), &[]);
    }

    /// Lets it close its copies of all of this name.
    pub async fn remove(&self, name: &str) -> io::Result<()> {
        self.channel.tell(&removal(name), &[]).await
    }
}

/// The way to the manager.
#[derive(Debug)]
struct Channel {
    socket: UnixDatagram,
    address: SocketAddrUnix,
}

impl Channel {
    /// Waits for room in the manager's queue, though not for ever, and for nothing else.
    async fn tell(&self, words: &str, descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
        let deadline = Instant::now() + ROOM_TIME;
        loop {
            match self.send(words, descriptors) {
                // The kernel counts descriptors that nobody has taken yet.
                Err(Errno::AGAIN | Errno::TOOMANYREFS) if Instant::now() < deadline => {
                    sleep(ROOM_PAUSE).await;
                }
                result => return Ok(result?),
            }
        }
    }

    fn send(&self, words: &str, descriptors: &[BorrowedFd<'_>]) -> Result<(), Errno> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DescriptorStore::BATCH_MAX))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !descriptors.is_empty() && !control.push(SendAncillaryMessage::ScmRights(descriptors)) {
            return Err(Errno::INVAL);
        }
        let words = [IoSlice::new(words.as_bytes())];
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        sendmsg_addr(&self.socket, &self.address, &words, &mut control, flags).map(drop)
    }
}

fn removal(name: &str) -> String {
    format!("FDSTOREREMOVE=1\nFDNAME={name}\n")
}

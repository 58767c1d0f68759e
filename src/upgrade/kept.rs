//! What the service manager keeps for the next run of the daemon, whichever way this one ends: the connections of nodes,
//! and the state, in a file in memory that gets a line whenever a node registers or leaves.

use std::collections::HashSet;
use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt as _;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use rustix::fs::{MemfdFlags, memfd_create};
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;
use tracing::warn;

use super::STATE_BYTES_MAX;
use super::state::{self, State};
use crate::listen::{NODE, STATE};
use crate::server::{AliveSocket, Daemon, NodeKeeper, ServedNode, hang_up};
use crate::service_manager::DescriptorStore;
use crate::settings::Settings;
use crate::throttle::Throttle;
use crate::whole_file::beside;

/// How many bytes of lines make a file worth writing anew, beside as many as it began with.
const LINES_BYTES_MAX: u64 = 1 << 20;

/// How long the end of the daemon waits for the service manager to be given what it is to keep.
const LAST_TIME: Duration = Duration::from_millis(500);

/// Looks what was kept for this run, which has these settings. `None`: nothing, or nothing that it could go on from, which
/// is told of; the connections are shut down then, and their nodes come back by themselves.
#[must_use]
pub fn before(
    states: Vec<OwnedFd>,
    sockets: Vec<OwnedFd>,
    settings: &Settings,
) -> Option<(State, Vec<OwnedFd>)> {
    if states.is_empty() && sockets.is_empty() {
        return None;
    }
    match last(states, settings) {
        Ok(state) => Some((state, sockets)),
        Err(reason) => {
            let nodes = sockets.len();
            warn!(reason, nodes, "cannot go on from the run before: its nodes come back by themselves");
            sockets.iter().for_each(hang_up);
            None
        }
    }
}

fn last(states: Vec<OwnedFd>, settings: &Settings) -> Result<State, String> {
    // There is none where the daemon ended just when it gave another one.
    let mut file = File::from(states.into_iter().next_back().ok_or("its state was not kept")?);
    let read = file.rewind().and_then(|()| State::read_kept(&mut file.take(STATE_BYTES_MAX)));
    let state = read.map_err(|error| error.to_string())?;
    state.check(settings)?;
    Ok(state)
}

/// Gives the service manager what it is to keep.
#[derive(Debug)]
pub struct Kept {
    written: Mutex<Written>,
    /// Of what the manager is to be told.
    queue: mpsc::Sender<Tell>,
    /// How many nodes it keeps at most.
    nodes_max: usize,
    complaints: Throttle,
}

/// The file of the state.
#[derive(Debug)]
struct Written {
    /// `None`: it cannot be written, so that nothing is kept.
    file: Option<File>,
    bytes: u64,
    bytes_max: u64,
    /// The claims of those nodes that the manager has, or is about to be given.
    nodes: HashSet<u64>,
}

#[derive(Debug)]
enum Tell {
    /// Keep this connection, if it is still there.
    Node(Weak<AliveSocket>),
    /// Keep the file of now, and no other.
    File,
    /// The file has too many lines.
    WriteAnew,
    /// All that came before is told.
    Done(oneshot::Sender<()>),
}

impl Kept {
    /// Begins with nothing. What it is given is told by a task of its own.
    #[must_use]
    pub fn start(store: DescriptorStore) -> Arc<Self> {
        // One is the state's.
        let nodes_max = store.most - 1;
        let (queue, told) = mpsc::channel(2 * nodes_max + 8);
        let written = Written { file: None, bytes: 0, bytes_max: 0, nodes: HashSet::new() };
        let complaints = Throttle::default();
        let kept = Arc::new(Self { written: Mutex::new(written), queue, nodes_max, complaints });
        tokio::spawn(Arc::clone(&kept).tell(store, told));
        kept
    }

    /// Keeps what `daemon` serves, and from now on what changes there. `has_the_nodes`: the manager has given them to this
    /// run.
    pub fn begin(&self, daemon: &Daemon, has_the_nodes: bool) {
        let carried = daemon.carried();
        if let Err(error) = self.begin_with(&State::to_keep(daemon, &carried)) {
            return warn!(%error, "no file in memory: no node is kept when the daemon ends");
        }
        let kept = carried.nodes.iter().take(self.nodes_max);
        self.written().nodes = kept.clone().map(|node| node.claim).collect();
        if !has_the_nodes {
            for node in kept {
                self.queue(Tell::Node(Arc::downgrade(&node.socket)));
            }
        }
    }

    fn begin_with(&self, state: &State) -> io::Result<()> {
        *self.written() = Written::new(state)?;
        self.queue(Tell::File);
        Ok(())
    }

    /// Waits until the manager has all that it is to keep, though not for long.
    pub async fn settle(&self) {
        if timeout(LAST_TIME, self.until_settled()).await.is_err() {
            warn!("the service manager has not taken all nodes: the others come back by themselves");
        }
    }

    async fn until_settled(&self) {
        let (done, told) = oneshot::channel();
        // Where there is no room to ask, that is told of.
        if self.queue(Tell::Done(done)) {
            let _ = told.await;
        }
    }

    /// Whether there was room for it.
    fn queue(&self, tell: Tell) -> bool {
        let is_sent = self.queue.try_send(tell).is_ok();
        if !is_sent {
            self.complain("the service manager takes too long");
        }
        is_sent
    }

    fn complain(&self, reason: &str) {
        if let Some(left_out) = self.complaints.pass() {
            warn!(reason, left_out, "not every node is kept for when the daemon ends");
        }
    }

    /// Adds a line to the file.
    fn write(&self, written: &mut Written, line: io::Result<Vec<u8>>) {
        let Some(file) = &written.file else { return };
        match line.and_then(|line| file.write_all_at(&line, written.bytes).map(|()| line.len())) {
            Ok(length) => written.bytes += length as u64,
            Err(error) => {
                self.complain(&error.to_string());
                written.file = None;
            }
        }
        // Once: until that is done, or has failed.
        if written.bytes_max < written.bytes && self.queue(Tell::WriteAnew) {
            written.bytes_max = u64::MAX;
        }
    }

    async fn tell(self: Arc<Self>, store: DescriptorStore, mut told: mpsc::Receiver<Tell>) {
        let mut batch = Vec::new();
        while 0 < told.recv_many(&mut batch, DescriptorStore::BATCH_MAX).await {
            let node = |tell: &Tell| match tell {
                Tell::Node(socket) => socket.upgrade(),
                Tell::File | Tell::WriteAnew | Tell::Done(_) => None,
            };
            let sockets: Vec<_> = batch.iter().filter_map(node).collect();
            let descriptors: Vec<_> = sockets.iter().map(AsFd::as_fd).collect();
            let mut result =
                if descriptors.is_empty() { Ok(()) } else { store.keep(NODE, &descriptors).await };
            for tell in batch.drain(..) {
                match tell {
                    Tell::Node(_) => {}
                    Tell::File => result = result.and(self.give_file(&store).await),
                    Tell::WriteAnew => result = result.and(self.write_anew(&store).await),
                    // Nobody may wait any longer.
                    Tell::Done(done) => drop(done.send(())),
                }
            }
            if let Err(error) = result {
                self.complain(&error.to_string());
            }
        }
    }

    async fn give_file(&self, store: &DescriptorStore) -> io::Result<()> {
        let file = self.written().file.as_ref().map(File::try_clone).transpose()?;
        store.remove(STATE).await?;
        match file {
            Some(file) => store.keep(STATE, &[file.as_fd()]).await,
            None => Ok(()),
        }
    }

    /// Puts a shorter file that says the same in the place of the file.
    async fn write_anew(self: &Arc<Self>, store: &DescriptorStore) -> io::Result<()> {
        let kept = Arc::clone(self);
        let shortened = beside(move || kept.shorten()).await;
        if shortened.is_err() {
            let mut written = self.written();
            // It may go better when there is as much again.
            written.bytes_max = 2 * written.bytes + LINES_BYTES_MAX;
        }
        shortened?;
        self.give_file(store).await
    }

    fn shorten(&self) -> io::Result<()> {
        let (file, bytes) = {
            let written = self.written();
            let Some(file) = &written.file else { return Ok(()) };
            (file.try_clone()?, written.bytes)
        };
        let mut shorter = Written::new(&State::read_kept(&mut At { file: &file, next: 0, end: bytes })?)?;
        let mut written = self.written();
        let mut lines = Vec::new();
        At { file: &file, next: bytes, end: written.bytes }.read_to_end(&mut lines)?;
        if let Some(file) = &shorter.file {
            file.write_all_at(&lines, shorter.bytes)?;
        }
        shorter.bytes += lines.len() as u64;
        shorter.nodes = std::mem::take(&mut written.nodes);
        *written = shorter;
        Ok(())
    }

    fn written(&self) -> MutexGuard<'_, Written> {
        self.written.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl NodeKeeper for Kept {
    fn registered(&self, node: &ServedNode) {
        let line = state::registered(node);
        let mut written = self.written();
        self.write(&mut written, line);
        if written.nodes.len() < self.nodes_max {
            written.nodes.insert(node.claim);
            drop(written);
            self.queue(Tell::Node(Arc::downgrade(&node.socket)));
        }
    }

    fn left(&self, claim: u64) {
        let mut written = self.written();
        written.nodes.remove(&claim);
        self.write(&mut written, state::left(claim));
    }
}

impl Written {
    fn new(state: &State) -> io::Result<Self> {
        let mut file = File::from(memfd_create("repmd-kept", MemfdFlags::CLOEXEC)?);
        state.write(&mut file)?;
        file.flush()?;
        let bytes = file.stream_position()?;
        Ok(Self { file: Some(file), bytes, bytes_max: 2 * bytes + LINES_BYTES_MAX, nodes: HashSet::new() })
    }
}

/// A part of a file that others read and write at the same time, so that its position says nothing.
struct At<'a> {
    file: &'a File,
    next: u64,
    end: u64,
}

impl Read for At<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let left = usize::try_from(self.end - self.next).unwrap_or(usize::MAX).min(into.len());
        let read = self.file.read_at(&mut into[..left], self.next)?;
        self.next += read as u64;
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixDatagram;

    use super::*;
    use crate::service_manager::ServiceManager;

    #[tokio::test]
    async fn a_file_with_too_many_lines_is_written_anew_and_says_the_same() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        let manager = UnixDatagram::bind(&path).unwrap();
        let variable = |name: &str| match name {
            "NOTIFY_SOCKET" => Some(path.display().to_string()),
            "FDSTORE" => Some("8".to_owned()),
            _ => None,
        };
        let told = ServiceManager::find(&variable).unwrap().unwrap();
        let kept = Kept::start(told.descriptor_store(&variable).unwrap());
        kept.begin_with(&state::tests::first()).unwrap();
        kept.until_settled().await;
        // Of claims that nobody had: 60 bytes each.
        let came = (0..30_000).take_while(|_| kept.written().bytes_max != u64::MAX);
        came.for_each(|_| kept.left(1000));
        let long = kept.written().bytes;
        assert!(LINES_BYTES_MAX < long, "{long} bytes");
        // Written while somebody else reads, and after that.
        kept.left(5);
        kept.until_settled().await;
        assert!(kept.written().bytes < 4096, "{} bytes", kept.written().bytes);
        kept.left(1001);
        let file = kept.written().file.as_ref().unwrap().try_clone().unwrap();
        let state = State::read_kept(&mut At { file: &file, next: 0, end: kept.written().bytes }).unwrap();
        assert_eq!(state.check(&state::tests::settings("a")), Ok(0), "claim 5 has left");
        let said = |_| {
            let mut text = [0; 100];
            let length = manager.recv(&mut text).unwrap();
            String::from_utf8(text[..length].to_vec()).unwrap()
        };
        let (forget, keep) = ("FDSTOREREMOVE=1\nFDNAME=s\n", "FDSTORE=1\nFDNAME=s\n");
        assert_eq!([0; 4].map(said), [forget, keep, forget, keep]);
    }

    #[tokio::test]
    async fn a_file_that_could_not_be_written_anew_is_bounded_all_the_same() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        let _manager = UnixDatagram::bind(&path).unwrap();
        let variable = |name: &str| match name {
            "NOTIFY_SOCKET" => Some(path.display().to_string()),
            "FDSTORE" => Some("8".to_owned()),
            _ => None,
        };
        let told = ServiceManager::find(&variable).unwrap().unwrap();
        let kept = Kept::start(told.descriptor_store(&variable).unwrap());
        kept.begin_with(&state::tests::first()).unwrap();
        // What is there is no state any longer.
        kept.written().file.as_ref().unwrap().write_all_at(b"?", 0).unwrap();
        let came = (0..30_000).take_while(|_| kept.written().bytes_max != u64::MAX);
        came.for_each(|_| kept.left(1000));
        kept.until_settled().await;
        let Written { bytes, bytes_max, .. } = *kept.written();
        assert!((bytes + 1..u64::MAX).contains(&bytes_max), "{bytes_max} bytes, of which {bytes} are there");
    }

    #[test]
    fn the_last_state_of_this_host_is_gone_on_from_and_of_another_host_none() {
        let (socket, peer) = std::os::unix::net::UnixStream::pair().unwrap();
        peer.set_nonblocking(true).unwrap();
        let kept = |host| {
            let older = File::open("/dev/null").unwrap().into();
            let states = vec![older, state::tests::first().into_file().unwrap().into()];
            before(states, vec![socket.try_clone().unwrap().into()], &state::tests::settings(host))
        };
        let (state, sockets) = kept("a").unwrap();
        assert_eq!((state.check(&state::tests::settings("a")), sockets.len()), (Ok(1), 1));
        assert_eq!((&peer).read(&mut [0]).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        assert!(kept("b").is_none());
        assert_eq!((&peer).read(&mut [0]).unwrap(), 0, "it is shut down");
    }

    #[test]
    fn what_is_no_state_is_told_of_and_ends_its_connections() {
        let (socket, peer) = std::os::unix::net::UnixStream::pair().unwrap();
        let settings = state::tests::settings("a");
        assert!(before(Vec::new(), Vec::new(), &settings).is_none());
        let states = [Vec::new(), vec![File::open("/dev/null").unwrap().into()]];
        for states in states {
            let copy = socket.try_clone().unwrap();
            assert!(before(states, vec![copy.into()], &settings).is_none());
            assert_eq!((&peer).read(&mut [0]).unwrap(), 0, "it is shut down");
        }
    }
}

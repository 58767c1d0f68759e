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
        let shorter = Written::new(&State::read_kept(&mut At { file: &file, next: 0, end: bytes })?)?;
        self.written().go_on_in(shorter, &file, bytes)
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

    /// Goes on in a file that says the same as the first `bytes` of `file`, this one, did.
    fn go_on_in(&mut self, mut shorter: Self, file: &File, bytes: u64) -> io::Result<()> {
        let mut lines = Vec::new();
        At { file, next: bytes, end: self.bytes }.read_to_end(&mut lines)?;
        if let Some(file) = &shorter.file {
            file.write_all_at(&lines, shorter.bytes)?;
        }
        shorter.bytes += lines.len() as u64;
        shorter.nodes = std::mem::take(&mut self.nodes);
        *self = shorter;
        Ok(())
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
    use std::io::IoSliceMut;
    use std::mem::MaybeUninit;
    use std::os::unix::net::{UnixDatagram, UnixStream};

    use rustix::net::sockopt::socket_cookie;
    use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};

    use super::super::state::tests::{daemon, first, is_shut_down, registration, settings};
    use super::*;
    use crate::server::CarriedNode;
    use crate::service_manager::ServiceManager;

    /// A service manager that keeps descriptors.
    struct Manager {
        socket: UnixDatagram,
        _folder: tempfile::TempDir,
    }

    impl Manager {
        /// One that keeps eight of them, and what is kept there.
        fn start() -> (Self, Arc<Kept>) {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("notify");
            let socket = UnixDatagram::bind(&path).unwrap();
            socket.set_nonblocking(true).unwrap();
            let variable = |name: &str| match name {
                "NOTIFY_SOCKET" => Some(path.display().to_string()),
                "FDSTORE" => Some("8".to_owned()),
                _ => None,
            };
            let manager = ServiceManager::find(&variable).unwrap().unwrap();
            let kept = Kept::start(manager.descriptor_store(&variable).unwrap());
            (Self { socket, _folder: folder }, kept)
        }

        /// What it has been told since it was asked last, each with the descriptors that came with it.
        fn told(&self) -> Vec<(String, Vec<OwnedFd>)> {
            let next = || {
                let (mut text, mut space) = ([0; 100], [MaybeUninit::uninit(); 2048]);
                let mut control = RecvAncillaryBuffer::new(&mut space);
                let mut parts = [IoSliceMut::new(&mut text)];
                let length = recvmsg(&self.socket, &mut parts, &mut control, RecvFlags::empty()).ok()?.bytes;
                let sockets = control.drain().flat_map(|message| match message {
                    RecvAncillaryMessage::ScmRights(sockets) => sockets.collect(),
                    _ => Vec::new(),
                });
                let sockets = sockets.collect();
                Some((String::from_utf8(text[..length].to_vec()).unwrap(), sockets))
            };
            std::iter::from_fn(next).collect()
        }

        fn words(&self) -> Vec<String> {
            self.told().into_iter().map(|(words, _)| words).collect()
        }
    }

    const FORGET_FILE: &str = "FDSTOREREMOVE=1\nFDNAME=s\n";
    const KEEP_FILE: &str = "FDSTORE=1\nFDNAME=s\n";
    const KEEP_NODES: &str = "FDSTORE=1\nFDNAME=n\n";

    fn node(claim: u64) -> ServedNode {
        let (socket, _) = UnixStream::pair().unwrap();
        let socket = Arc::new(repmd_sys::watch_peer(socket.into()).unwrap());
        CarriedNode { claim, socket, registration: registration(claim, &format!("n{claim}")) }
    }

    fn cookies<'a>(sockets: impl IntoIterator<Item = &'a OwnedFd>) -> Vec<u64> {
        sockets.into_iter().map(|socket| socket_cookie(socket).unwrap()).collect()
    }

    #[tokio::test]
    async fn nodes_are_kept_as_far_as_there_is_room_and_the_state_beside_them() {
        let (manager, kept) = Manager::start();
        let (daemon, _peers) = daemon(&[(1, "a"), (2, "b"), (3, "c"), (4, "d"), (5, "e"), (6, "f")]).await;
        kept.begin(&daemon, false);
        kept.settle().await;
        let mut told = manager.told();
        let words: Vec<_> = told.iter().map(|(words, _)| &**words).collect();
        assert_eq!(words, [KEEP_NODES, FORGET_FILE, KEEP_FILE]);
        let served = daemon.carried().nodes;
        assert_eq!(cookies(&told[0].1), cookies(served.iter().map(|node| node.socket.get_ref())));
        // The manager has a copy of the file, which goes on.
        let state = told[2].1.remove(0);
        let last = |state: &OwnedFd| last(vec![state.try_clone().unwrap()], &settings("a")).unwrap();
        assert_eq!(last(&state).check(&settings("a")), Ok(6));
        // One place is left of eight: the file has one.
        let newcomers = [node(7), node(8), node(9)];
        newcomers[..2].iter().for_each(|node| kept.registered(node));
        kept.settle().await;
        let told = manager.told();
        let [(words, sockets)] = &told[..] else { panic!("{told:?}") };
        assert_eq!((&**words, cookies(sockets)), (KEEP_NODES, cookies([newcomers[0].socket.get_ref()])));
        assert_eq!(last(&state).check(&settings("a")), Ok(8), "the state has both");
        kept.left(2);
        kept.registered(&newcomers[2]);
        kept.settle().await;
        let told = manager.told();
        let [(words, sockets)] = &told[..] else { panic!("{told:?}") };
        assert_eq!((&**words, cookies(sockets)), (KEEP_NODES, cookies([newcomers[2].socket.get_ref()])));
        assert_eq!(last(&state).check(&settings("a")), Ok(8));
    }

    #[tokio::test]
    async fn nodes_that_the_manager_has_or_that_are_gone_are_not_given_to_it() {
        let (manager, kept) = Manager::start();
        let (daemon, _peers) = daemon(&[(1, "a"), (2, "b")]).await;
        kept.begin(&daemon, true);
        kept.settle().await;
        assert_eq!(manager.words(), [FORGET_FILE, KEEP_FILE]);
        let (gone, there) = (node(7), node(8));
        kept.registered(&gone);
        kept.registered(&there);
        drop(gone);
        kept.settle().await;
        assert_eq!(manager.told().iter().map(|(_, sockets)| sockets.len()).collect::<Vec<_>>(), [1]);
    }

    #[tokio::test]
    async fn what_the_manager_does_not_take_in_time_is_bounded_and_nobody_waits_for_it() {
        let (_manager, kept) = Manager::start();
        let waiting = (0..1000).take_while(|_| kept.queue(Tell::File)).count();
        // Each of its nodes may have come and gone.
        assert!((14..50).contains(&waiting), "{waiting}");
        let asked = std::time::Instant::now();
        kept.settle().await;
        assert!(asked.elapsed() < LAST_TIME, "{:?}", asked.elapsed());
    }

    #[tokio::test]
    async fn a_file_that_cannot_be_written_is_given_up_and_taken_back() {
        let (manager, kept) = Manager::start();
        kept.begin_with(&first()).unwrap();
        kept.settle().await;
        manager.told();
        kept.written().file = Some(File::open("/dev/null").unwrap());
        kept.registered(&node(7));
        kept.left(7);
        assert!(kept.written().file.is_none());
        kept.queue(Tell::File);
        kept.settle().await;
        assert_eq!(manager.words().last().unwrap(), FORGET_FILE);
    }

    #[tokio::test]
    async fn a_file_with_too_many_lines_is_written_anew_and_says_the_same() {
        let (manager, kept) = Manager::start();
        kept.begin_with(&first()).unwrap();
        kept.until_settled().await;
        // Of claims that nobody had: 60 bytes each.
        let came = (0..30_000).take_while(|_| kept.written().bytes_max != u64::MAX);
        came.for_each(|_| kept.left(1000));
        let long = kept.written().bytes;
        assert!(1 << 20 < long, "{long} bytes");
        kept.left(5);
        kept.until_settled().await;
        assert!(kept.written().bytes < 4096, "{} bytes", kept.written().bytes);
        kept.left(1001);
        let file = kept.written().file.as_ref().unwrap().try_clone().unwrap();
        let state = State::read_kept(&mut At { file: &file, next: 0, end: kept.written().bytes }).unwrap();
        assert_eq!(state.check(&settings("a")), Ok(0), "claim 5 has left");
        assert_eq!(manager.words(), [FORGET_FILE, KEEP_FILE, FORGET_FILE, KEEP_FILE]);
    }

    #[test]
    fn lines_that_come_while_the_file_is_written_anew_are_in_the_new_one() {
        let mut written = Written { nodes: HashSet::from([5]), ..Written::new(&first()).unwrap() };
        let shorter = Written::new(&first()).unwrap();
        let (file, bytes) = (written.file.as_ref().unwrap().try_clone().unwrap(), written.bytes);
        let line = state::left(5).unwrap();
        file.write_all_at(&line, bytes).unwrap();
        written.bytes += line.len() as u64;
        let said_so = written.bytes;
        written.go_on_in(shorter, &file, bytes).unwrap();
        assert_eq!((written.bytes, &written.nodes), (said_so, &HashSet::from([5])));
        let new = written.file.as_ref().unwrap();
        assert_eq!(new.metadata().unwrap().len(), written.bytes);
        let state = State::read_kept(&mut At { file: new, next: 0, end: written.bytes }).unwrap();
        assert_eq!(state.check(&settings("a")), Ok(0), "claim 5 has left");
    }

    #[test]
    fn a_part_of_a_file_is_read_to_its_end_and_no_further() {
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(b"0123456789", 0).unwrap();
        let mut part = At { file: &file, next: 3, end: 8 };
        let mut start = [0; 2];
        part.read_exact(&mut start).unwrap();
        let mut rest = Vec::new();
        part.read_to_end(&mut rest).unwrap();
        assert_eq!((&start, &*rest), (b"34", b"567".as_slice()));
    }

    #[tokio::test]
    async fn a_file_that_could_not_be_written_anew_is_bounded_all_the_same() {
        let (_manager, kept) = Manager::start();
        kept.begin_with(&first()).unwrap();
        // What is there is no state any longer.
        kept.written().file.as_ref().unwrap().write_all_at(b"?", 0).unwrap();
        let came = (0..30_000).take_while(|_| kept.written().bytes_max != u64::MAX);
        came.for_each(|_| kept.left(1000));
        kept.until_settled().await;
        let Written { bytes, bytes_max, .. } = *kept.written();
        assert_eq!(bytes_max, 2 * bytes + LINES_BYTES_MAX, "until there is as much again");
    }

    #[test]
    fn a_state_is_gone_on_from_with_or_without_connections() {
        let state = || OwnedFd::from(first().into_file().unwrap());
        let (socket, _peer) = UnixStream::pair().unwrap();
        let other = || OwnedFd::from(File::open("/dev/null").unwrap());
        // Of two, the service manager was given the last one last.
        for (states, sockets) in [(vec![state()], Vec::new()), (vec![other(), state()], vec![socket.into()])]
        {
            let count = sockets.len();
            let (state, sockets) = before(states, sockets, &settings("a")).unwrap();
            assert_eq!((state.check(&settings("a")), sockets.len()), (Ok(1), count));
        }
        assert!(before(vec![state()], Vec::new(), &settings("b")).is_none(), "another daemon's");
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
        let (socket, peer) = UnixStream::pair().unwrap();
        let settings = settings("a");
        assert!(before(Vec::new(), Vec::new(), &settings).is_none());
        let states = [Vec::new(), vec![File::open("/dev/null").unwrap().into()]];
        for states in states {
            let copy = socket.try_clone().unwrap();
            assert!(before(states, vec![copy.into()], &settings).is_none());
            assert!(is_shut_down(&peer));
        }
    }
}

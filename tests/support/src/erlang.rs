//! Real Erlang nodes.

use std::io::{BufRead, BufReader, PipeWriter, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::{Root, Scratch};

/// What every node of the tests has.
pub const COOKIE: &str = "repmd";

/// Long, because other tests keep the machine busy; what an answer must be quick for is measured by itself.
const ANSWER_DEADLINE: Duration = Duration::from_secs(60);

/// Comes before an answer, and tells it from what else a node writes.
const MARK: &str = "=answer ";

/// Reads expressions from standard input, one a line, and writes what each gives. In a process of its own:
/// the one that evaluates this has the node's start to go on with.
const ERLANG_LOOP: &str = r#"
io:setopts([{encoding, unicode}]),
Loop = fun(Loop) ->
    case io:get_line("") of
        eof -> halt();
        Line ->
            Answer = try
                {ok, Tokens, _} = erl_scan:string(Line),
                {ok, Expressions} = erl_parse:parse_exprs(Tokens),
                {value, Value, _} = erl_eval:exprs(Expressions, []),
                Value
            catch Class:Reason -> {Class, Reason} end,
            io:format("~n=answer ~0tp~n", [Answer]),
            Loop(Loop)
    end
end,
spawn(fun() -> Loop(Loop) end)."#;

const ELIXIR_LOOP: &str = r#"
loop = fn loop ->
  case IO.gets("") do
    :eof -> System.halt()
    line ->
      {value, _} = Code.eval_string(line)
      IO.puts("\n=answer " <> inspect(value, limit: :infinity))
      loop.(loop)
  end
end
loop.(loop)"#;

/// A running node that evaluates expressions; killed on drop.
#[derive(Debug)]
pub struct ErlangNode {
    child: Child,
    stdin: ChildStdin,
    output: Receiver<String>,
    /// What ends an expression in its language.
    end: &'static str,
    /// What it wrote besides answers.
    log: Vec<String>,
    _home: Scratch,
}

impl ErlangNode {
    /// Starts `NAME@localhost` on a release's Erlang, registered with the daemon on `epmd_port`.
    #[must_use]
    pub fn start(root: &Root, name: &str, epmd_port: u16) -> Self {
        Self::start_with(root, epmd_port, &["-sname", &format!("{name}@localhost")])
    }

    /// Starts Erlang with flags. It starts no daemon.
    #[must_use]
    pub fn start_with(root: &Root, epmd_port: u16, flags: &[&str]) -> Self {
        let mut command = root.command("erl");
        command.args(["-start_epmd", "false"]).args(flags);
        Self::spawn(command, root, epmd_port)
    }

    /// The same with a resolver that knows what `inetrc` says.
    #[must_use]
    pub fn start_knowing(root: &Root, inetrc: &str, epmd_port: u16, flags: &[&str]) -> Self {
        // Read by the time that the node answers.
        let scratch = root.scratch();
        std::fs::write(scratch.path().join("inetrc"), inetrc).expect("a new folder takes a file");
        let mut command = root.command("erl");
        command.args(["-start_epmd", "false"]).args(flags).env("ERL_INETRC", scratch.inside().join("inetrc"));
        Self::spawn(command, root, epmd_port)
    }

    /// Starts `NAME@localhost` on a release's Elixir.
    #[must_use]
    pub fn start_elixir(root: &Root, name: &str, epmd_port: u16) -> Self {
        let mut command = root.command("elixir");
        command.args(["--erl", "-start_epmd false", "--sname", &format!("{name}@localhost")]);
        command.args(["--cookie", COOKIE, "-e", ELIXIR_LOOP]);
        Self::run(command, root, epmd_port, "")
    }

    /// Runs an `erl` with more flags, for what [`Self::start_with`] does not do.
    #[must_use]
    pub fn spawn(mut command: Command, root: &Root, epmd_port: u16) -> Self {
        command.args(["-noshell", "-setcookie", COOKIE, "-eval", ERLANG_LOOP]);
        Self::run(command, root, epmd_port, ".")
    }

    fn run(mut command: Command, root: &Root, epmd_port: u16, end: &'static str) -> Self {
        // Nodes that share a home race for the cookie file in it.
        let home = root.scratch();
        command.env("HOME", home.inside()).env("ERL_EPMD_PORT", epmd_port.to_string());
        let (reader, writer) = std::io::pipe().expect("there are descriptors for a pipe");
        let errors: PipeWriter = writer.try_clone().expect("there are descriptors for a pipe");
        command.stdin(Stdio::piped()).stdout(writer).stderr(errors);
        let mut child = command.spawn().unwrap_or_else(|error| panic!("cannot start {command:?}: {error}"));
        // It holds the ends of the pipe that the node writes to; without this, reading would never end.
        drop(command);
        let stdin = child.stdin.take().expect("standard input is a pipe");
        let (send, output) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(reader).lines() {
                let Ok(line) = line else { return };
                if send.send(line).is_err() {
                    return;
                }
            }
        });
        let mut node = Self { child, stdin, output, end, log: Vec::new(), _home: home };
        // It answers once it has started, and has its name then.
        node.eval("node()");
        node
    }

    /// What an expression gives, as the node writes it. In Erlang an exception is `{Class, Reason}`.
    pub fn eval(&mut self, expression: &str) -> String {
        let line = format!("{}{}\n", expression.replace('\n', " "), self.end);
        if let Err(error) = self.stdin.write_all(line.as_bytes()) {
            // It says why it ended.
            self.log.extend(self.output.iter());
            panic!("the node takes no {line:?}: {error}, it wrote:\n{}", self.log.join("\n"));
        }
        let deadline = Instant::now() + ANSWER_DEADLINE;
        loop {
            match self.output.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(written) => match written.strip_prefix(MARK) {
                    Some(answer) => return answer.to_owned(),
                    None => self.log.push(written),
                },
                Err(RecvTimeoutError::Timeout) => {
                    panic!("no answer to {line:?} in {ANSWER_DEADLINE:?}, but:\n{}", self.log.join("\n"))
                }
                Err(RecvTimeoutError::Disconnected) => {
                    panic!("the node ended at {line:?} and wrote:\n{}", self.log.join("\n"))
                }
            }
        }
    }

    /// Asks the node to ping `NAME@localhost`: `pong` or `pang`.
    pub fn ping(&mut self, name: &str) -> String {
        self.eval(&format!("net_adm:ping('{name}@localhost')"))
    }

    /// Ends it at once, as the kernel does when memory runs out.
    pub fn kill(mut self) {
        self.end();
    }

    /// Lets it end in order.
    pub fn halt(mut self) {
        // The answer may come or not; the end does.
        let _ = self.stdin.write_all(b"init:stop().\n");
        let status = crate::wait_for("the node ends", ANSWER_DEADLINE, || {
            self.child.try_wait().expect("a child can be waited for")
        });
        assert!(status.success(), "the node ended with {status} and wrote:\n{}", self.log.join("\n"));
    }

    fn end(&mut self) {
        if self.child.try_wait().expect("a child can be waited for").is_none() {
            kill_process(Pid::from_child(&self.child), Signal::KILL).expect("the node runs");
            self.child.wait().expect("a child can be waited for");
        }
    }
}

impl Drop for ErlangNode {
    fn drop(&mut self) {
        self.end();
    }
}

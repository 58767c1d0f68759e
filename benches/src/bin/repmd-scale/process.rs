//! A process with some of the daemons in it, told what to do line by line.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

pub(crate) struct Process {
    child: Child,
    lines: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Process {
    pub(crate) fn start(url: &str, first: usize, daemons: usize, names: usize) -> Self {
        let program = std::env::current_exe().expect("this program has a path");
        let numbers = [first, daemons, names].map(|number| number.to_string());
        let mut child = Command::new(program)
            .args(["crowd", url])
            .args(numbers)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("this program starts");
        let lines = child.stdin.take().expect("it is piped");
        let answers = BufReader::new(child.stdout.take().expect("it is piped"));
        Self { child, lines, answers }
    }

    pub(crate) fn say(&mut self, line: &str) {
        writeln!(self.lines, "{line}").expect("the process lives");
    }

    /// Its answer to the last line that was said, which it gives when it has done that.
    pub(crate) fn answer(&mut self) -> String {
        let mut line = String::new();
        let length = self.answers.read_line(&mut line).expect("the process lives");
        assert!(0 < length, "a process of the crowd has ended");
        line.trim_end().to_owned()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

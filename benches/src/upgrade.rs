//! How long nobody is served while another program takes the daemon's place under its nodes.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use crate::subject::{Program, Subject};
use crate::{Bench, Failure, Row, WIDTH, load, median};

/// Programs in a row.
const UPGRADES: usize = 20;

impl Bench {
    /// Look-ups go on one by one; the longest is the pause, as somebody outside sees it.
    pub(crate) fn upgrades(&mut self) -> Result<(), Failure> {
        let Program::Epmd(epmd) = self.repmd.clone() else { return Err("no program to judge".into()) };
        let subject = Subject::start(&self.repmd, self.next_port, None)?;
        self.next_port += 1;
        let (held, _) = load::register_all(subject.port, self.crowd.min(10_000), WIDTH);
        let (port, nodes, is_over) = (subject.port, held.len(), AtomicBool::new(false));
        let (mut longest, mut failed) = (Vec::new(), 0_usize);
        std::thread::scope(|scope| {
            let asking = scope.spawn(|| {
                let (mut times, mut failed) = (Vec::new(), 0_usize);
                while !is_over.load(Ordering::Relaxed) {
                    let (asked, number) = (Instant::now(), times.len());
                    let found = load::look_up_one(port, number, &load::name(number % nodes, WIDTH));
                    failed += usize::from(found.is_err());
                    times.push(asked.elapsed().as_secs_f64() * 1e3);
                }
                (times, failed)
            });
            let repmd = epmd.canonicalize()?;
            for _ in 0..UPGRADES {
                let mut upgrade = std::process::Command::new(&repmd);
                let output = upgrade.args(["upgrade", "--port", &port.to_string()]).output();
                let is_whole = output.is_ok_and(|output| {
                    output.status.success()
                        && String::from_utf8_lossy(&output.stdout)
                            .contains(&format!(" {nodes} nodes kept, 0 lost"))
                });
                failed += usize::from(!is_whole);
            }
            is_over.store(true, Ordering::Relaxed);
            let (mut times, of_look_ups) = asking.join().map_err(|_| "a look-up panicked")?;
            failed += of_look_ups;
            times.sort_by(f64::total_cmp);
            longest.extend(times.iter().rev().take(UPGRADES));
            Ok::<_, Failure>(())
        })?;
        let worst = longest.first().copied().unwrap_or(f64::INFINITY);
        let row = Row { repmd: worst, floor: None, stock: None };
        let what = format!("longest look-up of {UPGRADES} upgrades under {nodes} nodes ({failed} failed)");
        self.print(&what, &row, "ms", "< 100 ms", worst < 100.0 && failed == 0);
        let row = Row { repmd: median(&mut longest), floor: None, stock: None };
        self.print("an upgrade's pause, median", &row, "ms", "", true);
        Ok(())
    }
}

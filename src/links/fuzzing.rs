//! What the targets in `fuzz/` reach of links.

use std::collections::HashMap;
use std::sync::Arc;

use repmd_backend_api::{AliveName, Creation, NOTE_BYTES_MAX, Registration};
use tokio::time::Instant;

use super::mesh::Mesh;
use super::report::Report;
use super::testing::registration;
use super::watch::Watch;

/// A note of two daemons with three nodes each, who are linked, with all that a note may have.
const NOTE: &str = concat!(
    r#"{"version":1,"sample":7,"source":"netlink","nodes":[["n0",4,true,true],["n1",4,true,true],["n2",4,true,null]],"#,
    r#""addresses":["10.0.0.1","10.0.0.2","fd00::1"],"#,
    r#""incoming":[[0,[0,9000,1,40000,[312,2,0]]],[1,[0,9001,1,40001,null]],[2,[2,9002,2,40002,[1,0,7]]]],"#,
    r#""outgoing":[[[0],[0,40003,1,9000,[312,2,0]]],[[1,2],[0,40004,1,9001,null]],[[],[0,40005,1,9002,null]]]}"#
);

/// Whatever a store has for a note is refused, or read as what it writes down again; and what several say together is a
/// mesh in which everything is in its place. The bytes are a note themselves, and changes of one that can be read: of
/// three bytes each, the first two where, and the third what.
///
/// # Panics
/// Where that is not so.
pub fn note(bytes: &[u8]) {
    look_at(bytes);
    look_at(&changed(bytes));
}

fn changed(changes: &[u8]) -> Vec<u8> {
    let mut text = NOTE.as_bytes().to_vec();
    for change in changes.chunks_exact(3) {
        // A place after the last one is there for what is inserted.
        let at = usize::from(u16::from_be_bytes([change[0], change[1]])) % (text.len() + 1);
        match change[2] {
            // So that lists and numbers grow and shrink, too.
            0 if at < text.len() => drop(text.remove(at)),
            byte @ 0..=31 => text.insert(at, b"0123456789[],\"-.:tfn{} e\\0123456"[usize::from(byte)]),
            byte if at < text.len() => text[at] = byte,
            byte => text.push(byte),
        }
    }
    text
}

/// Whether it can be read.
fn look_at(text: &[u8]) -> bool {
    let Ok(report) = Report::decode(text) else { return false };
    let again = report.encode();
    assert!(again.len() <= NOTE_BYTES_MAX);
    let read = Report::decode(&again).expect("what was written can be read");
    assert!(read == report || again.len() < text.len(), "{read:?} is not {report:?}");

    let hosts = ["a", "b"];
    let nodes = hosts.iter().flat_map(|host| {
        report.nodes.iter().enumerate().filter_map(|(number, sighted)| {
            AliveName::parse(sighted.name.as_bytes()).ok()?;
            let known = registration(host, &sighted.name, 9000 + (number % 1000) as u16);
            Some(Arc::new(Registration { creation: Creation::new(sighted.creation)?, ..(*known).clone() }))
        })
    });
    let nodes: Vec<_> = nodes.collect();
    let reports: HashMap<_, _> = nodes.iter().map(|node| (node.instance.id, report.clone())).collect();
    let count = nodes.len();
    let mesh = Mesh::new(nodes, &reports);
    assert!(mesh.nodes.len() <= count);
    let is_node = |node: usize| node < mesh.nodes.len();
    assert!(mesh.links.iter().all(|link| is_node(link.to) && link.from.iter().all(|from| is_node(*from))));
    assert!(mesh.missing.iter().all(|(one, other)| one < other && is_node(*other)));
    let mut watch = Watch::default();
    for _ in 0..2 {
        watch.look(&mesh, Instant::now());
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_note_that_is_changed_is_one_of_two_daemons_whose_links_are_seen() {
        assert!(look_at(NOTE.as_bytes()));
        assert!(!look_at(b"{}"));
        // Another sample is a note too, also one with more digits; half a note is none.
        let at = NOTE.find('7').unwrap() as u8;
        for (changes, begin) in
            [([0, at, b'9'], r#"{"version":1,"sample":9,"#), ([0, at, 1], r#"{"version":1,"sample":17,"#)]
        {
            note(&changes);
            assert!(
                changed(&changes).starts_with(begin.as_bytes()) && look_at(&changed(&changes)),
                "{changes:?}"
            );
        }
        note(&[0, 0, 0]);
        assert!(!look_at(&changed(&[0, 0, 0])));
    }
}

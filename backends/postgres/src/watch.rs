//! What the functions of the store tell, as [`Change`]s.

use repmd_backend_api::{AliveName, Change, HostId};

/// The changes that a notification tells: `+HOST/NAME`, `-HOST/NAME` or `xHOST/NAME`, with spaces between them. The
/// name is in hexadecimal, because a database may be of any encoding. What cannot be read is skipped: anybody may
/// notify.
pub(crate) fn changes_of(text: &str) -> impl Iterator<Item = Change> {
    text.split(' ').filter_map(|word| {
        let (host, name) = word.get(1..)?.split_once('/')?;
        let (host, name) = (HostId::parse(host).ok()?, AliveName::parse(&from_hex(name)?).ok()?);
        match word.as_bytes()[0] {
            b'+' => Some(Change::Registered(name, host)),
            b'-' => Some(Change::Released(name, host)),
            b'x' => Some(Change::Expired(name, host)),
            _ => None,
        }
    })
}

/// A change, as [`changes_of`] reads it.
pub(crate) fn told(sign: char, host: &HostId, name: &AliveName) -> String {
    let name: String = name.as_str().bytes().map(|byte| format!("{byte:02x}")).collect();
    format!("{sign}{host}/{name}")
}

fn from_hex(text: &str) -> Option<Vec<u8>> {
    let digit = |digit: u8| char::from(digit).to_digit(16);
    let byte = |pair: &[u8]| match pair {
        [high, low] => u8::try_from(digit(*high)? << 4 | digit(*low)?).ok(),
        _ => None,
    };
    text.as_bytes().chunks(2).map(byte).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_read_of_a_notification_is_skipped() {
        let (name, host) = (AliveName::parse("é".as_bytes()).unwrap(), HostId::parse("db-1").unwrap());
        let text =
            "+db-1/c3a9 -DB-1/c3a9 xdb-1/c3a9 ?db-1/c3a9 +db-1/c3 +db-1/c3a +db-1/zz +db 1/61 é + +/ +db-1/";
        assert!(text.starts_with(&told('+', &host, &name)));
        let changes: Vec<_> = changes_of(text).collect();
        assert_eq!(
            changes,
            [
                Change::Registered(name.clone(), host.clone()),
                Change::Released(name.clone(), host.clone()),
                Change::Expired(name, host),
            ]
        );
    }
}

//! The body of a request -> what it asks for, and back for clients.

use repmd_backend_api::{AliveName, NameError, Node, NodeType};

use super::{DecodeError, FIELD_BYTES_MAX, Refusal, tag};

/// One request. Names that are only asked for stay in the connection's buffer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request<'a> {
    /// Register this node for as long as the connection stays open.
    Alive2(Node),
    /// Where does this name listen? The stock rules for names hold; it may have an `@`.
    PortPlease2(&'a str),
    /// Which nodes are registered?
    Names,
    /// Which are, and which were?
    Dump,
    /// End the daemon.
    Kill,
    /// Unregister this name, which is anything without a NUL.
    Stop(&'a [u8]),
}

/// Decodes one request from its body, the bytes after the length prefix.
///
/// # Errors
/// Any [`DecodeError`] but those of frames. The order of the checks is the stock daemon's.
pub fn decode_request(body: &[u8]) -> Result<Request<'_>, DecodeError> {
    let Some((&tag, rest)) = body.split_first() else { return Err(DecodeError::FrameLength(0)) };
    match tag {
        tag::ALIVE2 => decode_alive2(body).map(Request::Alive2),
        tag::PORT_PLEASE2 => {
            // Some clients end the name with a NUL; the stock daemon drops one, so we do too.
            let name = rest.strip_suffix(b"\0").unwrap_or(rest);
            AliveName::check(name)
                .map(Request::PortPlease2)
                .map_err(|error| DecodeError::Name { request: "PORT2_REQ", error })
        }
        tag::NAMES => Ok(Request::Names),
        tag::DUMP => Ok(Request::Dump),
        tag::KILL => Ok(Request::Kill),
        tag::STOP if rest.is_empty() => Err(DecodeError::TooShort { request: "STOP_REQ", bytes: 1 }),
        tag::STOP => Ok(Request::Stop(rest.split(|byte| *byte == 0).next().unwrap_or(rest))),
        unknown => Err(DecodeError::UnknownTag(unknown)),
    }
}

/// `x Port:2 NodeType:1 Protocol:1 HighVsn:2 LowVsn:2 NameLen:2 Name ExtraLen:2 Extra [anything]`
fn decode_alive2(body: &[u8]) -> Result<Node, DecodeError> {
    // The stock daemon wants 14 bytes, one more than the empty name and extra need.
    let too_short = DecodeError::TooShort { request: "ALIVE2_REQ", bytes: body.len() };
    if body.len() < 14 {
        return Err(too_short);
    }
    let mut fields = Fields(&body[1..]);
    let port = fields.u16().ok_or(too_short)?;
    let [node_type, protocol] = fields.array().ok_or(too_short)?;
    let highest_version = fields.u16().ok_or(too_short)?;
    let lowest_version = fields.u16().ok_or(too_short)?;
    let name = fields.counted().ok_or(DecodeError::FieldLength { field: "Node name" })?;
    let extra = fields.counted().ok_or(DecodeError::FieldLength { field: "Extra info" })?;

    if name.contains(&0) {
        return Err(DecodeError::Name { request: "ALIVE2_REQ", error: NameError::ContainsNul });
    }
    let refused = |reason| DecodeError::Refused { highest_version, reason };
    let name = AliveName::parse(name).map_err(|error| refused(Refusal::Name(error)))?;
    if FIELD_BYTES_MAX < extra.len() {
        return Err(refused(Refusal::ExtraTooLong { bytes: extra.len() }));
    }
    Ok(Node {
        name,
        port,
        node_type: NodeType(node_type),
        protocol,
        highest_version,
        lowest_version,
        extra: extra.into(),
    })
}

/// Encodes a request with its length prefix. What does not fit the two bytes of that is cut off: a name of
/// [`Request::PortPlease2`] or [`Request::Stop`] of 64 KiB and above, which no daemon takes anyway.
#[must_use]
pub fn encode_request(request: &Request<'_>) -> Vec<u8> {
    let mut out = vec![0, 0];
    match request {
        Request::Alive2(node) => {
            out.push(tag::ALIVE2);
            out.extend(node.port.to_be_bytes());
            out.extend([node.node_type.0, node.protocol]);
            out.extend(node.highest_version.to_be_bytes());
            out.extend(node.lowest_version.to_be_bytes());
            push_counted(&mut out, node.name.as_str().as_bytes());
            push_counted(&mut out, &node.extra);
        }
        Request::PortPlease2(name) => {
            out.push(tag::PORT_PLEASE2);
            out.extend(name.as_bytes());
        }
        Request::Names => out.push(tag::NAMES),
        Request::Dump => out.push(tag::DUMP),
        Request::Kill => out.push(tag::KILL),
        Request::Stop(name) => {
            out.push(tag::STOP);
            out.extend(*name);
        }
    }
    out.truncate(2 + usize::from(u16::MAX));
    let length = (out.len() - 2) as u16;
    out[..2].copy_from_slice(&length.to_be_bytes());
    out
}

/// Appends `bytes` behind their number in two bytes, which is all of them but for what no node has.
pub(super) fn push_counted(out: &mut Vec<u8>, bytes: &[u8]) {
    let bytes = &bytes[..bytes.len().min(usize::from(u16::MAX))];
    out.extend((bytes.len() as u16).to_be_bytes());
    out.extend(bytes);
}

/// What is left of a message; each call takes one field from its front.
pub(super) struct Fields<'a>(pub(super) &'a [u8]);

impl<'a> Fields<'a> {
    pub(super) fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (field, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*field)
    }

    pub(super) fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_be_bytes)
    }

    /// Two bytes of length, then as many bytes.
    pub(super) fn counted(&mut self) -> Option<&'a [u8]> {
        let length = usize::from(self.u16()?);
        let (field, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(field)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::split_frame;
    use proptest::prelude::*;

    fn alive2(name: &[u8], extra: &[u8]) -> Vec<u8> {
        let mut body = b"x\x04\xd2\x4d\x00\x00\x06\x00\x05".to_vec();
        push_counted(&mut body, name);
        push_counted(&mut body, extra);
        body
    }

    fn refused(reason: Refusal) -> Result<Request<'static>, DecodeError> {
        Err(DecodeError::Refused { highest_version: 6, reason })
    }

    #[test]
    fn a_node_registers_with_what_it_says_of_itself() {
        let body = alive2(b"foo", b"\x00extra");
        let Ok(Request::Alive2(node)) = decode_request(&body) else { panic!("no ALIVE2") };
        assert_eq!((node.name.as_str(), node.port, node.node_type), ("foo", 1234, NodeType::NORMAL));
        assert_eq!((node.highest_version, node.lowest_version, &*node.extra), (6, 5, &b"\x00extra"[..]));
    }

    #[test]
    fn an_alive2_cut_anywhere_is_dropped_and_never_refused() {
        let whole = alive2(b"foo", b"ab");
        for cut in 1..whole.len() {
            let error = decode_request(&whole[..cut]).unwrap_err();
            assert!(!matches!(error, DecodeError::Refused { .. }), "cut after {cut} bytes: {error}");
        }
    }

    #[test]
    fn bytes_after_the_extra_are_ignored() {
        let mut body = alive2(b"foo", b"");
        body.extend(b"anything");
        assert!(matches!(decode_request(&body), Ok(Request::Alive2(_))));
    }

    #[test]
    fn a_nul_in_a_name_to_register_drops_the_request_even_if_the_name_is_bad_otherwise() {
        let error = DecodeError::Name { request: "ALIVE2_REQ", error: NameError::ContainsNul };
        for name in [&b"a\0b"[..], b"\0", b"a\0\xff", &[b"a".repeat(1021), vec![0]].concat()] {
            assert_eq!(decode_request(&alive2(name, b"")), Err(error));
        }
    }

    #[test]
    fn a_name_that_is_none_is_refused_in_the_askers_format() {
        assert_eq!(decode_request(&alive2(b"\xff", b"")), refused(NameError::NotUtf8.into()));
        assert_eq!(decode_request(&alive2(b"", b"x")), refused(NameError::Empty.into()));
        assert_eq!(decode_request(&alive2(b"a\nb", b"")), refused(NameError::ContainsNewline.into()));
        let long = decode_request(&alive2(&b"a".repeat(256), b"")).unwrap_err();
        assert_eq!(Err(long), refused(NameError::TooLong { chars: 256 }.into()));
    }

    #[test]
    fn an_extra_of_1020_bytes_is_taken_and_one_more_is_refused() {
        assert!(decode_request(&alive2(b"foo", &b"e".repeat(1020))).is_ok());
        let body = alive2(b"foo", &b"e".repeat(1021));
        assert_eq!(decode_request(&body), refused(Refusal::ExtraTooLong { bytes: 1021 }));
    }

    #[test]
    fn a_request_that_is_too_long_for_its_length_is_cut_and_panics_nobody() {
        let name = "a".repeat(100_000);
        let bytes = encode_request(&Request::PortPlease2(&name));
        assert_eq!(bytes.len(), 2 + usize::from(u16::MAX));
        assert!(split_frame(&bytes).is_err(), "no daemon takes it");
    }

    #[test]
    fn an_empty_name_and_extra_are_too_few_bytes() {
        let too_short = DecodeError::TooShort { request: "ALIVE2_REQ", bytes: 13 };
        assert_eq!(decode_request(&alive2(b"", b"")), Err(too_short));
    }

    #[test]
    fn a_name_to_look_up_may_end_in_one_nul_but_not_two() {
        assert_eq!(decode_request(b"zfoo\0"), Ok(Request::PortPlease2("foo")));
        let error = DecodeError::Name { request: "PORT2_REQ", error: NameError::ContainsNul };
        assert_eq!(decode_request(b"zfoo\0\0"), Err(error));
    }

    #[test]
    fn a_name_of_255_characters_can_be_looked_up() {
        let name = "é".repeat(255);
        let body = [b"z", name.as_bytes()].concat();
        assert_eq!(decode_request(&body), Ok(Request::PortPlease2(&name)));
    }

    #[test]
    fn a_name_to_stop_ends_at_its_first_nul_and_needs_no_utf8() {
        assert_eq!(decode_request(b"sa\xff\0junk"), Ok(Request::Stop(b"a\xff")));
        assert_eq!(decode_request(b"s"), Err(DecodeError::TooShort { request: "STOP_REQ", bytes: 1 }));
    }

    #[test]
    fn every_tag_but_six_is_unknown() {
        for tag in 0..=u8::MAX {
            let known = b"xznkds".contains(&tag);
            let error = decode_request(&[tag]).err();
            assert_eq!(error == Some(DecodeError::UnknownTag(tag)), !known, "tag {tag}");
        }
    }

    prop_compose! {
        fn any_node()(
            name in "[^\0\n]{1,255}", port: u16, kind: u8, protocol: u8, highest_version: u16,
            lowest_version: u16, extra in prop::collection::vec(any::<u8>(), 0..=1020),
        ) -> Node {
            Node {
                name: AliveName::parse(name.as_bytes()).unwrap(), port, node_type: NodeType(kind), protocol,
                highest_version, lowest_version, extra: extra.into(),
            }
        }
    }

    proptest! {
        #[test]
        fn what_a_client_encodes_decodes_to_itself(node in any_node(), stop in "[^\0]{1,300}") {
            let name = node.name.clone();
            for request in [
                Request::PortPlease2(name.as_str()), Request::Stop(stop.as_bytes()), Request::Alive2(node),
                Request::Names, Request::Dump, Request::Kill,
            ] {
                let bytes = encode_request(&request);
                let body = split_frame(&bytes).unwrap().unwrap();
                prop_assert_eq!(decode_request(body), Ok(request));
            }
        }

        #[test]
        fn no_body_panics(tag in prop::sample::select(&b"xznkds"[..]), rest: Vec<u8>) {
            let _ = decode_request(&[&[tag][..], &rest].concat());
        }
    }
}

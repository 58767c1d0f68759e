//! Bytes of a connection -> the body of its one request.

use super::{DecodeError, REQUEST_BYTES_MAX};

/// Finds the request in everything that a connection has sent so far. `None`: read more first.
///
/// A connection carries one request, so bytes beyond it are an error whether they came in one segment
/// with it or after it (the stock daemon tells the two apart by accident).
///
/// # Errors
/// [`DecodeError::FrameLength`] as soon as the prefix is in; [`DecodeError::Surplus`].
pub fn split_frame(received: &[u8]) -> Result<Option<&[u8]>, DecodeError> {
    let Some((prefix, rest)) = received.split_first_chunk::<2>() else { return Ok(None) };
    let length = usize::from(u16::from_be_bytes(*prefix));
    if length == 0 || REQUEST_BYTES_MAX < length {
        return Err(DecodeError::FrameLength(length));
    }
    match rest.len() {
        got if got < length => Ok(None),
        got if length < got => Err(DecodeError::Surplus { expected: 2 + length, got: 2 + got }),
        _ => Ok(Some(rest)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_cut_anywhere_asks_for_more_bytes() {
        let whole = b"\x00\x07zrabbit";
        for cut in 0..whole.len() {
            assert_eq!(split_frame(&whole[..cut]), Ok(None), "cut after {cut} bytes");
        }
        assert_eq!(split_frame(whole), Ok(Some(&b"zrabbit"[..])));
    }

    #[test]
    fn a_length_of_zero_or_above_the_limit_is_an_error_as_soon_as_the_prefix_is_in() {
        assert_eq!(split_frame(&[0, 0]), Err(DecodeError::FrameLength(0)));
        for length in REQUEST_BYTES_MAX + 1..=usize::from(u16::MAX) {
            let prefix = u16::try_from(length).unwrap().to_be_bytes();
            assert_eq!(split_frame(&prefix), Err(DecodeError::FrameLength(length)));
        }
        assert_eq!(split_frame(&3057u16.to_be_bytes()), Ok(None));
    }

    #[test]
    fn one_byte_too_many_is_an_error() {
        let surplus = DecodeError::Surplus { expected: 3, got: 4 };
        assert_eq!(split_frame(b"\x00\x01nn"), Err(surplus));
    }
}

//! Signs what leaves by HTTP, and checks such a signature: the receiver's half, for tests and for receivers in Rust.
//!
//! `Tidemark-Signature: t=<unix seconds>,v1=<hexadecimal HMAC-SHA-256 of "<t>.<body>">`. The time is under the
//! signature, so that a receiver can turn an old message away; it is that of the attempt, not of the event. Only the
//! body's exact bytes count: a receiver must not parse and write them again before it checks. No socket and no clock
//! are touched here.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;

use crate::error::{Error, ErrorKind, Result};
use crate::secret::Secret;

/// The header's name.
pub const SIGNATURE_HEADER: &str = "Tidemark-Signature";

/// A header longer than this is none of ours, however many keys are being changed.
const LONGEST_HEADER: usize = 1024;

/// The header's value for a body that is sent at `at`.
pub(crate) fn sign(secret: &Secret, at: SystemTime, body: &[u8]) -> Result<String> {
    let seconds = unix_seconds(at)?;
    let digest = keyed(secret, seconds, body)?.finalize().into_bytes();
    Ok(format!("t={seconds},v1={}", hex::encode(digest)))
}

/// Checks a received signature over the received bytes, in a time that does not depend on where they differ.
///
/// One fitting `v1` of several is enough, so that a sender can sign with an old and a new secret. A message from the
/// future is as suspicious as an old one.
///
/// # Errors
/// [`ErrorKind::Signature`] where the header is missing parts, fits no secret or is further than `tolerance` from
/// `now`; [`ErrorKind::Invalid`] where the secret is empty.
pub fn verify_signature(
    secret: &Secret,
    header: &str,
    body: &[u8],
    now: SystemTime,
    tolerance: Duration,
) -> Result<()> {
    let refused = |why: &str| Error::new(ErrorKind::Signature, format!("{SIGNATURE_HEADER}: {why}"));
    let (seconds, digests) = parse(header).ok_or_else(|| refused("is not t=<seconds>,v1=<digest>"))?;
    let fits = |digest: &[u8; 32]| Ok(keyed(secret, seconds, body)?.verify_slice(digest).is_ok());
    let mut found = false;
    for digest in &digests {
        found |= fits(digest)?;
    }
    if !found {
        return Err(refused("does not fit the message and the secret"));
    }
    if unix_seconds(now)?.abs_diff(seconds) > tolerance.as_secs() {
        return Err(refused(&format!("is from another time, t={seconds}")));
    }
    Ok(())
}

fn keyed(secret: &Secret, seconds: u64, body: &[u8]) -> Result<Hmac<Sha256>> {
    if secret.is_empty() {
        return Err(Error::invalid("the secret is empty: give one, or none at all"));
    }
    let mac = Hmac::<Sha256>::new_from_slice(secret.expose().as_bytes())
        .map_err(|error| Error::caused(ErrorKind::Invalid, "the secret cannot be used as a key", error))?;
    Ok(mac.chain_update(format!("{seconds}.")).chain_update(body))
}

fn unix_seconds(time: SystemTime) -> Result<u64> {
    let since = time.duration_since(UNIX_EPOCH);
    since
        .map(|since| since.as_secs())
        .map_err(|error| Error::caused(ErrorKind::Invalid, "the clock stands before 1970: set it", error))
}

/// The time and every `v1`. Parts that a later version may add are passed over.
fn parse(header: &str) -> Option<(u64, Vec<[u8; 32]>)> {
    if header.len() > LONGEST_HEADER {
        return None;
    }
    let (mut seconds, mut digests) = (None, Vec::new());
    for part in header.split(',') {
        match part.trim().split_once('=')? {
            ("t", _) if seconds.is_some() => return None,
            ("t", digits) if digits.bytes().all(|digit| digit.is_ascii_digit()) => {
                seconds = Some(digits.parse().ok()?);
            }
            ("t", _) => return None,
            ("v1", text) => {
                let mut digest = [0; 32];
                hex::decode_to_slice(text, &mut digest).ok()?;
                digests.push(digest);
            }
            _ => {}
        }
    }
    Some((seconds?, digests))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MINUTES: Duration = Duration::from_secs(300);

    fn at(seconds: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(seconds)
    }

    #[test]
    fn the_signature_is_that_of_the_specification() {
        // printf '1700000000.{"a":1}' | openssl dgst -sha256 -hmac 'whsec'
        let header = sign(&Secret::new("whsec"), at(1_700_000_000), b"{\"a\":1}").unwrap();
        assert_eq!(
            header,
            "t=1700000000,v1=8ad37ba156048ae0e0a5533c75cdf26fee88b07f93cb57ee4c80adb053012032"
        );
    }

    #[test]
    fn what_was_signed_is_believed_and_nothing_else() {
        let (secret, body) = (Secret::new("s"), b"body".as_slice());
        let header = sign(&secret, at(1000), body).unwrap();
        let check = |secret: &Secret, header: &str, body: &[u8], now| {
            verify_signature(secret, header, body, at(now), MINUTES).map_err(|error| error.kind())
        };
        assert_eq!(check(&secret, &header, body, 1000), Ok(()));
        assert_eq!(check(&secret, &header, body, 1300), Ok(()));
        assert_eq!(check(&secret, &header, body, 700), Ok(()));
        let refused = Err(ErrorKind::Signature);
        assert_eq!(check(&secret, &header, body, 1301), refused);
        assert_eq!(check(&secret, &header, body, 699), refused);
        assert_eq!(check(&secret, &header, b"Body", 1000), refused);
        assert_eq!(check(&Secret::new("S"), &header, body, 1000), refused);
        assert_eq!(check(&secret, &header.replace("t=1000", "t=1001"), body, 1000), refused);
        assert_eq!(check(&Secret::new(""), &header, body, 1000), Err(ErrorKind::Invalid));
    }

    #[test]
    fn a_second_secret_and_unknown_parts_are_no_hindrance() {
        let old = sign(&Secret::new("old"), at(1000), b"x").unwrap();
        let new = sign(&Secret::new("new"), at(1000), b"x").unwrap();
        let both = format!("{old}, {},v2=later", new.split_once(',').unwrap().1);
        for secret in ["old", "new"] {
            verify_signature(&Secret::new(secret), &both, b"x", at(1000), MINUTES).unwrap();
        }
    }

    #[test]
    fn half_a_header_is_refused() {
        let good = sign(&Secret::new("s"), at(1000), b"x").unwrap();
        let digest = good.split_once(',').unwrap().1;
        let long = format!("{good},{}", "v2=x,".repeat(300));
        for odd in ["", "t=1000", digest, "t=1000,v1=", "t=1000,v1=00", "t=+1000,v1=0", "t=,v1=0", &long] {
            assert!(verify_signature(&Secret::new("s"), odd, b"x", at(1000), MINUTES).is_err(), "{odd}");
        }
        let twice = format!("t=1000,{good}");
        assert!(verify_signature(&Secret::new("s"), &twice, b"x", at(1000), MINUTES).is_err());
    }

    proptest! {
        #[test]
        fn foreign_headers_are_refused_without_a_panic(header in "(t|v1|,|=|[0-9a-f]|\\PC){0,90}") {
            let checked = verify_signature(&Secret::new("s"), &header, b"x", at(1000), MINUTES);
            prop_assert_eq!(checked.unwrap_err().kind(), ErrorKind::Signature);
        }
    }
}

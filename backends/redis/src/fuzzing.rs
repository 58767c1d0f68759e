//! What the targets in `fuzz/` reach: the parts that read what a store, or an operator, has written.

use std::time::Duration;

use repmd_backend_api::InstanceId;
use secrecy::ExposeSecret;

use crate::record::{
    decode_holder, decode_id, decode_instance, decode_lease, encode_holder, encode_instance, encode_lease,
};
use crate::reply::Reply;
use crate::settings::Settings;

/// A registration as daemons write it.
const WRITTEN: &str = r#"1 0000000000000000007 ab-18446744073709551615 4294967295 a%20b {"name":"r\"\u00e9@h",
"port":65535,"advertised_port":0,"node_type":77,"protocol":255,"highest_version":6,"lowest_version":5,"extra":[0,255],
"registered_at":1800000000123456789,"instance":{"name":"a b","host":"db-1","aliases":["db-1.example"],
"addresses":["10.0.0.1","fe80::1"],"port":4369}}"#;

/// Whatever is stored can be read or is refused, and what was read is written so that it reads the same. Tried
/// with `value` itself, and with a registration in which a part is replaced by `value`: its first two bytes say
/// which.
///
/// # Panics
/// Where it does not.
pub fn stored_record(value: &[u8]) {
    read_record(value);
    if let [at, length, part @ ..] = value {
        let start = usize::from(*at) * WRITTEN.len() / 256;
        let end = (start + usize::from(*length) / 4).min(WRITTEN.len());
        let (before, after) = (&WRITTEN.as_bytes()[..start], &WRITTEN.as_bytes()[end..]);
        read_record(&[before, part, after].concat());
    }
}

fn read_record(value: &[u8]) {
    let _ = decode_id(&String::from_utf8_lossy(value));
    let holder = decode_holder(value);
    assert!(holder.chars().count() <= 255);
    if let Ok(stored) = decode_lease(value) {
        let again = format!("1 0000000000000000007 {}", encode_lease(&stored));
        let again = decode_lease(again.as_bytes()).expect("it was read before");
        assert_eq!(again.token, stored.token);
        assert_eq!(again.registration, stored.registration);
        let instance = &stored.registration.instance;
        let holder = decode_holder(encode_holder(instance).as_bytes());
        assert_eq!(holder, instance.name.chars().take(255).collect::<String>());
        let written = encode_instance(instance);
        assert_eq!(decode_instance(instance.id, written.as_bytes()).expect("it was read before"), **instance);
    }
    let _ = decode_instance(InstanceId(1), value);
}

/// No URL shows its password, whether it can be used or not.
///
/// # Panics
/// If one does.
pub fn store_url(url: &str) {
    const SECRET: &str = "s3cret-Pa55word";
    // Any letter S stands for a secret.
    let url = &url.replace('S', SECRET);
    match Settings::parse(url, "cluster", Duration::from_secs(15)) {
        Ok(settings) => {
            let password = settings.access.login.password().ok().flatten();
            // What is the user or a host as well is shown.
            if url.matches(SECRET).count() == 1
                && password.is_some_and(|password| password.expose_secret().contains(SECRET))
            {
                assert!(!format!("{settings} {settings:?}").contains(SECRET));
            }
        }
        Err(error) => assert!(!error.to_string().contains(SECRET), "{error}"),
    }
}

/// A reply is over for the bound where it is over for the client library, or it is refused.
///
/// # Panics
/// Where the two differ.
pub fn reply(bytes: &[u8]) {
    let mut counted = Reply::default();
    for (at, byte) in bytes.iter().enumerate() {
        if counted.count(&[*byte]).is_err() {
            return;
        }
        if counted.is_over() {
            let is_cut = |bytes: &[u8]| match redis::parse_redis_value(bytes) {
                Ok(_) => false,
                Err(error) => error.kind() == redis::ErrorKind::Io,
            };
            assert!(!is_cut(&bytes[..=at]), "it goes on");
            assert!(redis::parse_redis_value(&bytes[..at]).is_err(), "it was over before");
            return;
        }
    }
}

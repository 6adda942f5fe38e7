//! The sender's half of Standard Webhooks: three header fields over the stored bytes.

use base64::{Engine, engine::general_purpose::STANDARD};

use crate::verify::standard::{ID, SIGNATURE, Secret, TIMESTAMP, mac};

/// The header fields of one attempt at `timestamp`, in seconds since 1970. The id stays the same
/// over all attempts and the time does not, so each attempt is signed anew. During a rotation there
/// are several secrets, newest first: a receiver that knows any one of them is content.
///
/// The id must not contain a dot: the dot separates the signed parts, and a body that continues an
/// id would be genuine.
pub fn sign(
    secrets: &[Secret],
    id: &str,
    timestamp: u64,
    body: &[u8],
) -> [(&'static str, String); 3] {
    debug_assert!(!id.contains('.'), "an id without dots");
    let timestamp = timestamp.to_string();
    let signature = |secret| {
        let tag = mac(secret, id.as_bytes(), timestamp.as_bytes(), body);
        format!("v1,{}", STANDARD.encode(tag.into_bytes()))
    };
    let signatures: Vec<_> = secrets.iter().map(signature).collect();
    [
        (ID, id.to_owned()),
        (SIGNATURE, signatures.join(" ")),
        (TIMESTAMP, timestamp),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fields_are_the_ones_of_the_official_example() {
        let secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw".parse().unwrap();
        let id = "msg_p5jXN8AQM9LWM0D4loKWxJek";
        let fields = sign(&[secret], id, 1_614_265_330, b"{\"test\": 2432232314}");
        let signature = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=";
        assert_eq!(fields[0], ("webhook-id", id.into()));
        assert_eq!(fields[1], ("webhook-signature", signature.into()));
        assert_eq!(fields[2], ("webhook-timestamp", "1614265330".into()));
    }

    #[test]
    fn during_a_rotation_every_secret_signs_in_the_order_given() {
        let secrets = [[1; 32], [2; 32]].map(Secret::from_random);
        let signature = |secrets: &[Secret]| sign(secrets, "a-1", 7, b"{}")[1].1.clone();
        let (new, old) = (signature(&secrets[..1]), signature(&secrets[1..]));
        assert_eq!(signature(&secrets), format!("{new} {old}"));
    }
}

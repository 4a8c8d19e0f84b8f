//! Every case of `vectors/cipher.json`: keys and their text forms, seeded generation, ECDH and
//! signatures, with the verdict of the Go code; k256 as a second opinion on curve arithmetic.

#![allow(clippy::unwrap_used)]

use dmsg_engine::identity::{
    KeyError, PublicKey, SecretKey, Signature, SignatureError, parse_nullable, sha256,
};
use k256::{
    ecdsa::{
        RecoveryId, Signature as EcdsaSignature, VerifyingKey, signature::hazmat::PrehashVerifier,
    },
    elliptic_curve::sec1::ToSec1Point,
};
use serde::Deserialize;

#[derive(Deserialize)]
struct Vectors {
    keypairs: Vec<KeyPair>,
    pubkey_validity: Vec<PublicValidity>,
    pubkey_text: Vec<PublicText>,
    seckey_validity: Vec<SecretValidity>,
    ecdh: Vec<Ecdh>,
    signatures_valid: Vec<ValidSignature>,
    signatures_checked: Vec<CheckedSignature>,
    signatures_checked_hash_level: HashLevel,
}

#[derive(Deserialize)]
struct KeyPair {
    from: String,
    seed_hex: Option<String>,
    sk: String,
    pk: String,
    pk_uncompressed: String,
}

#[derive(Deserialize)]
struct PublicValidity {
    name: String,
    bytes: String,
    valid: bool,
    go_new_pubkey: String,
}

#[derive(Deserialize)]
struct PublicText {
    text: String,
    go_set: String,
    go_unmarshal_text: String,
    unmarshal_text_result: String,
}

#[derive(Deserialize)]
struct SecretValidity {
    name: String,
    bytes: String,
    valid: bool,
}

#[derive(Deserialize)]
struct Ecdh {
    sk_a: String,
    pk_a: String,
    sk_b: String,
    pk_b: String,
    point_compressed: String,
    shared: String,
    dh33: String,
}

#[derive(Deserialize)]
struct ValidSignature {
    sk: String,
    pk: String,
    msg: String,
    sha256: String,
    sig: String,
    recid: u8,
    verify: String,
}

#[derive(Deserialize)]
struct CheckedSignature {
    name: String,
    pk: String,
    msg: String,
    sig: String,
    valid: bool,
}

#[derive(Deserialize)]
struct HashLevel {
    cases: Vec<CheckedHash>,
}

#[derive(Deserialize)]
struct CheckedHash {
    name: String,
    pk: String,
    hash: String,
    sig: String,
    valid: bool,
}

fn raw() -> serde_json::Value {
    serde_json::from_str(include_str!("vectors/cipher.json")).unwrap()
}

fn vectors() -> Vectors {
    serde_json::from_value(raw()).unwrap()
}

/// The file's own count of a group.
fn count(group: &str) -> usize {
    raw()[group].as_array().unwrap().len()
}

fn unhex(text: &str) -> Vec<u8> {
    assert!(text.len().is_multiple_of(2) && text.is_ascii());
    (0..text.len()).step_by(2).map(|i| u8::from_str_radix(&text[i..i + 2], 16).unwrap()).collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

#[test]
fn key_pairs_have_their_public_keys() {
    let cases = vectors().keypairs;
    for case in &cases {
        let key: SecretKey = case.sk.parse().unwrap();
        let public: PublicKey = case.pk.parse().unwrap();
        assert_eq!(key.public_key(), public);
        assert_eq!(*key.to_hex(), case.sk);
        assert_eq!(public.to_string(), case.pk);
        let point = k256::PublicKey::from_sec1_bytes(public.as_bytes()).unwrap();
        assert_eq!(hex(point.to_sec1_point(false).as_bytes()), case.pk_uncompressed);
    }
    assert_eq!(cases.len(), count("keypairs"));
}

#[test]
fn seeds_give_the_keys_that_go_derives() {
    let cases = vectors().keypairs;
    let mut seeded = 0;
    for case in &cases {
        let Some(seed) = &case.seed_hex else {
            assert_eq!(case.from, "sk");
            continue;
        };
        assert_eq!(case.from, "seed");
        let key = SecretKey::from_skycoin_seed(&unhex(seed)).unwrap();
        assert_eq!(*key.to_hex(), case.sk, "seed {seed}");
        seeded += 1;
    }
    let file = raw();
    let pairs = file["keypairs"].as_array().unwrap();
    assert_eq!(seeded, pairs.iter().filter(|pair| pair["from"] == "seed").count());
}

#[test]
fn public_keys_are_valid_exactly_when_go_says_so() {
    let cases = vectors().pubkey_validity;
    for case in &cases {
        let parsed = PublicKey::from_bytes(&unhex(&case.bytes));
        assert_eq!(parsed.is_ok(), case.valid, "{}: {parsed:?}", case.name);
        // What makes Go panic is an error here.
        assert_eq!(case.go_new_pubkey == "ok", case.valid);
        let expected = match case.name.as_str() {
            "all zero (the null key)" => Some(KeyError::Null),
            "32 bytes" | "34 bytes" | "empty" => Some(KeyError::Length {
                kind: "public key",
                expected: 33,
                got: case.bytes.len() / 2,
            }),
            _ if case.valid => None,
            _ => Some(KeyError::NotOnCurve),
        };
        assert_eq!(parsed.err(), expected, "{}", case.name);
    }
    assert_eq!(cases.len(), count("pubkey_validity"));
}

#[test]
fn public_key_text_is_read_as_a_flag_and_as_json() {
    let cases = vectors().pubkey_text;
    for case in &cases {
        let parsed = case.text.parse::<PublicKey>();
        assert_eq!(parsed.is_ok(), case.go_set == "ok", "{:?}: {parsed:?}", case.text);
        let nullable = parse_nullable(&case.text);
        assert_eq!(nullable.is_ok(), case.go_unmarshal_text == "ok", "{:?}", case.text);
        let written = nullable.ok().flatten().map_or_else(|| "0".repeat(66), |key| key.to_string());
        assert_eq!(written, case.unmarshal_text_result, "{:?}", case.text);
    }
    assert_eq!(cases.len(), count("pubkey_text"));
}

#[test]
fn secret_keys_are_valid_exactly_when_go_says_so() {
    let cases = vectors().seckey_validity;
    for case in &cases {
        let bytes = unhex(&case.bytes);
        let parsed = SecretKey::from_bytes(&bytes);
        assert_eq!(parsed.is_ok(), case.valid, "{}", case.name);
        let expected = match bytes.len() {
            32 => KeyError::InvalidSecret,
            got => KeyError::Length { kind: "secret key", expected: 32, got },
        };
        assert_eq!(parsed.err(), (!case.valid).then_some(expected), "{}", case.name);
    }
    assert_eq!(cases.len(), count("seckey_validity"));
}

#[test]
fn ecdh_agrees_from_both_sides_with_go_and_with_k256() {
    let cases = vectors().ecdh;
    for case in &cases {
        let (a, b): (SecretKey, SecretKey) =
            (case.sk_a.parse().unwrap(), case.sk_b.parse().unwrap());
        assert_eq!(a.public_key().to_string(), case.pk_a);
        assert_eq!(b.public_key().to_string(), case.pk_b);
        assert_eq!(hex(&*a.ecdh(&b.public_key())), case.shared);
        assert_eq!(hex(&*b.ecdh(&a.public_key())), case.shared);
        assert_eq!(format!("{}00", case.shared), case.dh33);

        let scalar = k256::SecretKey::from_slice(&*a.to_bytes()).unwrap();
        let point = k256::PublicKey::from_sec1_bytes(b.public_key().as_bytes()).unwrap();
        let product = point.to_projective() * *scalar.to_nonzero_scalar();
        let product = product.to_affine().to_sec1_point(true);
        assert_eq!(hex(product.as_bytes()), case.point_compressed);
        assert_eq!(hex(&sha256(product.as_bytes())), case.shared);
    }
    assert_eq!(cases.len(), count("ecdh"));
}

#[test]
fn signatures_of_go_verify_and_so_do_ours_also_in_k256() {
    let cases = vectors().signatures_valid;
    for case in &cases {
        assert_eq!(case.verify, "ok");
        let (key, public): (SecretKey, PublicKey) =
            (case.sk.parse().unwrap(), case.pk.parse().unwrap());
        let message = unhex(&case.msg);
        let digest = sha256(&message);
        assert_eq!(hex(&digest), case.sha256);
        let theirs: Signature = case.sig.parse().unwrap();
        assert_eq!(theirs.as_bytes()[64], case.recid);
        assert_eq!(theirs.to_string(), case.sig);
        for signature in [theirs, Signature::sign(&key, &message)] {
            assert_eq!(signature.verify(&public, &message), Ok(()));
            check_with_k256(&signature, &public, &digest);
        }
    }
    assert_eq!(cases.len(), count("signatures_valid"));
}

fn check_with_k256(signature: &Signature, public: &PublicKey, digest: &[u8; 32]) {
    let (compact, id) = signature.as_bytes().split_at(64);
    let compact = EcdsaSignature::from_slice(compact).unwrap();
    let id = RecoveryId::from_byte(id[0]).unwrap();
    let recovered = VerifyingKey::recover_from_prehash(digest, &compact, id).unwrap();
    assert_eq!(recovered.to_sec1_point(true).as_bytes(), public.as_bytes());
    recovered.verify_prehash(digest, &compact).unwrap();
}

/// The rules by which a signature with a recovery id in range may be refused, by the case's name.
fn expected_refusal(name: &str) -> &'static [SignatureError] {
    use SignatureError as E;
    match name {
        "high-s twin (s -> n-s, recid^1): recovers the right key but is malleable"
        | "s -> n-s, recid unchanged" => &[E::HighS],
        "recid bit 1 flipped (r+n >= p)" => &[E::Unrecoverable],
        "r = 0" | "s = 0" | "r = n" | "s = n" | "all zero" => &[E::OutOfRange],
        // A changed r may or may not be the x of a point.
        "bit flip in r" => &[E::WrongKey, E::Unrecoverable],
        "recid bit 0 flipped"
        | "wrong message"
        | "wrong key"
        | "key with the other parity"
        | "bit flip in s" => &[E::WrongKey],
        other => panic!("a case that this test does not know: {other}"),
    }
}

#[test]
fn signatures_are_refused_exactly_when_go_refuses_them() {
    let cases = vectors().signatures_checked;
    for case in &cases {
        let signature: Signature = case.sig.parse().unwrap();
        // A null key is not a key here, so nothing can be verified against it.
        let Ok(public) = case.pk.parse::<PublicKey>() else {
            assert_eq!(parse_nullable(&case.pk), Ok(None));
            assert!(case.name == "null key" && !case.valid);
            continue;
        };
        let verdict = signature.verify(&public, &unhex(&case.msg));
        assert_eq!(verdict.is_ok(), case.valid, "{}: {verdict:?}", case.name);
        let Err(error) = verdict else { continue };
        match signature.as_bytes()[64] {
            0..4 => {
                let expected = expected_refusal(&case.name);
                assert!(expected.contains(&error), "{}: {error:?}", case.name);
            }
            id => assert_eq!(error, SignatureError::RecoveryId(id), "{}", case.name),
        }
    }
    assert_eq!(cases.len(), count("signatures_checked"));
}

/// Go tests only the top bit of s. Between half the order and 2²⁵⁵ no signature of a message can
/// be found, only made up together with its digest, so the strict test here is interoperable
/// (`wire.md §1.2`); these two cases are where it shows.
#[test]
fn high_s_below_the_top_bit_is_refused_here_though_go_takes_it() {
    let cases = vectors().signatures_checked_hash_level.cases;
    let mut stricter = 0;
    for case in &cases {
        let signature: Signature = case.sig.parse().unwrap();
        let public: PublicKey = case.pk.parse().unwrap();
        let digest: [u8; 32] = unhex(&case.hash).try_into().unwrap();
        let verdict = signature.verify_digest(&public, digest);
        let expected = match case.name.as_str() {
            "s = (n-1)/2" => Ok(()),
            _ => Err(SignatureError::HighS),
        };
        assert_eq!(verdict, expected, "{}", case.name);
        stricter += usize::from(case.valid && verdict.is_err());
    }
    assert_eq!(stricter, 2);
    let file = raw();
    let listed = file["signatures_checked_hash_level"]["cases"].as_array().unwrap();
    assert_eq!(cases.len(), listed.len());
}

#[test]
fn every_group_of_the_file_has_a_test() {
    let file = raw();
    let mut groups: Vec<_> = file.as_object().unwrap().keys().map(String::as_str).collect();
    groups.sort_unstable();
    let known = [
        "description",
        "ecdh",
        "keypairs",
        "pubkey_text",
        "pubkey_validity",
        "seckey_validity",
        "signatures_checked",
        "signatures_checked_hash_level",
        "signatures_valid",
        "source",
    ];
    assert_eq!(groups, known);
}

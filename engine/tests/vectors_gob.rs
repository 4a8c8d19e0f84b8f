//! Every case of `vectors/gob.json`: what Go's encoders wrote is decoded, verified, and encoded
//! again byte for byte; what Go's decoders refused is refused by the rule it breaks.

#![allow(clippy::unwrap_used)]

use dmsg_engine::{
    identity::{KeyError, PublicKey, SecretKey, parse_nullable, sha256},
    wire::{
        Dialect, GobError, ObjectError, PeerAnnounce, SignedObject, StreamRequest, StreamResponse,
        WireAddr,
    },
};
use serde::Deserialize;

#[derive(Deserialize)]
struct Vectors {
    requests_2023: Vec<Request>,
    requests_2024: Vec<Request>,
    requests_2026: Vec<Request>,
    responses_2023: Vec<Response>,
    responses_2024: Vec<Response>,
    responses_2026: Vec<Response>,
    peer_announce_2026: Vec<Announce>,
    decode_cases: DecodeCases,
}

#[derive(Deserialize)]
struct Object {
    gob: String,
    signer_sk: String,
    signed_object: String,
}

#[derive(Deserialize)]
struct RequestFields {
    timestamp: StringOrNumber,
    src_pk: String,
    src_port: u16,
    dst_pk: String,
    dst_port: u16,
    #[serde(default)]
    ip_info: bool,
    #[serde(default)]
    geo_info: bool,
    noise_msg: String,
}

#[derive(Deserialize)]
struct Request {
    name: String,
    #[serde(flatten)]
    fields: RequestFields,
    #[serde(flatten)]
    object: Object,
    signed_object_sha256: String,
    go2024_verify: String,
}

#[derive(Deserialize)]
struct ResponseFields {
    req_hash: String,
    accepted: bool,
    #[serde(default)]
    ip: String,
    #[serde(default)]
    geo_country: String,
    #[serde(default)]
    geo_region: String,
    #[serde(default)]
    geo_lat: f64,
    #[serde(default)]
    geo_lon: f64,
    err_code: u16,
    noise_msg: String,
}

#[derive(Deserialize)]
struct Response {
    name: String,
    #[serde(flatten)]
    fields: ResponseFields,
    #[serde(flatten)]
    object: Object,
}

#[derive(Deserialize)]
struct Announce {
    timestamp: StringOrNumber,
    src_pk: String,
    #[serde(flatten)]
    object: Object,
}

#[derive(Deserialize)]
struct DecodeCases {
    requests: Vec<DecodeCase<RequestFields>>,
    responses: Vec<DecodeCase<ResponseFields>>,
}

#[derive(Deserialize)]
struct DecodeCase<F> {
    name: String,
    gob: String,
    go2024: String,
    fields: Option<F>,
}

/// Timestamps do not fit a JSON double, so some are strings.
#[derive(Deserialize)]
#[serde(untagged)]
enum StringOrNumber {
    String(String),
    Number(i64),
}

impl StringOrNumber {
    fn value(&self) -> i64 {
        match self {
            Self::String(text) => text.parse().unwrap(),
            Self::Number(number) => *number,
        }
    }
}

impl RequestFields {
    fn value(&self) -> StreamRequest {
        StreamRequest {
            timestamp: self.timestamp.value(),
            src: WireAddr { key: nullable(&self.src_pk), port: self.src_port },
            dst: WireAddr { key: nullable(&self.dst_pk), port: self.dst_port },
            ip_info: self.ip_info,
            geo_info: self.geo_info,
            noise_msg: unhex(&self.noise_msg),
        }
    }
}

impl ResponseFields {
    fn value(&self) -> StreamResponse {
        StreamResponse {
            req_hash: unhex(&self.req_hash).try_into().unwrap(),
            accepted: self.accepted,
            ip: unhex(&self.ip),
            geo_country: self.geo_country.clone(),
            geo_region: self.geo_region.clone(),
            geo_lat: self.geo_lat,
            geo_lon: self.geo_lon,
            err_code: self.err_code,
            noise_msg: unhex(&self.noise_msg),
        }
    }
}

fn raw() -> serde_json::Value {
    serde_json::from_str(include_str!("vectors/gob.json")).unwrap()
}

fn vectors() -> Vectors {
    serde_json::from_value(raw()).unwrap()
}

fn unhex(text: &str) -> Vec<u8> {
    assert!(text.len().is_multiple_of(2) && text.is_ascii());
    (0..text.len()).step_by(2).map(|i| u8::from_str_radix(&text[i..i + 2], 16).unwrap()).collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

fn nullable(text: &str) -> Option<PublicKey> {
    parse_nullable(text).unwrap()
}

/// The object of a vector, after comparing its parts with each other, and its signer.
fn object(vector: &Object) -> (SignedObject, SecretKey) {
    let object = SignedObject::from_bytes(unhex(&vector.signed_object)).unwrap();
    assert_eq!(hex(object.gob()), vector.gob);
    let signer: SecretKey = vector.signer_sk.parse().unwrap();
    object.verify(&signer.public_key()).unwrap();
    let ours = SignedObject::sign(&signer, object.gob());
    ours.verify(&signer.public_key()).unwrap();
    assert_eq!(ours.gob(), object.gob());
    (object, signer)
}

/// The Go verdict, as the number of its error.
fn code_of(verdict: &str) -> Option<u16> {
    let number = verdict.strip_prefix("dmsg error ")?.split(' ').next()?;
    Some(number.parse().unwrap())
}

#[test]
fn requests_of_all_generations_decode_verify_and_encode_as_in_go() {
    let vectors = vectors();
    let mut count = 0;
    for (dialect, cases) in [
        (Dialect::G23, &vectors.requests_2023),
        (Dialect::G24, &vectors.requests_2024),
        (Dialect::G26, &vectors.requests_2026),
    ] {
        for case in cases {
            let (object, _) = object(&case.object);
            let request = StreamRequest::decode(object.gob()).unwrap();
            assert_eq!(request, case.fields.value(), "{}", case.name);
            assert_eq!(hex(&request.encode(dialect)), case.object.gob, "{}", case.name);
            assert_eq!(hex(&object.hash()), case.signed_object_sha256, "{}", case.name);
            let verdict = request.verify(&object).map_err(|e| e.code());
            match code_of(&case.go2024_verify) {
                Some(code) => assert_eq!(verdict, Err(code), "{}", case.name),
                None => {
                    assert_eq!(case.go2024_verify, "ok");
                    assert_eq!(verdict, Ok(()), "{}", case.name);
                }
            }
            count += 1;
        }
    }
    let file = raw();
    let expected = ["requests_2023", "requests_2024", "requests_2026"]
        .map(|group| file[group].as_array().unwrap().len());
    assert_eq!(count, expected.iter().sum::<usize>());
}

#[test]
fn responses_of_all_generations_decode_verify_and_encode_as_in_go() {
    let vectors = vectors();
    let mut count = 0;
    for (dialect, cases) in [
        (Dialect::G23, &vectors.responses_2023),
        (Dialect::G24, &vectors.responses_2024),
        (Dialect::G26, &vectors.responses_2026),
    ] {
        for case in cases {
            let (object, signer) = object(&case.object);
            let response = StreamResponse::decode(object.gob()).unwrap();
            assert_eq!(response, case.fields.value(), "{}", case.name);
            assert_eq!(hex(&response.encode(dialect)), case.object.gob, "{}", case.name);
            let verdict = response.verify(&object, &response.req_hash, &signer.public_key());
            match (case.fields.accepted, case.fields.err_code) {
                (true, _) => assert_eq!(verdict, Ok(()), "{}", case.name),
                (false, 306) => assert_eq!(verdict.unwrap_err().code(), 306, "{}", case.name),
                (false, _) => assert_eq!(verdict.unwrap_err().code(), 352, "{}", case.name),
            }
            count += 1;
        }
    }
    let file = raw();
    let expected = ["responses_2023", "responses_2024", "responses_2026"]
        .map(|group| file[group].as_array().unwrap().len());
    assert_eq!(count, expected.iter().sum::<usize>());
}

#[test]
fn peer_announcement_decodes_verifies_and_encodes() {
    let vectors = vectors();
    for case in &vectors.peer_announce_2026 {
        let (object, signer) = object(&case.object);
        let announce = PeerAnnounce::decode(object.gob()).unwrap();
        let expected =
            PeerAnnounce { timestamp: case.timestamp.value(), src_key: nullable(&case.src_pk) };
        assert_eq!(announce, expected);
        assert_eq!(hex(&announce.encode()), case.object.gob);
        assert_eq!(announce.verify(&object, &signer.public_key()), Ok(()));
    }
    assert_eq!(
        vectors.peer_announce_2026.len(),
        raw()["peer_announce_2026"].as_array().unwrap().len()
    );
}

/// The rule that fires for a case Go refuses, by the case's name.
fn is_expected_refusal(name: &str, error: &GobError) -> bool {
    use GobError as E;
    let field_kind = |wanted: &str| matches!(error, E::FieldKind { field, .. } if field == wanted);
    let out_of_range = |wanted: &str, number: u64| {
        let wanted = E::OutOfRange { field: wanted.to_owned(), value: number };
        *error == wanted
    };
    let key = |wanted: KeyError| {
        let wanted = E::Key { field: "PK".to_owned(), error: wanted };
        *error == wanted
    };
    match name {
        "port 65536 (overflows uint16)" => out_of_range("Port", 65536),
        "port sent as a signed integer" => field_kind("Port"),
        "timestamp sent as an unsigned integer" => field_kind("Timestamp"),
        "key sent as a plain [33]byte array"
        | "key sent as []byte"
        | "key sent as hex string"
        | "key sent through GobEncode" => field_kind("PK"),
        "key through MarshalBinary, bytes not a valid key (prefix 04)" => key(KeyError::NotOnCurve),
        "key through MarshalBinary, all zero bytes" => key(KeyError::Null),
        "key through MarshalBinary, 32 bytes" => {
            key(KeyError::Length { kind: "public key", expected: 33, got: 32 })
        }
        "noise message sent as a string" | "noise message sent as an array" => {
            field_kind("NoiseMsg")
        }
        "no field in common" => *error == E::NoCommonField,
        "a bare integer" => *error == E::NotAStruct(2),
        "one byte short" => *error == E::LengthBeyondEnd { length: 98, rest: 97 },
        "only the type definitions" => *error == E::NoValue,
        "value message before its type definitions" => *error == E::UndefinedType(64),
        "first definition sent twice" => *error == E::DuplicateDefinition(64),
        "hash sent as []byte" => field_kind("ReqHash"),
        "hash element 256 (overflows a byte)" => out_of_range("ReqHash", 256),
        "hash of 31 bytes" => *error == E::ArrayLength { expected: 32, got: 31 },
        "error code 65536 (overflows uint16)" => out_of_range("ErrCode", 65536),
        other => panic!("a case that this test does not know: {other}"),
    }
}

/// Checks the decoder's verdict on a case; gives the value if Go took it, and what Go read.
fn check_case<T, F>(
    case: &DecodeCase<F>,
    decode: impl FnOnce(&[u8]) -> Result<T, GobError>,
) -> Option<(T, &F)> {
    let decoded = decode(&unhex(&case.gob));
    match &case.fields {
        Some(fields) => {
            assert_eq!(case.go2024, "ok");
            Some((decoded.expect(&case.name), fields))
        }
        None => {
            assert!(case.go2024.starts_with("error: "));
            let Err(error) = decoded else { panic!("{} was taken", case.name) };
            assert!(is_expected_refusal(&case.name, &error), "{}: {error:?}", case.name);
            None
        }
    }
}

/// The fields listed are those of the 2024 decoder, which knows no places.
const WITH_PLACE: &str = "2026 encoding with geo";

#[test]
fn decoder_takes_and_refuses_what_go_does() {
    let cases = vectors().decode_cases;
    let mut taken = 0;
    for case in &cases.requests {
        if let Some((mut decoded, fields)) = check_case(case, StreamRequest::decode) {
            assert_eq!(decoded.geo_info, case.name == WITH_PLACE);
            decoded.geo_info = false;
            assert_eq!(decoded, fields.value(), "{}", case.name);
            taken += 1;
        }
    }
    for case in &cases.responses {
        if let Some((mut decoded, fields)) = check_case(case, StreamResponse::decode) {
            assert_eq!(decoded.geo_country.is_empty(), case.name != WITH_PLACE);
            decoded.geo_country.clear();
            decoded.geo_region.clear();
            (decoded.geo_lat, decoded.geo_lon) = (0.0, 0.0);
            assert_eq!(decoded, fields.value(), "{}", case.name);
            taken += 1;
        }
    }
    let file = raw();
    let group = |name: &str| file["decode_cases"][name].as_array().unwrap().clone();
    let all = [group("requests"), group("responses")].concat();
    assert_eq!(cases.requests.len() + cases.responses.len(), all.len());
    assert_eq!(taken, all.iter().filter(|case| case["go2024"] == "ok").count());
}

#[test]
fn every_group_of_the_file_has_a_test() {
    let file = raw();
    let mut groups: Vec<_> = file.as_object().unwrap().keys().map(String::as_str).collect();
    groups.sort_unstable();
    let known = [
        "decode_cases",
        "description",
        "peer_announce_2026",
        "requests_2023",
        "requests_2024",
        "requests_2026",
        "responses_2023",
        "responses_2024",
        "responses_2026",
        "source",
    ];
    assert_eq!(groups, known);
}

#[test]
fn request_and_announcement_decode_as_each_other_but_do_not_verify() {
    let vectors = vectors();
    let (object, signer) = object(&vectors.requests_2024[0].object);
    let announce = PeerAnnounce::decode(object.gob()).unwrap();
    assert_eq!(announce.src_key, None);
    assert_eq!(announce.verify(&object, &signer.public_key()), Err(ObjectError::SourceKeyNull));
    let gob = unhex(&vectors.peer_announce_2026[0].object.gob);
    let request = StreamRequest::decode(&gob).unwrap();
    let object = SignedObject::sign(&signer, &gob);
    assert_eq!(object.hash(), sha256(object.as_bytes()));
    assert_eq!(request.verify(&object), Err(ObjectError::SourceKeyNull));
}

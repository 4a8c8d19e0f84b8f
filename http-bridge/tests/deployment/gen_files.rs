//! `dmsg config gen` and its file: keys and the operator's changes stay, nothing is lost, nobody else can read it.

use std::{fs, os::unix::fs::PermissionsExt, path::Path, process::Output};

use serde_json::{Value, json};

use crate::{
    program::{assert_exit, dmsg, stderr, stdout},
    support::{Place, REFUSED, deployment, element, key},
};

fn generate(place: &Place, document: &str, extra: &[&str]) -> Output {
    let document = place.write("deployment.json", &format!("{{\"prod\":{document}}}"));
    let mut command = dmsg(&["config", "gen", "--nofetch", "--out"]);
    command.arg(place.path("visor.json")).arg("--deployment").arg(document).args(extra);
    command.env_remove("SKYDEPLOY").output().unwrap()
}

fn read(path: &Path) -> Value {
    serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap()
}

#[test]
fn a_new_file_has_everything_a_visor_expects_and_is_its_owners_alone() {
    let place = Place::new();
    let members = format!(
        r#""dmsg_discovery_dmsg":"{d}:80","transport_discovery_dmsg":"{t}:80","address_resolver":"http://ar",
        "route_finder":"http://rf","uptime_tracker":"http://ut","service_discovery":"http://sd",
        "stun_servers":["192.0.2.1:3478"],"survey_whitelist":["{t}"],"route_setup_nodes":["{t}"],
        "dmsg_servers":[{}]"#,
        element(&key("server"), REFUSED),
        d = key("d"),
        t = key("t"),
    );
    let output = generate(&place, &deployment("tpd", &members), &[]);
    assert_exit(&output, 0);
    assert_eq!(stdout(&output), "");
    let path = place.path("visor.json");
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let config = read(&path);
    for (pointer, value) in [
        ("/dmsg/discovery", json!(format!("http://{REFUSED}"))),
        ("/dmsg/discovery_dmsg", json!(format!("dmsg://{}:80", key("d")))),
        ("/dmsg/sessions_count", json!(2)),
        ("/dmsg/servers/0/server/address", json!(REFUSED)),
        ("/transport/discovery", json!("http://tpd.invalid")),
        ("/transport/discovery_dmsg", json!(format!("dmsg://{}:80", key("t")))),
        ("/transport/address_resolver", json!("http://ar")),
        ("/routing/route_finder", json!("http://rf")),
        ("/routing/route_setup_nodes", json!([key("t")])),
        ("/uptime_tracker/addr", json!("http://ut")),
        ("/launcher/service_discovery", json!("http://sd")),
        ("/survey_whitelist", json!([key("t")])),
        ("/stun_servers", json!(["192.0.2.1:3478"])),
    ] {
        assert_eq!(config.pointer(pointer), Some(&value), "{pointer}");
    }
    let secret = config["sk"].as_str().unwrap();
    assert!(!stderr(&output).contains(secret), "the secret key was shown");
    let public = dmsg(&["key", "public"]).env("DMSG_SECRET_KEY", secret).output().unwrap();
    assert_eq!(stdout(&public).trim(), config["pk"].as_str().unwrap());
}

#[test]
fn an_existing_file_is_left_alone_unless_asked() {
    let place = Place::new();
    assert_exit(&generate(&place, &deployment("one", ""), &[]), 0);
    let path = place.path("visor.json");
    let before = fs::read(&path).unwrap();
    let output = generate(&place, &deployment("two", ""), &[]);
    assert_exit(&output, 2);
    assert!(stderr(&output).contains("--regen updates it"), "{}", stderr(&output));
    assert_eq!(fs::read(&path).unwrap(), before);
    assert_exit(&generate(&place, &deployment("two", ""), &["--force"]), 0);
    assert_ne!(read(&path)["sk"], serde_json::from_slice::<Value>(&before).unwrap()["sk"]);
    let backup = place.path("visor.json.bak");
    assert_eq!(fs::read(&backup).unwrap(), before);
    assert_eq!(fs::metadata(&backup).unwrap().permissions().mode() & 0o777, 0o600);
}

#[test]
fn regen_keeps_keys_and_changes_and_updates_the_rest() {
    let place = Place::new();
    let members = r#""address_resolver":"http://ar1","stun_servers":["h:1"]"#;
    assert_exit(&generate(&place, &deployment("one", members), &[]), 0);
    let path = place.path("visor.json");
    let mut config = read(&path);
    config["transport"]["address_resolver"] = json!("http://mine");
    config["log_level"] = json!("debug");
    config["my_own"] = json!({"deep": [1.50, "kept"]});
    config["launcher"]["apps"] = json!([{"name": "vpn"}]);
    config.as_object_mut().unwrap().remove("shutdown_timeout");
    fs::write(&path, config.to_string()).unwrap();
    let members =
        r#""address_resolver":"http://ar2","stun_servers":["h:2"],"route_finder":"http://rf""#;
    let output = generate(&place, &deployment("two", members), &["--regen"]);
    assert_exit(&output, 0);
    let said = stderr(&output);
    for line in
        ["transport_discovery: updated", "address_resolver: yours, kept", "stun_servers: updated"]
    {
        assert!(said.contains(line), "{said}");
    }
    let new = read(&path);
    for member in ["sk", "pk", "log_level", "my_own"] {
        assert_eq!(new[member], config[member], "{member}");
    }
    assert_eq!(new["launcher"]["apps"], config["launcher"]["apps"]);
    assert_eq!(new["transport"]["address_resolver"], "http://mine");
    assert_eq!(new["transport"]["discovery"], "http://two.invalid");
    assert_eq!(new["routing"]["route_finder"], "http://rf");
    assert_eq!(new["stun_servers"], json!(["h:2"]));
    assert_eq!(new["shutdown_timeout"], "10s");
    // Once more, with nothing new: nothing changes.
    let before = fs::read(&path).unwrap();
    assert_exit(&generate(&place, &deployment("two", members), &["--regen"]), 0);
    assert_eq!(fs::read(&path).unwrap(), before);
}

#[test]
fn regen_turns_a_dual_file_into_one_for_dmsg_only_and_back() {
    let place = Place::new();
    let members = format!(
        r#""dmsg_discovery_dmsg":"{}:80","transport_discovery_dmsg":"{}:80","dmsg_servers":[{}]"#,
        key("d"),
        key("t"),
        element(&key("server"), REFUSED)
    );
    let deployment = deployment("tpd", &members);
    let path = place.path("visor.json");
    assert_exit(&generate(&place, &deployment, &[]), 0);
    let dual = read(&path);
    assert_exit(&generate(&place, &deployment, &["--regen", "--dmsg-only"]), 0);
    let config = read(&path);
    assert_eq!(config["transport"]["discovery"], config["transport"]["discovery_dmsg"]);
    assert!(!config.to_string().contains("http://"), "{config}");
    assert_exit(&generate(&place, &deployment, &["--regen", "--http"]), 0);
    let config = read(&path);
    assert_eq!(config["transport"]["discovery"], "http://tpd.invalid");
    assert!(!config.to_string().contains("dmsg://"), "{config}");
    assert_exit(&generate(&place, &deployment, &["--regen"]), 0);
    assert_eq!(read(&path), dual);
}

#[test]
fn a_broken_old_file_is_named_and_left_alone() {
    let place = Place::new();
    let path = place.path("visor.json");
    let secret = "11".repeat(32);
    for (text, said) in [
        ("{\"sk\": ", "no JSON"),
        ("{}", "it has no sk"),
        ("[]", "an object is wanted"),
        ("{\"sk\": \"zz\"}", "1:8: $.sk: this is no secret key"),
        (
            &format!("{{\"sk\":\"{secret}\",\"pk\":\"{}\"}}", key("other")),
            "pk is not the public key",
        ),
        (&format!("{{\"sk\":\"{secret}\",\"stun_servers\":[5]}}"), "$.stun_servers[0]"),
        (&format!("{{\"sk\":\"{secret}\",\"sk\":\"{secret}\"}}"), "second time"),
    ] {
        fs::write(&path, text).unwrap();
        let output = generate(&place, &deployment("tpd", ""), &["--regen"]);
        assert_exit(&output, 2);
        assert!(stderr(&output).contains(said), "{text}: {}", stderr(&output));
        assert!(!stderr(&output).contains(&secret), "a secret key was shown");
        assert_eq!(fs::read_to_string(&path).unwrap(), text);
    }
}

#[test]
fn bad_flags_and_places_have_their_codes_and_write_nothing() {
    let place = Place::new();
    let at = |extra: &[&str]| {
        let document = place.document("");
        let mut command = dmsg(&["config", "gen", "--nofetch", "--deployment"]);
        command.arg(document).args(extra).current_dir(place.folder.path()).output().unwrap()
    };
    let other_key = "22".repeat(32);
    assert_exit(&at(&["-o", "v.json"]), 0);
    for (code, extra) in [
        (2, &["-o", "-", "--regen"][..]),
        (2, &["-o", "-", "--force"]),
        (2, &["-o", "v.json", "--regen", "--force"]),
        (2, &["-o", "-", "--http", "--dmsg-only"]),
        (2, &["-o", "-", "--dmsg-only"]),
        (2, &["-o", "-", "--testenv"]),
        (2, &["-o", "-", "--timeout", "-1"]),
        (2, &["-o", "v.json", "--regen", "--secret-key", &other_key]),
        (26, &["-o", "-", "--services", "absent.json"]),
        (23, &["-o", "deployment.json/x.json"]),
    ] {
        let output = at(extra);
        assert_exit(&output, code);
        assert_eq!(stdout(&output), "", "{extra:?}");
    }
    let mut names: Vec<_> = fs::read_dir(place.folder.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    assert_eq!(names, ["deployment.json", "local", "v.json"]);
}

#[test]
fn what_is_no_file_is_neither_read_nor_replaced() {
    let place = Place::new();
    let socket = place.folder.path().join("socket");
    let _listening = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    for extra in [&["--force"][..], &["--regen"], &[]] {
        for out in [socket.to_str().unwrap(), "/dev/null", "/dev/stdout", "."] {
            let mut command = dmsg(&["config", "gen", "--nofetch", "-o", out]);
            let output = command.args(extra).current_dir(place.folder.path()).output().unwrap();
            assert_exit(&output, 23);
            assert_eq!(stdout(&output), "", "{out}");
        }
    }
    assert_eq!(fs::read_dir(place.folder.path()).unwrap().count(), 1);
}

#[test]
fn the_loudest_log_leaves_stdout_to_json() {
    for verbose in [&["-vvv"][..], &["-v", "-v", "-v"], &["--log", "trace"]] {
        let output =
            dmsg(&["config", "gen", "--nofetch", "-o", "-"]).args(verbose).output().unwrap();
        assert_exit(&output, 0);
        serde_json::from_slice::<Value>(&output.stdout).unwrap();
    }
}

#[test]
fn a_full_disk_costs_nothing_of_the_old_file() {
    let place = Place::new();
    if !Path::new("/dev/full").exists() {
        println!("skipped: no /dev/full here");
        return;
    }
    let mut command = dmsg(&["config", "gen", "--nofetch", "-o", "-", "--deployment"]);
    command.arg(place.document(""));
    let full = fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let output = command.stdout(full).output().unwrap();
    assert_exit(&output, 23);
}

//! `dmsg up` keeps its configuration fresh: what the deployment had set follows it, what the operator changed stays.

use std::{
    fs,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use crate::{
    conf::json_of,
    program::{LocalNetwork, Running, assert_exit, dmsg},
    support::{Place, element, key},
};

#[test]
fn a_changed_deployment_reaches_the_file_of_a_running_visor() {
    let network = LocalNetwork::start(&[]);
    let place = Place::new();
    let secret = place.path("conf.key");
    let made = dmsg(&["key", "new", "--out"]).arg(&secret).output().unwrap();
    assert_exit(&made, 0);
    let conf_key = String::from_utf8(made.stdout).unwrap().trim().to_owned();
    let (relay_key, relay_address) = network.relay.split_once('@').unwrap();
    let deployment = |number: &str| {
        let text = format!(
            r#"{{"prod":{{"dmsg_discovery_dmsg":"{}","conf_dmsg":"{conf_key}:80","dmsg_servers":[{}],
            "transport_discovery_dmsg":"{}:80","route_finder_dmsg":"{}:80","survey_whitelist":["{}"]}}}}"#,
            network.dmsg_discovery,
            element(relay_key, relay_address),
            key(&format!("tpd{number}")),
            key(&format!("rf{number}")),
            key(&format!("survey{number}")),
        );
        place.write("deployment.json", &text)
    };
    let document = deployment("1");
    let args = ["conf", "--dmsg-only", "--log", "warn", "--deployment", document.to_str().unwrap()];
    let secret = ["--secret-key-file", secret.to_str().unwrap()];
    let mut conf = Running::start(&[&args[..], &secret].concat());
    conf.line_with("dmsg://");
    let visor = place.path("visor/config.json");
    let mut command = dmsg(&["config", "gen", "--dmsg-only", "--deployment"]);
    let made = command.arg(&document).arg("--out").arg(&visor).output().unwrap();
    assert_exit(&made, 0);
    let read = || -> Value { serde_json::from_str(&fs::read_to_string(&visor).unwrap()).unwrap() };
    let mut before = read();
    before["routing"]["route_finder"] = json!(format!("dmsg://{}:80", key("mine")));
    before["routing"]["route_finder_dmsg"] = before["routing"]["route_finder"].clone();
    before["my_own"] = json!(1);
    fs::write(&visor, before.to_string()).unwrap();
    let elsewhere = place.path("elsewhere");
    let mut up = Running::start(&[
        "up",
        visor.to_str().unwrap(),
        "--port",
        "0",
        "--refresh",
        "1",
        // The record of what the deployment last set stays where `config gen` put it.
        "--dir",
        elsewhere.to_str().unwrap(),
        "--policy",
        "dmsg-only",
    ]);
    let page = up.line_with("http://");
    let page = page.split_whitespace().find(|word| word.starts_with("http://")).unwrap().to_owned();
    let in_use = || json_of(&format!("{page}status.json"))["key_sets"]["survey_whitelist"].clone();
    assert_eq!(in_use(), json!([key("survey1")]));
    // The bootstrapper reads its file again by itself.
    deployment("2");
    let wanted = json!(format!("dmsg://{}:80", key("tpd2")));
    let begun = Instant::now();
    while read()["transport"]["discovery_dmsg"] != wanted {
        assert!(begun.elapsed() < Duration::from_secs(60), "{}", read());
        std::thread::yield_now();
    }
    let after = read();
    assert_eq!(after["transport"]["discovery"], wanted);
    assert_eq!(after["survey_whitelist"], json!([key("survey2")]));
    // Sets of keys are in use without a restart; an operator's own count like the deployment's.
    let begun = Instant::now();
    while in_use() != json!([key("survey2")]) {
        assert!(begun.elapsed() < Duration::from_secs(20), "{}", in_use());
        std::thread::yield_now();
    }
    assert_eq!(after["routing"]["route_finder"], before["routing"]["route_finder"]);
    for member in ["sk", "pk", "my_own"] {
        assert_eq!(after[member], before[member], "{member}");
    }
    assert_eq!(up.stop("-TERM").0, Some(0));
    drop(conf);
}

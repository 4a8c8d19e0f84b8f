//! `dmsg config check`: says what is wrong, dials nothing; with `--probe`, tries everything.

use axum::{Router, routing::get};
use tokio::net::TcpListener;

use crate::{
    program::{assert_exit, dmsg, stderr, stdout},
    support::{Place, REFUSED, Relay, deployment, element, key, serve_over_dmsg},
};

fn check(place: &Place, text: &str, extra: &[&str]) -> std::process::Output {
    let file = place.write("deployment.json", text);
    dmsg(&["config", "check"]).arg(file).args(extra).env_remove("SKYDEPLOY").output().unwrap()
}

#[test]
fn a_good_document_is_summed_up_and_its_warnings_go_to_stderr() {
    let place = Place::new();
    let text = format!(r#"{{"prod":{},"later":1}}"#, deployment("tpd", r#""odd":true"#));
    let output = check(&place, &text, &[]);
    assert_exit(&output, 0);
    assert!(
        stdout(&output).contains("prod: 0 services over DMSG, 2 over HTTP"),
        "{}",
        stdout(&output)
    );
    assert!(stdout(&output).contains("test: empty"));
    let said = stderr(&output);
    for path in [
        "$.prod.odd: warning",
        "$.later: warning",
        "$.prod.conf: warning: the service is not there",
    ] {
        assert!(said.contains(path), "{said}");
    }
}

#[test]
fn all_that_is_wrong_is_told_with_file_line_column_and_path() {
    let place = Place::new();
    let bad = format!(
        "{{\"prod\":{{\n \"conf\":5,\n \"stun_servers\":[\"x\"]}},\n\"test\":{{\"dmsg_servers\":[{}]}}}}",
        element("02", "h:1")
    );
    let output = check(&place, &bad, &[]);
    assert_exit(&output, 2);
    let said = stderr(&output);
    for place in [
        "deployment.json:2:9: $.prod.conf: ",
        "deployment.json:3:18: $.prod.stun_servers[0]: ",
        "deployment.json:4:35: $.test.dmsg_servers[0].static: ",
    ] {
        assert!(said.contains(place), "{said}");
    }
    assert_eq!(stdout(&output), "");
}

#[test]
fn what_a_stronger_source_excludes_is_no_conflict() {
    let place = Place::new();
    let good = place.write("good.json", r#"{"prod":{"dmsg_discovery":"http://d"}}"#);
    let bad = place.write("bad.json", "{}");
    let (good, bad) = (good.to_str().unwrap(), bad.to_str().unwrap());
    let mut command = dmsg(&["config", "check", good]);
    assert_exit(&command.env("DMSG_DEPLOYMENT", bad).output().unwrap(), 0);
    assert_exit(&dmsg(&["config", "check"]).env("DMSG_DEPLOYMENT", good).output().unwrap(), 0);
    let toml = place.write("dmsg.toml", &format!("deployment = {bad:?}\n"));
    let toml = toml.to_str().unwrap();
    assert_exit(&dmsg(&["--config", toml, "config", "check", good]).output().unwrap(), 0);
    assert_exit(&dmsg(&["--config", toml, "config", "check"]).output().unwrap(), 2);
    let secret = place.path("secret");
    let made = dmsg(&["key", "new", "--out"]).arg(&secret).output().unwrap();
    let secret = secret.to_str().unwrap();
    let args = ["config", "gen", "--nofetch", "-o", "-", "--deployment", good, "--secret-key-file"];
    let mut command = dmsg(&[&args[..], &[secret]].concat());
    let output = command.env("DMSG_SECRET_KEY", "11".repeat(32)).output().unwrap();
    assert_exit(&output, 0);
    assert!(stdout(&output).contains(stdout(&made).trim()), "the file's key is the visor's");
    // Two of one source are still one too many.
    let mut command = dmsg(&["config", "check", good, "--deployment", good]);
    assert_exit(&command.output().unwrap(), 2);
}

#[test]
fn what_nobody_could_reach_is_an_error() {
    let place = Place::new();
    for (text, said) in [
        ("{\"prod\":{}}".to_owned(), "$.prod: it is empty"),
        (
            "{\"prod\":{\"conf\":\"http://c\"}}".to_owned(),
            "$.prod.dmsg_discovery: the deployment has no discovery",
        ),
        (
            format!("{{\"prod\":{{\"dmsg_discovery_dmsg\":\"{}:80\"}}}}", key("d")),
            "no relay server is listed",
        ),
    ] {
        let output = check(&place, &text, &[]);
        assert_exit(&output, 2);
        assert!(stderr(&output).contains(said), "{}", stderr(&output));
    }
    let test = r#"{"prod":{"dmsg_discovery":"http://d"}}"#;
    assert_exit(&check(&place, test, &[]), 0);
    assert_exit(&check(&place, test, &["--testenv"]), 2);
    let absent = dmsg(&["config", "check", "absent.json"]).output().unwrap();
    assert_exit(&absent, 26);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_probe_tries_everything_and_prints_a_table() {
    let (relay, place) = (Relay::start(), Place::new());
    let service = Router::new().route("/health", get(|| async { "{}" }));
    let (_client, over_dmsg) = serve_over_dmsg(&relay, service.clone()).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let over_http = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, service).await });
    let good = format!(
        r#"{{"prod":{{"dmsg_discovery":"{over_http}","dmsg_discovery_dmsg":"{over_dmsg}","dmsg_servers":[{}]}}}}"#,
        relay.element()
    );
    let probe = |text: String| {
        let file = place.write("deployment.json", &text);
        let mut command = dmsg(&["config", "check", "--probe", "--timeout", "2"]);
        command.arg(file);
        tokio::task::spawn_blocking(move || command.output().unwrap())
    };
    let output = probe(good.clone()).await.unwrap();
    assert_exit(&output, 0);
    let table = stdout(&output);
    let rows: Vec<Vec<&str>> = table.lines().map(|l| l.split_whitespace().collect()).collect();
    let row = |what: &str, path: &str| rows.iter().find(|r| r[0] == what && r[1] == path).unwrap();
    assert_eq!(
        row("server", "tcp")[4],
        format!("{}@{}", relay.record().key, relay.record().address)
    );
    assert_eq!(row("dmsg-discovery", "dmsg")[4], over_dmsg);
    assert_eq!(row("dmsg-discovery", "http")[4], over_http);
    assert!(stderr(&output).contains("3/3 "), "progress goes to stderr");
    // The same with a server, a service over DMSG and one over HTTP that are not there.
    let bad = good.replace(
        "\"dmsg_servers\":[",
        &format!(
            r#""route_finder":"http://{REFUSED}","route_finder_dmsg":"{}:80","dmsg_servers":[{},"#,
            key("absent"),
            element(&key("dead"), REFUSED)
        ),
    );
    let output = probe(bad).await.unwrap();
    assert_exit(&output, 7);
    let table = stdout(&output);
    assert_eq!(table.matches(" failed ").count(), 3, "{table}");
    assert_eq!(table.matches(" ms ").count(), 3, "{table}");
    assert!(stderr(&output).contains("3 of 6 did not answer"));
    // What answers everything is no discovery.
    let portal = Router::new().fallback(|| async { "<html>welcome to our network</html>" });
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, portal).await });
    let output = probe(format!(r#"{{"prod":{{"dmsg_discovery":"{url}"}}}}"#)).await.unwrap();
    assert_exit(&output, 7);
    assert!(stdout(&output).contains("something else answers there"), "{}", stdout(&output));
}

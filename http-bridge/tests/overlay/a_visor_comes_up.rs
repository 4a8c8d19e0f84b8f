//! `dmsg up` while the only relay is away, appears, and goes again.

use std::time::{Duration, Instant};

use dmsg_http::deployment::{
    Services,
    visor::{Output, VisorConfig},
};
use serde_json::Value;

use crate::{
    program::{Running, assert_exit, run, stderr},
    world::{Service, free_address, key, kill, record, relay},
};

/// The time that a line of `dmsg up` begins with.
fn seconds(line: &str) -> f64 {
    line.split_whitespace().next().unwrap().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn it_serves_over_http_at_once_and_over_dmsg_as_long_as_there_is_a_relay() {
    let address = free_address().await;
    let service = Service::start("up service", vec![record("up relay", address)]).await;
    let (http, dmsg) =
        (service.endpoints.http.clone().unwrap(), service.endpoints.dmsg.clone().unwrap());
    let relay_key = key("up relay").public_key();
    let (services, _) = Services::parse(&format!(
        r#"{{"route_finder":"{http}","route_finder_dmsg":"dmsg://{}",
            "dmsg_servers":[{{"static":"{relay_key}","server":{{"address":"{address}"}}}}]}}"#,
        dmsg.host()
    ))
    .unwrap();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("visor.json");
    let config = VisorConfig::new(&key("up visor"), &services, Output::Dual);
    std::fs::write(&file, config.to_pretty().as_bytes()).unwrap();

    let file = file.to_str().unwrap();
    let mut up = Running::start(&["up", "--config", file, "--port", "0", "--interval", "0.3"]);
    let page = up.line_with("status page");
    let page = page.split_whitespace().last().unwrap().to_owned();
    let first = up.line_with("route-finder: answers over HTTP");
    assert!(seconds(&first) < 1.0, "{first}");

    let relay = relay("up relay", address);
    let appeared = Instant::now();
    up.line_with("route-finder: answers over DMSG");
    assert!(appeared.elapsed() < Duration::from_secs(5), "{:?}", appeared.elapsed());
    let output =
        tokio::process::Command::new("curl").args(["-sf", &format!("{page}status.json")]).output();
    match output.await {
        Ok(output) => {
            let status: Value = serde_json::from_slice(&output.stdout).unwrap();
            assert_eq!(
                (&status["services_answering"], &status["services_present"]),
                (&1.into(), &1.into())
            );
            assert_eq!(status["dmsg"]["state"], "ready");
            assert!(
                status["first_answer_ms"]["dmsg"].as_f64()
                    > status["first_answer_ms"]["http"].as_f64()
            );
        }
        Err(error) => println!("skipped: no curl to read the page with ({error})"),
    }

    kill(relay).await;
    up.line_with("route-finder: answers over HTTP");
    let (code, took, _) = up.stop("-INT");
    assert_eq!(code, Some(0));
    assert!(took < Duration::from_secs(3), "{took:?}");
}

#[test]
fn what_is_no_configuration_is_refused_with_its_place() {
    assert_exit(&run(&["up"]), 2);
    assert_exit(&run(&["up", "/nonexistent/visor.json"]), 26);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("visor.json");
    std::fs::write(&file, "{\"sk\":\"0123\"}").unwrap();
    let output = run(&["up", "--config", file.to_str().unwrap()]);
    assert_exit(&output, 2);
    let text = stderr(&output);
    assert!(
        text.contains("visor.json:") && text.contains("$.sk") && !text.contains("0123"),
        "{text}"
    );
}

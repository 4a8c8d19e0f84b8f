//! `dmsg config gen` takes the deployment over DMSG, else over HTTP, else from what is at hand; whatever is wrong with
//! a source, the next one is taken, stdout stays JSON, and the exit code is 0.

use crate::support::{
    Answer, Closed, OverDmsg, OverHttp, Place, REFUSED, Relay, deployment, element, generate, key,
};

/// What a bootstrapper may answer that is no deployment, and what is said of it.
fn bad_answers() -> Vec<(Answer, &'static str)> {
    let off_curve = "0238c0f0e55f1de6f85b0d4c6fc24a5fe9ed3b8f86e0a5f4bc1e7b7a5f4d97e0a5";
    vec![
        (Answer::ok("{\"prod\": {,"), "no JSON"),
        (Answer::ok("<html>down for maintenance</html>"), "no JSON"),
        (Answer::ok(""), "no JSON"),
        (Answer::ok("{}"), "this is no deployment"),
        (Answer::ok("[1]"), "an object is wanted"),
        (Answer::ok(r#"{"dmsg_discovery":"http://a","dmsg_discovery":"http://b"}"#), "second time"),
        (
            Answer::ok(format!(
                r#"{{"dmsg_discovery":"http://a","uptime_tracker_dmsg":"{off_curve}:80"}}"#
            )),
            "not a point of secp256k1",
        ),
        (Answer::Bytes(vec![0xff; 20]), "no UTF-8"),
        (Answer::Text(500, deployment("wrong", "")), "500"),
        (Answer::Text(404, deployment("wrong", "")), "404"),
        (Answer::Text(204, String::new()), "204"),
        (Answer::Endless, "longer than 1048576 bytes"),
        (Answer::ok(" ".repeat(1_048_577)), "longer than 1048576 bytes"),
        (Answer::Trickle, "did not answer within 1.5s"),
        (Answer::Silence, "did not answer within 1.5s"),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn dmsg_comes_first_and_http_is_not_asked() {
    let relay = Relay::start();
    let over_dmsg = OverDmsg::start(&relay, Answer::ok(deployment("over-dmsg", ""))).await;
    let over_http = OverHttp::start(Answer::ok(deployment("over-http", ""))).await;
    let place = Place::new();
    // One of the servers is not there; that one does not matter.
    let document = place.document(&format!(
        r#""conf":"{}","conf_dmsg":"{}","dmsg_servers":[{},{}]"#,
        over_http.url,
        over_dmsg.url,
        element(&key("dead"), REFUSED),
        relay.element()
    ));
    let generated = generate(&document, &[]).await;
    generated
        .came_from("over-dmsg", &[&format!("DMSG: the deployment comes from {}", over_dmsg.url)]);
    assert_eq!((over_dmsg.asked(), over_http.asked()), (1, 0));
    // What came over DMSG is not supplemented, not even when it lacks what is at hand.
    assert_eq!(generated.config()["dmsg"]["servers"], serde_json::json!([]));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_does_not_suffice_leads_to_the_next_source() {
    let relay = Relay::start();
    let place = Place::new();
    let entrance = format!(r#"{{"conf_dmsg":"{}:80"}}"#, key("conf"));
    let over_dmsg = OverDmsg::start(&relay, Answer::ok(entrance.as_str())).await;
    let over_http = OverHttp::start(Answer::ok(entrance.as_str())).await;
    let document = place.document(&format!(
        r#""conf":"{}","conf_dmsg":"{}","dmsg_servers":[{}]"#,
        over_http.url,
        over_dmsg.url,
        relay.element()
    ));
    let generated = generate(&document, &[]).await;
    let said = [
        format!("DMSG: the deployment of {} does not suffice", over_dmsg.url),
        format!("HTTP: the deployment of {} does not suffice", over_http.url),
    ];
    generated.came_from("at-hand", &said.each_ref().map(String::as_str));
    assert_eq!((over_dmsg.asked(), over_http.asked()), (1, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_over_dmsg_leads_to_http() {
    let place = Place::new();
    let over_http = OverHttp::start(Answer::ok(deployment("over-http", ""))).await;
    let answers = bad_answers();
    let count = answers.len();
    for (answer, said) in answers {
        let relay = Relay::start();
        let over_dmsg = OverDmsg::start(&relay, answer).await;
        let document = place.document(&format!(
            r#""conf":"{}","conf_dmsg":"{}","dmsg_servers":[{}]"#,
            over_http.url,
            over_dmsg.url,
            relay.element()
        ));
        let generated = generate(&document, &[]).await;
        generated.came_from("over-http", &["DMSG: ", said, "HTTP: the deployment comes from"]);
        assert_eq!(over_dmsg.asked(), 1, "nothing is tried twice: {said}");
    }
    assert_eq!(over_http.asked(), count);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_over_http_leads_to_what_is_at_hand() {
    let place = Place::new();
    for (answer, said) in bad_answers() {
        let over_http = OverHttp::start(answer).await;
        let document = place.document(&format!(r#""conf":"{}""#, over_http.url));
        let generated = generate(&document, &[]).await;
        let no_dmsg = "DMSG: the deployment at hand has no conf_dmsg";
        generated.came_from("at-hand", &[no_dmsg, "HTTP: ", said, "deployment.json"]);
        assert_eq!(over_http.asked(), 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redirect_is_not_followed() {
    let target = OverHttp::start(Answer::ok(deployment("over-http", ""))).await;
    let over_http = OverHttp::start(Answer::Redirect(target.url.clone())).await;
    let document = Place::new();
    let document = document.document(&format!(r#""conf":"{}""#, over_http.url));
    generate(&document, &[]).await.came_from("at-hand", &["redirects are not followed"]);
    assert_eq!(target.asked(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn dead_servers_and_dead_names_lead_to_what_is_at_hand() {
    let place = Place::new();
    let silent = Closed::new();
    for (server, said) in [
        (REFUSED.to_owned(), "none of the 1 DMSG servers was reached"),
        (silent.address().to_string(), "none of the 1 DMSG servers was reached"),
    ] {
        let document = place.document(&format!(
            r#""conf":"http://conf.invalid","conf_dmsg":"{}:80","dmsg_servers":[{}]"#,
            key("conf"),
            element(&key("server"), &server)
        ));
        generate(&document, &[]).await.came_from("at-hand", &[said, "HTTP: "]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bootstrapper_that_is_not_there_leads_to_http() {
    let (relay, place) = (Relay::start(), Place::new());
    let over_http = OverHttp::start(Answer::ok(deployment("over-http", ""))).await;
    let document = place.document(&format!(
        r#""conf":"{}","conf_dmsg":"{}:80","dmsg_servers":[{}]"#,
        over_http.url,
        key("absent"),
        relay.element()
    ));
    generate(&document, &[]).await.came_from("over-http", &["DMSG: no connection"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_old_bootstrapper_is_supplemented_for_the_same_services_only() {
    let place = Place::new();
    let (discovery, tpd, resolver, server) =
        (key("discovery"), key("tpd"), key("resolver"), key("server"));
    let old = format!(
        r#"{{"dmsg_discovery":"http://{REFUSED}","transport_discovery":"http://over-http.invalid",
        "address_resolver":"http://ar.private"}}"#
    );
    let over_http = OverHttp::start(Answer::ok(old)).await;
    let at_hand = format!(
        r#"{{"prod":{{"conf":"{}","dmsg_discovery":"http://{REFUSED}","dmsg_discovery_dmsg":"{discovery}:80",
        "transport_discovery":"http://over-http.invalid","transport_discovery_dmsg":"dmsg://{tpd}:80",
        "address_resolver":"http://ar.public","address_resolver_dmsg":"dmsg://{resolver}:80",
        "dmsg_servers":[{}]}}}}"#,
        over_http.url,
        element(&server, REFUSED)
    );
    let document = place.write("deployment.json", &at_hand);
    let generated = generate(&document, &[]).await;
    let added = "dmsg_discovery_dmsg, transport_discovery_dmsg, dmsg_servers";
    generated.came_from("over-http", &[added]);
    let config = generated.config();
    assert_eq!(config["dmsg"]["discovery_dmsg"], format!("dmsg://{discovery}:80"));
    assert_eq!(config["transport"]["discovery_dmsg"], format!("dmsg://{tpd}:80"));
    assert_eq!(config["transport"]["address_resolver"], "http://ar.private");
    let resolver = &config["transport"]["address_resolver_dmsg"];
    assert_eq!(resolver, "", "a private service got a public key");
    assert_eq!(config["dmsg"]["servers"][0]["static"], server.as_str());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_file_of_services_is_taken_when_nobody_answers() {
    let place = Place::new();
    let document = place.document(&format!(r#""conf":"http://{REFUSED}""#));
    let given = place.write("given.json", &format!("{{\"prod\":{}}}", deployment("given", "")));
    let given = given.to_str().unwrap();
    generate(&document, &["--services", given]).await.came_from("given", &["given.json"]);
    let over_http = OverHttp::start(Answer::ok(deployment("over-http", ""))).await;
    let document = place.document(&format!(r#""conf":"{}""#, over_http.url));
    generate(&document, &["--services", given]).await.came_from("over-http", &[]);
    let nofetch = ["--services", given, "--nofetch"];
    generate(&document, &nofetch).await.came_from("given", &["nobody is asked"]);
    assert_eq!(over_http.asked(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_variable_names_the_deployment_at_hand() {
    let place = Place::new();
    let document = place.document("");
    let mut command = crate::program::dmsg(&["config", "gen", "--nofetch", "-o", "-"]);
    let output = command.env("SKYDEPLOY", &document).output().unwrap();
    crate::program::assert_exit(&output, 0);
    let config: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(config["transport"]["discovery"], "http://at-hand.invalid");
    let broken = place.write("broken.json", "{\"prod\":{\"conf\":5}}");
    let mut command = crate::program::dmsg(&["config", "gen", "--nofetch", "-o", "-"]);
    let output = command.env("SKYDEPLOY", &broken).output().unwrap();
    crate::program::assert_exit(&output, 2);
    let said = crate::program::stderr(&output);
    assert!(said.contains("(SKYDEPLOY):1:17: $.prod.conf: "), "{said}");
    assert!(output.stdout.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_testenv_asks_its_own_bootstrapper() {
    let place = Place::new();
    let over_http = OverHttp::start(Answer::ok(deployment("over-http", ""))).await;
    let members = format!(r#""conf":"{}""#, over_http.url);
    let text =
        format!(r#"{{"prod":{},"test":{}}}"#, deployment("prod", ""), deployment("test", &members));
    let document = place.write("deployment.json", &text);
    generate(&document, &["--testenv"]).await.came_from("over-http", &[]);
    generate(&document, &["--testenv", "--nofetch"]).await.came_from("test", &[]);
    generate(&document, &["--nofetch"]).await.came_from("prod", &[]);
}

#[tokio::test(flavor = "multi_thread")]
async fn dmsg_only_sends_no_plain_http() {
    let (relay, place) = (Relay::start(), Place::new());
    let over_http = OverHttp::start(Answer::ok(deployment("over-http", ""))).await;
    let tpd = key("tpd");
    let document = place.document(&format!(
        r#""conf":"{}","conf_dmsg":"{}:80","dmsg_servers":[{}],"dmsg_discovery_dmsg":"{}:80",
        "transport_discovery_dmsg":"{tpd}:80""#,
        over_http.url,
        key("absent"),
        relay.element(),
        key("discovery"),
    ));
    let generated = generate(&document, &["--dmsg-only"]).await;
    let config = generated.config();
    assert_eq!(config["transport"]["discovery"], format!("dmsg://{tpd}:80"));
    assert_eq!(config["transport"]["discovery_dmsg"], format!("dmsg://{tpd}:80"));
    assert!(!config.to_string().contains("http://"), "{config}");
    let said = crate::program::stderr(&generated.output);
    assert!(said.contains("HTTP: not tried (--dmsg-only)"), "{said}");
    assert_eq!(over_http.asked(), 0);
}

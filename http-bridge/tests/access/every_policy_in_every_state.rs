//! The table of policies: which path answers when DMSG is up or down and HTTP is up or down.

use dmsg_http::access::{AccessPolicy::*, Path, Readiness};

use crate::scripted::{Act, World, ready};

#[tokio::test(start_paused = true)]
async fn the_table() {
    let (dmsg, http) = (Some(Path::Dmsg), Some(Path::Http));
    // Policy; then the answer with both up, DMSG down, HTTP down, both down.
    for (policy, expected) in [
        (DmsgOnly, [dmsg, None, dmsg, None]),
        (DmsgFirst, [dmsg, http, dmsg, None]),
        (HttpFirst, [http, http, dmsg, None]),
        (HttpOnly, [http, http, None, None]),
    ] {
        let states = [(true, true), (false, true), (true, false), (false, false)];
        for ((dmsg_up, http_up), expected) in states.into_iter().zip(expected) {
            let world = World::with_policy(policy);
            let down = Readiness::Failed { reason: "no driver".into() };
            world.readiness.send_replace(if dmsg_up { ready() } else { down });
            if !http_up {
                world.http.set(Act::RefuseConnection);
            }
            let path = world.get().await.ok();
            assert_eq!(path, expected, "{policy:?}, DMSG up: {dmsg_up}, HTTP up: {http_up}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_path_that_the_policy_forbids_is_never_used() {
    for (policy, allowed) in [(DmsgOnly, (3, 0)), (HttpOnly, (0, 3))] {
        let world = World::with_policy(policy);
        world.dmsg.set(Act::BreakOff);
        world.http.set(Act::BreakOff);
        for _ in 0..3 {
            assert!(world.get().await.is_err());
        }
        assert_eq!(world.counts(), allowed, "{policy:?}");
    }
}

//! The access policy of a service on scripted transports, in paused time; one scenario per file.
#![allow(unreachable_pub, clippy::unwrap_used)]

mod a_breaker_opens_recovers_and_is_forgiven;
mod a_cancelled_request_leaves_nothing_behind;
mod a_dead_service_does_not_slow_another;
mod a_hedge_asks_the_second_path;
mod an_endpoint_with_a_path;
mod dmsg_comes_up;
mod dmsg_only_while_dmsg_is_down;
mod every_policy_in_every_state;
mod requests_that_must_not_be_repeated;
mod scripted;
mod the_path_is_visible;

//! What the server's tests and the load harness have in common. It knows neither of them.

pub mod any_certificate;
pub mod balancer_config;

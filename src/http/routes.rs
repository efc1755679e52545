//! The routes of each port.

use std::sync::Arc;

use axum::Router;
use axum::routing::{any, get, post};

use crate::http::accept::certificates;
use crate::http::api::audience::Audience;
use crate::http::api::key::{self, ORDERS};
use crate::http::api::{admin, commands, cors, listing, operator, topic};
use crate::http::failure::{nothing_here, other_method};
use crate::http::ops::{health, status};
use crate::http::pages;
use crate::http::state::State;
use crate::http::upgrade::{admission, echo};

/// The routes of the public ports; operators' routes too, if they have no port of their own.
pub fn router(state: Arc<State>) -> Router {
    let has_dashboard = state.config.has_dashboard(false);
    let mut public = common().merge(publishing()).merge(reading(&state));
    public = match (state.config.debug.echo, has_dashboard) {
        (true, true) => public.route("/", get(echo::or_index)),
        (true, false) => public.route("/", get(echo::echo)),
        (false, true) => public.route("/", get(pages::index)),
        (false, false) => public,
    };
    if state.config.debug.echo {
        public = public.route("/debug/echo", get(echo::echo));
    }
    if has_dashboard {
        public = public.merge(assets());
    }
    match state.config.operator.listen {
        None => finished(state, public.merge(operating(has_dashboard)), Audience::All),
        Some(_) => finished(state, public, Audience::Public),
    }
}

/// The routes of the operators' own port, which has the whole API for backends too.
pub fn operators(state: Arc<State>) -> Router {
    let has_dashboard = state.config.has_dashboard(true);
    let mut routes = common().merge(publishing()).merge(operating(has_dashboard));
    if has_dashboard {
        routes = routes.merge(assets());
    }
    finished(state, routes, Audience::Operators)
}

/// The routes of `server.health_listen`.
pub fn health_alone(state: Arc<State>) -> Router {
    health_routes().fallback(nothing_here).method_not_allowed_fallback(other_method).with_state(state)
}

fn health_routes() -> Router<Arc<State>> {
    Router::new().route("/healthz", get(health::health)).route("/readyz", get(health::ready))
}

/// The routes of every port but the health port: health and sockets.
fn common() -> Router<Arc<State>> {
    // Any method: one other than GET is answered as a failed handshake.
    health_routes().route("/ws", any(admission::plain)).route("/connection/websocket", any(admission::centrifuge))
}

/// The files of the dashboard's pages.
fn assets() -> Router<Arc<State>> {
    Router::new().route("/assets/{*name}", get(pages::asset))
}

/// Routes that clients read, also from pages of other origins.
fn reading(state: &Arc<State>) -> Router<Arc<State>> {
    Router::new()
        .route("/api/topics", get(listing::topics).options(cors::preflight))
        .route("/api/topics/{*topic}", get(topic::topic).options(cors::preflight))
        .route_layer(axum::middleware::from_fn_with_state(state.clone(), cors::readable))
}

/// Routes for publishers. A batch may hold operators' commands, if [`Audience::takes_orders`].
fn publishing() -> Router<Arc<State>> {
    Router::new()
        .route("/api", post(commands::older))
        .route("/api/publish", post(commands::one))
        .route("/api/broadcast", post(commands::one))
        .route("/api/batch", post(commands::batch))
}

/// Routes for operators; [`operator::guard`] asks for a key, at `/admin/…` always.
fn operating(has_dashboard: bool) -> Router<Arc<State>> {
    let pages = match has_dashboard {
        true => Router::new().route("/ops", get(pages::index)),
        false => Router::new(),
    };
    let orders = ORDERS.iter();
    orders
        .fold(pages, |router, order| router.route(&format!("/api/{order}"), post(commands::one)))
        .route("/status", get(status::status))
        .route("/metrics", get(status::metrics))
        .route("/admin/drain", post(admin::drain))
}

fn finished(state: Arc<State>, router: Router<Arc<State>>, audience: Audience) -> Router {
    router
        .fallback(nothing_here)
        .method_not_allowed_fallback(other_method)
        .layer(axum::middleware::from_fn_with_state(state.clone(), key::known))
        .layer(axum::middleware::from_fn_with_state(state.clone(), certificates::publishers))
        .layer(axum::middleware::from_fn_with_state(state.clone(), operator::guard))
        .layer(axum::Extension(audience))
        .layer(axum::extract::DefaultBodyLimit::max(crate::limits::PUBLISH_BODY_BYTES_MAX))
        .with_state(state)
}

//! The configuration in environment variables.

/// `NEXUS_…` variables that are configuration; `NEXUS_CONFIG`, `NEXUS_LOG`, `NEXUS_REDIS_URL` and
/// the like are not.
pub(super) fn environment() -> impl Iterator<Item = (String, String)> {
    std::env::vars().filter(|(name, _)| name.contains("__"))
}

//! Faults of a configuration, as text.

/// All faults that `look` finds, as one text.
pub(super) fn joined(look: impl FnOnce(&mut dyn FnMut(&str, String))) -> Result<(), String> {
    let mut found = Vec::new();
    look(&mut |key, reason| found.push(format!("{key}: {reason}")));
    if found.is_empty() { Ok(()) } else { Err(found.join("; ")) }
}

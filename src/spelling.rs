//! Suggests the known name that an unknown one was probably meant to be: one with a typing error or
//! two.

/// Longer names are not checked, in bytes.
const NAME_BYTES_MAX: usize = 48;

/// The one of `known` that is close to `name`, if any.
pub fn nearest<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    if name.len() > NAME_BYTES_MAX {
        return None;
    }
    let near = known.into_iter().filter(|known| known.len() <= NAME_BYTES_MAX);
    let near = near.map(|known| (slips(name.as_bytes(), known.as_bytes()), known));
    // A short name with two wrong letters has little in common with the original.
    let may = |known: &str| if known.len().min(name.len()) <= 4 { 1 } else { 2 };
    near.filter(|(slips, known)| *slips <= may(known)).min_by_key(|(slips, _)| *slips).map(|(_, known)| known)
}

/// The number of letters that are missing, extra, wrong or swapped; case is ignored.
fn slips(a: &[u8], b: &[u8]) -> usize {
    let same = |a: Option<&u8>, b: Option<&u8>| a.zip(b).is_some_and(|(a, b)| a.eq_ignore_ascii_case(b));
    // Rows of the table of distances between prefixes of both: the one before the last, the last,
    // and the current one.
    let (mut older, mut last): (Vec<usize>, Vec<usize>) = (Vec::new(), (0..=b.len()).collect());
    for i in 1..=a.len() {
        let mut row = vec![i];
        for j in 1..=b.len() {
            let of = |row: &[usize], at: usize| row.get(at).copied().unwrap_or(usize::MAX / 2);
            let other = usize::from(!same(a.get(i - 1), b.get(j - 1)));
            let mut least = (of(&last, j) + 1).min(of(&row, j - 1) + 1).min(of(&last, j - 1) + other);
            if i > 1 && j > 1 && same(a.get(i - 1), b.get(j - 2)) && same(a.get(i - 2), b.get(j - 1)) {
                least = least.min(of(&older, j - 2) + 1);
            }
            row.push(least);
        }
        older = std::mem::replace(&mut last, row);
    }
    last.last().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slips_of_the_hand_are_found_and_other_words_are_not() {
        let known = ["channel", "channels", "data", "kind", "ts", "idempotency_key"];
        for (name, meant) in [
            ("chanel", Some("channel")),
            ("Channel", Some("channel")),
            ("chnanel", Some("channel")),
            ("chanels", Some("channels")),
            ("dat", Some("data")),
            ("dtaa", Some("data")),
            ("idempotencyKey", Some("idempotency_key")),
            ("tst", Some("ts")),
            ("x", None),
            ("payload", None),
            ("date_of", None),
            ("", None),
            (&"c".repeat(1_000_000), None),
        ] {
            assert_eq!(nearest(name, known), meant, "{}", &name[..name.len().min(20)]);
        }
    }
}

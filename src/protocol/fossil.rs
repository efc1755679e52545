//! Delta compression in the format of Fossil SCM (fossil-scm.org, "Fossil Delta Format"). The
//! result says which parts of the new value are copied from the one before, and which are new. It
//! is made once for all sessions that hold the value before.
//!
//! Published values are short and alike, so blocks have 8 bytes, where Fossil's own encoder uses
//! 16. Decoders see no difference: only the format is fixed, not the choice of blocks.

use std::collections::HashMap;

/// Bytes of the source in one lookup.
const BLOCK: usize = 8;

/// Positions tried for one block of the source.
const CHAIN_MAX: usize = 8;

const DIGITS: &[u8; 64] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ_abcdefghijklmnopqrstuvwxyz~";

fn put_int(out: &mut Vec<u8>, mut value: usize) {
    let start = out.len();
    loop {
        out.push(DIGITS.get(value % 64).copied().unwrap_or(b'0'));
        value /= 64;
        if value == 0 {
            break;
        }
    }
    if let Some(digits) = out.get_mut(start..) {
        digits.reverse();
    }
}

fn int_len(value: usize) -> usize {
    let bits = usize::BITS as usize - value.leading_zeros() as usize;
    bits.div_ceil(6).max(1)
}

/// Sum of the big-endian 32-bit words; the last is padded with zeros.
fn checksum(bytes: &[u8]) -> u32 {
    let (words, rest) = bytes.as_chunks::<4>();
    let mut last = [0; 4];
    for (slot, byte) in last.iter_mut().zip(rest) {
        *slot = *byte;
    }
    words.iter().fold(u32::from_be_bytes(last), |sum, word| sum.wrapping_add(u32::from_be_bytes(*word)))
}

fn common_prefix(a: &[u8], b: &[u8]) -> usize {
    a.iter().zip(b).take_while(|(x, y)| x == y).count()
}

fn common_suffix(a: &[u8], b: &[u8]) -> usize {
    a.iter().rev().zip(b.iter().rev()).take_while(|(x, y)| x == y).count()
}

fn put_literal(out: &mut Vec<u8>, text: &[u8]) {
    if !text.is_empty() {
        put_int(out, text.len());
        out.push(b':');
        out.extend_from_slice(text);
    }
}

fn put_copy(out: &mut Vec<u8>, count: usize, from: usize) {
    put_int(out, count);
    out.push(b'@');
    put_int(out, from);
    out.push(b',');
}

/// The difference from `source` to `target`. `None` if it is not shorter than `target`, or if it
/// would cut a character of `text` in two (JSON carries it as text).
pub(super) fn delta(source: &[u8], target: &[u8], text: bool) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(target.len().min(256));
    put_int(&mut out, target.len());
    out.push(b'\n');

    let mut blocks: HashMap<&[u8], Vec<usize>> = HashMap::new();
    for (n, block) in source.chunks_exact(BLOCK).enumerate() {
        let places = blocks.entry(block).or_default();
        if places.len() < CHAIN_MAX {
            places.push(n * BLOCK);
        }
    }
    // Bytes from `pending` to `at` were examined but not yet written.
    let (mut at, mut pending) = (0, 0);
    // Updates change a few digits in place, so the same position is tried before any block.
    let mut shift: isize = 0;
    while at < target.len() {
        let rest = target.get(at..).unwrap_or_default();
        let here = at.checked_add_signed(shift);
        let straight = here.map_or(0, |from| common_prefix(source.get(from..).unwrap_or_default(), rest));
        let mut best = (straight, 0, here.unwrap_or(0));
        if straight < 2 * BLOCK
            && let Some(places) = rest.get(..BLOCK).and_then(|block| blocks.get(block))
        {
            for from in places {
                let forward = common_prefix(source.get(*from..).unwrap_or_default(), rest);
                let back =
                    common_suffix(source.get(..*from).unwrap_or_default(), target.get(pending..at).unwrap_or_default());
                if forward + back > best.0 + best.1 {
                    best = (forward, back, *from);
                }
            }
        }
        let (forward, back, from) = best;
        let count = forward + back;
        let start = from - back.min(from);
        // A copy command that is longer than its text is no gain.
        if count > int_len(count) + int_len(start) + 2 + 2 {
            put_literal(&mut out, target.get(pending..at - back).unwrap_or_default());
            put_copy(&mut out, count, start);
            at += forward;
            pending = at;
            shift = isize::try_from(from + forward).ok()? - isize::try_from(at).ok()?;
            continue;
        }
        at += 1;
    }
    put_literal(&mut out, target.get(pending..).unwrap_or_default());
    put_int(&mut out, checksum(target) as usize);
    out.push(b';');
    (out.len() < target.len() && (!text || std::str::from_utf8(&out).is_ok())).then_some(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_changed_price_is_a_fraction_of_the_value() {
        let source = br#"{"symbol":"BTCUSDT","bid":"61800.20","ask":"61800.30","bid_size":"1.204","ask_size":"0.500","last":"61800.20"}"#;
        let target = br#"{"symbol":"BTCUSDT","bid":"61800.40","ask":"61800.50","bid_size":"1.204","ask_size":"0.500","last":"61800.40"}"#;
        let made = delta(source, target, true).unwrap();
        assert_eq!(fossil_delta::deltainv(&source[..], &made), target);
        assert!(made.len() * 2 < target.len(), "{} of {}", made.len(), target.len());
    }

    #[test]
    fn what_would_not_be_shorter_or_would_cut_a_character_is_sent_whole() {
        assert_eq!(delta(b"{\"a\":1}", b"{\"b\":2}", true), None);
        assert_eq!(delta(b"", b"", true), None);
        let (source, target) = ("é".repeat(40), "é".repeat(20) + &"è".repeat(20));
        if let Some(made) = delta(source.as_bytes(), target.as_bytes(), true) {
            assert!(std::str::from_utf8(&made).is_ok());
        }
    }

    proptest! {
        /// Bytes of any value work too.
        #[test]
        fn the_target_comes_back_of_bytes(
            source in prop::collection::vec(any::<u8>(), 0..400),
            at in any::<prop::sample::Index>(),
            change in prop::collection::vec(any::<u8>(), 1..20),
        ) {
            let mut target = source.clone();
            let at = at.index(source.len() + 1);
            target.splice(at..(at + change.len() / 2).min(source.len()), change);
            if let Some(made) = delta(&source, &target, false) {
                prop_assert_eq!(fossil_delta::deltainv(source.as_slice(), &made), target);
            }
        }

        /// An independent decoder restores the target, whatever source and target have in common.
        #[test]
        fn the_target_comes_back(
            pieces in prop::collection::vec("[a-z0-9{}:,\"é]{0,24}", 1..12),
            changes in prop::collection::vec((any::<prop::sample::Index>(), "[a-z0-9]{0,9}"), 0..5),
        ) {
            let source = pieces.concat();
            let mut changed = pieces;
            for (at, text) in changes {
                let at = at.index(changed.len());
                changed[at] = text;
            }
            let target = changed.concat();
            if let Some(made) = delta(source.as_bytes(), target.as_bytes(), true) {
                prop_assert_eq!(fossil_delta::deltainv(source.as_bytes(), &made), target.as_bytes());
                prop_assert!(made.len() < target.len());
            }
        }
    }
}

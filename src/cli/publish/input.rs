//! What is published: a file, or standard input.

use std::path::Path;

use anyhow::{Context as _, bail};
use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncReadExt as _};

/// The file or standard input, and its size if it is known.
pub(super) async fn open(path: &Path) -> anyhow::Result<(Box<dyn AsyncRead + Unpin>, Option<u64>)> {
    if path == Path::new("-") {
        return Ok((Box::new(tokio::io::stdin()), None));
    }
    let file = tokio::fs::File::open(path).await.with_context(|| shown(path))?;
    let about = file.metadata().await.with_context(|| shown(path))?;
    let bytes = about.is_file().then_some(about.len());
    Ok((Box::new(file), bytes))
}

/// The name of the input, for messages.
pub(super) fn shown(path: &Path) -> String {
    if path == Path::new("-") { "standard input".to_owned() } else { path.display().to_string() }
}

/// A whole file, or all of standard input, unless it is far larger than a delta may be.
pub(super) async fn whole(path: &Path, bytes_max: usize) -> anyhow::Result<Bytes> {
    let (input, _) = open(path).await?;
    // White space around the data does not count.
    let most = bytes_max.saturating_mul(2);
    let mut data = Vec::new();
    let read = input.take(most as u64 + 1).read_to_end(&mut data).await;
    if read.with_context(|| shown(path))? > most {
        bail!("{} has more than {most} bytes, and a delta may have {bytes_max} (limits.delta_bytes)", shown(path));
    }
    Ok(data.into())
}

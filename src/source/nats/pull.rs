//! Pull requests to a consumer, of a size that follows the link.
//!
//! Every request has a reply subject of its own, so that it is known which one has ended. The next one is sent when half
//! of what was asked for has come, and never because time has passed: what is on its way is not asked for again.

use std::collections::VecDeque;
use std::time::Duration;

use async_nats::jetstream::consumer::{Consumer, pull};
use async_nats::jetstream::{self, Context};
use async_nats::{StatusCode, Subscriber};
use futures_util::future::BoxFuture;
use futures_util::{FutureExt as _, StreamExt as _};
use tokio::time::Instant;

use super::flow::{Ended, Flow};
use super::read_size::{HEAD_BYTES, ReadSize};
use super::trouble::{Trouble, trouble, unix_ms_of};

/// Messages asked for at once.
pub(super) const BATCH: usize = 2_000;

/// Messages handed out at a time.
const CHUNK: usize = 500;

/// Time for which the server keeps a request for which there are no messages.
const EXPIRES: Duration = Duration::from_secs(30);

/// Time between two signs of life while there is nothing to hand out.
const HEARTBEAT: Duration = Duration::from_secs(5);

/// How the server says that a request has ended that is to be followed by another.
const ENDS: [&str; 3] = ["Message Size Exceeds MaxBytes", "Batch Completed", "Leadership Change"];

/// A message of the consumer, and its place in the stream.
pub(super) struct Pulled {
    pub(super) message: async_nats::Message,
    pub(super) sequence: u64,
    /// When the stream took it, Unix ms.
    pub(super) ms: u64,
    /// Messages behind it.
    pub(super) pending: u64,
}

/// A request that has not ended.
struct Asked {
    number: u64,
    is_single: bool,
    /// What of it has not come.
    messages: usize,
    bytes: usize,
    /// Whether any has.
    has_begun: bool,
}

/// Reads from a consumer.
pub(super) struct Pull {
    context: Context,
    consumer: Consumer<pull::Config>,
    flow: Flow,
    size: ReadSize,
    inbox: String,
    subscriber: Subscriber,
    asked: VecDeque<Asked>,
    /// A request that is being sent.
    asking: Option<BoxFuture<'static, Result<(), Trouble>>>,
    requests: u64,
    /// Bytes to ask for if the next message is larger than what is asked for at once.
    single: Option<usize>,
    /// Bytes of the largest message that is asked for, and whether the next one is larger.
    one_most: usize,
    is_too_large: bool,
    /// Messages that have come.
    delivered: u64,
    /// When the last one did, if there was another behind it; a message waits for a reader that just began.
    came: Option<Instant>,
}

impl Pull {
    /// Begins to read.
    pub(super) async fn open(
        context: Context,
        consumer: Consumer<pull::Config>,
        flow: Flow,
        (size, one_most): (ReadSize, usize),
    ) -> Result<Self, Trouble> {
        let client = context.client();
        let inbox = client.new_inbox();
        let subscriber = client.subscribe(format!("{inbox}.*")).await.map_err(trouble("reading"))?;
        let came = (consumer.cached_info().num_pending > 0).then(Instant::now);
        Ok(Self {
            context,
            consumer,
            flow,
            size,
            inbox,
            subscriber,
            asked: VecDeque::new(),
            asking: None,
            requests: 0,
            single: None,
            one_most,
            is_too_large: false,
            delivered: 0,
            came,
        })
    }

    /// Messages that were waiting when it was opened.
    pub(super) fn pending_at_first(&self) -> u64 {
        self.consumer.cached_info().num_pending
    }

    /// Whether nothing is there to be read, nor on its way; asks the server.
    pub(super) async fn is_at_end(&mut self) -> Result<bool, Trouble> {
        let info = self.flow.wait(self.consumer.get_info()).await.map_err(trouble("consumer"))?;
        let info = info.map_err(trouble("consumer"))?;
        Ok(info.num_pending == 0 && info.delivered.consumer_sequence == self.delivered)
    }

    /// The sequence behind which the next message is; asks the server.
    pub(super) async fn last(&mut self) -> Result<u64, Trouble> {
        let info = self.flow.wait(self.consumer.get_info()).await.map_err(trouble("consumer"))?;
        Ok(info.map_err(trouble("consumer"))?.delivered.stream_sequence)
    }

    /// The next messages; waits for one. None if the next one is larger than those that are asked for. May be dropped at any
    /// time without losing any.
    pub(super) async fn next(&mut self) -> Result<Vec<Pulled>, Trouble> {
        loop {
            if self.is_too_large {
                return Ok(Vec::new());
            }
            self.ask().await?;
            let flow = self.flow.clone();
            let message = match flow.wait(self.subscriber.next()).await {
                Ok(message) => message.ok_or_else(|| Trouble("reading: the subscription has ended".into()))?,
                Err(ended) => {
                    if let (Ended::Lost, Some(came)) = (ended, self.came) {
                        self.size.came(0, came.elapsed());
                    }
                    return Err(trouble("reading")(ended));
                }
            };
            let mut chunk = Vec::new();
            self.take(message, &mut chunk)?;
            while chunk.len() < CHUNK
                && let Some(Some(message)) = self.subscriber.next().now_or_never()
            {
                self.take(message, &mut chunk)?;
            }
            if !chunk.is_empty() {
                return Ok(chunk);
            }
        }
    }

    /// Sends the next request where one is due.
    async fn ask(&mut self) -> Result<(), Trouble> {
        if self.asking.is_none() {
            let (messages, bytes) = self.asked.iter().fold((0, 0), |sum: (usize, usize), asked| {
                (sum.0.saturating_add(asked.messages), sum.1.saturating_add(asked.bytes))
            });
            let size = self.size.bytes();
            if messages > BATCH / 2 && bytes > size / 2 {
                return Ok(());
            }
            if self.asked.iter().any(|asked| asked.is_single) {
                // What its size is, and so the next one's may be, is known when it has come.
                return Ok(());
            }
            let single = self.single.take();
            let (batch, max_bytes) = single.map_or((BATCH, size), |bytes| (1, bytes));
            self.requests += 1;
            let number = self.requests;
            self.asked.push_back(Asked {
                number,
                is_single: single.is_some(),
                messages: batch,
                bytes: max_bytes,
                has_begun: false,
            });
            let config = pull::BatchConfig {
                batch,
                max_bytes,
                expires: Some(EXPIRES),
                idle_heartbeat: HEARTBEAT,
                ..pull::BatchConfig::default()
            };
            let (consumer, inbox) = (self.consumer.clone(), format!("{}.{number}", self.inbox));
            self.asking = Some(Box::pin(async move {
                consumer.request_batch(config, inbox.into()).await.map_err(trouble("reading"))
            }));
        }
        if let Some(asking) = &mut self.asking {
            let outcome = asking.await;
            self.asking = None;
            outcome?;
        }
        Ok(())
    }

    /// Takes in a message, or what the server says of a request.
    fn take(&mut self, message: async_nats::Message, chunk: &mut Vec<Pulled>) -> Result<(), Trouble> {
        match message.status {
            None | Some(StatusCode::OK) => chunk.push(self.take_message(message)?),
            Some(StatusCode::IDLE_HEARTBEAT) => {}
            Some(status) => self.take_end(status, &message)?,
        }
        Ok(())
    }

    fn take_message(&mut self, message: async_nats::Message) -> Result<Pulled, Trouble> {
        if let Some(asked) = self.asked.front_mut() {
            asked.messages = asked.messages.saturating_sub(1);
            asked.bytes = asked.bytes.saturating_sub(message.length);
            asked.has_begun = true;
            if asked.messages == 0 || asked.bytes == 0 {
                self.asked.pop_front();
            }
        }
        let bytes = message.length;
        let message = jetstream::Message { message, context: self.context.clone() };
        let info = message.info().map_err(trouble("a message's place in the stream"))?;
        let (sequence, ms, pending) = (info.stream_sequence, unix_ms_of(info.published), info.pending);
        if info.consumer_sequence != self.delivered + 1 {
            return Err(Trouble(format!("reading: messages before {sequence} were lost on the way")));
        }
        self.delivered = info.consumer_sequence;
        let now = Instant::now();
        if let Some(came) = self.came {
            self.size.came(bytes, now.saturating_duration_since(came));
        }
        self.came = (pending > 0).then_some(now);
        Ok(Pulled { message: message.message, sequence, ms, pending })
    }

    /// A request has ended, and with it those before.
    fn take_end(&mut self, status: StatusCode, message: &async_nats::Message) -> Result<(), Trouble> {
        let text = message.description.as_deref().unwrap_or_default();
        let goes_on = status == StatusCode::TIMEOUT || ENDS.iter().any(|end| text.starts_with(end));
        if !goes_on {
            return Err(Trouble(format!("reading: {status} {text}")));
        }
        let number = message.subject.rsplit('.').next().and_then(|number| number.parse::<u64>().ok()).unwrap_or(0);
        while let Some(asked) = self.asked.pop_front_if(|asked| asked.number <= number) {
            let is_too_large = asked.number == number && !asked.has_begun && status == StatusCode::REQUEST_TERMINATED;
            if is_too_large && text.starts_with("Message Size") {
                let least = self.context.client().max_payload().saturating_add(HEAD_BYTES);
                let bytes = if asked.is_single { asked.bytes.saturating_mul(2) } else { least.max(asked.bytes) };
                self.is_too_large = asked.bytes >= self.one_most;
                self.single = Some(bytes.min(self.one_most));
            }
        }
        Ok(())
    }
}

//! Members of topics: subscriptions that others see, and their joins and leaves.

use crate::auth::Grant;
use crate::config::Action;
use crate::hub::backend::Member;
use crate::hub::event::Request;
use crate::hub::index::SessionIndex;
use crate::hub::pending::Item;
use crate::hub::session::{Client, Special};
use crate::hub::shard::shard::Shard;
use crate::limits::ANNOUNCED_PER_SECOND;
use crate::protocol::MemberInfo;
use crate::rate::Rate;

impl Shard {
    /// Keeps what is special about a subscription that begins, and lets it be seen.
    ///
    /// Where the subscription begins again, others are told only of what they see of it that is not the same.
    pub(in crate::hub::shard) fn note_special(&mut self, index: SessionIndex, item: &Item, grant: Option<Grant>) {
        let before =
            self.sessions.get_mut(index).and_then(|s| s.client.as_mut()).and_then(|c| c.take_special(item.slot));
        let before = before.and_then(|special| special.member);
        let with_token = self.sessions.get_mut(index).is_some_and(|s| s.identity.is_some());
        let options = self.config.namespace(item.topic.namespace());
        let (presence, announce) = (options.presence, options.join_leave);
        let may_see = options.force_push_join_leave || options.allows(Action::Presence, with_token, true);
        let wants = item.options.as_ref().is_some_and(|o| o.join_leave) && announce && may_see;
        let expires_s = grant.as_ref().and_then(|g| g.expires_s);
        if !presence && !announce && expires_s.is_none() && before.is_none() {
            return;
        }
        let (now_ms, now_ns) = (self.clock.now_ms, self.clock.now_ns());
        let announced = Rate::new(ANNOUNCED_PER_SECOND, self.config.limits.subscriptions as u64);
        let Some(session) = self.sessions.get_mut(index) else { return };
        let client = session.client.get_or_insert_with(|| Client::new(now_ms));
        let identity = session.identity.as_deref();
        let info = MemberInfo {
            user: identity.map(|i| i.user.clone()).unwrap_or_default(),
            client: client.id.to_string(),
            conn_info: identity.map(|i| i.info.clone()).unwrap_or_default(),
            chan_info: grant.map(|g| g.info).unwrap_or_default(),
        };
        let unchanged = before.as_ref().filter(|m| *m.info == info);
        // Watchers are told of a session's coming and of its going, or of neither.
        let may_announce = !announce
            || unchanged.is_some_and(|m| m.announce)
            || announced.spend(&mut client.announced_used_ns, now_ns, 1);
        let announce = announce && may_announce;
        let same = unchanged.is_some_and(|m| m.presence == presence && m.announce == announce);
        let shown = || Box::new(Member { info: std::sync::Arc::new(info), presence, announce });
        let member = (presence || announce).then(shown);
        let special = Special { slot: item.slot, expires_s, member: member.clone(), join_leave: wants };
        client.add_special(special);
        self.stats.announcements_withheld.add(u64::from(!may_announce));
        if same {
            return;
        }
        if let Some(member) = before {
            self.requests.send(Request::Left { topic: item.topic.clone(), member });
        }
        if let Some(member) = member {
            self.requests.send(Request::Joined { topic: item.topic.clone(), member });
        }
    }

    /// A subscription that was special has ended.
    pub(in crate::hub::shard) fn depart(&mut self, special: Special) {
        let Some(member) = special.member else { return };
        let Some(topic) = self.fanout.topics.topic(special.slot).map(|topic| topic.name.clone()) else { return };
        self.requests.send(Request::Left { topic, member });
    }
}

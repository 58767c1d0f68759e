//! What goes wrong, and when.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::watch;

/// The state of the link between a daemon and its store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Link {
    /// Calls pass, with the faults of [`Odds`].
    Up,
    /// Calls fail at once, and those under way lose their answers.
    Cut,
    /// Calls and answers wait until the link changes, for ever if it does not.
    Stalled,
}

/// How likely it is that a call fails, each from 0 (never) to 1 (always). None by default.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Odds {
    /// It is not made, and says that the store is unavailable.
    pub refused: f64,
    /// It is made, and says that the store is unavailable.
    pub lost: f64,
    /// Its request takes a while, up to [`Odds::delay_max`]; then its answer may as well.
    pub delayed: f64,
    /// The longest delay of one way.
    pub delay_max: Duration,
}

/// Decides on the faults of one wrapped registry. Clones share it.
#[derive(Clone, Debug)]
pub struct Faults {
    dice: Arc<Mutex<Dice>>,
    link: Arc<watch::Sender<Link>>,
}

#[derive(Debug)]
struct Dice {
    odds: Odds,
    /// Of a splitmix64 generator.
    state: u64,
}

/// What is to happen to one call.
#[derive(Debug)]
pub(crate) struct Fate {
    pub(crate) request_delay: Duration,
    pub(crate) refused: bool,
    pub(crate) answer_delay: Duration,
    pub(crate) lost: bool,
}

impl Faults {
    pub(crate) fn new(seed: u64) -> Self {
        let dice = Dice { odds: Odds::default(), state: seed };
        Self { dice: Arc::new(Mutex::new(dice)), link: Arc::new(watch::Sender::new(Link::Up)) }
    }

    /// Sets the odds of the calls to come.
    pub fn set_odds(&self, odds: Odds) {
        self.dice.lock().unwrap_or_else(PoisonError::into_inner).odds = odds;
    }

    /// Cuts, stalls or heals the link.
    pub fn set_link(&self, link: Link) {
        self.link.send_replace(link);
    }

    pub(crate) fn link(&self) -> watch::Receiver<Link> {
        self.link.subscribe()
    }

    /// The state of the link, waiting while it is stalled.
    pub(crate) async fn link_once_it_moves(&self) -> Link {
        let mut link = self.link();
        let moves = link.wait_for(|link| *link != Link::Stalled).await;
        *moves.expect("the sender is in self")
    }

    pub(crate) fn next_fate(&self) -> Fate {
        self.dice.lock().unwrap_or_else(PoisonError::into_inner).next_fate()
    }
}

impl Dice {
    /// Draws as often whatever the odds are, so that changing them does not shift the faults that follow.
    fn next_fate(&mut self) -> Fate {
        let Odds { refused, lost, delayed, delay_max } = self.odds;
        let [refusal, loss, request, request_share, answer, answer_share] =
            std::array::from_fn(|_| self.draw());
        let delay =
            |drawn: f64, share: f64| if drawn < delayed { delay_max.mul_f64(share) } else { Duration::ZERO };
        Fate {
            request_delay: delay(request, request_share),
            refused: refusal < refused,
            answer_delay: delay(answer, answer_share),
            lost: loss < lost,
        }
    }

    /// From 0 to just below 1.
    fn draw(&mut self) -> f64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.state;
        mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^= mixed >> 31;
        (mixed >> 11) as f64 / (1_u64 << 53) as f64
    }
}

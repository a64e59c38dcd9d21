//! From where an outbox is looked at by those who take nothing from it.
//!
//! Rows that were taken leave dead ones, which a look from the beginning walks over for as long as somebody's long
//! snapshot keeps them. So most looks begin where nothing waited before, and now and then one sees the whole.

use std::time::Duration;

use tokio::time::Instant;

use crate::store::outbox::Glance;

/// How often a look sees the whole outbox: a row that was committed so long after its id was given out, or that was put
/// aside and brought back, may lie before the place from where others look.
const WHOLE_LOOK: Duration = Duration::from_secs(6);

/// The place from where to look.
#[derive(Debug, Default)]
pub struct Outlook {
    looked: Option<Instant>,
    /// The look that is under way is a whole one.
    whole: bool,
    /// Before this nothing waited at the last whole look; and at that and the one before.
    at_last: i64,
    floor: i64,
}

impl Outlook {
    /// Behind which id to look now; 0 when the whole is due.
    pub fn after(&mut self, now: Instant) -> i64 {
        self.whole = self.looked.is_none_or(|looked| now.duration_since(looked) >= WHOLE_LOOK);
        if !self.whole {
            return self.floor;
        }
        self.looked = Some(now);
        0
    }

    /// What that look has seen.
    pub fn saw(&mut self, glance: Glance) {
        if !std::mem::take(&mut self.whole) {
            return;
        }
        let clear = glance.oldest.map_or(glance.issued, |oldest| oldest - 1);
        // Whoever had an id by the look before has had the time of one to commit.
        self.floor = clear.min(std::mem::replace(&mut self.at_last, clear)).max(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn look(outlook: &mut Outlook, at: Instant, oldest: Option<i64>, issued: i64) -> i64 {
        let after = outlook.after(at);
        outlook.saw(Glance { count: 0, oldest, issued });
        after
    }

    #[test]
    fn a_look_begins_where_nothing_waited_at_two_whole_ones() {
        let (began, turn) = (Instant::now(), WHOLE_LOOK);
        let mut outlook = Outlook::default();
        assert_eq!(look(&mut outlook, began, None, 10), 0);
        assert_eq!(look(&mut outlook, began + turn / 2, None, 20), 0, "somebody may still commit a lower one");
        assert_eq!(look(&mut outlook, began + turn, Some(15), 30), 0, "the whole");
        assert_eq!(look(&mut outlook, began + turn, Some(15), 30), 10);
        assert_eq!(look(&mut outlook, began + 2 * turn, Some(8), 40), 0, "the whole, and an old one is found");
        assert_eq!(look(&mut outlook, began + 2 * turn, Some(8), 40), 7);
        assert_eq!(look(&mut outlook, began + 3 * turn, None, 0), 0, "the whole, of a database that went back");
        assert_eq!(look(&mut outlook, began + 3 * turn, None, 0), 0);
    }
}

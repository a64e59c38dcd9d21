//! Versions of boards: microseconds of Postgres's clock, more with every fold (docs/adr/0010-versions-of-boards.md).

/// How far the versions of two folds are apart at least: the increment of the sequence `entry_version`. Those between
/// are for the calls in which a fold is published, each of which leaves the board in a state of its own.
pub const VERSIONS_PER_FOLD: i64 = 1_024;

/// The least version of a board when a part of a fold is published and so many calls are still to come. The fold's own,
/// `fold`, is for the last one alone. Half of the room stays free: what was refused and is published again takes the
/// version after the one that the board has.
pub fn of_part(fold: i64, calls_to_come: usize) -> i64 {
    if calls_to_come == 0 { fold } else { fold - VERSIONS_PER_FOLD / 2 - calls_to_come as i64 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_of_the_largest_folds_have_versions_between_two_folds() {
        let (before, fold) = (0, VERSIONS_PER_FOLD);
        // 40,000 entries of three periods.
        let versions: Vec<i64> = (0..=402).rev().map(|to_come| of_part(fold, to_come)).collect();
        assert!(versions[0] > before && versions.is_sorted_by(|a, b| a < b), "{versions:?}");
        assert_eq!(versions.last(), Some(&fold));
        assert!(of_part(fold, 1) + 400 < fold, "each call may have to be repeated");
    }
}

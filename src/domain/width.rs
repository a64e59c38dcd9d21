//! How much is done at once where too much takes too long.

/// Shrinks by half when so much was too much for the time that a statement may take, and grows again with each piece of
/// full width that passes.
#[derive(Debug, Clone)]
pub struct Width {
    widest: usize,
    most: usize,
}

impl Width {
    /// At most `widest` at once.
    pub fn new(widest: usize) -> Self {
        let widest = widest.max(1);
        Self { widest, most: widest }
    }

    /// How much to do at once now.
    pub const fn most(&self) -> usize {
        self.most
    }

    /// So much took too long.
    pub fn too_much(&mut self, tried: usize) {
        self.most = (tried.min(self.most) / 2).max(1);
    }

    /// So much was done in time.
    pub fn passed(&mut self, done: usize) {
        if done >= self.most && self.most < self.widest {
            self.most = (self.most + self.most / 8 + 1).min(self.widest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_halves_when_it_was_too_much_and_grows_again() {
        let mut width = Width::new(5_000);
        width.too_much(5_000);
        width.too_much(2_500);
        assert_eq!(width.most(), 1_250);
        width.passed(100);
        assert_eq!(width.most(), 1_250, "a small piece says nothing about large ones");
        width.passed(1_250);
        assert_eq!(width.most(), 1_407);
        for _ in 0..100 {
            width.passed(usize::MAX);
        }
        assert_eq!(width.most(), 5_000);
        for _ in 0..20 {
            width.too_much(usize::MAX);
        }
        assert_eq!(width.most(), 1);
    }
}

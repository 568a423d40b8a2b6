//! Random numbers from a seed, the same everywhere and for ever.

/// SplitMix64 (Steele, Lea, Flood 2014).
#[derive(Clone, Debug)]
pub struct Dice(u64);

impl Dice {
    /// Dice of a seed.
    pub fn new(seed: u64) -> Dice {
        Dice(seed)
    }

    /// Other dice, for a purpose of this name: how often one is thrown changes nothing for the other.
    pub fn for_purpose(seed: u64, name: &str) -> Dice {
        let mut dice = Dice(seed ^ xxhash_rust::xxh3::xxh3_64(name.as_bytes()));
        dice.bits();
        dice
    }

    /// 64 random bits.
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// From `0` to `end - 1`; 0 where `end` is 0.
    pub fn below(&mut self, end: u64) -> u64 {
        let random = u128::from(self.bits());
        ((random * u128::from(end)) >> 64) as u64
    }

    /// From `first` to `last`.
    pub fn between(&mut self, first: u64, last: u64) -> u64 {
        first + self.below(last - first + 1)
    }

    /// True once in `times` on average; never for 0.
    pub fn once_in(&mut self, times: u64) -> bool {
        times > 0 && self.below(times) == 0
    }

    /// True `percent` times of a hundred.
    pub fn percent(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    /// One of `all`; `None` of none.
    pub fn one_of<'a, T>(&mut self, all: &'a [T]) -> Option<&'a T> {
        all.get(self.below(all.len() as u64) as usize)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_gives_the_same_numbers() {
        let throw = |mut dice: Dice| [dice.bits(), dice.bits(), dice.bits()];
        // The numbers that the algorithm's authors give for this seed.
        let published = [6_457_827_717_110_365_317, 3_203_168_211_198_807_973, 9_817_491_932_198_370_423];
        assert_eq!(throw(Dice::new(1_234_567)), published);
        assert_eq!(throw(Dice::for_purpose(7, "users")), throw(Dice::for_purpose(7, "users")));
        assert_ne!(throw(Dice::for_purpose(7, "users")), throw(Dice::for_purpose(7, "delays")));
    }
}

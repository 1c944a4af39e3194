//! Everything random: named, seeded streams of a counter-based generator (Philox4x32-10).
//!
//! A stream is a function of seed, purpose and step, not a state that is carried along: an extra draw in one place
//! never changes another, a run can be resumed at any step, and a GPU kernel computes the same integers.
//! Source: Salmon, Moraes, Dror and Shaw, "Parallel random numbers: as easy as 1, 2, 3" (SC 2011).

use std::convert::Infallible;

use rand::TryRng;

use crate::error::{Error, Result};
use crate::float::Float;

const MULTIPLIER: [u32; 2] = [0xD251_1F53, 0xCD9E_8D57];
const WEYL: [u32; 2] = [0x9E37_79B9, 0xBB67_AE85];

/// Philox4x32-10: 128 random bits for a counter and a key.
///
/// ```
/// // Known answer of the reference implementation for an all-zero counter and key.
/// let zero = dylora_tensor::philox([0; 4], [0; 2]);
/// assert_eq!(zero, [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]);
/// ```
#[inline(always)]
pub fn philox(mut counter: [u32; 4], mut key: [u32; 2]) -> [u32; 4] {
    for _ in 0..10 {
        let p0 = u64::from(MULTIPLIER[0]) * u64::from(counter[0]);
        let p1 = u64::from(MULTIPLIER[1]) * u64::from(counter[2]);
        counter = [
            (p1 >> 32) as u32 ^ counter[1] ^ key[0],
            p1 as u32,
            (p0 >> 32) as u32 ^ counter[3] ^ key[1],
            p0 as u32,
        ];
        key = [key[0].wrapping_add(WEYL[0]), key[1].wrapping_add(WEYL[1])];
    }
    counter
}

/// What a stream is for. Streams of one seed with different purposes are independent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum Purpose {
    /// Initial values of adapters.
    Init = 1,
    /// Order of the training rows.
    Order = 2,
    /// Rank of each training step.
    Rank = 3,
    /// Dropout.
    Dropout = 4,
    /// Initial values of a new head, or of a whole random model.
    Head = 5,
    /// Generated text.
    Text = 6,
    /// Which tokens masked-language modelling hides.
    Mask = 7,
    /// Tokens that a language model's text is drawn from.
    Sample = 8,
}

/// A stream of random numbers for one purpose of one seed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stream {
    key: [u32; 2],
    purpose: u32,
}

impl Stream {
    /// The stream of `seed` for `purpose`.
    pub fn new(seed: u64, purpose: Purpose) -> Self {
        Stream {
            key: [seed as u32, (seed >> 32) as u32],
            purpose: purpose as u32,
        }
    }

    /// A sequential generator for one step (or epoch, or parameter), usable with `rand` and `rand_distr`.
    pub fn at(&self, step: u32) -> StreamRng {
        StreamRng {
            stream: *self,
            step,
            block: 0,
            words: [0; 4],
            used: 4,
        }
    }

    /// Numbered draws for one step, for kernels that compute their own counters.
    pub fn draws(&self, step: u32) -> Draws {
        Draws {
            stream: *self,
            step,
            site: 0,
        }
    }
}

/// The site that sequential generators draw from; no numbered draw reaches it.
const SEQUENTIAL: u32 = u32::MAX;

/// A sequential generator over one step of a stream; implements `rand`'s traits.
///
/// ```
/// use dylora_tensor::{Purpose, Stream};
/// use rand::Rng;
/// let order = Stream::new(42, Purpose::Order);
/// assert_eq!(order.at(3).next_u64(), order.at(3).next_u64());
/// assert_ne!(order.at(3).next_u64(), order.at(4).next_u64());
/// ```
#[derive(Clone, Debug)]
pub struct StreamRng {
    stream: Stream,
    step: u32,
    block: u32,
    words: [u32; 4],
    used: usize,
}

impl StreamRng {
    fn next(&mut self) -> u32 {
        if self.used == 4 {
            self.words = philox(
                [self.block, SEQUENTIAL, self.step, self.stream.purpose],
                self.stream.key,
            );
            self.block = self.block.wrapping_add(1);
            self.used = 0;
        }
        self.used += 1;
        self.words[self.used - 1]
    }
}

impl TryRng for StreamRng {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        Ok(self.next())
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        let low = u64::from(self.next());
        Ok(u64::from(self.next()) << 32 | low)
    }

    fn try_fill_bytes(&mut self, out: &mut [u8]) -> Result<(), Infallible> {
        for chunk in out.chunks_mut(4) {
            chunk.copy_from_slice(&self.next().to_le_bytes()[..chunk.len()]);
        }
        Ok(())
    }
}

/// Hands out one [`Draw`] per place that needs random bits in a step, in the order of the calls.
#[derive(Clone, Debug, PartialEq)]
pub struct Draws {
    stream: Stream,
    step: u32,
    site: u32,
}

impl Draws {
    /// The step and the next site.
    pub(crate) fn place(&self) -> (u32, u32) {
        (self.step, self.site)
    }

    /// Goes on as if so many draws had been taken.
    pub(crate) fn skip(&mut self, draws: u32) {
        self.site += draws;
    }

    /// The next draw.
    #[allow(clippy::should_implement_trait)]
    pub fn next(&mut self) -> Draw {
        let draw = Draw {
            key: self.stream.key,
            purpose: self.stream.purpose,
            step: self.step,
            site: self.site,
        };
        self.site += 1;
        draw
    }
}

/// Random bits of one place in one step, addressed by position: reading them again gives the same bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Draw {
    key: [u32; 2],
    purpose: u32,
    step: u32,
    site: u32,
}

/// Elements that get their 16 bits each from eight neighbouring Philox blocks.
const GROUP: usize = 64;
/// Blocks of a group, computed side by side in vector registers.
const LANES: usize = 8;

impl Draw {
    /// 32 random bits for position `index`.
    pub fn word(&self, index: u32) -> u32 {
        philox([index, self.site, self.step, self.purpose], self.key)[0]
    }

    /// The step and site that it draws at.
    pub(crate) fn place(&self) -> (u32, u32) {
        (self.step, self.site)
    }

    /// Key; purpose, step and site: all a kernel needs to draw the same bits.
    pub(crate) fn parts(&self) -> ([u32; 2], [u32; 3]) {
        (self.key, [self.purpose, self.step, self.site])
    }

    /// The words of the eight blocks of a group, word by word: `[w][l]` is word `w` of block `8 group + l`.
    ///
    /// The state is kept in 64-bit lanes whose upper halves are ignored, because that is how vector units multiply.
    #[inline(always)]
    fn group(&self, group: u64) -> [[u32; LANES]; 4] {
        const LOW: u64 = 0xFFFF_FFFF;
        let [m0, m1] = [u64::from(MULTIPLIER[0]), u64::from(MULTIPLIER[1])];
        let first = group.wrapping_mul(LANES as u64);
        // Counters beyond 2^32 blocks spill into the site's upper half, which the site itself never reaches.
        let site = u64::from(self.site ^ (((group >> 29) as u32) << 16));
        let mut c0: [u64; LANES] = std::array::from_fn(|l| first.wrapping_add(l as u64));
        let mut c1 = [site; LANES];
        let mut c2 = [u64::from(self.step); LANES];
        let mut c3 = [u64::from(self.purpose); LANES];
        let mut key = self.key;
        for _ in 0..10 {
            let [k0, k1] = [u64::from(key[0]), u64::from(key[1])];
            for l in 0..LANES {
                let p0 = (c0[l] & LOW) * m0;
                let p1 = (c2[l] & LOW) * m1;
                c0[l] = (p1 >> 32) ^ c1[l] ^ k0;
                c1[l] = p1;
                c2[l] = (p0 >> 32) ^ c3[l] ^ k1;
                c3[l] = p0;
            }
            key = [key[0].wrapping_add(WEYL[0]), key[1].wrapping_add(WEYL[1])];
        }
        [c0, c1, c2, c3].map(|word| word.map(|lane| lane as u32))
    }
}

/// Dropout with probability `p`: a mask that is never stored, because its bits can be drawn again.
///
/// Each element compares 16 random bits with `round(p * 65536)`; kept elements are scaled by the exact inverse of
/// the probability that this gives, so the expectation is exact.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Dropout {
    draw: Draw,
    threshold: u16,
    scale: f64,
}

impl Dropout {
    /// Dropout with probability `p`; `None` where `p` is 0.
    ///
    /// # Errors
    /// Unless `0 <= p < 1`.
    pub fn new(p: f64, draw: Draw) -> Result<Option<Self>> {
        if !(0.0..1.0).contains(&p) {
            return Err(Error::invalid("dropout", format!("probability {p} is not in 0..1")));
        }
        let threshold = (p * 65536.0).round().min(65535.0) as u16;
        Ok((threshold > 0).then(|| Dropout {
            draw,
            threshold,
            scale: 65536.0 / (65536.0 - f64::from(threshold)),
        }))
    }

    /// Key; purpose, step and site; threshold; factor of what is kept: all a kernel needs to draw the same bits.
    /// The step and site that it draws at.
    pub(crate) fn place(&self) -> (u32, u32) {
        (self.draw.step, self.draw.site)
    }

    pub(crate) fn parts(&self) -> ([u32; 2], [u32; 3], u16, f64) {
        let Draw {
            key,
            purpose,
            step,
            site,
        } = self.draw;
        (key, [purpose, step, site], self.threshold, self.scale)
    }

    /// The factors (0 or 1 / (1 - p)) of consecutive elements, beginning with the first of `group`; a group has 64
    /// elements: element `16 w + l` takes the lower, `16 w + 8 + l` the upper half of word `w` of block `l`. Call inside
    /// a vectorised function.
    #[inline(always)]
    pub(crate) fn fill_scale<T: Float>(&self, group: u64, out: &mut [T]) {
        let (whole, tail) = out.as_chunks_mut::<GROUP>();
        let groups = whole.len() as u64;
        for (i, chunk) in whole.iter_mut().enumerate() {
            self.fill_group(group + i as u64, chunk);
        }
        if !tail.is_empty() {
            let mut last = [T::ZERO; GROUP];
            self.fill_group(group + groups, &mut last);
            tail.copy_from_slice(&last[..tail.len()]);
        }
    }

    #[inline(always)]
    fn fill_group<T: Float>(&self, group: u64, out: &mut [T; GROUP]) {
        let keep = T::from_f64(self.scale);
        let threshold = u32::from(self.threshold);
        let words = self.draw.group(group);
        for w in 0..4 {
            for l in 0..LANES {
                let word = words[w][l];
                out[16 * w + l] = if word & 0xFFFF >= threshold { keep } else { T::ZERO };
                out[16 * w + 8 + l] = if word >> 16 >= threshold { keep } else { T::ZERO };
            }
        }
    }
}

/// The groups that a row of `width` elements takes in a dropout mask; every row starts a new one.
#[inline]
pub(crate) fn groups_per_row(width: usize) -> u64 {
    width.div_ceil(GROUP) as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::Rng;
    use rand_distr::{Distribution, Normal};

    #[test]
    fn philox_gives_the_published_known_answers() {
        assert_eq!(
            philox([u32::MAX; 4], [u32::MAX; 2]),
            [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]
        );
        assert_eq!(
            philox(
                [0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344],
                [0xa409_3822, 0x299f_31d0]
            ),
            [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1]
        );
    }

    #[test]
    fn a_group_is_eight_plain_philox_blocks() {
        let mut draws = Stream::new(0x1234_5678_9abc_def0, Purpose::Dropout).draws(7);
        draws.next();
        let draw = draws.next();
        let group = draw.group(5);
        for lane in 0..LANES {
            let words = philox([5 * 8 + lane as u32, 1, 7, 4], [0x9abc_def0, 0x1234_5678]);
            assert_eq!(group.map(|w| w[lane]), words);
        }
        let dropout = Dropout {
            draw,
            threshold: 20_000,
            scale: 2.0,
        };
        let mut factors = [0.0; 64];
        dropout.fill_scale(5, &mut factors);
        for (e, factor) in factors.iter().enumerate() {
            let (w, upper, lane) = (e / 16, e % 16 / 8, e % 8);
            let bits = (group[w][lane] >> (16 * upper)) as u16;
            assert_eq!(*factor, if bits >= 20_000 { 2.0 } else { 0.0 });
        }
    }

    #[test]
    fn dropout_keeps_the_right_share_and_the_mean() -> Result<()> {
        let draw = Stream::new(1, Purpose::Dropout).draws(0).next();
        let dropout = Dropout::new(0.1, draw)?.ok_or(Error::invalid("test", "no dropout"))?;
        let n = 1 << 20;
        let mut factors = vec![0f64; n];
        dropout.fill_scale(3, &mut factors);
        let mean = factors.iter().sum::<f64>() / n as f64;
        // Standard deviation of the mean: sqrt(p / (1 - p) / n) = 3.3e-4; five of them.
        assert!((mean - 1.0).abs() < 1.7e-3, "{mean}");
        let mut again = vec![0f64; 100];
        dropout.fill_scale(4, &mut again);
        assert_eq!(again, factors[64..164]);
        assert!(Dropout::new(1.0, draw).is_err() && Dropout::new(f64::NAN, draw).is_err());
        assert_eq!(Dropout::new(0.0, draw)?, None);
        Ok(())
    }

    #[test]
    fn streams_are_independent_and_usable_with_rand() {
        let mut a = Stream::new(9, Purpose::Init).at(0);
        let mut b = Stream::new(9, Purpose::Rank).at(0);
        assert_ne!(a.next_u64(), b.next_u64());
        if let Ok(normal) = Normal::new(0.0, 1.0) {
            let n = 100_000;
            let mean: f64 = (0..n).map(|_| normal.sample(&mut a)).sum::<f64>() / f64::from(n);
            assert!(mean.abs() < 5.0 / f64::from(n).sqrt());
        }
        let mut bytes = [0; 7];
        a.fill_bytes(&mut bytes);
        assert_ne!(bytes, [0; 7]);
    }
}

//! Inputs made of others, from a seed: the same on every machine.

/// Where chance comes from.
pub struct Chance(u64);

impl Chance {
    /// Any seed will do, zero too.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// Below `max`, which is not zero.
    pub fn below(&mut self, max: usize) -> usize {
        (self.next() % max as u64) as usize
    }

    /// One of `inputs`, changed in one to four places.
    pub fn mutate(&mut self, inputs: &[Vec<u8>]) -> Vec<u8> {
        let mut bytes = inputs[self.below(inputs.len())].clone();
        for _ in 0..=self.below(4) {
            self.change(&mut bytes, inputs);
        }
        bytes.truncate(BYTES_MAX);
        bytes
    }

    fn change(&mut self, bytes: &mut Vec<u8>, inputs: &[Vec<u8>]) {
        let at = self.below(bytes.len() + 1);
        let end = at + self.below(bytes.len() - at + 1).min(64);
        match self.below(8) {
            // A bit, a byte.
            0 if at < bytes.len() => bytes[at] ^= 1 << self.below(8),
            1 if at < bytes.len() => bytes[at] = [0, 1, 0x7f, 0x80, 0xfa, 0xfb, 0xfc, 0xfd, 0xfe, 0xff][self.below(10)],
            // A length that lies, as the codec writes it and as frames do.
            2 => {
                let length = [1_u64 << 60, 1 << 32, u64::MAX, 64 << 20, 5 << 20, 65_536][self.below(6)];
                let mut lie = vec![0xfd];
                lie.extend_from_slice(&length.to_le_bytes());
                bytes.splice(at..at, lie);
            }
            3 => {
                let length = [u32::MAX, 1 << 31, 5 << 20, 1 << 16, 0][self.below(5)];
                bytes.splice(at..(at + 4).min(bytes.len()), length.to_be_bytes());
            }
            // Less, more of the same, more of another.
            4 => drop(bytes.drain(at..end)),
            5 => {
                let part = bytes[at..end].to_vec();
                bytes.splice(at..at, part);
            }
            6 => {
                let other = &inputs[self.below(inputs.len())];
                let from = self.below(other.len() + 1);
                bytes.splice(at..end, other[from..].iter().copied());
            }
            _ => bytes.truncate(at),
        }
    }
}

/// As much as the fuzzers try.
const BYTES_MAX: usize = 4_096;

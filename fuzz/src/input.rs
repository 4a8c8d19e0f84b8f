//! Choices taken from a fuzz input. When the input is used up every choice is zero, so each input is a finite program.

/// A reader of choices.
pub(crate) struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    pub(crate) fn new(data: &'a [u8]) -> Self {
        Self(data)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        *first
    }

    pub(crate) fn word(&mut self) -> u16 {
        u16::from_be_bytes([self.byte(), self.byte()])
    }

    pub(crate) fn rest(self) -> &'a [u8] {
        self.0
    }
}

/// Cuts `data` into pieces whose lengths follow from `pattern`: 0 is one piece, else 1 to `pattern` bytes in turn.
pub(crate) fn pieces(data: &[u8], pattern: u8) -> impl Iterator<Item = &[u8]> {
    let mut rest = data;
    let mut turn = 0_usize;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let len = match usize::from(pattern) {
            0 => rest.len(),
            most => 1 + turn % most,
        };
        turn = turn.wrapping_mul(31).wrapping_add(7);
        let (head, tail) = rest.split_at(len.min(rest.len()));
        rest = tail;
        Some(head)
    })
}

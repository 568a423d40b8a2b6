//! Bytes taken apart, so that one input can be several things.

/// What is left of an input.
#[derive(Clone, Copy)]
pub(crate) struct Input<'a> {
    rest: &'a [u8],
}

impl<'a> Input<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Input<'a> {
        Input { rest: bytes }
    }

    /// The next byte; 0 where none is left.
    pub(crate) fn byte(&mut self) -> u8 {
        match self.rest.split_first() {
            Some((first, rest)) => {
                self.rest = rest;
                *first
            }
            None => 0,
        }
    }

    /// One of these.
    pub(crate) fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[usize::from(self.byte()) % from.len()]
    }

    /// Everything left.
    pub(crate) fn rest(self) -> &'a [u8] {
        self.rest
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// The next piece: its length in two bytes, little-endian, then itself; what there is of it.
    pub(crate) fn piece(&mut self) -> &'a [u8] {
        let length = u16::from_le_bytes([self.byte(), self.byte()]);
        let (piece, rest) = self.rest.split_at(usize::from(length).min(self.rest.len()));
        self.rest = rest;
        piece
    }

    /// All pieces that are left, up to `max`.
    pub(crate) fn pieces(mut self, max: usize) -> Vec<&'a [u8]> {
        let mut pieces = Vec::new();
        while !self.is_empty() && pieces.len() < max {
            pieces.push(self.piece());
        }
        pieces
    }
}

/// Pieces as [`Input::piece`] reads them.
pub(crate) fn joined(pieces: &[&[u8]]) -> Vec<u8> {
    let mut out = Vec::new();
    for piece in pieces {
        let length = u16::try_from(piece.len()).expect("pieces of seeds are short");
        out.extend_from_slice(&length.to_le_bytes());
        out.extend_from_slice(piece);
    }
    out
}

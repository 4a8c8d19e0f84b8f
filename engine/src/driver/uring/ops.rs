//! The names of operations: what a completion belongs to.
//!
//! ```text
//!  user_data   63     56 55          32 31                0
//!              │ kind   │ 0            │ slot or listener  │
//! ```
//!
//! A connection has at most one operation of each kind, and its slot is not reused before the last
//! of them has completed; so no generation is needed here.

/// What an operation does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Kind {
    /// Waits for the mailbox's eventfd.
    Mailbox = 1,
    /// Accepts from a listener.
    Accept,
    Connect,
    Recv,
    Send,
    /// Waits for the failure of a connection that is paused.
    Watch,
    /// Cancels the operation of the kind that is 16 less.
    CancelMailbox = 17,
    CancelAccept,
    CancelConnect,
    CancelRecv,
    CancelSend,
    CancelWatch,
}

impl Kind {
    const ALL: [Self; 12] = [
        Self::Mailbox,
        Self::Accept,
        Self::Connect,
        Self::Recv,
        Self::Send,
        Self::Watch,
        Self::CancelMailbox,
        Self::CancelAccept,
        Self::CancelConnect,
        Self::CancelRecv,
        Self::CancelSend,
        Self::CancelWatch,
    ];

    /// What cancels this, and what this cancels.
    fn counterpart(self) -> Self {
        let other = self as u8 ^ 16;
        Self::ALL.into_iter().find(|kind| *kind as u8 == other).expect("kinds come in pairs")
    }

    pub(super) fn is_cancel(self) -> bool {
        self as u8 & 16 != 0
    }
}

/// An operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Op {
    pub(super) kind: Kind,
    pub(super) index: usize,
}

impl Op {
    pub(super) fn new(kind: Kind, index: usize) -> Self {
        Self { kind, index }
    }

    /// The operation that cancels this one, or that this one cancels.
    pub(super) fn counterpart(self) -> Self {
        Self { kind: self.kind.counterpart(), ..self }
    }

    pub(super) fn encode(self) -> u64 {
        (self.kind as u64) << 56 | self.index as u64
    }

    pub(super) fn decode(user_data: u64) -> Option<Self> {
        let kind = Kind::ALL.into_iter().find(|kind| *kind as u64 == user_data >> 56)?;
        Some(Self { kind, index: (user_data & u64::from(u32::MAX)) as usize })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_survive_the_kernel() {
        for kind in Kind::ALL {
            for index in [0, 1, u32::MAX as usize] {
                let op = Op::new(kind, index);
                assert_eq!(Op::decode(op.encode()), Some(op));
                assert_eq!(op.counterpart().counterpart(), op);
                assert_ne!(op.counterpart().kind.is_cancel(), op.kind.is_cancel());
            }
        }
        assert_eq!(Op::decode(0), None);
    }
}

//! The two operations that multiply the curve's generator by a secret: a public key and a signature.
//!
//! The library hides such a secret from side channels by blinding: each product is computed through a point that nobody
//! outside knows. The `secp256k1` crate's own functions choose that point anew after every use, which costs one and a
//! half times the product itself. Here each thread chooses it before its first use and then every
//! [`USES_PER_BLINDING`]; nothing else differs. Blinding has no influence on results.

use std::{cell::Cell, ptr::NonNull};

use secp256k1::{
    Message, PublicKey, SecretKey,
    ecdsa::RecoverableSignature,
    ffi::{self, CPtr, recovery},
    rerandomize_global_context, with_raw_global_context,
};
use zeroize::Zeroizing;

/// Products of one thread between two choices of the blinding point. The crate asks for "a bit or two" of fresh
/// randomness per use and stirs in whole seeds; a seed of 256 bits for 64 uses gives four, for under 3 % of the time.
const USES_PER_BLINDING: u32 = 64;

thread_local! {
    /// Uses left until the thread's context is blinded anew.
    static USES_LEFT: Cell<u32> = const { Cell::new(0) };
}

/// The point that belongs to `secret`.
pub(super) fn public_key(secret: &SecretKey) -> PublicKey {
    // SAFETY: the zeroed key is no point, and is read by nobody before the library has written one over it.
    let mut key = unsafe { ffi::PublicKey::new() };
    let done = with_blinded_context(secret, |context| {
        // SAFETY: the context is valid for this call and made for all operations; both pointers come from references to
        // values of the types that the library asks for, and `key` is borrowed by nobody else.
        unsafe { ffi::secp256k1_ec_pubkey_create(context.as_ptr(), &mut key, secret.as_c_ptr()) }
    });
    assert!(done == 1, "a SecretKey is a scalar in 1..n");
    key.into()
}

/// Signs with an RFC 6979 nonce.
pub(super) fn sign(message: Message, secret: &SecretKey) -> RecoverableSignature {
    let mut signature = recovery::RecoverableSignature::new();
    let done = with_blinded_context(secret, |context| {
        // SAFETY: as above; the nonce function is the library's own and takes no data.
        unsafe {
            recovery::secp256k1_ecdsa_sign_recoverable(
                context.as_ptr(),
                &mut signature,
                message.as_c_ptr(),
                secret.as_c_ptr(),
                ffi::secp256k1_nonce_function_rfc6979,
                std::ptr::null(),
            )
        }
    });
    assert!(done == 1, "any digest can be signed by a scalar in 1..n");
    signature.into()
}

/// Calls `operation` with the thread's context, which is blinded by a seed that depends on `secret` where it is due. The
/// library stirs the seed into what it has; nothing of it can be found again.
fn with_blinded_context<T>(
    secret: &SecretKey,
    operation: impl FnOnce(NonNull<ffi::Context>) -> T,
) -> T {
    USES_LEFT.with(|left| {
        if left.get() == 0 {
            rerandomize_global_context(&Zeroizing::new(secret.to_secret_bytes()));
            left.set(USES_PER_BLINDING);
        }
        left.set(left.get() - 1);
    });
    with_raw_global_context(operation, None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_are_the_library_s_own_across_blindings() {
        let secret = *crate::identity::SecretKey::from_seed(b"curve").scalar();
        for round in 0..=2 * USES_PER_BLINDING as u8 {
            let message = Message::from_digest([round; 32]);
            let theirs = RecoverableSignature::sign_ecdsa_recoverable(message, &secret);
            assert_eq!(sign(message, &secret), theirs);
            assert_eq!(public_key(&secret), PublicKey::from_secret_key(&secret));
        }
    }
}

//! Randomness that the standard library and tokio take from the operating system, from a seed instead.
//!
//! The hash maps' keys and the order in which `select!` polls come from `getrandom(2)`. A simulation runs in a process of its own,
//! so the whole process draws from the seed: this definition stands before the C library's when the binary is linked.

use std::sync::atomic::{AtomicU64, Ordering};

/// 0: not seeded, ask the operating system.
static STATE: AtomicU64 = AtomicU64::new(0);

/// From now on this process's randomness follows from a seed. Nothing secret may be made in it.
pub fn seed(seed: u64) {
    STATE.store(seed | 1 << 63, Ordering::SeqCst);
}

/// SplitMix64 (Steele, Lea and Flood, 2014).
fn next() -> u64 {
    let state = STATE.fetch_add(0x9E37_79B9_7F4A_7C15, Ordering::SeqCst);
    let mut z = state;
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// `getrandom(2)`, as the standard library calls it.
///
/// # Safety
/// `buffer` must be valid for writing `len` bytes, as for the C library's function.
#[allow(unsafe_code, reason = "takes the place of a function of the C library")]
#[unsafe(no_mangle)]
unsafe extern "C" fn getrandom(buffer: *mut libc::c_void, len: usize, flags: libc::c_uint) -> isize {
    if STATE.load(Ordering::SeqCst) == 0 {
        // SAFETY: the arguments are the caller's, and the system call is the one that was asked for.
        let got = unsafe { libc::syscall(libc::SYS_getrandom, buffer, len, flags) };
        return isize::try_from(got).unwrap_or(-1);
    }
    // SAFETY: the caller promises that `buffer` may be written for `len` bytes.
    let bytes = unsafe { std::slice::from_raw_parts_mut(buffer.cast::<u8>(), len) };
    for chunk in bytes.chunks_mut(8) {
        chunk.copy_from_slice(&next().to_ne_bytes()[..chunk.len()]);
    }
    isize::try_from(len).unwrap_or(isize::MAX)
}

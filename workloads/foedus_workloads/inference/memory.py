"""How a party's process takes its memory from the system, and keeps it."""

from __future__ import annotations

import ctypes
import gc
from collections.abc import Mapping

_MMAP_THRESHOLD, _TOP_PAD, _TRIM_THRESHOLD = -3, -2, -1  # M_MMAP_THRESHOLD and so on of malloc.h
_OWN_PAGES = 4 << 20  # weights on their way are larger
_MOST_OWN_PAGES = 32 << 20  # glibc takes no higher bound
_KEPT_LOADING, _KEPT_SERVING = 256 << 20, 1 << 30
_HEAP = 64 << 20  # a thread's heap goes back to the system whole, unless less than this is left in the one before it


def give_large_blocks_back() -> None:
    """Have the C library map blocks from 4 MiB on for themselves, so that they leave the process when they are freed.

    glibc's own bound grows to 32 MiB with what is freed: weights on their way would go through its heap, and what is
    freed there between blocks that live stays the process's. Other libraries have no such bound; nothing is done there.
    """
    _set_bounds({_MMAP_THRESHOLD: _OWN_PAGES, _TRIM_THRESHOLD: _KEPT_LOADING})


def keep_freed_blocks() -> None:
    """Have the C library keep blocks of up to 32 MiB, and 1 GiB in all, for the next round that wants as much.

    Each page that comes anew from the system is cleared first: of malicious preprocessing that was half of the time.
    """
    _set_bounds({_MMAP_THRESHOLD: _MOST_OWN_PAGES, _TRIM_THRESHOLD: _KEPT_SERVING, _TOP_PAD: _HEAP})


def _set_bounds(bounds: Mapping[int, int]) -> None:
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        for name, value in bounds.items():
            mallopt(name, value)


def keep_what_is_loaded() -> None:
    """Leave what lives now out of the garbage collector's walks: it lives as long as the process.

    A collection walks over all objects of torch's modules otherwise, several times in each inference.
    """
    gc.collect()
    gc.freeze()

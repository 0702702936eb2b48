"""Clipping: every example's gradient of everything a round releases is brought to the clip norm, on its own row.

One clip covers the active factor and the head together. A row is never mixed with another one before it is clipped.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Rows = npt.NDArray[np.float64]


def clip_rows(gradients: npt.NDArray[np.floating], clip: float) -> Rows:
    """Return each row scaled to an L2 norm of at most `clip` (up to rounding); rows that are not finite become zero.

    A row is zeroed by its own content alone, so that one broken record changes nothing for the others.
    """
    rows = gradients.astype(np.float64)
    rows[~np.isfinite(rows).all(axis=1)] = 0.0
    norms = np.sqrt((rows * rows).sum(axis=1))  # float32 values squared cannot overflow float64
    factors = clip / np.maximum(norms, clip)  # exactly 1 up to the clip, and never a division by zero
    return np.asarray(rows * factors[:, None])

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
    norms = row_norms(rows)  # float32 values squared cannot overflow float64: not finite means a value is not
    broken = ~np.isfinite(norms)
    rows[broken], norms[broken] = 0.0, 0.0
    rows *= (clip / np.maximum(norms, clip))[:, None]  # exactly 1 up to the clip, and never a division by zero
    return rows


def row_norms(rows: Rows) -> npt.NDArray[np.float64]:
    """Return each row's L2 norm; what is not finite or overflows gives a norm that is not finite."""
    return np.asarray(np.sqrt(np.einsum("ij,ij->i", rows, rows)))

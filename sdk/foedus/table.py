"""Rows of text in columns of equal width."""

from __future__ import annotations

from collections.abc import Sequence

Row = Sequence[str]


def widths(rows: Sequence[Row]) -> tuple[int, ...]:
    """Return how wide each column must be."""
    return tuple(max(map(len, column)) for column in zip(*rows, strict=True))


def line(row: Row, columns: Sequence[int]) -> str:
    """Return one row; what does not fit its column moves the rest."""
    return "   ".join(cell.ljust(width) for cell, width in zip(row, columns, strict=True)).rstrip()


def aligned(rows: Sequence[Row]) -> list[str]:
    """Return the rows with columns of equal width."""
    columns = widths(rows)
    return [line(row, columns) for row in rows]

"""Writes a run's report into its result folder, and says where it is."""

from __future__ import annotations

from pathlib import Path

from foedus.report.card import read_card
from foedus.report.page import build_page
from foedus.report.record import PAGE_FILE, RECORD_FILE, RunRecord, write_text


def write_report(record: RunRecord, folder: Path) -> Path:
    """Write the record and its page; return the page's path. Raises Unavailable when they cannot be written."""
    write_text(folder / RECORD_FILE, record.to_json() + b"\n")
    return write_page(record, folder)


def write_page(record: RunRecord, folder: Path) -> Path:
    """Write the page of a record that is in `folder` already; raises Unavailable when it cannot be written."""
    page = folder / PAGE_FILE
    write_text(page, build_page(record, read_card(folder)))
    return page

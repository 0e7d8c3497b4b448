"""Entries at fault: refused, or left out, counted and listed in a warning."""

import logging
from pathlib import Path

SKIP = "skip such rows (--skip-broken, in Python skip_broken)"
LOG = logging.getLogger("distilclip.sources")


def refuse_or_skip(error: Exception, skipped: list[str] | None) -> None:
    """Raise `error`, or, where there is a list `skipped`, add its text to that."""
    if skipped is None:
        raise error
    skipped.append(str(error))


def report_skipped(skipped: list[str] | None, name: str | Path) -> None:
    """Say in a warning how many entries of a source were left out, and which."""
    if skipped:
        LOG.warning("Skipped %d of the pictures in %s:", len(skipped), name)
        for line in skipped:  # a record each: names may hold line breaks
            LOG.warning("  %s", line)

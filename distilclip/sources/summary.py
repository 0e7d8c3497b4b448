"""What is said of a source that has been read: its sizes, and odd captions.

Nothing is refused here: a caption may well be a number. But a column of numbers, of
file names or of several captions in one is more often a mistake, and training on it
would show none.
"""

import logging
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.compute as pc

from distilclip.sources.skipping import LOG

OTHER_COLUMN = (
    "If another column has the captions, give it as --caption-column, in Python "
    "caption_column."
)
HTML = (
    r"(?i:&(amp|quot|apos|lt|gt|nbsp|#\d{2,5}|#x[0-9a-f]{2,5});"
    r"|</?(b|i|p|a|em|span)\b[^<>]*>)"
)
OWN_PLACES = (
    "Each is read as one caption: if the mark parts several, give each a row, a "
    "column (caption_0, caption_1) or a place in a list."
)
PLAIN_TEXT = (
    "They are read as they are written: make plain text of them first (in Python "
    "html.unescape, and a parser for the tags)."
)
# What most captions of a source should not be: what is said of them, and to do
DOUBTS = {
    r"^[\p{N}\s.,:;/+-]+$": ("are numbers", OTHER_COLUMN),
    r"^[Hh][Tt][Tt][Pp][Ss]?://\S+$": ("are addresses", OTHER_COLUMN),
    r"^\S+\.(?i:jpe?g|png|webp|gif|bmp|tiff?|txt|json)(#\d+)?$": (
        "are names of files",
        OTHER_COLUMN,
    ),
    r"^(?i:[0-9a-f]{16,}|[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12})$": (
        "are identifiers",
        OTHER_COLUMN,
    ),
    HTML: ("hold HTML", PLAIN_TEXT),
    r"\S\s*\|+\s*\S": ("hold '|'", OWN_PLACES),
    r"\S\s*;+\s*\S": ("hold ';'", OWN_PLACES),
    r"(?i:\S\s*(<sep>|\[sep\]|###|<br ?/?>|\\n)\s*\S)": (
        "hold a mark such as <sep>, ### or <br>",
        OWN_PLACES,
    ),
}


def report(pairs: datasets.DatasetDict, name: str | Path) -> None:
    """Say how many pictures and captions each split has, and what looks odd."""
    parts, all_captions = [], []
    for split, rows in pairs.items():
        table = rows.select_columns(["captions"]).with_format("arrow")[:]
        captions = pc.list_flatten(table["captions"])  # type: ignore[attr-defined]
        all_captions += captions.chunks
        parts.append(
            f"{split} {len(rows):,} pictures with {len(captions):,} captions"
        )
    LOG.info("%s: %s.", name, ", ".join(parts))
    report_odd_captions(pa.chunked_array(all_captions, pa.string()), name)


def report_odd_captions(captions: pa.ChunkedArray, name: str | Path) -> None:
    """Warn where more than half of some captions look like something else."""
    if not LOG.isEnabledFor(logging.WARNING):
        return
    # Chosen rows are a chunk each, and a pattern is compiled anew for every chunk
    if captions.num_chunks > len(captions) // 1000:
        captions = pa.table({"captions": captions}).combine_chunks()["captions"]
    for pattern, (what, advice) in DOUBTS.items():
        is_odd = pc.match_substring_regex(captions, pattern)  # type: ignore[attr-defined]
        count = sum(chunk.true_count for chunk in is_odd.chunks)
        least = 0.02 if pattern == HTML else 0.5  # captions without & have none
        if count > least * len(captions):
            first = captions.filter(is_odd)[0].as_py()
            shown = first if len(first) <= 60 else f"{first[:60]}…"
            LOG.warning(
                "%s: %s of %s captions %s, such as %r. %s",
                *(name, f"{count:,}", f"{len(captions):,}", what, shown, advice),
            )
            return

"""Captions as their sources have them, made clean or refused in a sentence."""

import unicodedata
from collections.abc import Iterable

CAPTION_COLUMNS = ("captions", "caption", "text", "sentences", "sentence")


def caption_columns(names: Iterable[str | None]) -> list[str]:
    """The columns of captions among `names`: caption_0, ..., or one known name."""
    names = [name for name in names if name]
    numbered = sorted(name for name in names if name.startswith("caption_"))
    return numbered or [name for name in CAPTION_COLUMNS if name in names][:1]


def clean_captions(captions: Iterable[str | None], where: str) -> list[str]:
    """Captions without control characters and needless space.

    Raises ValueError where there is none, or where one is empty, no text, or no
    valid Unicode.
    """
    cleaned = []
    for caption in captions:
        if caption is not None and not isinstance(caption, str):
            raise ValueError(
                f"A caption is a {type(caption).__name__}, not text: {where}."
            )
        text = "".join(
            " " if unicodedata.category(c) == "Cc" else c for c in caption or ""
        )
        text = " ".join(text.split())
        if any(0xD800 <= ord(c) <= 0xDFFF for c in text):
            raise ValueError(
                f"A caption holds half a character (a lone surrogate): {where}."
            )
        cleaned.append(text)
    if not cleaned or not all(map(is_visible, cleaned)):
        raise ValueError(
            f"Empty caption: {where}. Write one, or take the picture out."
        )
    return cleaned


def is_visible(text: str) -> bool:
    """Whether there is more to `text` than spaces and marks without a shape."""
    return any(
        unicodedata.category(c) not in ("Cc", "Cf", "Zl", "Zp", "Zs") for c in text
    )

"""Any terminal, or none: nothing that is printed may stop the work."""

import codecs
import contextlib
import os
import sys
from typing import Any, TextIO, cast

# What to write for a character that a terminal lacks: Windows' consoles, LC_ALL=C
PLAIN = {"→": "->", "…": "...", "×": "x", "·": "-", "–": "-", "—": "-", "±": "+-"}
PLAIN |= {"“": '"', "”": '"', "‘": "'", "’": "'", "█": "#", "°": " degrees"}


def in_plain_letters(error: UnicodeError) -> tuple[str, int]:
    """What to write for characters that an encoding lacks, as `codecs` asks it."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    missing = error.object[error.start : error.end]
    plain = "".join(
        PLAIN.get(c) or c.encode("ascii", "backslashreplace").decode()
        for c in missing
    )
    return plain, error.end


codecs.register_error("distilclip.plain", in_plain_letters)


class Tolerant:
    """A stream for notes and progress bars: what it cannot take is lost."""

    def __init__(self, stream: Any):
        self.stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)

    def write(self, text: str) -> int:
        with contextlib.suppress(OSError, ValueError):
            self.stream.write(fitting(text, self.stream))
        return len(text)

    def flush(self) -> None:
        try:
            self.stream.flush()
        except (
            OSError,
            ValueError,
        ):  # its reader has left, the disk is full, closed
            silence(self.stream)


def prepare_streams() -> None:
    """Make standard output and error take any text, also where they are closed.

    Nothing that is said on standard error can fail any more.
    """
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:  # closed before we were started
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115
        elif hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="distilclip.plain")
    if not isinstance(sys.stderr, Tolerant):
        sys.stderr = cast(TextIO, Tolerant(sys.stderr))


def fitting(text: str, stream: Any) -> str:
    """Text as a stream can show it."""
    encoding = getattr(stream, "encoding", None) or "utf-8"
    return text.encode(encoding, "distilclip.plain").decode(encoding)


def tell(text: str, stream: Any = None) -> None:
    """Print a line that only informs: a stream that takes nothing loses it."""
    print(text, file=Tolerant(stream or sys.stdout), flush=True)


def silence(stream: Any) -> None:
    """Let a broken stream lead nowhere, or Python would try it again at its end."""
    with contextlib.suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)


def shown(value: object, most: int = 60) -> str:
    """What was given, for a sentence: one line, not long, without addresses."""
    try:
        text = " ".join(repr(value).split())
    except Exception:  # of whatever kind: it is another's code
        text = "<>"
    if text.startswith("<") or " at 0x" in text:  # a picture, a function, an object
        return f"an object of the type {type(value).__name__}"
    return text if len(text) <= most else f"{text[: most - 3]}..."


def printable(text: str) -> str:
    """Text for one line of a terminal, with what cannot be printed written out."""
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape").decode() for c in text
    )

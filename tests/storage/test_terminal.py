"""Whatever a terminal can show, is closed or breaks: the work goes on."""

import io
import os
import subprocess
import sys

import pytest
import torch
from PIL import Image

from distilclip.storage.terminal import Tolerant, fitting, shown

SHOW = """
import sys
from distilclip.storage.terminal import prepare_streams, tell
prepare_streams()
print("a → b … 3 × 4 naïve 日本")
tell("text→image", sys.stderr)
tell("done")
sys.exit(7)
"""


def python(code: str, encoding: str = "utf-8", **options) -> subprocess.CompletedProcess:
    environment = os.environ | {"PYTHONIOENCODING": encoding, "PYTHONUTF8": "0"}
    command = [sys.executable, "-c", code]
    return subprocess.run(command, env=environment, timeout=60, **options)


@pytest.mark.parametrize("encoding", ["utf-8", "cp1252", "ascii", "latin-1", "cp437"])
def test_any_encoding_takes_any_text(encoding):
    ended = python(SHOW, encoding, capture_output=True)
    assert ended.returncode == 7
    out = ended.stdout.decode(encoding)
    if encoding == "utf-8":
        assert "a → b … 3 × 4 naïve 日本" in out
    else:
        assert "a -> b " in out and "\\u65e5\\u672c" in out
    assert ("→" if encoding == "utf-8" else "->") in ended.stderr.decode(encoding)
    assert out.splitlines()[-1] == "done"


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="a device of Linux")
def test_streams_that_are_full_or_closed_change_no_status():
    quiet = SHOW.replace('print("a', 'tell("a')
    with open("/dev/full", "w") as full:
        assert python(quiet, stdout=full, stderr=full).returncode == 7
    close = "import os, sys; [os.close(n) for n in (1, 2)]; os.execv(sys.executable, "
    assert python(f"{close}[sys.executable, '-c', {quiet!r}])").returncode == 7


def test_a_bar_on_a_broken_stream_does_not_stop_the_loop():
    class Broken(io.StringIO):
        def write(self, text):
            raise BrokenPipeError

        flush = write

    stream = Tolerant(Broken())
    assert stream.write("12 %") == 4
    assert fitting("→", io.TextIOWrapper(io.BytesIO(), encoding="ascii")) == "->"


@pytest.mark.parametrize(
    "value", [object(), [object()], Image.new("RGB", (1, 1)), print, torch.zeros(2, 3), "a\nb", 5]
)
def test_what_was_given_fits_into_a_sentence(value):
    text = shown(value)
    assert len(text) <= 60 and " at 0x" not in text and text.isprintable()
    assert type(value).__name__ in text or text in repr(value) or text[:5] == repr(value)[:5]


def test_what_cannot_be_shown_is_called_by_its_type():
    class Odd:
        def __repr__(self):
            raise RuntimeError

    assert shown(Odd()) == "an object of the type Odd"

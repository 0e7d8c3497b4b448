"""The graph of the chapters follows from what their openings ask for."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "tools"))

import draw_needs


def test_the_drawing_is_what_the_chapters_say():
    text = draw_needs.TARGET.read_text(encoding="utf-8")
    assert text == draw_needs.drawing(), "run tools/draw_needs.py"
    assert text.count("</text>") == 15


def test_arrows_that_follow_from_others_are_left_out():
    needs = {"01": set(), "02": {"01"}, "03": {"01", "02"}, "03b": {"01"}}
    assert draw_needs.reduced(needs) == needs | {"03": {"02"}}
    assert draw_needs.layers(needs) == [["01"], ["02", "03b"], ["03"]]
    assert draw_needs.draw(dict.fromkeys(needs, "x"), needs).count("marker-end") == 3

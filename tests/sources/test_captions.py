"""A cell that says that there is nothing is no caption; nothing else is lost."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distilclip.sources.captions import NoCaptionError, captions_of_cells

NOTHING = ["NA", "none", "NONE", "Null", "NULL", "undefined", "N/A", "n/a", "nan", "NaN", "NaT"]
NOTHING += ["-", "--", ".", "...", "…", "_", "– ", "<NA>", "#N/A"]


@pytest.mark.parametrize("cell", NOTHING)
def test_a_cell_that_says_nothing_is_blank(cell):
    with pytest.raises(NoCaptionError, match=r"Empty caption .*: here"):
        captions_of_cells([cell, f" {cell} "], "here")
    assert captions_of_cells([cell, "a bear"], "here") == ["a bear"]


@given(st.sampled_from(NOTHING), st.sampled_from(["{} bear", "a {}", "{}1", "{} {}a"]))
def test_the_same_word_in_a_caption_stays(cell, form):
    text = " ".join(form.replace("{}", cell).split())
    assert captions_of_cells([text], "here") == [text]


@pytest.mark.parametrize("cell", ["Na", "Nan", "?", "!", "♥", "‼", "5", "#", "*️⃣"])
def test_names_and_signs_are_captions(cell):
    assert captions_of_cells([cell], "here") == [cell]

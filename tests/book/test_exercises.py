"""An answer to an exercise gets one sentence."""

import pytest
import torch

from distilclip.book.exercises import check


@pytest.mark.parametrize(
    ("answer", "expected", "said"),
    [
        (..., 3, "No answer yet: replace the dots."),
        (None, 3, "No answer yet: replace the dots."),
        (3, 3, "Correct."),
        (3 + 1e-7, 3, "Correct."),
        (4, 3, "Not yet: the shape is right, the values are not."),
        (torch.ones(2), torch.ones(2), "Correct."),
        (torch.ones(2, 1), torch.ones(2), "Not yet: the shape is (2, 1), expected (2,)."),
        ("noto", "noto", "Correct."),
        ("noto", "fluent", "Not yet: got 'noto'."),
    ],
)
def test_an_answer_gets_one_sentence(answer, expected, said, capsys):
    check(answer, expected)
    assert capsys.readouterr().out == said + "\n"

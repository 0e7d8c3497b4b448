"""Checks for exercises: the reader's answer goes in, one sentence comes out."""

import torch

from distilclip.book.answers import NotGivenError, NotYetError, is_missing
from distilclip.book.questions import QUESTIONS


def check(question: str, answer, **given) -> None:
    """Print whether `answer` is right, and otherwise which way it is wrong.

    `question` is the number of a chapter and an exercise: "3.2". A function is
    tried on several inputs, many of them drawn at random. Whole numbers must be
    exact; others may differ by 1 part in 100,000, or as the question says. An
    answer that is still `...` or None, or a function that returns it, counts as
    not given. `given` is what a question needs of the chapter. Randomness in the
    notebook is as it was. Raises ValueError for a question that is not there.
    """
    if question not in QUESTIONS:
        known = ", ".join(QUESTIONS)
        raise ValueError(f"There is no question {question!r}. Questions: {known}.")
    try:
        if is_missing(answer):
            raise NotGivenError
        with torch.random.fork_rng(devices=[]):
            QUESTIONS[question](answer, **given)
    except NotGivenError:
        print("No answer yet: replace the dots.")
    except NotYetError as hint:
        print(f"Not yet. {hint}")
    else:
        print("Correct.")

"""Checks for exercises: the reader's answer goes in, one sentence comes out."""

import torch


def check(answer, expected, tolerance: float = 1e-5) -> None:
    """Print whether `answer` equals `expected`, numbers up to `tolerance`.

    An answer that is still `...` or None counts as not given.
    """
    if answer is ... or answer is None:
        print("No answer yet: replace the dots.")
        return
    try:
        ours, theirs = torch.as_tensor(answer), torch.as_tensor(expected)
    except (TypeError, ValueError, RuntimeError):
        print("Correct." if answer == expected else f"Not yet: got {answer!r}.")
        return
    if ours.shape != theirs.shape:
        print(
            f"Not yet: the shape is {tuple(ours.shape)}, "
            f"expected {tuple(theirs.shape)}."
        )
    elif not torch.allclose(ours.double(), theirs.double(), tolerance, tolerance):
        print("Not yet: the shape is right, the values are not.")
    else:
        print("Correct.")

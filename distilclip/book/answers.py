"""How an answer to an exercise is judged: given, right, or wrong in which way.

Whole numbers must be exact. Other numbers may differ by 1 part in 100,000, where a
question says nothing else. What is wrong is said without saying what is right.
"""

import hashlib
import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

TOLERANCE = 1e-5
SALT = "DistilCLIP, the answers to its exercises: "
FACTORS = {f"{n}": n for n in (2, 3, 4, 8, 10, 16, 100, 1000)} | {
    "1.05": 1024**2 / 1e6
}


class NotGivenError(Exception):
    """The dots of an exercise still stand."""


class NotYetError(Exception):
    """An answer is wrong; the message says in which way."""


def is_missing(answer) -> bool:
    """Whether an answer, or a part of it, is still `...` or None."""
    if isinstance(answer, tuple | list):
        return any(map(is_missing, answer))
    return answer is ... or answer is None


def ask(function: Callable, *arguments, **options):
    """What the reader's function returns; raises NotGivenError for dots."""
    answer = function(*arguments, **options)
    if is_missing(answer):
        raise NotGivenError
    return answer


def require(condition: bool, hint: str) -> None:
    """Raise NotYetError with `hint` where `condition` does not hold."""
    if not condition:
        raise NotYetError(hint)


def same(
    found,
    expected,
    where: str,
    mistakes: Mapping[str, object] | None = None,
    tolerance: float = TOLERANCE,
) -> None:
    """Raise NotYetError where `found` is not `expected`; `where` says for what.

    `mistakes` are wrong answers that are worth a word, by that word. Whole numbers
    are compared exactly, others up to `tolerance`, relative to the largest.
    """
    if is_equal(found, expected, tolerance):
        return
    for hint, wrong in (mistakes or {}).items():
        if not is_equal(wrong, expected, tolerance) and is_equal(
            found, wrong, tolerance
        ):
            raise NotYetError(f"{where}: {hint}")
    raise NotYetError(f"{where}: {difference(found, expected)}")


def is_number(value) -> bool:
    """Whether a value is one number, of Python or in a tensor."""
    return isinstance(value, int | float) or (
        hasattr(value, "item") and getattr(value, "ndim", 1) == 0
    )


def is_equal(found, expected, tolerance: float = TOLERANCE) -> bool:
    """Whether two answers are equal: exactly, or numbers up to `tolerance`."""
    if is_number(found) and is_number(expected):
        found, expected = (
            v.item() if hasattr(v, "item") else v for v in (found, expected)
        )
        if isinstance(expected, int):
            return found == expected
        return math.isclose(found, expected, rel_tol=tolerance, abs_tol=1e-12)
    if isinstance(expected, Tensor):
        if not isinstance(found, Tensor) or found.shape != expected.shape:
            return False
        ours, theirs = found.detach().double(), expected.detach().double()
        room = tolerance * max(1e-12, theirs.abs().max().item())
        return torch.allclose(ours, theirs, rtol=0, atol=room)
    if isinstance(expected, tuple | list):
        return (
            isinstance(found, tuple | list)
            and len(found) == len(expected)
            and all(map(lambda a, b: is_equal(a, b, tolerance), found, expected))
        )
    return type(found) is type(expected) and bool(found == expected)


def difference(found, expected) -> str:
    """In which way an answer is wrong, without the right one."""
    if isinstance(expected, Tensor):
        return difference_of_tensors(found, expected)
    if not (is_number(found) and is_number(expected)):
        return f"got {found!r}."
    found, expected = (
        v.item() if hasattr(v, "item") else v for v in (found, expected)
    )
    if not math.isfinite(found):
        return f"{found} is no number."
    way = "large" if found > expected else "small"
    exactly = ", even if by little: whole numbers are compared exactly"
    close = math.isclose(found, expected, rel_tol=1e-3)
    note = (
        exactly if isinstance(expected, int) and close else factor(found, expected)
    )
    return f"{found:,} is too {way}{note}."


def difference_of_tensors(found, expected: Tensor) -> str:
    """In which way a tensor is wrong: kind, shape, a factor, a shift, or a part."""
    if not isinstance(found, Tensor):
        return f"a tensor is asked for, not {type(found).__name__}."
    if found.shape != expected.shape:
        shapes = tuple(found.shape), tuple(expected.shape)
        return f"the shape is {shapes[0]}, expected {shapes[1]}."
    ours, theirs = found.detach().double(), expected.detach().double()
    if not ours.isfinite().all():
        return "the shape is right; some numbers are infinite or none (nan)."
    away, room = (ours - theirs).abs(), 1e-5 * theirs.abs().max().item()
    ratio = ((ours * theirs).sum() / theirs.square().sum()).item()
    if torch.allclose(ours, ratio * theirs, rtol=0, atol=room):
        return f"every number is {ratio:.4g} times what it should be."
    shift = (ours - theirs).mean()
    if torch.allclose(ours - theirs, shift, rtol=0, atol=room):
        way = "large" if shift > 0 else "small"
        return f"every number is too {way}, by the same amount."
    share = (away > room).double().mean().item()
    return f"the shape is right; {share:.0%} of the numbers are not."


def factor(found: float, expected: float) -> str:
    """Words such as ", by a factor of 2", where a usual factor is between them."""
    if found * expected <= 0:
        return ""
    ratio = max(found / expected, expected / found)
    for name, value in FACTORS.items():
        if math.isclose(ratio, value, rel_tol=1e-3):
            return f", by a factor of {name}"
    return ""


def seal(question: str, value: float) -> str:
    """A digest of a number, from which nobody reads it off.

    Whole numbers count exactly, others to three significant digits.
    """
    value = float(value)
    text = f"{value:.0f}" if value.is_integer() else f"{value:.3g}"
    return hashlib.sha256(f"{SALT}{question} {text}".encode()).hexdigest()[:16]


def sealed(
    question: str, found, digest: str, where: str, mistakes: Mapping[str, str]
) -> None:
    """Raise NotYetError where a number is not the one that was sealed.

    `mistakes` are digests of wrong numbers, with a hint for each.
    """
    require(is_number(found), f"{where}: a number is asked for, not {found!r}.")
    mine = seal(question, found)
    if mine != digest:
        hint = mistakes.get(mine, f"{found:,} is not it.")
        raise NotYetError(f"{where}: {hint}")

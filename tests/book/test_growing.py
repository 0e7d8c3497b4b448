"""A method added to a class of an earlier cell is what it would be inside the class."""

import functools

import pytest
import torch

from distilclip.book.growing import add_to_class

CLASS = """
from functools import cached_property
import torch
from distilclip.book.growing import add_to_class

class Point:
    def __init__(self, x):
        self.x = x
"""
METHODS = """
@add_to_class(Point)
def __len__(self):
    return self.x

@add_to_class(Point)
@property
def double(self):
    return 2 * self.x

@add_to_class(Point)
@cached_property
def triple(self):
    return 3 * self.x

@add_to_class(Point)
@classmethod
def at(cls, x):
    return cls(x)

@add_to_class(Point)
@staticmethod
def origin():
    return Point(0)

@add_to_class(Point)
@torch.no_grad()
def has_grad(self):
    return torch.is_grad_enabled()

@add_to_class(Point)
@property
@torch.no_grad()
def has_grad_too(self):
    return torch.is_grad_enabled()
"""


@pytest.fixture
def notebook():
    """The names of a notebook that has run two cells."""
    names = {"__name__": "__main__"}
    exec(CLASS, names)
    exec(METHODS, names)
    return names


def test_every_kind_of_method_works_as_one_written_in_the_class(notebook):
    point = notebook["Point"].at(3)
    assert len(point) == 3 and point.double == 6 and point.triple == 9
    assert point.__dict__["triple"] == 9  # computed once
    assert type(point).origin().x == 0
    assert not point.has_grad() and not point.has_grad_too


def test_methods_are_named_as_in_the_class(notebook):
    added = notebook["Point"]
    within = {"__name__": "__main__"}
    methods = METHODS.replace("@add_to_class(Point)\n", "").replace("\n", "\n    ")
    exec(CLASS + methods, within)

    def name(function):
        return (function.__name__, function.__qualname__, function.__module__)

    def names(point):
        yield from map(name, (point.__len__, point.at, point.origin, point.has_grad))
        yield from map(name, (point.double.fget, point.has_grad_too.fget))
        yield from map(name, (point.has_grad.__wrapped__, vars(point)["triple"].func))

    assert list(names(added)) == list(names(within["Point"]))
    assert name(added.double.fget) == ("double", "Point.double", "__main__")


def test_a_cell_can_be_run_again(notebook):
    point = notebook["Point"](3)
    exec(METHODS, notebook)
    exec(METHODS.replace("2 * self.x", "20 * self.x"), notebook)
    assert point.double == 60 and len(point) == 3


def test_a_name_of_the_notebook_keeps_its_meaning(notebook):
    notebook["size"] = "what the notebook calls size"
    methods = "".join(
        f"@add_to_class(Point)\ndef {name}(self):\n    return 1\n"
        for name in ("size", "filter", "unheard")
    )
    exec(methods, notebook)
    assert notebook["size"] == "what the notebook calls size"
    assert notebook["filter"] is filter
    assert notebook["unheard"] is None
    assert notebook["Point"](3).size() == 1


def test_modules_of_torch_grow():
    class Twice(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.factor = torch.nn.Parameter(torch.tensor(2.0))

    @add_to_class(Twice)
    def forward(self, x):
        return self.factor * x

    assert Twice()(torch.tensor(3.0)).item() == 6


def test_what_works_only_inside_a_class_is_refused():
    class Grown(dict):
        pass

    def first(self):
        return super().keys()

    def inside(self):
        return [super().__len__() for _ in range(3)]

    def own_class(self):
        return __class__  # noqa: F821

    class Other(dict):
        def of_another_class(self):
            return super().keys()

    def __post_init__(self):  # noqa: N807
        pass

    for method in (first, inside, own_class, Other.of_another_class, __post_init__):
        with pytest.raises(TypeError, match=rf"^{method.__name__} must stay in the cell of"):
            add_to_class(Grown)(method)
        assert method.__name__ not in vars(Grown)

    def copy(self):
        return self.__class__(self)  # an attribute, known everywhere

    add_to_class(Grown)(copy)
    assert type(Grown(a=1).copy()) is Grown


def test_what_is_no_class_or_no_method_is_refused():
    with pytest.raises(TypeError, match=r"Name the class, as in @add_to_class\(ViT\)"):

        @add_to_class
        def forward(self):
            pass

    class Grown:
        pass

    for thing in (3, "name", len, functools.partial(len, [])):
        with pytest.raises(TypeError, match="Only a method can be added to a class"):
            add_to_class(Grown)(thing)

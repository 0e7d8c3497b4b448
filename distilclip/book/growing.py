"""Classes that grow over several cells of a notebook, as in d2l.

A cell opens a class with its docstring, its fields and `__init__`; each method
follows in a cell of its own. The package keeps the class in one piece, and
`tools/mirror.py` holds the two together.
"""

import builtins
import dis
from collections.abc import Callable
from types import CodeType, FunctionType

# Python reads these while it makes a class; added later, they would be ignored.
CLASS_ONLY = frozenset(
    {"__class_getitem__", "__eq__", "__init_subclass__", "__new__", "__post_init__"}
)


def add_to_class(cls: type) -> Callable:
    """A decorator that adds a method to `cls`, a class of an earlier cell.

        @add_to_class(ViT)
        def forward(self, pixel_values): ...

    Functions, properties, class methods, static methods and functions under another
    decorator (`@torch.no_grad()`) become what they would be inside the class.
    Running the cell again replaces the method. In the notebook the name keeps the
    meaning that it had, or is None if it had none: a method `normalise` does not
    hide a function `normalise`.

    Raises TypeError for what is no class or no method, and for a method that must
    stay in the class: one that uses `super` or `__class__`, which are known only
    there, or one that Python reads while it makes the class (`__new__`,
    `__post_init__` and the like).
    """
    if not isinstance(cls, type):
        raise TypeError(f"Name the class, as in @add_to_class(ViT); got {cls!r}.")

    def add(member):
        layers = _layers_of(member)
        written = layers[-1]
        name = written.__name__
        if name in CLASS_ONLY or _uses_its_class(written.__code__):
            raise TypeError(
                f"{name} must stay in the cell of class {cls.__name__}: super(), "
                "__class__ and what Python reads while it makes a class work only "
                "there."
            )
        for layer in layers:
            layer.__qualname__ = f"{cls.__qualname__}.{name}"
            layer.__module__ = cls.__module__
        setattr(cls, name, member)
        if hasattr(member, "__set_name__"):  # as Python does when it makes a class
            member.__set_name__(cls, name)
        return written.__globals__.get(name, getattr(builtins, name, None))

    return add


def _layers_of(member) -> list[Callable]:
    """A method's function: the outermost decorator first, what was written last."""
    for inside in ("fget", "func", "__func__"):  # properties; class, static methods
        member = getattr(member, inside, member)
    layers = [member]
    while hasattr(layers[-1], "__wrapped__"):
        layers.append(layers[-1].__wrapped__)
    if not isinstance(layers[-1], FunctionType):
        raise TypeError(f"Only a method can be added to a class; got {member!r}.")
    return layers


def _uses_its_class(code: CodeType) -> bool:
    """Whether a function, or one inside it, says `super` or `__class__`."""
    return (
        "__class__" in code.co_freevars
        or any(
            step.opname == "LOAD_GLOBAL" and step.argval in ("super", "__class__")
            for step in dis.get_instructions(code)
        )
        or any(
            _uses_its_class(inner)
            for inner in code.co_consts
            if isinstance(inner, CodeType)
        )
    )

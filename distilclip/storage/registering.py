"""`transformers` told of this project's model type, without loading it.

`AutoModel.from_pretrained` looks up a folder's model type in tables of
`transformers`. `register_when_asked` puts something into them, now or as soon as
they are imported, that registers our classes when ours are looked up for the first
time. An import of `distilclip` costs next to nothing by it.
"""

import importlib.util
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

MODEL_TYPE = "distilclip"
AUTO = "transformers.models.auto"
TABLES = {
    f"{AUTO}.configuration_auto": "CONFIG_MAPPING",
    f"{AUTO}.image_processing_auto": "IMAGE_PROCESSOR_MAPPING",
}


REGISTERING: list[Callable[[], None]] = []  # what `register_when_asked` was given


class AskedFor(dict):
    """What was added to a table: ours, too, when it is asked for the first time."""

    is_filled = False

    def fill(self) -> None:
        """Register our classes, once."""
        if REGISTERING and not AskedFor.is_filled:
            AskedFor.is_filled = True
            REGISTERING[0]()

    def __setitem__(self, key, value) -> None:
        if key == MODEL_TYPE:  # somebody registers classes, and those shall stay
            AskedFor.is_filled = True
        super().__setitem__(key, value)

    def __contains__(self, key: object) -> bool:
        if key == MODEL_TYPE:
            self.fill()
        return super().__contains__(key)

    def values(self):  # through which a class is looked for by its name
        self.fill()
        return super().values()


class Waiting:
    """A finder of modules that fits out the tables when they have been imported."""

    def __init__(self) -> None:
        self.wanted = set(TABLES)

    def find_spec(self, name: str, path, target=None):
        """The spec of a module that has a table; None for any other module."""
        if name not in self.wanted:
            return None
        self.wanted.discard(name)
        spec = importlib.util.find_spec(name)
        if spec is None or spec.loader is None:
            return None
        run = spec.loader.exec_module

        def run_and_prepare(module: ModuleType) -> None:
            run(module)
            prepare(module)

        spec.loader.exec_module = run_and_prepare  # type: ignore[method-assign]
        return spec


def prepare(module: ModuleType) -> None:
    """Fit out the table of an imported module, if it is built as we know it."""
    table: Any = getattr(module, TABLES[module.__name__], None)
    if type(getattr(table, "_extra_content", None)) is dict:
        table._extra_content = AskedFor(table._extra_content)


def register_when_asked(register: Callable[[], None]) -> None:
    """Have `register` called when `transformers` is asked for a folder of ours.

    Where its tables are built otherwise than we know them, nothing happens;
    `distilclip.share.register_with_transformers` registers at once.
    """
    REGISTERING[:] = [register]
    waiting = Waiting()
    for name in TABLES.keys() & sys.modules.keys():
        waiting.wanted.discard(name)
        prepare(sys.modules[name])
    names = {type(finder).__name__ for finder in sys.meta_path}
    if waiting.wanted and "Waiting" not in names:
        sys.meta_path.insert(0, waiting)

"""DistilCLIP: CLIP built by hand, one chapter of the book a module.

The names below are loaded when they are first used, so that `distilclip --help` need not wait for
PyTorch.
"""

import importlib
import sys
from types import ModuleType

__version__ = "0.1.0"

_MODULE_OF_NAME = {
    "DistilCLIP": "model",
    "DistilCLIPConfig": "model",
    "ImageIndex": "search",
    "MultiHeadAttention": "attention",
    "PatchEmbedding": "patches",
    "TextEncoder": "text",
    "TrainConfig": "settings",
    "ViT": "vit",
    "ViTConfig": "vit",
    "augment": "data",
    "contrastive_loss": "loss",
    "load_pairs": "data",
    "patchify": "patches",
    "retrieval_metrics": "search",
    "sigmoid_loss": "loss",
    "train": "train",
    "unpatchify": "patches",
    "zero_shot_classify": "search",
}
__all__ = sorted(_MODULE_OF_NAME)


class _Package(ModuleType):
    """This package: a name is looked up in its module, and `train` is the function."""

    def __getattr__(self, name: str):
        if name in _MODULE_OF_NAME:
            module = importlib.import_module(f"{self.__name__}.{_MODULE_OF_NAME[name]}")
            value = getattr(module, name)
        elif name in _MODULE_OF_NAME.values():
            value = importlib.import_module(f"{self.__name__}.{name}")
        else:
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        setattr(self, name, value)
        return value

    def __setattr__(self, name: str, value) -> None:
        # Python binds a module to its package when it has loaded it; `train` is a function first.
        if isinstance(value, ModuleType) and _MODULE_OF_NAME.get(name) == name:
            value = getattr(value, name)
        super().__setattr__(name, value)

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *__all__})


sys.modules[__name__].__class__ = _Package

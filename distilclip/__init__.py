"""DistilCLIP: CLIP built by hand, one chapter of the book a module.

The names below are loaded when they are first used, so that `distilclip --help`
need not wait for PyTorch.
"""

import importlib
import sys
from typing import TYPE_CHECKING

from distilclip.storage.registering import register_when_asked

if TYPE_CHECKING:  # for editors and type checkers, which do not run `__getattr__`
    from distilclip.attention import MultiHeadAttention as MultiHeadAttention
    from distilclip.data import augment as augment
    from distilclip.data import load_pairs as load_pairs
    from distilclip.loss import contrastive_loss as contrastive_loss
    from distilclip.loss import sigmoid_loss as sigmoid_loss
    from distilclip.model import DistilCLIP as DistilCLIP
    from distilclip.model import DistilCLIPConfig as DistilCLIPConfig
    from distilclip.patches import PatchEmbedding as PatchEmbedding
    from distilclip.patches import patchify as patchify
    from distilclip.patches import unpatchify as unpatchify
    from distilclip.pretrained import PretrainedCLIP as PretrainedCLIP
    from distilclip.pretrained import load_model as load_model
    from distilclip.runs.settings import TrainConfig as TrainConfig
    from distilclip.search import ImageIndex as ImageIndex
    from distilclip.search import retrieval_metrics as retrieval_metrics
    from distilclip.search import zero_shot_classify as zero_shot_classify
    from distilclip.text import TextEncoder as TextEncoder
    from distilclip.training import train as train
    from distilclip.vit import ViT as ViT
    from distilclip.vit import ViTConfig as ViTConfig

__version__ = "0.2.0"

_MODULE_OF_NAME = {
    "DistilCLIP": "model",
    "DistilCLIPConfig": "model",
    "ImageIndex": "search",
    "MultiHeadAttention": "attention",
    "PatchEmbedding": "patches",
    "PretrainedCLIP": "pretrained",
    "TextEncoder": "text",
    "TrainConfig": "runs.settings",
    "ViT": "vit",
    "ViTConfig": "vit",
    "augment": "data",
    "contrastive_loss": "loss",
    "load_model": "pretrained",
    "load_pairs": "data",
    "patchify": "patches",
    "retrieval_metrics": "search",
    "sigmoid_loss": "loss",
    "train": "training",
    "unpatchify": "patches",
    "zero_shot_classify": "search",
}

if not TYPE_CHECKING:  # with these, a type checker would believe any name
    __all__ = sorted(_MODULE_OF_NAME)

    def __getattr__(name: str):
        if name in _MODULE_OF_NAME:
            module = importlib.import_module(f"{__name__}.{_MODULE_OF_NAME[name]}")
            value = globals()[name] = getattr(module, name)
            if f"{__name__}.model" in sys.modules:
                sys.modules[
                    f"{__name__}.model"
                ].DistilCLIP.push_to_hub = _push_to_hub
            return value
        if name in _MODULE_OF_NAME.values():
            return importlib.import_module(f"{__name__}.{name}")
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_MODULE_OF_NAME})


def _push_to_hub(model, repo_id: str, **settings) -> str:
    """Put this model on the Hub, with its card: see `share.push_to_hub`."""
    share = importlib.import_module(f"{__name__}.share")
    return share.push_to_hub(model, repo_id, **settings)


def _introduce() -> None:
    """Register the classes of chapter 12 with `transformers`."""
    importlib.import_module(f"{__name__}.share").register_with_transformers()


register_when_asked(_introduce)

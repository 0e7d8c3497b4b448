"""What the settings in a config.json may be, checked before anything is built.

One table for the model's own settings, and one for those of its text encoder.
"""

import math
from collections.abc import Mapping
from typing import Any

# The least and the most that a setting may be
MODEL: dict[str, tuple[float, float]] = {
    "image_size": (1, 2**14),
    "patch_size": (1, 2**14),
    "in_channels": (1, 2**10),
    "dim": (1, 2**16),
    "depth": (1, 2**10),
    "num_heads": (1, 2**12),
    "mlp_ratio": (2**-10, 2**10),
    "dropout": (0, 1),
    "patch_dropout": (0, 1),
    "layer_norm_eps": (0, 1),
    "embed_dim": (1, 2**16),
    "temperature": (1e-6, 1e6),
    "max_logit_scale": (1e-6, 1e6),
    "max_text_length": (3, 2**20),
}
TEXT: dict[str, tuple[float, float]] = {
    "dim": (1, 2**16),
    "hidden_dim": (1, 2**18),
    "n_heads": (1, 2**12),
    "n_layers": (1, 2**10),
    "vocab_size": (1, 2**24),
    "max_position_embeddings": (3, 2**20),
    "dropout": (0, 1),
    "attention_dropout": (0, 1),
    "qa_dropout": (0, 1),
    "seq_classif_dropout": (0, 1),
    "initializer_range": (0, 1e3),
}
# Those of a ViT of `transformers`, under its own names
VIT: dict[str, tuple[float, float]] = {
    "image_size": MODEL["image_size"],
    "patch_size": MODEL["patch_size"],
    "num_channels": MODEL["in_channels"],
    "hidden_size": MODEL["dim"],
    "num_hidden_layers": MODEL["depth"],
    "num_attention_heads": MODEL["num_heads"],
    "intermediate_size": TEXT["hidden_dim"],
    "layer_norm_eps": MODEL["layer_norm_eps"],
}
# What a BERT calls the settings of a DistilBERT
BERTS = {
    "hidden_size": "dim",
    "intermediate_size": "hidden_dim",
    "num_attention_heads": "n_heads",
    "num_hidden_layers": "n_layers",
    "attention_probs_dropout_prob": "attention_dropout",
    "hidden_dropout_prob": "dropout",
}
WHOLE = {"dim", "hidden_dim", "n_heads", "n_layers", "vocab_size"}
WHOLE |= {"max_position_embeddings"}
ACTIVATIONS: tuple[object, ...] = ("gelu", "relu")


def out_of_range(description: Mapping[str, Any]) -> list[str]:
    """The settings of a model's description that cannot be, by their names."""
    vision = description.get("vision", {})
    wrong = outside(description, MODEL) + outside(vision, MODEL)
    channels = 3 if wrong else vision.get("in_channels", 3)
    for name, least in (("image_mean", -math.inf), ("image_std", 1e-6)):
        values = description.get(name, [0.5] * channels)
        if len(values) != channels or not all(
            between(v, least, 1e6) for v in values
        ):
            wrong.append(name)
    return wrong + wrong_in_text(description.get("text_config") or {})


def wrong_in_text(settings: Mapping[str, Any]) -> list[str]:
    """The settings of a DistilBERT that cannot be."""
    wrong = outside(settings, TEXT)
    wrong += [n for n in WHOLE & settings.keys() if type(settings[n]) is not int]
    if settings.get("activation", "gelu") not in ACTIVATIONS:
        wrong.append("activation")
    if not isinstance(settings.get("sinusoidal_pos_embds", False), bool):
        wrong.append("sinusoidal_pos_embds")
    if not wrong:
        if settings.get("dim", 768) % settings.get("n_heads", 12):
            wrong.append("n_heads")
        padding = settings.get("pad_token_id", 0)
        most = settings.get("vocab_size", 30522) - 1
        if type(padding) is not int or not 0 <= padding <= most:
            wrong.append("pad_token_id")
    return wrong


def wrong_in_vit(settings: Mapping[str, Any]) -> list[str]:
    """The settings of a `transformers` ViT that cannot be."""
    whole = VIT.keys() - {"layer_norm_eps"} & settings.keys()
    wrong = [name for name in sorted(whole) if type(settings[name]) is not int]
    return outside(settings, VIT) + wrong


def in_distilberts_words(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a BERT under a DistilBERT's names; a DistilBERT's stay.

    Those that are None are left out: they have their usual values.
    """
    settings = {n: value for n, value in settings.items() if value is not None}
    if settings.get("model_type") != "bert":
        return settings
    others = ("vocab_size", "max_position_embeddings", "pad_token_id")
    kept = {name: settings[name] for name in others if name in settings}
    return kept | {
        ours: settings[theirs]
        for theirs, ours in BERTS.items()
        if theirs in settings
    }


def shape_of_text(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that shape a DistilBERT, without what else a file may hold."""
    others = ("activation", "sinusoidal_pos_embds", "pad_token_id")
    kept = {n: settings[n] for n in (*TEXT, *others) if n in settings}
    floats = kept.keys() & TEXT.keys() - WHOLE
    return kept | {name: float(kept[name]) for name in floats}


def outside(
    settings: Mapping[str, Any], ranges: Mapping[str, tuple[float, float]]
) -> list[str]:
    """The settings that are no numbers within their ranges."""
    return [
        name
        for name, (least, most) in ranges.items()
        if name in settings and not between(settings[name], least, most)
    ]


def between(value: Any, least: float, most: float) -> bool:
    """Whether a value is a number, no truth value, and within a range."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return is_number and math.isfinite(value) and least <= value <= most

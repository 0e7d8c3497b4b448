"""Where a run starts: with a new model, or with one that is to learn on.

A model to start from is read once, when its run begins. Afterwards the run's own
folder has all that it needs, so that the other one may change or go.
"""

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import datasets
import torch

from distilclip.model import DistilCLIP, DistilCLIPConfig, read_model_config
from distilclip.sources.emoji import load_emoji
from distilclip.storage.hub import NoFileInPlaceError, find_file
from distilclip.storage.weights import EMOJI_MODEL
from distilclip.vit import ViT, ViTConfig, resample_positions

# Settings that follow from the model; pictures may come in another size
OF_THE_VIT = ("patch_size", "dim", "depth", "num_heads", "cls_token", "final_norm")
OF_THE_MODEL = (
    "text_model",
    "text_pool",
    "image_pool",
    "embed_dim",
    "projection_norm",
    "pad_to_max_length",
)


def settings_of_model(start_from: str) -> dict[str, Any]:
    """The settings of a run that a model to start from decides, by their names.

    `start_from` is a folder, "emoji" or a Hub id. Raises FileNotFoundError where
    there is none, ValueError where it holds something else.
    """
    try:
        file = find_file(source_of(start_from), "config.json")
    except NoFileInPlaceError:
        raise FileNotFoundError(
            f"There is no model to start from in {start_from}: it has no "
            "config.json. Give a run's folder, emoji, or a Hub id."
        ) from None
    description = read_model_config(file)
    description.pop("text_config", None)
    return shape_of(DistilCLIPConfig(**description))


def shape_of(config: DistilCLIPConfig) -> dict[str, Any]:
    """The settings of a run that decide a model's shape, by their names."""
    shape = {name: getattr(config.vision, name) for name in OF_THE_VIT}
    shape |= {name: getattr(config, name) for name in OF_THE_MODEL}
    shape["text_pool"] = config.text_pool or ""
    return shape | {"image_size": config.vision.image_size}


def source_of(start_from: str) -> str | Path:
    """Where a model to start from lies: a folder here, or a Hub id."""
    if start_from == "emoji":
        return EMOJI_MODEL
    folder = Path(start_from).expanduser()
    return folder if folder.is_dir() else start_from


def check_shape(
    start_from: str, given: dict[str, Any], has: dict[str, Any]
) -> None:
    """Raise ValueError where a setting that is `given` is not what a model `has`.

    But for the size of the pictures: position embeddings are resized.
    """
    for name, value in has.items():
        if name != "image_size" and given.get(name, value) != value:
            raise ValueError(
                f"{name} {given[name]!r} contradicts start_from: {start_from} is a "
                f"model with {name} {value!r}. Leave {name} out."
            )


def first_model(
    wanted: DistilCLIPConfig,
    start_from: str = "",
    out: str = "",
    saved: dict | None = None,
) -> tuple[DistilCLIP, str]:
    """The model with which a run starts, and a hash of it, "" for a new one.

    `wanted` has the shape; with `start_from`, it must be that model's, but for the
    size of pictures, and the dropouts are those of `wanted`. Of a run that has
    `saved` a state in the folder `out`, what does not learn is read there. Raises
    ValueError where the shapes differ, or where the model has changed before the
    run could write its own, and what `DistilCLIP.from_pretrained` raises.
    """
    if not start_from:
        return DistilCLIP(wanted), ""
    folder = Path(out).expanduser()
    if saved and (folder / "config.json").is_file():
        model = DistilCLIP.from_pretrained(folder)
        return fitted(model, wanted, str(folder)), saved["start"]
    model = DistilCLIP.from_pretrained(source_of(start_from))
    start = hash_of(model)
    if saved and saved["start"] != start:
        raise ValueError(
            f"The model {start_from} has changed since the run in {out} was "
            "started: put it back as it was, or start a new run in another folder."
        )
    return fitted(model, wanted, start_from), start


def fitted(model: DistilCLIP, wanted: DistilCLIPConfig, name: str) -> DistilCLIP:
    """A model, called `name`, with picture size and dropouts of `wanted`."""
    check_shape(name, shape_of(wanted), shape_of(model.config))
    vision: ViTConfig = replace(
        model.config.vision,
        image_size=wanted.vision.image_size,
        dropout=wanted.vision.dropout,
        patch_dropout=wanted.vision.patch_dropout,
    )
    tensors = model.vision.state_dict()
    positions = tensors["position_embedding"]
    positions = resample_positions(positions, vision.patches_a_side)
    model.vision = ViT(vision)
    model.vision.load_state_dict(tensors | {"position_embedding": positions})
    model.config = replace(model.config, vision=vision)
    return model


def with_replay(rows: datasets.Dataset, share: float) -> datasets.Dataset:
    """A training split and, behind it, `share` bundled drawings for each picture.

    They are drawings that the bundled model learned from, the same ones in every
    run, and no more than there are; what `rows` has already is left out. A model
    that goes on from that one then forgets less of what it knew: rehearsal
    (Robins, 1995), today called replay.
    """
    known, own = load_emoji()["train"].shuffle(seed=0), set(rows["image_id"])
    others = [i for i, name in enumerate(known["image_id"]) if name not in own]
    others = others[: round(share * len(rows))]
    if not others:
        return rows
    columns = ["image", "captions", "image_id"]
    drawings = known.select(others).select_columns(columns)
    return datasets.concatenate_datasets([rows.select_columns(columns), drawings])


def hash_of(model: DistilCLIP) -> str:
    """A hash of a model's weights."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tuple(tensor.shape)}".encode())
        flat = tensor.detach().cpu().contiguous().view(-1)
        digest.update(flat.view(torch.uint8).numpy())
    return digest.hexdigest()[:32]

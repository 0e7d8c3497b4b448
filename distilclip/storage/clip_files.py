"""The files of a CLIP or a SigLIP of `transformers`: what they say, in our terms.

Which kind a checkpoint is, the shape of its vision tower, its tensors under our
names and back, and how it wants its pictures prepared. Safetensors and JSON only,
and no code of a repository is run.
"""

import contextlib
import importlib.util
import math
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from distilclip.storage.files import read_json
from distilclip.storage.hub import (
    NoFileInPlaceError,
    find_file,
    offline_without_network,
)
from distilclip.storage.pictures import PictureSize
from distilclip.storage.weights import (
    checkpoint_files,
    load_tokenizer,
    quiet_transformers,
)

CLIP_KINDS = ("clip", "siglip", "siglip2")
ACTIVATIONS = ("quick_gelu", "gelu", "gelu_pytorch_tanh")
PATCHES = "embeddings.patch_embedding"
POSITIONS = "embeddings.position_embedding.weight"
QKV = ("q_proj", "k_proj", "v_proj")
# Parts whose weight and bias are the same in both, by our names and by theirs
OF_A_BLOCK = {
    "attention_norm": "layer_norm1",
    "attention.output": "self_attn.out_proj",
    "mlp_norm": "layer_norm2",
    "mlp.up": "mlp.fc1",
    "mlp.down": "mlp.fc2",
}
OF_THE_POOL = {
    "pool.attention.output": "head.attention.out_proj",
    "pool.norm": "head.layernorm",
    "pool.mlp.up": "head.mlp.fc1",
    "pool.mlp.down": "head.mlp.fc2",
}
PROJECTIONS = {  # of a CLIP; a SigLIP's towers end in the shared space
    "image_projection.linear.weight": "visual_projection.weight",
    "text_projection.linear.weight": "text_projection.weight",
}


def clip_kind(path_or_hub_id: str | Path) -> str:
    """Which of `CLIP_KINDS` a checkpoint is; "" for any other, or none at all."""
    with contextlib.suppress(OSError, ValueError):
        kind = read_json(find_file(path_or_hub_id, "config.json")).get("model_type")
        return kind if kind in CLIP_KINDS else ""
    return ""


def load_transformers_clip(path_or_hub_id: str | Path) -> nn.Module:
    """The checkpoint as a model of `transformers`, in float32, ready for inference.

    Raises FileNotFoundError where there is none, or none in safetensors; ValueError
    where it is of another kind, damaged, or not complete.
    """
    config_file, *_ = checkpoint_files(path_or_hub_id)
    kind = read_json(config_file).get("model_type")
    if kind not in CLIP_KINDS:
        raise ValueError(
            f"{path_or_hub_id} holds a model of type {kind!r}; PretrainedCLIP "
            f"reads {', '.join(CLIP_KINDS)}."
        )
    from transformers import AutoModel

    try:
        with quiet_transformers(), offline_without_network(path_or_hub_id):
            model, report = AutoModel.from_pretrained(
                str(path_or_hub_id),
                use_safetensors=True,
                trust_remote_code=False,
                dtype=torch.float32,
                output_loading_info=True,
            )
    except SafetensorError as error:
        raise ValueError(
            f"The weights in {path_or_hub_id} are damaged: {error}."
        ) from None
    except (RuntimeError, TypeError, KeyError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"{path_or_hub_id} cannot be read: {reason}") from None
    missing = sorted(report["missing_keys"])
    if missing:
        raise ValueError(
            f"{path_or_hub_id} does not fit its config.json: {len(missing)} "
            f"tensors are missing, the first of them {missing[0]}."
        )
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise ValueError(
                f"The tensor {name!r} in {path_or_hub_id} holds numbers that are "
                "not finite: the model is of no use."
            )
    return model.eval()


def load_clip_tokenizer(path_or_hub_id: str | Path):
    """The checkpoint's tokenizer.

    Raises ValueError where it is damaged, and where it is SigLIP's first, which
    needs a package and would read other tokens without it.
    """
    with offline_without_network(path_or_hub_id):
        with contextlib.suppress(NoFileInPlaceError):
            said = read_json(find_file(path_or_hub_id, "tokenizer_config.json"))
            wanted = str(said.get("tokenizer_class", "")).startswith("SiglipTok")
            if wanted and not importlib.util.find_spec("sentencepiece"):
                raise ValueError(
                    f"The tokenizer of {path_or_hub_id} needs two packages: "
                    "'pip install sentencepiece protobuf'."
                )
        return load_tokenizer(path_or_hub_id)


def vision_settings(vision: Any, kind: str) -> dict[str, Any]:
    """The settings of a vision tower, from its configuration in `transformers`.

    Raises ValueError for what our tower does not have.
    """
    if vision.hidden_act not in ACTIVATIONS:
        raise ValueError(
            f"The vision tower's activation is {vision.hidden_act!r}; known are "
            f"{', '.join(ACTIVATIONS)}."
        )
    if not getattr(vision, "vision_use_head", True):
        raise ValueError("The vision tower has no head that pools its patches.")
    side = (
        math.isqrt(vision.num_patches)
        if kind == "siglip2"
        else vision.image_size // vision.patch_size
    )
    return {
        "image_size": side * vision.patch_size,
        "patch_size": vision.patch_size,
        "in_channels": vision.num_channels,
        "dim": vision.hidden_size,
        "depth": vision.num_hidden_layers,
        "num_heads": vision.num_attention_heads,
        "mlp_ratio": vision.intermediate_size / vision.hidden_size,
        "layer_norm_eps": vision.layer_norm_eps,
        "cls_token": kind == "clip",
        "pre_norm": kind == "clip",
        "attention_pool": kind != "clip",
        "activation": vision.hidden_act,
    }


def same_parts(kind: str, depth: int) -> dict[str, str]:
    """Tensors that both have alike, by our names and by theirs."""
    parts = {"norm": "post_layernorm"}
    parts |= {"pre_norm": "pre_layrnorm"} if kind == "clip" else OF_THE_POOL
    for layer in range(depth):
        parts |= {
            f"blocks.{layer}.{ours}": f"encoder.layers.{layer}.{theirs}"
            for ours, theirs in OF_A_BLOCK.items()
        }
    names = {
        f"{ours}.{end}": f"{theirs}.{end}"
        for ours, theirs in parts.items()
        for end in ("weight", "bias")
    }
    if kind != "clip":
        names["pool.query"] = "head.probe"
        for end in ("weight", "bias"):
            names[f"pool.attention.qkv.{end}"] = f"head.attention.in_proj_{end}"
    return names


def our_vision_tensors(
    theirs: dict[str, Tensor], kind: str, depth: int
) -> dict[str, Tensor]:
    """A vision tower's tensors under our names and in our shapes."""
    ours = {n: theirs[name] for n, name in same_parts(kind, depth).items()}
    ours["position_embedding"] = theirs[POSITIONS].unsqueeze(0)
    kernel = theirs[f"{PATCHES}.weight"]
    if kind == "siglip2":  # a linear layer over (p q c); ours is over (c p q)
        kernel = kernel.unflatten(1, (-1, 3)).transpose(1, 2)
    ours["patch_embedding.projection.weight"] = kernel.flatten(1)
    none = kernel.new_zeros(len(kernel))  # CLIP's patches have no bias
    bias = theirs.get(f"{PATCHES}.bias", none)
    ours["patch_embedding.projection.bias"] = bias
    if kind == "clip":
        ours["cls_token"] = theirs["embeddings.class_embedding"].view(1, 1, -1)
    for layer in range(depth):
        for end in ("weight", "bias"):
            place = f"encoder.layers.{layer}.self_attn"
            parts = [theirs[f"{place}.{part}.{end}"] for part in QKV]
            ours[f"blocks.{layer}.attention.qkv.{end}"] = torch.cat(parts)
    return ours


def their_vision_tensors(
    ours: dict[str, Tensor], kind: str, depth: int, patch_size: int
) -> dict[str, Tensor]:
    """The way back from `our_vision_tensors`."""
    theirs = {name: ours[n] for n, name in same_parts(kind, depth).items()}
    theirs[POSITIONS] = ours["position_embedding"][0]
    kernel = ours["patch_embedding.projection.weight"]
    area = patch_size**2
    kernel = kernel.unflatten(1, (-1, area))
    if kind == "siglip2":
        kernel = kernel.transpose(1, 2).flatten(1)
    else:
        kernel = kernel.unflatten(2, (patch_size, patch_size))
    theirs[f"{PATCHES}.weight"] = kernel
    if kind == "clip":
        theirs["embeddings.class_embedding"] = ours["cls_token"].flatten()
    else:
        bias = ours["patch_embedding.projection.bias"]
        theirs[f"{PATCHES}.bias"] = bias
    for layer in range(depth):
        for end in ("weight", "bias"):
            whole = ours[f"blocks.{layer}.attention.qkv.{end}"]
            place = f"encoder.layers.{layer}.self_attn"
            for part, tensor in zip(QKV, whole.chunk(3), strict=True):
                theirs[f"{place}.{part}.{end}"] = tensor
    return theirs


def our_tensors(
    theirs: dict[str, Tensor], kind: str, depth: int
) -> dict[str, Tensor]:
    """All tensors of a checkpoint under the names of a `PretrainedCLIP`."""
    ours = {"log_logit_scale": theirs["logit_scale"].view(())}
    towers: dict[str, dict[str, Tensor]] = {"vision_model.": {}, "text_model.": {}}
    for prefix, tower in towers.items():
        for name, tensor in theirs.items():
            if name.startswith(prefix):
                tower[name.removeprefix(prefix)] = tensor
    vision = our_vision_tensors(towers["vision_model."], kind, depth)
    ours |= {f"vision.{name}": tensor for name, tensor in vision.items()}
    text = towers["text_model."].items()
    ours |= {f"text.model.{name}": tensor for name, tensor in text}
    bias = theirs.get("logit_bias", torch.zeros(()))  # CLIP has none
    ours["logit_bias"] = bias.view(())
    names = PROJECTIONS if kind == "clip" else {}
    return ours | {name: theirs[their_name] for name, their_name in names.items()}


def their_tensors(
    ours: dict[str, Tensor], kind: str, depth: int, patch_size: int
) -> dict[str, Tensor]:
    """The way back from `our_tensors`."""
    vision = {
        name.removeprefix("vision."): tensor
        for name, tensor in ours.items()
        if name.startswith("vision.")
    }
    vision = their_vision_tensors(vision, kind, depth, patch_size)
    theirs = {f"vision_model.{name}": tensor for name, tensor in vision.items()}
    theirs |= {
        name.replace("text.model.", "text_model.", 1): tensor
        for name, tensor in ours.items()
        if name.startswith("text.model.")
    }
    theirs["logit_scale"] = ours["log_logit_scale"]
    if kind == "clip":
        return theirs | {name: ours[n] for n, name in PROJECTIONS.items()}
    theirs["logit_scale"] = ours["log_logit_scale"].view(1)
    return theirs | {"logit_bias": ours["logit_bias"].view(1)}


def read_preprocessing(path_or_hub_id: str | Path) -> dict[str, Any]:
    """What a checkpoint says of its pictures: the content of its JSON file.

    That is preprocessor_config.json, or a part of processor_config.json. Raises
    FileNotFoundError where it says nothing.
    """
    with contextlib.suppress(NoFileInPlaceError):
        return read_json(find_file(path_or_hub_id, "preprocessor_config.json"))
    with contextlib.suppress(NoFileInPlaceError):
        said = read_json(find_file(path_or_hub_id, "processor_config.json"))
        if isinstance(said.get("image_processor"), dict):
            return said["image_processor"]
    raise NoFileInPlaceError(
        f"{path_or_hub_id} has no preprocessor_config.json, which says how its "
        "pictures are prepared: copy it from where the model comes from, or save "
        "the model's processor beside it."
    )


def sides(value: Any) -> tuple[int, int]:
    """Height and width, from a number or from {"height": ..., "width": ...}."""
    if isinstance(value, dict):
        return int(value["height"]), int(value["width"])
    return int(value), int(value)


def picture_size(said: dict[str, Any], kind: str, side: int) -> PictureSize:
    """How a checkpoint wants a picture to become `side` x `side` pixels.

    `said` is what `read_preprocessing` gave. Raises ValueError for a way that gives
    no such square.
    """
    resample = int(said.get("resample", 2 if kind == "siglip2" else 3))
    if kind == "siglip2":  # in patches; here every picture has the most of them
        return PictureSize(side, "squash", side, resample)
    try:
        size = said.get("size", {})
        if kind == "clip" and not isinstance(size, dict):
            size = {"shortest_edge": size}
        crop = said.get("crop_size", side) if said.get("do_center_crop") else None
        if not said.get("do_resize", True):
            raise ValueError("do_resize is false")
        if abs(said.get("rescale_factor", 1 / 255) - 1 / 255) > 1e-6:
            raise ValueError("rescale_factor is not 1/255")
        if "shortest_edge" in size:
            if crop is None or sides(crop) != (side, side):
                raise ValueError(f"crop_size is {crop}")
            shortest = int(size["shortest_edge"])
            if shortest < side:
                raise ValueError(f"shortest_edge is {shortest}")
            return PictureSize(side, "shortest", shortest, resample)
        height, width = sides(size)
        if crop or height != width or not side <= height:
            raise ValueError(f"size is {size}")
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"How the pictures are prepared gives no square of {side} pixels, as "
            f"the model wants it (in preprocessor_config.json, {error})."
        ) from None
    return PictureSize(side, "squash", height, resample)


def pixel_constants(
    said: dict[str, Any],
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation a channel, for pixels in [0, 1].

    Raises ValueError where `said`, of `read_preprocessing`, has none.
    """
    if not said.get("do_normalize", True):
        return (0.0,) * 3, (1.0,) * 3
    names = ("image_mean", "image_std")
    if missing := [name for name in names if name not in said]:
        raise ValueError(f"preprocessor_config.json does not say {missing[0]}.")
    mean, std = (tuple(map(float, said[name])) for name in names)
    return mean, std

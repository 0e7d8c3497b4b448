"""What a run is asked for and what it gives: the presets, `TrainConfig` and `TrainResult`.

Chapter 8 trains with these; each choice of a preset is argued there.
"""

import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # a list of the settings need not wait for PyTorch
    from distilclip.model import DistilCLIP, DistilCLIPConfig

PRESETS = {
    # A small ViT beside a locked MiniLM: learns something real on two laptop cores.
    "cpu": {
        "text_model": "minilm",
        "image_size": 48,
        "patch_size": 8,
        "dim": 192,
        "depth": 6,
        "num_heads": 3,
        "image_pool": "mean",
        "full_size_start": 0.6,
        "epochs": 120,
        "batch_size": 128,
        "lr": 1.5e-3,
        "text_projection_lr": 3e-5,
        "weight_decay": 0.1,
        "warmup": 0.05,
        "augmentation": 0.5,
    },
    # ViT-S/16 at 224 pixels and DistilBERT, both trained, each at its own learning rate.
    "t4": {
        "text_model": "distilbert-base-uncased",
        "image_size": 224,
        "patch_size": 16,
        "dim": 384,
        "depth": 12,
        "num_heads": 6,
        "patch_dropout": 0.5,
        "image_pool": "mean",
        "text_lr": 3e-5,
        "text_start": 0.5,
        "epochs": 25,
        "batch_size": 128,
        "lr": 5e-4,
        "text_projection_lr": 1e-5,
        "weight_decay": 0.1,
        "warmup": 0.1,
        "augmentation": 0.25,
        "flip": True,
        "sort_captions": True,
    },
    # The system that this book starts from, with its flaws.
    "original": {
        "text_model": "distilbert-base-uncased",
        "image_size": 224,
        "patch_size": 16,
        "dim": 768,
        "depth": 12,
        "num_heads": 12,
        "cls_token": False,
        "final_norm": False,
        "projection_norm": True,
        "pad_to_max_length": True,
        "learn_temperature": False,
        "mask_positives": False,
        "text_lr": 5e-5,
        "epochs": 25,
        "batch_size": 64,
        "lr": 5e-5,
        "weight_decay": 0.01,
        "beta2": 0.999,
        "warmup": 0.0,
        "clip_gradient": 0.0,
        "augmentation": 0.0,
    },
}

PRECISIONS = ("auto", "float32", "bfloat16", "float16")


@dataclass
class TrainConfig:
    """What to train, on what, and where to put it.

    A field left at None takes the value of the preset ("cpu", "t4" or "original"), or else the
    value that `DEFAULTS` gives it.

    - `text_lr` 0 locks the text encoder: its features are then computed once. Otherwise it is
      locked for the share `text_start` of the epochs, and learns after that. `vision_lr` is
      the ViT's rate, `lr` where it is not given; 0 locks it. `text_projection_lr` is the rate of
      the captions' projection, `lr` where it is not given. `lr` is everything else's.
    - `text_layers` above 0 lets only so many of the text encoder's last layers learn. What they
      are given is computed once for each caption, and kept in memory.
    - `vision_model` names a pretrained ViT to start from; its shape takes the place of `dim`,
      `depth` and the like.
    - `full_size_start` is the share of the epochs in which pictures come at half their width: a
      quarter of the patches, a fraction of the work. After that they come whole.
    - `augmentation` scales the random views from 0 (none) to 1 (strong); `flip` mirrors half of
      the pictures, but none with a caption that speaks of left or right.
    - `precision` is "auto", "float32", "bfloat16" or "float16".
    - `ema` above 0 keeps a moving average of the weights with this decay; it is what is
      evaluated and saved as the model.
    - `micro_batch` above 0 encodes that many pairs at a time: the gradient of the whole batch in
      the memory of a part (gradient caching, chapter 11).
    - `sort_captions` draws captions of like length for a batch, where the text encoder is trained:
      less padding, every caption as often as without.
    - `evaluations` is how often the validation split is measured in a run, the end included.
    - `cache` names a folder that keeps the decoded pictures for the next run; `skip_broken`
      leaves out pictures that cannot be read, with a warning; `tensorboard` writes the curves for
      TensorBoard too; `compile` hands the ViT to `torch.compile`.

    Raises ValueError, in one sentence, for a value that cannot work.
    """

    data: str = "emoji"
    out: str = "runs/emoji"
    preset: str = "cpu"
    resume: bool = False
    seed: int = 0
    device: str = "auto"
    precision: str = "auto"
    compile: bool = False
    tensorboard: bool = False
    cache: str = ""
    skip_broken: bool = False
    text_model: str | None = None
    vision_model: str | None = None
    image_size: int | None = None
    patch_size: int | None = None
    dim: int | None = None
    depth: int | None = None
    num_heads: int | None = None
    dropout: float | None = None
    patch_dropout: float | None = None
    cls_token: bool | None = None
    final_norm: bool | None = None
    image_pool: str | None = None
    embed_dim: int | None = None
    projection_norm: bool | None = None
    pad_to_max_length: bool | None = None
    learn_temperature: bool | None = None
    mask_positives: bool | None = None
    epochs: int | None = None
    batch_size: int | None = None
    lr: float | None = None
    text_lr: float | None = None
    text_start: float | None = None
    text_layers: int | None = None
    full_size_start: float | None = None
    vision_lr: float | None = None
    text_projection_lr: float | None = None
    weight_decay: float | None = None
    beta2: float | None = None
    warmup: float | None = None
    clip_gradient: float | None = None
    ema: float | None = None
    micro_batch: int | None = None
    augmentation: float | None = None
    flip: bool | None = None
    sort_captions: bool | None = None
    evaluations: int | None = None

    def __post_init__(self):
        if self.preset not in PRESETS:
            raise ValueError(f"Unknown preset {self.preset!r}: choose {', '.join(PRESETS)}.")
        for name, value in (DEFAULTS | PRESETS[self.preset]).items():
            if getattr(self, name) is None:
                setattr(self, name, value)
        for name in ("vision_lr", "text_projection_lr"):
            if getattr(self, name) is None:
                setattr(self, name, self.lr)
        for name in ("epochs", "batch_size", "embed_dim"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}.")
        if self.batch_size < 2:
            raise ValueError("batch_size must be at least 2: one pair has nothing to compare with.")
        if not self.lr > 0 or not self.text_projection_lr > 0:
            raise ValueError("lr and text_projection_lr must be positive.")
        if not self.text_lr >= 0 or not self.vision_lr >= 0:
            raise ValueError("text_lr and vision_lr must not be negative.")
        if self.vision_lr == 0 and not self.vision_model:
            raise ValueError("vision_lr 0 locks the ViT: name a pretrained one as vision_model.")
        for name in (
            "weight_decay",
            "clip_gradient",
            "augmentation",
            "evaluations",
            "micro_batch",
            "text_layers",
        ):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}.")
        for name in ("warmup", "beta2", "ema", "text_start", "full_size_start"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must be in [0, 1), got {getattr(self, name)}.")
        if self.text_layers and not self.text_lr:
            raise ValueError("text_layers needs a text_lr above 0: at 0 no layer learns.")
        if self.text_lr and round(self.text_start * self.epochs) == self.epochs:
            raise ValueError(
                f"text_start {self.text_start} of {self.epochs} epochs leaves the text encoder "
                "none to learn in: choose a smaller text_start, or text_lr 0 to lock it."
            )
        if self.precision not in PRECISIONS:
            raise ValueError(
                f"Unknown precision {self.precision!r}: choose {', '.join(PRECISIONS)}."
            )
        if self.tensorboard and importlib.util.find_spec("tensorboard") is None:
            raise ValueError(
                "The option tensorboard needs a package that is not installed: run "
                "'pip install tensorboard', or leave the option out."
            )
        self.model_config()  # raises ValueError where the shape of the model is at fault

    def model_config(self) -> "DistilCLIPConfig":
        """The model that this configuration trains."""
        from distilclip.model import DistilCLIPConfig
        from distilclip.vit import ViTConfig

        return DistilCLIPConfig(
            vision=ViTConfig(
                image_size=self.image_size,
                patch_size=self.patch_size,
                dim=self.dim,
                depth=self.depth,
                num_heads=self.num_heads,
                dropout=self.dropout,
                patch_dropout=self.patch_dropout,
                cls_token=self.cls_token,
                final_norm=self.final_norm,
            ),
            text_model=self.text_model,
            vision_model=self.vision_model,
            image_pool=self.image_pool,
            embed_dim=self.embed_dim,
            projection_norm=self.projection_norm,
            pad_to_max_length=self.pad_to_max_length,
        )


DEFAULTS = {
    "dropout": 0.0,
    "patch_dropout": 0.0,
    "cls_token": True,
    "final_norm": True,
    "image_pool": "first",
    "embed_dim": 256,
    "projection_norm": False,
    "pad_to_max_length": False,
    "learn_temperature": True,
    "mask_positives": True,
    "text_lr": 0.0,
    "text_start": 0.0,
    "text_layers": 0,
    "full_size_start": 0.0,
    "beta2": 0.98,
    "clip_gradient": 1.0,
    "ema": 0.0,
    "micro_batch": 0,
    "flip": False,
    "sort_captions": False,
    "evaluations": 5,
}


@dataclass
class TrainResult:
    """A trained model, its folder, its metrics by split, and every logged line."""

    model: "DistilCLIP"
    folder: Path
    metrics: dict[str, dict[str, float]]
    history: list[dict]

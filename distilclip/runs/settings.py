"""What a run is asked for and what it gives: presets, settings, a result.

Chapter 8a trains with these, and measures what the choices of a preset are worth.
"""

import functools
import importlib.util
import inspect
import math
import numbers
import os
import typing
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:  # a list of the settings need not wait for PyTorch
    from distilclip.model import DistilCLIP, DistilCLIPConfig

Value = TypeVar("Value")
Config = TypeVar("Config", bound=type)

PRESETS: dict[str, dict[str, Any]] = {
    # For drawings on two laptop cores: a small ViT beside a frozen MiniLM.
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
    # For photographs on a T4: ViT-S/16 at 224 pixels and DistilBERT, which learns
    # from the start, each at its own learning rate; crops and mirroring.
    "t4": {
        "text_model": "distilbert-base-uncased",
        "image_size": 224,
        "patch_size": 16,
        "dim": 384,
        "depth": 12,
        "num_heads": 6,
        "patch_dropout": 0.5,
        "image_pool": "mean",
        "text_lr": 1e-4,
        "full_size_start": 0.0,
        "epochs": 25,
        "batch_size": 128,
        "lr": 5e-4,
        "text_projection_lr": 1e-5,
        "weight_decay": 0.1,
        "warmup": 0.1,
        "augmentation": 0.0,
        "crop_scale": 0.5,
        "flip": True,
        "sort_captions": True,
    },
    # For drawings on a T4: captions of few words, which a text encoder knows, and
    # the augmentation that carries over to another hand's style.
    "t4-drawings": {
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
        "full_size_start": 0.0,
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
    # For pictures of one's own, tens to thousands: a trained model learns on.
    "tune": {
        "start_from": "emoji",
        "full_size_start": 0.0,
        "epochs": 40,
        "batch_size": 64,
        "lr": 5e-4,
        "weight_decay": 0.1,
        "warmup": 0.1,
        "augmentation": 0.0,
        "crop_scale": 0.5,
        "flip": True,
    },
    # For photographs on a T4, from a pretrained ViT, which is frozen while the
    # projections learn and then learns on at a low rate. Not measured yet.
    "t4-pretrained": {
        "text_model": "distilbert-base-uncased",
        "vision_model": "google/vit-base-patch16-224-in21k",
        "image_size": 224,
        "vision_lr": 1e-5,
        "vision_start": 0.3,
        "text_lr": 5e-5,
        "full_size_start": 0.0,
        "epochs": 10,
        "batch_size": 128,
        "lr": 1e-3,
        "weight_decay": 0.1,
        "warmup": 0.1,
        "augmentation": 0.0,
        "crop_scale": 0.5,
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
        "image_pool": "first",
        "full_size_start": 0.0,
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

# What an older version did not know was off then, whatever a preset says now.
OFF = {"image_pool": "first", "full_size_start": 0.0, "augmentation": 0.0}
PRECISIONS = ("auto", "float32", "bfloat16", "float16")

RULES = {
    "must be at least 1": lambda value: value >= 1,
    "must be positive": lambda value: value > 0,
    "must not be negative": lambda value: value >= 0,
    "must be in [0, 1)": lambda value: 0 <= value < 1,
    "must be above 0 and at most 1": lambda value: 0 < value <= 1,
    "must be at least 0 and below 2**63": lambda value: 0 <= value < 2**63,
}
KINDS = {bool: "True or False", int: "a whole number", float: "a number"}
KINDS[str] = "a text"
COUNT, POSITIVE, NOT_NEGATIVE, SHARE, PART, SEED = RULES
# What a model to start from decides; pictures may still come in another size
OF_THE_MODEL = (
    *("text_model", "text_pool", "image_size", "patch_size", "dim", "depth"),
    *("num_heads", "cls_token", "final_norm", "image_pool", "embed_dim"),
    *("projection_norm", "pad_to_max_length"),
)
MODEL = "config.json"  # the file in a run's folder that says its model's shape
FOLLOWS_LR = ("vision_lr", "text_projection_lr")  # are lr where they are not given


def setting(default: Value, about: str, rule: str = "", kind: str = "") -> Value:
    """A field of `TrainConfig`: its default, its meaning, its rule of `RULES`.

    `kind` says which fields tell how data are read ("column", "columns", "text").
    """
    metadata = {"about": about, "rule": rule, "kind": kind}
    return field(default=default, metadata=metadata)


def filled_by_preset(config_class: Config) -> Config:
    """Let a preset fill fields that are not given; the rest keep their defaults."""
    plain = config_class.__init__
    signature = inspect.signature(plain)

    @functools.wraps(plain)
    def init(self, *positional, **named):
        given = dict(signature.bind_partial(self, *positional, **named).arguments)
        del given["self"]
        if given.get("vision_model", "") is None:  # as version 0.1 wrote "none"
            given["vision_model"] = ""
        for name, value in given.items():
            if value is None:
                raise ValueError(
                    f"{name} is None: leave it out for its usual value."
                )
        if not is_of_kind(given.get("start_from", ""), str):
            text = f"start_from must be a text, got {given['start_from']!r:.80}."
            raise ValueError(text)
        usual = "tune" if given.get("start_from") else "cpu"
        preset = given.setdefault("preset", usual)
        if not isinstance(preset, str) or preset not in PRESETS:
            raise ValueError(
                f"Unknown preset {preset!r}: choose {', '.join(PRESETS)}."
            )
        values = PRESETS[preset] | given
        for name in FOLLOWS_LR:
            values.setdefault(name, values["lr"])
        if values.get("start_from"):
            values |= shape_to_start_with(given, values)
        plain(self, **values)

    config_class.__init__ = init
    return config_class


def shape_to_start_with(given: dict, values: dict) -> dict[str, Any]:
    """The settings that are not `given` and follow from the model to start from.

    That is read only where there are some; a run that is resumed has its own.
    Raises ValueError where one that is given contradicts it.
    """
    from distilclip.runs.starting import check_shape, settings_of_model

    if not set(OF_THE_MODEL) - given.keys():
        return {}
    place, out = values["start_from"], values.get("out", "runs/emoji")
    if values.get("resume") and Path(out).expanduser().joinpath(MODEL).is_file():
        place = out
    shape = settings_of_model(place)
    check_shape(place, given, shape)
    return {name: value for name, value in shape.items() if name not in given}


@filled_by_preset
@dataclass
class TrainConfig:
    """What to train, on what, and where to put it.

    The defaults are those of the preset "cpu". Another one ("t4", "original") fills
    in what it names and what is not given. With `start_from`, the preset is "tune"
    unless another is named, and the model's shape is that model's. Raises
    ValueError, in one sentence, for a value that cannot work.
    """

    # The run
    data: str = setting(
        "emoji", "emoji, scenes, flickr8k, naruto, a folder, a table, or a Hub id"
    )
    out: str = setting("runs/emoji", "folder for the run")
    preset: str = setting(
        "cpu",
        "the recipe: drawings on two CPU cores (cpu), photographs on a T4 (t4), "
        "drawings on a T4 (t4-drawings), a trained model that learns on from "
        "pictures of one's own (tune), or the system that the book starts from "
        "(original)",
    )
    start_from: str = setting(
        "",
        "a model to go on from, whose shape is kept: a run's folder, emoji, or a "
        "Hub id",
    )
    resume: bool = setting(False, "go on with the run in the folder")
    seed: int = setting(0, "decides everything that is drawn at random", SEED)
    device: str = setting(
        "auto",
        "cpu, cuda, ..., or auto: cuda where there is one, else cpu",
    )
    precision: str = setting("auto", "the number format of the encoders")
    compile: bool = setting(False, "hand the ViT to torch.compile")
    evaluations: int = setting(
        5,
        "how often the validation split is measured, the end included",
        NOT_NEGATIVE,
    )
    tensorboard: bool = setting(False, "write the curves for TensorBoard, too")

    # The data
    image_column: str = setting(
        "", "the column of pictures in a table", kind="column"
    )
    caption_column: str = setting(
        "",
        "the column of captions, or several with commas between them",
        kind="columns",
    )
    split_column: str = setting(
        "", "the column that names the split", kind="column"
    )
    delimiter: str = setting(
        "",
        "what stands between the columns of a table, such as ; or tab",
        kind="text",
    )
    cache: str = setting(
        "", "a folder that keeps the decoded pictures for the next run"
    )
    pixel_memory: float = setting(
        0.5,
        "share of the free memory that decoded pictures may take; above it they go "
        "to a file",
        PART,
    )
    streaming: bool = setting(
        False,
        "read the data as they come: shards and Hub data sets larger than memory",
    )
    shuffle_buffer: int = setting(
        4096, "rows of a stream that are shuffled together, in memory", COUNT
    )
    epoch_pictures: int = setting(
        0,
        "pictures of a stream that make an epoch; 0: as many as it has rows",
        NOT_NEGATIVE,
    )
    replay: float = setting(
        0.0,
        "bundled drawings for each picture, as far as there are, learned beside "
        "them: a model that goes on from emoji then forgets less",
        NOT_NEGATIVE,
    )
    skip_broken: bool = setting(
        False, "leave out pictures that cannot be read, and say so"
    )
    augmentation: float = setting(
        0.5, "how strong the random views are, from 0 (none) to 1", NOT_NEGATIVE
    )
    crop_scale: float = setting(
        1.0, "the least share of a picture that a random crop keeps; 1: all", PART
    )
    captions_per_picture: int = setting(
        1, "captions drawn for each picture in a step, all of them right", COUNT
    )
    flip: bool = setting(
        False,
        "mirror half of the pictures, but none whose caption says left or right",
    )
    sort_captions: bool = setting(
        False,
        "fill a batch with captions of like length: less padding to train text on",
    )

    # The model
    text_model: str = setting(
        "minilm", "the text encoder: minilm, a folder, or a Hub id"
    )
    text_pool: str = setting(
        "",
        "a caption's vector: cls, mean, or (empty) as the text encoder was trained",
    )
    vision_model: str = setting(
        "",
        "a pretrained ViT to start from; its shape replaces dim, depth and so on",
    )
    image_size: int = setting(48, "width of the pictures, in pixels")
    patch_size: int = setting(8, "width of a patch, in pixels")
    dim: int = setting(192, "channels of the ViT")
    depth: int = setting(6, "layers of the ViT")
    num_heads: int = setting(3, "attention heads in each layer of the ViT")
    dropout: float = setting(0.0, "dropout inside the ViT")
    patch_dropout: float = setting(
        0.0, "share of the patches left out of each training step"
    )
    cls_token: bool = setting(True, "give the ViT a [CLS] token")
    final_norm: bool = setting(True, "end the ViT in a LayerNorm")
    image_pool: str = setting(
        "mean", "the picture's vector: the first token, or mean"
    )
    embed_dim: int = setting(256, "dimensions of the shared space", COUNT)
    projection_norm: bool = setting(False, "put a LayerNorm behind each projection")
    pad_to_max_length: bool = setting(
        False, "pad every caption to the greatest length"
    )

    # The loss
    learn_temperature: bool = setting(True, "learn the temperature, too")
    mask_positives: bool = setting(
        True, "never treat a caption as a negative of a picture that it describes"
    )
    micro_batch: int = setting(
        0,
        "encode so many pairs at a time (gradient caching); 0: all at once",
        NOT_NEGATIVE,
    )

    # The optimiser
    lr: float = setting(1.5e-3, "peak learning rate", POSITIVE)
    vision_lr: float = setting(
        1.5e-3,
        "the ViT's rate, lr where it is not given; 0 freezes it",
        NOT_NEGATIVE,
    )
    text_lr: float = setting(
        0.0,
        "the text encoder's rate; 0 freezes it, and its features are computed once",
        NOT_NEGATIVE,
    )
    text_layers: int = setting(
        0,
        "let only so many last layers of the text encoder learn; 0: all",
        NOT_NEGATIVE,
    )
    text_projection_lr: float = setting(
        3e-5,
        "the rate of the captions' projection, lr where it is not given",
        POSITIVE,
    )
    weight_decay: float = setting(
        0.1, "AdamW's weight decay, of matrices", NOT_NEGATIVE
    )
    beta2: float = setting(0.98, "AdamW's second beta", SHARE)
    clip_gradient: float = setting(
        1.0, "the gradient's greatest norm; 0: any", NOT_NEGATIVE
    )
    ema: float = setting(
        0.0,
        "decay of a moving average of the weights, then the result; 0: none",
        SHARE,
    )

    # The schedule
    epochs: int = setting(120, "how often every picture is seen", COUNT)
    batch_size: int = setting(128, "pairs in a step", COUNT)
    warmup: float = setting(
        0.05, "share of the steps in which the rate rises", SHARE
    )
    text_start: float = setting(
        0.0, "share of the epochs in which the text encoder is still frozen", SHARE
    )
    vision_start: float = setting(
        0.0, "share of the epochs in which a pretrained ViT is still frozen", SHARE
    )
    full_size_start: float = setting(
        0.6,
        "share of the epochs in which pictures come at half their width first",
        SHARE,
    )

    def __post_init__(self):
        if not isinstance(self.data, str):
            raise ValueError(
                f"data must be a name or a path, got a {type(self.data).__name__}: "
                "give it to train(config, data=...)."
            )
        kinds = typing.get_type_hints(type(self))
        for each in fields(self):
            value, rule = getattr(self, each.name), each.metadata["rule"]
            if not is_of_kind(value, kinds[each.name]):
                raise ValueError(
                    f"{each.name} must be {KINDS[kinds[each.name]]}, got "
                    f"{value!r:.80}."
                )
            if isinstance(value, float) and not math.isfinite(value):
                raise ValueError(
                    f"{each.name} must be a finite number, got {value}."
                )
            if rule and not RULES[rule](value):
                raise ValueError(f"{each.name} {rule}, got {value}.")
        if self.batch_size < 2:
            raise ValueError(
                "batch_size must be at least 2: "
                "one pair has nothing to compare with."
            )
        if self.replay and self.streaming:
            raise ValueError(
                "replay does not work with streaming: leave one of them out."
            )
        if self.epoch_pictures and not self.streaming:
            raise ValueError(
                "epoch_pictures is for a stream: add streaming, or leave it out."
            )
        if self.start_from and self.vision_model:
            raise ValueError(
                "start_from and vision_model each bring a ViT: leave one out."
            )
        if self.start_from and is_same_folder(self.start_from, self.out):
            raise ValueError(
                f"A run cannot start from its own folder, {self.out}: leave "
                "start_from out and add resume to go on with it, or choose another "
                "folder for the new run."
            )
        if self.vision_lr == 0 and not (self.vision_model or self.start_from):
            raise ValueError(
                "vision_lr 0 freezes the ViT: name a pretrained one as "
                "vision_model, or a model to go on from as start_from."
            )
        if self.text_layers and not self.text_lr:
            raise ValueError(
                "text_layers needs a text_lr above 0: at 0 no layer learns."
            )
        self.check_starts()
        if self.captions_per_picture > 1 and not self.mask_positives:
            raise ValueError(
                "captions_per_picture above 1 needs mask_positives: "
                "a picture's other captions are right for it."
            )
        if self.text_pool not in ("", "cls", "mean"):
            raise ValueError(
                f"text_pool must be 'cls' or 'mean', got {self.text_pool!r}."
            )
        if self.precision not in PRECISIONS:
            choices = ", ".join(PRECISIONS)
            raise ValueError(
                f"Unknown precision {self.precision!r}: choose {choices}."
            )
        if self.tensorboard and importlib.util.find_spec("tensorboard") is None:
            raise ValueError(
                "The option tensorboard needs a package that is not installed: run "
                "'pip install tensorboard', or leave the option out."
            )
        self.model_config()  # raises ValueError where the model's shape is at fault

    def check_starts(self) -> None:
        """Raise ValueError where an encoder could not be frozen at first."""
        if self.vision_start and not (self.vision_model or self.start_from):
            raise ValueError(
                "vision_start freezes the ViT at first: name a pretrained one as "
                "vision_model, or a model to go on from as start_from."
            )
        for side, encoder in (("text", "text encoder"), ("vision", "ViT")):
            start = getattr(self, f"{side}_start")
            learns = getattr(self, f"{side}_lr") > 0
            if learns and round(start * self.epochs) == self.epochs:
                raise ValueError(
                    f"{side}_start {start} of {self.epochs} epochs leaves the "
                    f"{encoder} none to learn in: choose a smaller {side}_start, "
                    f"or {side}_lr 0 to freeze it."
                )

    def model_config(self) -> "DistilCLIPConfig":
        """The model that this configuration trains."""
        from distilclip.model import DistilCLIPConfig
        from distilclip.vit import ViTConfig

        given = asdict(self) | {
            "vision_model": self.vision_model or None,
            "text_pool": self.text_pool or None,
        }

        def settings_of(kind: type) -> dict:
            names = [each.name for each in fields(kind)]
            return {name: given[name] for name in names if name in given}

        vision = ViTConfig(**settings_of(ViTConfig))
        return DistilCLIPConfig(vision=vision, **settings_of(DistilCLIPConfig))


def is_of_kind(value: object, kind: type) -> bool:
    """Whether a setting has the type of its field; a whole number is a number."""
    if kind in (int, float):
        wanted = numbers.Real if kind is float else numbers.Integral
        return isinstance(value, wanted) and not isinstance(value, bool)
    return isinstance(value, (str, os.PathLike) if kind is str else kind)


def is_same_folder(one: str, other: str) -> bool:
    """Whether two names lead to one folder that is there; "emoji" leads to none."""
    if one == "emoji":
        return False
    folders = [Path(name).expanduser() for name in (one, other)]
    return all(map(Path.is_dir, folders)) and folders[0].samefile(folders[1])


# The fields that say how data are read; `evaluate` has them as options, too
READING = tuple(f.name for f in fields(TrainConfig) if f.metadata["kind"])
DEFAULTS: dict[str, Any] = {
    f.name: f.default for f in fields(TrainConfig) if f.name not in FOLLOWS_LR
}


@dataclass
class TrainResult:
    """A trained model, its folder, its metrics by split, and every logged line."""

    model: "DistilCLIP"
    folder: Path
    metrics: dict[str, dict[str, float]]
    history: list[dict]

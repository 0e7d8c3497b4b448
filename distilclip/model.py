"""Two encoders, one space: images and captions go in, unit vectors come out.

The ViT and the DistilBERT each end in a linear projection to `embed_dim` numbers;
the cosine of the two says how well a picture and a sentence fit. Built in chapter
6, after Radford et al., "Learning Transferable Visual Models From Natural Language
Supervision" (2021).
"""

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm
from transformers import DistilBertConfig, DistilBertModel
from transformers.utils.generic import ModelOutput

from distilclip.loss import cosines
from distilclip.storage.files import read_json, write_text
from distilclip.storage.hub import NoFileInPlaceError, find_file
from distilclip.storage.pictures import (
    Pictures,
    in_a_list,
    normalise_pixels,
    pixels_of,
)
from distilclip.storage.ranges import out_of_range, shape_of_text
from distilclip.storage.weights import (
    EMOJI_MODEL,
    checkpoint_files,
    find_misfits,
    load_tensors,
    load_tokenizer,
    save_tensors,
    save_tokenizer,
)
from distilclip.text import TextEncoder, in_batches
from distilclip.vit import ViT, ViTConfig, evaluating, orthogonal, pool_image


@dataclass
class DistilCLIPConfig:
    """Everything that `DistilCLIP` needs to know.

    `text_model` names the pretrained text encoder ("minilm", a folder, a Hub id),
    `text_pool` how its tokens become one vector: "cls", "mean", or None for the way
    that it was trained for.
    `vision_model` names a pretrained ViT, if that is wanted: its shape and its
    pixel constants take the place of those here, but for the image size and the
    dropouts, which are those of `vision`. `image_pool` is "first" (the [CLS] token,
    or the first patch where there is none) or "mean" (over the patches).
    `projection_norm` puts a LayerNorm behind each projection. `image_mean` and
    `image_std` are a channel each, for pixels in [0, 1].
    """

    vision: ViTConfig = field(default_factory=ViTConfig)
    text_model: str = "distilbert-base-uncased"
    text_pool: str | None = None
    embed_dim: int = 256
    image_pool: str = "first"
    projection_norm: bool = False
    temperature: float = 0.07
    max_logit_scale: float = 100.0
    image_mean: tuple[float, ...] = (0.5, 0.5, 0.5)
    image_std: tuple[float, ...] = (0.5, 0.5, 0.5)
    max_text_length: int = 64
    pad_to_max_length: bool = False
    vision_model: str | None = None

    def __post_init__(self):
        if isinstance(self.vision, dict):
            self.vision = ViTConfig(**self.vision)
        self.image_mean = tuple(self.image_mean)
        self.image_std = tuple(self.image_std)
        if self.image_pool not in ("first", "mean"):
            raise ValueError(
                f"image_pool must be 'first' or 'mean', got {self.image_pool!r}."
            )
        if self.temperature <= 0:
            raise ValueError(
                f"temperature must be positive, got {self.temperature}."
            )


@dataclass
class DistilCLIPOutput(ModelOutput):
    """Unit vectors (B, E) of both sides; scaled cosines (B, B), both ways round."""

    image_embeds: Tensor | None = None
    text_embeds: Tensor | None = None
    logits_per_image: Tensor | None = None
    logits_per_text: Tensor | None = None


class Projection(nn.Module):
    """A linear map into the shared space, with a LayerNorm if asked for.

    (B, D) -> (B, E). It starts as a rotation, as far as the two widths allow one:
    what is alike stays alike.
    """

    def __init__(self, dim: int, embed_dim: int, norm: bool = False):
        super().__init__()
        self.linear = nn.Linear(dim, embed_dim, bias=norm)
        self.norm = nn.LayerNorm(embed_dim) if norm else nn.Identity()
        with torch.no_grad():
            self.linear.weight.copy_(orthogonal(embed_dim, dim))

    def forward(self, features: Tensor) -> Tensor:
        return self.norm(self.linear(features))


class DistilCLIP(nn.Module):
    """A ViT, as a rule from scratch, and a pretrained DistilBERT meet in one space.

    `DistilCLIP(config)` makes the projections and the ViT new, unless the
    configuration names a pretrained one, and loads the text encoder by its name. A
    `TextEncoder` or a `ViT` can be given instead.
    """

    push_to_hub: Callable[..., str]  # `distilclip.share.push_to_hub`, as a method

    def __init__(
        self,
        config: DistilCLIPConfig,
        text: TextEncoder | None = None,
        vision: ViT | None = None,
    ):
        super().__init__()
        if vision is None and config.vision_model:
            vision, config = pretrained_vision(config.vision_model, config)
        self.vision = vision or ViT(config.vision)
        self.text = text or TextEncoder.from_pretrained(
            config.text_model, config.text_pool
        )
        positions = self.text.model.config.max_position_embeddings
        if positions < config.max_text_length:
            config = replace(config, max_text_length=positions)
        self.config = config
        width, norm = config.embed_dim, config.projection_norm
        self.image_projection = Projection(config.vision.dim, width, norm)
        self.text_projection = Projection(self.text.dim, width, norm)
        log_scale = math.log(1 / config.temperature)
        self.log_logit_scale = nn.Parameter(torch.tensor(log_scale))

    @property
    def device(self) -> torch.device:
        """Where the model lies, and what it gives."""
        return self.log_logit_scale.device

    @property
    def dtype(self) -> torch.dtype:
        """The format in which the model computes."""
        return self.log_logit_scale.dtype

    @property
    def logit_scale(self) -> Tensor:
        """1 / temperature, learned as a logarithm, at most `max_logit_scale`."""
        return self.log_logit_scale.exp().clamp(max=self.config.max_logit_scale)

    def image_features(
        self, pixel_values: Tensor, any_size: bool = False
    ) -> Tensor:
        """Normalised pixels (B, C, H, W) -> the ViT's tokens, pooled: (B, D)."""
        tokens = self.vision(pixel_values, any_size)
        has_cls = self.config.vision.cls_token
        return pool_image(tokens, self.config.image_pool, has_cls)

    def embed_image_features(self, features: Tensor) -> Tensor:
        """From `image_features` (B, D) to unit vectors (B, E), with gradients."""
        return F.normalize(self.image_projection(features).float(), dim=-1)

    def embed_image(self, pixel_values: Tensor, any_size: bool = False) -> Tensor:
        """Normalised pixels (B, C, H, W) -> unit vectors (B, E), with gradients.

        With `any_size` they need not have the model's size: see `ViT`.
        """
        features = self.image_features(pixel_values, any_size)
        return self.embed_image_features(features)

    def embed_text_features(self, features: Tensor) -> Tensor:
        """From the text encoder (B, D) to unit vectors (B, E), with gradients."""
        return F.normalize(self.text_projection(features).float(), dim=-1)

    def embed_text(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Token ids and mask (B, T) -> unit vectors (B, E), with gradients."""
        return self.embed_text_features(self.text(input_ids, attention_mask))

    def forward(
        self, pixel_values: Tensor, input_ids: Tensor, attention_mask: Tensor
    ) -> DistilCLIPOutput:
        image_embeds = self.embed_image(pixel_values)
        text_embeds = self.embed_text(input_ids, attention_mask)
        logits = self.logit_scale * cosines(image_embeds, text_embeds)
        return DistilCLIPOutput(image_embeds, text_embeds, logits, logits.T)

    def normalise(self, pixels: Tensor) -> Tensor:
        """Pixels (B, C, H, W), uint8 or float in [0, 1], as the ViT wants them."""
        mean, std = self.config.image_mean, self.config.image_std
        return normalise_pixels(pixels, mean, std).to(self.log_logit_scale.dtype)

    def tokenize(self, texts: Sequence[str]) -> dict[str, Tensor]:
        """Token ids and mask, (B, T) each, as the configuration wants them."""
        config = self.config
        length, pad = config.max_text_length, config.pad_to_max_length
        return self.text.tokenize(texts, length, pad)

    def preprocess(self, images: Pictures) -> Tensor:
        """Pictures as the ViT wants them: pixel_values (B, 3, S, S).

        They are given as to `encode_image`.
        """
        pixels = pixels_of(images, self.config.vision.image_size)
        return self.normalise(pixels.to(self.device))

    @torch.no_grad()
    def encode_image(
        self, images: Pictures, batch_size: int = 64, progress: bool = False
    ) -> Tensor:
        """Pictures -> unit vectors (B, E), without gradients.

        One or several PIL images, paths, arrays (H, W, 3) or tensors (3, H, W), or
        a batch in one tensor (B, 3, H, W), of any size: uint8, or floats in [0, 1].
        A model in another format, such as float16, computes in that; the vectors
        are float32. Raises ValueError and FileNotFoundError for what is no picture.
        """
        pictures = in_a_list(images)
        embeds = [torch.empty(0, self.config.embed_dim, device=self.device)]
        starts = range(0, len(pictures), batch_size)
        with evaluating(self):
            for start in tqdm(starts, "encoding pictures", disable=not progress):
                batch = self.preprocess(pictures[start : start + batch_size])
                embeds.append(self.embed_image(batch))
        return torch.cat(embeds)

    @torch.no_grad()
    def encode_text(
        self, texts: str | Sequence[str], batch_size: int = 64
    ) -> Tensor:
        """Strings -> unit vectors (B, E), without gradients."""
        texts = [texts] if isinstance(texts, str) else list(texts)
        embeds = torch.empty(len(texts), self.config.embed_dim, device=self.device)
        with evaluating(self):
            tokens = self.tokenize(texts)
            for chosen, batch in in_batches(tokens, batch_size, self.device):
                embeds[chosen] = self.embed_text(**batch)
        return embeds

    def save_pretrained(
        self, folder: str | Path, text_weights: bool = True
    ) -> None:
        """Write config.json, model.safetensors and the tokenizer into `folder`.

        With `text_weights=False` the text encoder is left out, and
        `from_pretrained` loads it by its name: right for a frozen encoder that
        everyone can fetch. Each file is written whole or not at all.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        tensors = {
            name: tensor
            for name, tensor in self.state_dict().items()
            if text_weights or not name.startswith("text.")
        }
        save_tensors(tensors, folder / "model.safetensors", {"format": "pt"})
        if text_weights:
            save_tokenizer(self.text.tokenizer, folder)
        text_config = self.text.model.config.to_dict() if text_weights else None
        description = {
            "model_type": "distilclip",
            **asdict(self.config),
            "text_pool": self.text.pool,
            "text_config": text_config,
        }
        write_text(folder / "config.json", json.dumps(description, indent=2))
        preprocessing = {
            # The name under which share.py registers it with transformers
            "image_processor_type": "DistilCLIPImageProcessor",
            "image_size": self.config.vision.image_size,
            "image_mean": self.config.image_mean,
            "image_std": self.config.image_std,
        }
        content = json.dumps(preprocessing, indent=2)
        write_text(folder / "preprocessor_config.json", content)

    @classmethod
    def from_pretrained(
        cls,
        folder_or_hub_id: str | Path,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> "DistilCLIP":
        """Load what `save_pretrained` wrote, from a folder or the Hub.

        It is ready for inference. "emoji" comes with this package. Raises
        FileNotFoundError where nothing is, ValueError where it is something else.
        """
        if str(folder_or_hub_id) == "emoji":
            folder_or_hub_id = EMOJI_MODEL
        config_file, *weight_files = checkpoint_files(folder_or_hub_id)
        description = read_model_config(config_file)
        text_config = description.pop("text_config", None)
        config = DistilCLIPConfig(**description)
        text = None
        if text_config is not None:
            find_file(folder_or_hub_id, "tokenizer.json")
            text_config = DistilBertConfig(**shape_of_text(text_config))
            text = TextEncoder(
                DistilBertModel(text_config),
                load_tokenizer(folder_or_hub_id, config=text_config),
                config.text_pool or "cls",
                config.text_model,
            )
        model = cls(config, text, ViT(config.vision))
        tensors, wanted = load_tensors(*weight_files), model.state_dict()
        if text is None:  # the text encoder has come from where its name says
            wanted = {n: t for n, t in wanted.items() if not n.startswith("text.")}
        if wrong := find_misfits(tensors, wanted):
            raise ValueError(
                f"{folder_or_hub_id} does not fit its config.json: "
                f"{len(wrong)} tensors are missing, unknown or of another shape, "
                f"the first of them {wrong[0]}."
            )
        model.load_state_dict(tensors, strict=False)
        return model.to(device, dtype).eval()


def pretrained_vision(
    source: str, config: DistilCLIPConfig
) -> tuple[ViT, DistilCLIPConfig]:
    """The ViT at `source`, a folder or a Hub id, and the configuration to fit it.

    Shape and pixel constants are the checkpoint's (0.5 where it does not say);
    image size and dropouts are those of `config.vision`.
    """
    wanted = config.vision
    vision = ViT.from_pretrained(
        source, wanted.image_size, wanted.dropout, wanted.patch_dropout
    )
    try:
        file = find_file(source, "preprocessor_config.json")
    except NoFileInPlaceError:
        said = {}
    else:
        said = read_json(file)
    half = (0.5,) * vision.config.in_channels
    constants = {name: said.get(name, half) for name in ("image_mean", "image_std")}
    return vision, replace(config, vision=vision.config, **constants)


def read_model_config(config_file: Path) -> dict:
    """What `save_pretrained` wrote into a config.json, less its `model_type`.

    Raises ValueError where it describes another kind of model, or where a setting
    is unknown to this version or of another type.
    """
    description = read_json(config_file)
    kind = description.pop("model_type", None)
    if kind in ("clip", "siglip", "siglip2"):
        raise ValueError(
            f"{config_file} describes a model of type {kind!r}, which searches and "
            "is evaluated (distilclip.load_model), but is no DistilCLIP to train."
        )
    if kind != "distilclip":
        raise ValueError(
            f"{config_file} does not describe a DistilCLIP model; "
            "give a folder that 'distilclip train' or save_pretrained wrote."
        )
    optional = {"text_pool": "", "vision_model": "", "text_config": {}}
    usual = asdict(DistilCLIPConfig()) | optional
    given: dict = {
        name: value
        for name, value in description.items()
        if value is not None or name not in optional
    }
    unfit = find_unfit_settings(given, usual)
    unfit = unfit or find_unfit_settings(given.get("vision", {}), usual["vision"])
    unfit = unfit or out_of_range(description)
    if unfit:
        raise ValueError(
            f"{config_file} is damaged, or of another version of distilclip: this "
            f"one does not know the setting {unfit[0]!r}, or not such a value for "
            "it."
        )
    return description


def find_unfit_settings(settings: dict, usual: dict) -> list[str]:
    """The settings that `usual` lacks, or has with a value of another type."""
    kinds = {tuple: list, float: (int, float)}  # what JSON may make of them

    def fits(name: str, value) -> bool:
        kind = type(usual[name])
        return isinstance(value, kinds.get(kind, kind))

    return [
        name
        for name, value in settings.items()
        if name not in usual or not fits(name, value)
    ]

"""Real tenants: OpenAI's CLIP, LAION's and SigLIP behind the doors of `DistilCLIP`.

A checkpoint of `transformers` goes in; what comes out encodes, searches and
explains as our own model does, its vision tower being our `ViT` with a few options
more. Built in chapter 14, after Radford et al. (2021), Zhai et al., "Sigmoid Loss
for Language Image Pre-Training" (2023), and Tschannen et al., "SigLIP 2" (2025).
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from distilclip.attention import MultiHeadAttention
from distilclip.loss import cosines
from distilclip.model import DistilCLIP, DistilCLIPConfig, DistilCLIPOutput
from distilclip.storage.clip_files import (
    clip_kind,
    load_clip_tokenizer,
    load_transformers_clip,
    our_tensors,
    picture_size,
    pixel_constants,
    read_preprocessing,
    their_tensors,
    vision_settings,
)
from distilclip.storage.files import write_text
from distilclip.storage.weights import save_tensors, save_tokenizer
from distilclip.storage.words import warn_of_unread
from distilclip.text import check_text
from distilclip.vit import MLP, ViT, ViTConfig


@dataclass
class VisionTowerConfig(ViTConfig):
    """A `ViTConfig`, and what the vision towers of CLIP and SigLIP have besides.

    `activation` is "gelu", "quick_gelu" or "gelu_pytorch_tanh". `pre_norm` puts a
    LayerNorm before the first block, `attention_pool` an `AttentionPool` behind the
    last norm; without it, the first token is the picture's.
    """

    activation: str = "gelu"
    pre_norm: bool = False
    attention_pool: bool = False


class QuickGELU(nn.Module):
    """OpenAI's short cut to a GELU: x * sigmoid(1.702 x)."""

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(1.702 * x)


def make_activation(name: str) -> nn.Module:
    """The activation called so in a config.json."""
    if name == "quick_gelu":
        return QuickGELU()
    return nn.GELU("tanh" if name == "gelu_pytorch_tanh" else "none")


class AttentionPool(nn.Module):
    """One learned query looks at all tokens: (B, N, D) -> (B, D).

    The head of SigLIP's vision tower: attention, then an MLP beside a stream of its
    own (Zhai et al., 2022, section 3.4).
    """

    def __init__(self, config: VisionTowerConfig):
        super().__init__()
        dim = config.dim
        self.query = nn.Parameter(torch.zeros(1, 1, dim))
        self.attention = MultiHeadAttention(dim, config.num_heads)
        self.norm = nn.LayerNorm(dim, eps=config.layer_norm_eps)
        self.mlp = MLP(dim, round(dim * config.mlp_ratio))
        self.mlp.add_module("activation", make_activation(config.activation))

    def forward(self, tokens: Tensor) -> Tensor:
        asked = self.query.expand(tokens.shape[0], -1, -1)
        query, _, _ = self.attention.split_heads(asked)
        _, key, value = self.attention.split_heads(tokens)
        mixed = F.scaled_dot_product_attention(query, key, value)
        mixed = rearrange(mixed, "b h 1 d -> b (h d)")
        pooled = self.attention.output(mixed)
        return pooled + self.mlp(self.norm(pooled))


class VisionTower(ViT):
    """Our `ViT` with the options of its configuration: a CLIP's or a SigLIP's eyes.

    pixel_values (B, C, H, W) -> tokens (B, 1 + N, D), or (B, N, D) without [CLS].
    """

    def __init__(self, config: VisionTowerConfig):
        super().__init__(config)
        norm = nn.LayerNorm(config.dim, eps=config.layer_norm_eps)
        self.pre_norm = norm if config.pre_norm else nn.Identity()
        for block in self.blocks:
            mlp = block.get_submodule("mlp")
            mlp.add_module("activation", make_activation(config.activation))
        self.pool = AttentionPool(config) if config.attention_pool else None

    def embed(self, pixel_values: Tensor, any_size: bool = False) -> Tensor:
        return self.pre_norm(super().embed(pixel_values, any_size))

    def pooled(self, tokens: Tensor) -> Tensor:
        """The picture's vector, of the tokens: (B, N, D) -> (B, D)."""
        return tokens[:, 0] if self.pool is None else self.pool(tokens)


class CaptionTower(nn.Module):
    """A checkpoint's own text tower and tokenizer: (input_ids, mask) -> (B, D).

    Both inputs are (B, T). SigLIP reads every caption at its full length, padding
    and all, in lower case; CLIP reads up to the end of the text.
    """

    def __init__(self, model: nn.Module, tokenizer, kind: str):
        super().__init__()
        self.model, self.tokenizer, self.kind = model, tokenizer, kind
        config: Any = model.config
        is_clip = kind == "clip"
        self.dim = config.hidden_size if is_clip else config.projection_size
        self.pool, self.name = kind, ""

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        mask = attention_mask if self.kind == "clip" else None
        return self.model(input_ids=input_ids, attention_mask=mask).pooler_output

    def tokenize(
        self,
        texts: Sequence[str],
        max_length: int = 77,
        pad_to_max_length: bool = False,
    ) -> dict[str, Tensor]:
        """Token ids and mask, (B, T) each; what is longer than `max_length` is cut.

        A warning counts the texts that are cut. Raises ValueError for no text.
        """
        if not len(texts):
            empty = torch.empty(0, 0, dtype=torch.long)
            return {"input_ids": empty, "attention_mask": empty}
        given = [check_text(text) for text in texts]
        tokens = self.tokenizer(
            given if self.kind == "clip" else [text.lower() for text in given],
            padding="max_length" if pad_to_max_length else "longest",
            truncation=True,
            max_length=max_length,
            return_attention_mask=True,
            return_tensors="pt",
        )
        warn_of_unread(texts, tokens, self.tokenizer)
        mask = tokens["attention_mask"]
        mask = mask if self.kind == "clip" else torch.ones_like(mask)
        return {"input_ids": tokens["input_ids"], "attention_mask": mask}


@dataclass
class PretrainedConfig(DistilCLIPConfig):
    """A `DistilCLIPConfig`, and what `PretrainedCLIP` needs to know besides.

    `kind` is "clip", "siglip" or "siglip2"; `checkpoint` and `preprocessing` are
    what the checkpoint's config.json and preprocessor_config.json say.
    """

    vision: VisionTowerConfig = field(default_factory=VisionTowerConfig)
    kind: str = "clip"
    checkpoint: dict = field(default_factory=dict)
    preprocessing: dict = field(default_factory=dict)

    def __post_init__(self):
        if isinstance(self.vision, dict):
            self.vision = VisionTowerConfig(**self.vision)
        self.vision.image_size = picture_size(
            self.preprocessing, self.kind, self.vision.image_size
        )
        self.image_pool = "attention" if self.vision.attention_pool else "first"


class PretrainedCLIP(DistilCLIP):
    """A CLIP, a SigLIP or a SigLIP 2 where a `DistilCLIP` would be.

    It encodes, is searched, classifies and is explained as ours; its vision tower
    is our ViT. It is made by `from_pretrained`.
    """

    config: PretrainedConfig  # type: ignore[assignment]
    vision: VisionTower  # type: ignore[assignment]

    def __init__(
        self, config: PretrainedConfig, text: CaptionTower, vision: VisionTower
    ):
        super().__init__(config, text, vision)  # type: ignore[arg-type]
        self.logit_bias = nn.Parameter(torch.zeros(()))
        if config.kind != "clip":  # both towers end in the shared space
            self.image_projection = self.text_projection = nn.Identity()

    @property
    def logit_scale(self) -> Tensor:
        """1 / temperature, as the checkpoint has it."""
        return self.log_logit_scale.exp()

    def image_features(
        self, pixel_values: Tensor, any_size: bool = False
    ) -> Tensor:
        """Normalised pixels (B, C, H, W) -> the tower's vector: (B, D)."""
        return self.vision.pooled(self.vision(pixel_values, any_size))

    def forward(
        self, pixel_values: Tensor, input_ids: Tensor, attention_mask: Tensor
    ) -> DistilCLIPOutput:
        """Unit vectors of both sides, and the logits, with SigLIP's bias."""
        image_embeds = self.embed_image(pixel_values)
        text_embeds = self.embed_text(input_ids, attention_mask)
        logits = self.logit_scale * cosines(image_embeds, text_embeds)
        logits = logits + self.logit_bias
        return DistilCLIPOutput(image_embeds, text_embeds, logits, logits.T)

    @classmethod
    def from_pretrained(
        cls,
        folder_or_hub_id: str | Path,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> "PretrainedCLIP":
        """Load a checkpoint of type clip, siglip or siglip2, ready for inference.

        From a folder or the Hub, safetensors only, without any code of the
        checkpoint's. A siglip2 (NaFlex) is shown squares here, where its own
        processor keeps a picture's shape. Raises FileNotFoundError where there is
        none, ValueError where it is something else.
        """
        source = str(folder_or_hub_id)
        theirs: Any = load_transformers_clip(source)
        said, kind = read_preprocessing(source), theirs.config.model_type
        mean, std = pixel_constants(said)
        vision = VisionTowerConfig(
            **vision_settings(theirs.config.vision_config, kind)
        )
        text = theirs.text_model
        config = PretrainedConfig(
            vision=vision,
            text_model=source,
            embed_dim=theirs.config.projection_dim
            if kind == "clip"
            else vision.dim,
            max_text_length=text.config.max_position_embeddings,
            pad_to_max_length=kind != "clip",
            kind=kind,
            checkpoint=theirs.config.to_dict(),
            preprocessing=said,
            image_mean=mean,
            image_std=std,
        )
        tokenizer = load_clip_tokenizer(source)
        with torch.device("meta"):  # the weights come from the checkpoint
            tower = VisionTower(vision)
        model = cls(config, CaptionTower(text, tokenizer, kind), tower)
        tensors = our_tensors(theirs.state_dict(), kind, vision.depth)
        model.load_state_dict(tensors, assign=True)
        return model.to(device, dtype).eval()

    def save_pretrained(
        self, folder: str | Path, text_weights: bool = True
    ) -> None:
        """Write the checkpoint as `transformers` has it, which can read it, too.

        Each file is written whole or not at all. Raises ValueError with
        `text_weights=False`: the text tower has no name of its own.
        """
        if not text_weights:
            raise ValueError("The text tower of a CLIP cannot be left out.")
        folder, config = Path(folder), self.config
        folder.mkdir(parents=True, exist_ok=True)
        shape = config.kind, config.vision.depth, config.vision.patch_size
        tensors = their_tensors(self.state_dict(), *shape)
        save_tensors(tensors, folder / "model.safetensors", {"format": "pt"})
        save_tokenizer(self.text.tokenizer, folder)
        for name, said in (
            ("config.json", config.checkpoint),
            ("preprocessor_config.json", config.preprocessing),
        ):
            write_text(folder / name, json.dumps(said, indent=2))


def load_model(
    name: str | Path,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
) -> DistilCLIP:
    """A model of any kind that this package can live with, ready for inference.

    A folder, a Hub id or "emoji": a `DistilCLIP`, or a `PretrainedCLIP` where its
    config.json says so. Raises what their `from_pretrained` raise.
    """
    if str(name) != "emoji" and clip_kind(name):
        return PretrainedCLIP.from_pretrained(name, device, dtype)
    return DistilCLIP.from_pretrained(name, device, dtype)

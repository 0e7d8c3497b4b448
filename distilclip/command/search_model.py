"""A model for searches, loaded in a moment: a folder goes in, vectors come out.

`DistilCLIP` reads captions with `transformers`, which takes longer to import than a
search takes. Here the same files are read without it: the image side is our own
ViT, and the text encoder's layers are computed from its tensors. A model that
cannot be read in this way, such as OpenAI's CLIP, is read by `load_model`, which
also says what is wrong with it.
"""

from __future__ import annotations

import contextlib
from collections import OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from einops import rearrange
from tokenizers import Encoding, Tokenizer
from torch import Tensor, nn

from distilclip.storage.files import read_json
from distilclip.storage.hub import find_file
from distilclip.storage.pictures import (
    Pictures,
    in_a_list,
    normalise_pixels,
    pixels_of,
)
from distilclip.storage.ranges import out_of_range
from distilclip.storage.weights import EMOJI_MODEL, find_text_weights, load_tensors
from distilclip.storage.words import warn_of_unread, with_words_of
from distilclip.vit import ViT, ViTConfig, pool_image

if TYPE_CHECKING:
    pass

# What a config.json says, and must say here
SETTINGS = {
    *("model_type", "vision", "text_model", "text_pool", "embed_dim", "image_pool"),
    *("projection_norm", "temperature", "max_logit_scale", "image_mean"),
    *("image_std", "max_text_length", "pad_to_max_length", "vision_model"),
    "text_config",
}
# The parts of a text encoder's layer, by the names of their tensors
PARTS = ("query", "key", "value", "out", "attention_norm", "up", "down", "norm")
LAYERS = {
    "distilbert": (
        "transformer.layer",
        *("attention.q_lin", "attention.k_lin", "attention.v_lin"),
        *("attention.out_lin", "sa_layer_norm"),
        *("ffn.lin1", "ffn.lin2", "output_layer_norm"),
    ),
    "bert": (
        "encoder.layer",
        *("attention.self.query", "attention.self.key", "attention.self.value"),
        *("attention.output.dense", "attention.output.LayerNorm"),
        *("intermediate.dense", "output.dense", "output.LayerNorm"),
    ),
}
UNREADABLE = (
    AttributeError,
    KeyError,
    TypeError,
    ValueError,
    OSError,
    RuntimeError,
)


def load_search_model(name: str) -> Any:
    """The model in a folder, "emoji", or the Hub's, ready to encode.

    Raises what `load_model` raises.
    """
    with contextlib.suppress(*UNREADABLE):
        return SearchModel(EMOJI_MODEL if name == "emoji" else name)
    from distilclip.pretrained import load_model

    return load_model(name)


class SearchModel(nn.Module):
    """What an index and its queries need of the `DistilCLIP` at `source`.

    The vectors are those of that model, to float error, and an index made by one
    serves the other. The text encoder is loaded when there is a text to encode.
    Raises one of `UNREADABLE` for a model that it cannot be sure to read rightly.
    """

    def __init__(self, source: str | Path):
        super().__init__()
        said = read_json(find_file(source, "config.json"))
        if said.keys() - SETTINGS or said["model_type"] != "distilclip":
            raise ValueError(f"{source} is described in another way.")
        poolings = {said["image_pool"], said["text_pool"]}
        if out_of_range(said) or poolings - {"first", "cls", "mean", None}:
            raise ValueError(f"{source} has settings that are not known here.")
        vision = ViTConfig(**said.pop("vision"))
        self.source, self.config = source, SimpleNamespace(vision=vision, **said)
        tensors = load_tensors(find_file(source, "model.safetensors"))
        prefix = "text.model."
        self.text_tensors = {
            name.removeprefix(prefix): tensors.pop(name)
            for name in list(tensors)
            if name.startswith(prefix)
        }
        del tensors["log_logit_scale"]
        self.vision = ViT(vision)
        width, norm = said["embed_dim"], said["projection_norm"]
        text_dim = tensors["text_projection.linear.weight"].shape[1]
        self.image_projection = projection(vision.dim, width, norm)
        self.text_projection = projection(text_dim, width, norm)
        self.load_state_dict(tensors)
        self.read: Callable[[Sequence[str]], Tensor] | None = None
        if not self.text_tensors:
            find_file(find_text_weights(*self.text_name)[0], "model.safetensors")
        self.eval()

    @property
    def text_name(self) -> tuple[str, str | None]:
        """The name of the text encoder, and how its tokens become one vector."""
        return self.config.text_model, self.config.text_pool

    @torch.no_grad()
    def encode_image(self, images: Pictures, batch_size: int = 64) -> Tensor:
        """Pictures, as for `DistilCLIP.encode_image`, -> unit vectors (B, E)."""
        pictures, config = in_a_list(images), self.config
        embeds = [torch.empty(0, config.embed_dim)]
        for start in range(0, len(pictures), batch_size):
            batch = pictures[start : start + batch_size]
            pixels = pixels_of(batch, config.vision.image_size)
            pixels = normalise_pixels(pixels, config.image_mean, config.image_std)
            tokens = self.vision(pixels.float())
            has_cls = config.vision.cls_token
            features = pool_image(tokens, config.image_pool, has_cls)
            embeds.append(F.normalize(self.image_projection(features), dim=-1))
        return torch.cat(embeds)

    @torch.no_grad()
    def encode_text(
        self, texts: str | Sequence[str], batch_size: int = 64
    ) -> Tensor:
        """Strings -> unit vectors (B, E)."""
        texts = [texts] if isinstance(texts, str) else list(texts)
        read = self.read = self.read or self.reader()
        embeds = [torch.empty(0, self.config.embed_dim)]
        for start in range(0, len(texts), batch_size):
            embeds.append(read(texts[start : start + batch_size]))
        return torch.cat(embeds)

    def reader(self) -> Callable[[Sequence[str]], Tensor]:
        """What makes unit vectors of strings: the text side, loaded now."""
        try:
            folder, tensors = self.source, self.text_tensors
            pool, shape = self.config.text_pool, self.config.text_config
            if not tensors:
                folder, pool = find_text_weights(*self.text_name)
                tensors = load_tensors(find_file(folder, "model.safetensors"))
                shape = read_json(find_file(folder, "config.json"))
            else:
                shape = {"model_type": "distilbert"} | shape
            file = find_file(folder, "tokenizer.json")
            length = self.config.max_text_length
            encoder = TextReader(tensors, shape, file, pool or "cls", length)
        except Exception:  # `tokenizers` raises no other kind
            from distilclip.model import DistilCLIP

            return DistilCLIP.from_pretrained(self.source).encode_text

        def read(texts: Sequence[str]) -> Tensor:
            return F.normalize(self.text_projection(encoder(texts)), dim=-1)

        return read


def projection(dim: int, embed_dim: int, norm: bool) -> nn.Sequential:
    """A `Projection` by its parts, whose values are loaded later."""
    parts: OrderedDict[str, nn.Module] = OrderedDict()
    parts["linear"] = nn.Linear(dim, embed_dim, bias=norm)
    parts["norm"] = nn.LayerNorm(embed_dim) if norm else nn.Identity()
    return nn.Sequential(parts)


class TextReader:
    """The tensors of a DistilBERT, or of a BERT, as a function of strings.

    `shape` is its config.json; `file` a tokenizer.json. The vectors (B, D) are
    pooled as `TextEncoder` pools them, and the same to float error. Raises one of
    `UNREADABLE` for a model with other parts.
    """

    def __init__(
        self,
        tensors: dict[str, Tensor],
        shape: dict[str, Any],
        file: Path,
        pool: str,
        max_length: int,
    ):
        kind = shape["model_type"]
        place, *names = LAYERS[kind]
        is_bert = kind == "bert"
        self.heads = shape["num_attention_heads" if is_bert else "n_heads"]
        count = shape["num_hidden_layers" if is_bert else "n_layers"]
        positions = shape["max_position_embeddings"]
        if shape.get("hidden_act" if is_bert else "activation", "gelu") != "gelu":
            raise ValueError("Its activation is not gelu.")
        if is_bert and shape.get("layer_norm_eps", 1e-12) != 1e-12:
            raise ValueError("Its norms are others than a DistilBERT's.")
        given = {name.removeprefix(f"{kind}."): t for name, t in tensors.items()}
        embeddings = "embeddings.word_embeddings", "embeddings.position_embeddings"
        self.words, self.positions = (
            given[f"{name}.weight"] for name in embeddings
        )
        if is_bert:  # a caption is one segment
            first = given["embeddings.token_type_embeddings.weight"][0]
            self.positions = self.positions + first
        self.norm = part_of(given, "embeddings.LayerNorm")
        self.layers = [
            {
                part: part_of(given, f"{place}.{layer}.{name}")
                for part, name in zip(PARTS, names, strict=True)
            }
            for layer in range(count)
        ]
        self.pool = pool
        self.tokenizer = Tokenizer.from_file(str(file))
        self.tokenizer.enable_truncation(min(max_length, positions))
        self.tokenizer.enable_padding()
        unknown = getattr(self.tokenizer.model, "unk_token", None)
        self.unk_token_id = unknown and self.tokenizer.token_to_id(unknown)
        added = self.tokenizer.get_added_tokens_decoder()
        self.all_special_ids = [n for n, token in added.items() if token.special]

    def __call__(self, texts: Sequence[str]) -> Tensor:
        """Strings -> vectors (B, D); ValueError for what is no valid text."""
        for text in texts:
            if not text.isprintable():  # it may hold half a character
                from distilclip.text import check_text

                check_text(text)
        tokens = Tokens()
        tokens.encodings = self.tokenizer.encode_batch(
            with_words_of(texts, self.tokenizer)
        )
        tokens["input_ids"] = torch.tensor([each.ids for each in tokens.encodings])
        masks = [each.attention_mask for each in tokens.encodings]
        tokens["attention_mask"] = torch.tensor(masks)
        warn_of_unread(texts, tokens, self)
        hidden, mask = self.hidden(**tokens), tokens["attention_mask"]
        if self.pool == "cls":
            return hidden[:, 0]
        shares = (mask / mask.sum(dim=1, keepdim=True)).unsqueeze(-1)
        return (hidden * shares).sum(dim=1)

    def hidden(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Token ids and mask (B, T) -> the last hidden states (B, T, D)."""
        states = self.words[input_ids] + self.positions[: input_ids.shape[1]]
        states = normalised(states, self.norm)
        mask = attention_mask.bool()[:, None, None]
        for layer in self.layers:
            query, key, value = (
                rearrange(
                    F.linear(states, *layer[part]),
                    "b t (h d) -> b h t d",
                    h=self.heads,
                )
                for part in PARTS[:3]
            )
            mixed = F.scaled_dot_product_attention(query, key, value, mask)
            mixed = F.linear(
                rearrange(mixed, "b h t d -> b t (h d)"), *layer["out"]
            )
            states = normalised(states + mixed, layer["attention_norm"])
            inner = F.gelu(F.linear(states, *layer["up"]))
            changed = F.linear(inner, *layer["down"])
            states = normalised(states + changed, layer["norm"])
        return states


class Tokens(dict[str, Tensor]):
    """Token ids and mask, and beside them what the tokenizer says of each text."""

    encodings: list[Encoding]


def part_of(tensors: dict[str, Tensor], name: str) -> tuple[Tensor, Tensor]:
    """The weight and the bias of one part of a model, in float32."""
    weight, bias = tensors[f"{name}.weight"], tensors[f"{name}.bias"]
    if weight.dtype != torch.float32:
        raise ValueError(f"Its weights are {weight.dtype}.")
    return weight, bias


def normalised(states: Tensor, part: tuple[Tensor, Tensor]) -> Tensor:
    """A LayerNorm, as BERT has them."""
    return F.layer_norm(states, states.shape[-1:], *part, eps=1e-12)

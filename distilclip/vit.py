"""A Vision Transformer: pixels go in, one vector a patch (and [CLS]) comes out.

Patch tokens, position embeddings, and a stack of pre-norm blocks of attention and
MLP. Built in chapter 3, after Dosovitskiy et al., "An Image is Worth 16x16 Words"
(2021); the checkpoints of `transformers`' ViT load into it exactly.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from distilclip.attention import MultiHeadAttention, check_num_heads
from distilclip.patches import PatchEmbedding, check_patch_size
from distilclip.storage.weights import read_vit_checkpoint


@dataclass
class ViTConfig:
    """The shape of a ViT. The defaults are those of ViT-B/16 at 224 pixels.

    `cls_token` and `final_norm` exist because the system that this book starts from
    has neither; `patch_dropout` is the share of patches left out while training
    (Li et al., 2023).
    """

    image_size: int = 224
    patch_size: int = 16
    in_channels: int = 3
    dim: int = 768
    depth: int = 12
    num_heads: int = 12
    mlp_ratio: float = 4.0
    dropout: float = 0.0
    patch_dropout: float = 0.0
    layer_norm_eps: float = 1e-12
    cls_token: bool = True
    final_norm: bool = True

    def __post_init__(self):
        counts = "image_size patch_size in_channels dim depth num_heads"
        for name in counts.split():
            value = getattr(self, name)
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}.")
        for name in ("dropout", "patch_dropout"):
            value = getattr(self, name)
            if not 0 <= value < 1:
                raise ValueError(f"{name} must be in [0, 1), got {value}.")
        check_patch_size(self.image_size, self.patch_size)
        check_num_heads(self.dim, self.num_heads)

    @property
    def patches_a_side(self) -> int:
        """How many patches a row or a column of the picture has."""
        return self.image_size // self.patch_size


class MLP(nn.Module):
    """Two linear layers and a GELU, token by token: (B, N, D) -> (B, N, D)."""

    def __init__(self, dim: int, hidden_dim: int, dropout: float = 0.0):
        super().__init__()
        self.up = nn.Linear(dim, hidden_dim)
        self.down = nn.Linear(hidden_dim, dim)
        self.activation = nn.GELU()
        self.dropout = nn.Dropout(dropout)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.dropout(self.down(self.activation(self.up(tokens))))


class Block(nn.Module):
    """One pre-norm transformer block: (B, N, D) -> (B, N, D).

    Attention moves information between tokens, the MLP works on each token. Both
    read a normalised copy and add to the stream, which itself is never normalised.
    """

    def __init__(self, config: ViTConfig):
        super().__init__()
        dim, eps, dropout = config.dim, config.layer_norm_eps, config.dropout
        self.attention_norm = nn.LayerNorm(dim, eps=eps)
        self.attention = MultiHeadAttention(dim, config.num_heads, dropout)
        self.mlp_norm = nn.LayerNorm(dim, eps=eps)
        self.mlp = MLP(dim, round(dim * config.mlp_ratio), dropout)

    def forward(self, tokens: Tensor) -> Tensor:
        tokens = tokens + self.attention(self.attention_norm(tokens))
        return tokens + self.mlp(self.mlp_norm(tokens))


def drop_patches(tokens: Tensor, share: float) -> Tensor:
    """Keep a random subset of each image's patch tokens: (B, N, D) -> (B, kept, D).

    Each image keeps its own patches, at least one. FLIP (Li et al., 2023) trains on
    half of them: attention and MLP then cost half or less.
    """
    batch, count, dim = tokens.shape
    kept = max(1, round(count * (1 - share)))
    order = torch.rand(batch, count, device=tokens.device).argsort(dim=1)[:, :kept]
    return tokens.gather(1, order.unsqueeze(-1).expand(-1, -1, dim))


class ViT(nn.Module):
    """Vision Transformer: pixel_values (B, C, H, W) -> tokens (B, 1 + N, D).

    [CLS] comes first, and all tokens come out of the final LayerNorm. Without
    `cls_token` there are N, without `final_norm` they come as the last block leaves
    them. With `any_size`, pictures may be squares of another size than the
    configuration's: the position embeddings are resized.
    """

    def __init__(self, config: ViTConfig):
        super().__init__()
        self.config = config
        self.patch_embedding = PatchEmbedding(
            config.image_size, config.patch_size, config.in_channels, config.dim
        )
        dim = config.dim
        num_tokens = self.patch_embedding.num_patches + config.cls_token
        cls = nn.Parameter(torch.zeros(1, 1, dim)) if config.cls_token else None
        self.cls_token = cls
        self.position_embedding = nn.Parameter(torch.zeros(1, num_tokens, dim))
        self.dropout = nn.Dropout(config.dropout)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.depth))
        norm = nn.LayerNorm(dim, eps=config.layer_norm_eps)
        self.norm = norm if config.final_norm else nn.Identity()
        initialise(self)

    def embed(self, pixel_values: Tensor, any_size: bool = False) -> Tensor:
        """What the first block reads: patches with positions, [CLS] in front."""
        tokens = self.patch_embedding(pixel_values, any_size)
        positions = self.position_embedding
        if any_size:
            positions = resample_positions(positions, math.isqrt(tokens.shape[1]))
        tokens = tokens + positions[:, -tokens.shape[1] :]
        if self.training and self.config.patch_dropout:
            tokens = drop_patches(tokens, self.config.patch_dropout)
        if self.cls_token is not None:
            cls = self.cls_token + positions[:, :1]
            tokens = torch.cat([cls.expand(tokens.shape[0], -1, -1), tokens], dim=1)
        return self.dropout(tokens)

    def forward(self, pixel_values: Tensor, any_size: bool = False) -> Tensor:
        tokens = self.embed(pixel_values, any_size)
        for block in self.blocks:
            tokens = block(tokens)
        return self.norm(tokens)

    @classmethod
    def from_pretrained(
        cls,
        path_or_hub_id: str | Path,
        image_size: int | None = None,
        dropout: float = 0.0,
        patch_dropout: float = 0.0,
    ) -> "ViT":
        """Load any `transformers` ViT checkpoint from a folder or the Hub.

        Reads safetensors only. For another `image_size` than the checkpoint's, the
        position embeddings are resized. Raises FileNotFoundError where there is no
        such checkpoint, and ValueError where it is not a ViT that this class can
        represent exactly.
        """
        settings, tensors = read_vit_checkpoint(path_or_hub_id)
        settings["image_size"] = image_size or settings["image_size"]
        config = ViTConfig(**settings, dropout=dropout, patch_dropout=patch_dropout)
        positions = tensors["position_embedding"]
        positions = resample_positions(positions, config.patches_a_side)
        vit = cls(config)
        vit.load_state_dict(tensors | {"position_embedding": positions})
        return vit


def pool_image(tokens: Tensor, how: str, cls_token: bool = True) -> Tensor:
    """One vector a picture, its first token or the mean of its patches.

    (B, N, D) -> (B, D). `how` is "first" or "mean"; with `cls_token`, token 0 is no
    patch. `pool_text` does the same for captions.
    """
    if how == "first":
        return tokens[:, 0]
    return tokens[:, int(cls_token) :].mean(dim=1)


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Turn dropout of every kind off, then put each part back in its own mode.

    A frozen encoder inside a model that learns has a mode of its own: `train()` on
    the whole would wake its dropout. Restored after an error, too.
    """
    training = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, was_training in training:
            part.training = was_training


def position_waves(side: int, dim: int) -> Tensor:
    """Sines and cosines that tell a patch's row and column: (side * side, dim).

    Numbers from -1 to 1: the waves of Vaswani et al. (2017, section 3.5) in two
    directions: a quarter of the channels each for the sine and the cosine of the
    column and of the row, at wavelengths that grow from 2 pi to 20,000 pi patches.
    What four does not divide stays zero.
    """
    quarter = dim // 4
    frequencies = 10000.0 ** -(torch.arange(quarter) / max(1, quarter))
    angles = torch.arange(side).unsqueeze(1) * frequencies
    waves = torch.cat([angles.sin(), angles.cos()], dim=1)
    columns, rows = waves.repeat(side, 1), waves.repeat_interleave(side, dim=0)
    return F.pad(torch.cat([columns, rows], dim=1), (0, dim - 4 * quarter))


def orthogonal(rows: int, columns: int) -> Tensor:
    """A random matrix (rows, columns) with orthonormal rows, or columns if fewer.

    In float64: the last digits of a factorisation depend on the number of threads.
    """
    tall = torch.randn(max(rows, columns), min(rows, columns)).double()
    directions, triangle = torch.linalg.qr(tall)
    directions = directions * triangle.diagonal().sign()
    return directions if rows >= columns else directions.T


def initialise_attention(attention: MultiHeadAttention) -> None:
    """Start a layer of attention so that each token looks at tokens like itself.

    In trained ViTs, Trockman and Kolter (2023) found the product of query and key
    matrices near the identity, and that of output and value matrices near a
    negative multiple of it. A layer that starts so learns faster from little data.
    Here both come from random orthogonal matrices, with a little noise.
    """
    dim = attention.output.in_features
    look, copy = orthogonal(dim, dim), orthogonal(dim, dim)
    noise = 0.3 * dim**-0.5 * torch.randn(4 * dim, dim)
    with torch.no_grad():
        attention.qkv.weight.copy_(
            torch.cat([look, look, 0.4**0.5 * copy]) + noise[: 3 * dim]
        )
        attention.output.weight.copy_(-(0.4**0.5) * copy.T + noise[3 * dim :])


def initialise(vit: "ViT") -> None:
    """Start the weights so that every layer passes on about as much as it gets.

    Matrices by Glorot and Bengio (2010): a uniform range that shrinks with a
    layer's width. A fixed small width of 0.02, as BERT and many a ViT have it,
    suits 768 channels and long training; on the emoji of this book a narrow ViT
    learned faster from these. Biases start at zero, positions as waves (neighbours
    are alike before the first step), and attention as `initialise_attention` says.
    """
    for module in vit.modules():
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            nn.init.zeros_(module.bias)
    for module in vit.modules():
        if isinstance(module, MultiHeadAttention):
            initialise_attention(module)
    waves = position_waves(vit.config.patches_a_side, vit.config.dim)
    with torch.no_grad():
        vit.position_embedding[0, -len(waves) :] = waves
    if vit.cls_token is not None:
        nn.init.trunc_normal_(vit.cls_token, std=vit.config.dim**-0.5)


def resample_positions(positions: Tensor, side: int) -> Tensor:
    """Position embeddings for another number of patches.

    (1, 1 + N, D) -> (1, 1 + side**2, D). The N patches lie on a square grid; the
    new grid is read from the old one as a picture is resized (bicubic), as
    Dosovitskiy et al. (2021, section 3.2) do for larger images. The first embedding
    is that of [CLS] and stays; without [CLS] there are N.
    """
    old_side = math.isqrt(positions.shape[1])  # N is a square, and 1 + N is none
    if side == old_side:
        return positions
    cls, patches = positions.tensor_split([positions.shape[1] - old_side**2], dim=1)
    grid = rearrange(patches, "1 (h w) d -> 1 d h w", h=old_side)
    size = (side, side)
    grid = F.interpolate(grid, size, mode="bicubic", align_corners=False)
    return torch.cat([cls, rearrange(grid, "1 d h w -> 1 (h w) d")], dim=1)

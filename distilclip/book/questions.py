"""The book's exercises: what is tried on an answer, and what a mistake is told.

A function of the reader is compared with something that counts or computes the
same in another way (a module on the meta device, PyTorch's own function, an
enumeration), or its properties are tested, on inputs drawn at random. Numbers that
are asked for by themselves are kept as digests. Each question takes the answer and
returns nothing; it raises NotYetError with a hint. What few of them need, and takes
seconds to import, is imported there.
"""

import itertools
import math
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from PIL import Image
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from distilclip.book.answers import (
    NotYetError,
    ask,
    is_equal,
    require,
    same,
    sealed,
)
from distilclip.loss import contrastive_loss, sigmoid_loss
from distilclip.patches import PatchEmbedding
from distilclip.storage.weights import save_tensors
from distilclip.vit import ViT, ViTConfig, evaluating, resample_positions


def numbers(*shape: int, seed: int = 0, dtype=torch.float32) -> Tensor:
    """Normal random numbers that depend on the seed alone."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=dtype)


def units(*shape: int, seed: int = 0, dtype=torch.float32) -> Tensor:
    """Random unit vectors along the last axis."""
    return F.normalize(numbers(*shape, seed=seed, dtype=dtype), dim=-1)


def meta_bytes(*shape: int, dtype: torch.dtype) -> int:
    """The bytes of a tensor that is never made."""
    return torch.empty(shape, dtype=dtype, device="meta").nbytes


def size_of(module: nn.Module) -> int:
    """How many parameters a module has."""
    return sum(parameter.numel() for parameter in module.parameters())


# --- 1. Patches ---


def count_tokens(answer: Callable) -> None:
    """Exercise 1.1: count."""
    for image, patch in ((224, 16), (384, 16), (224, 32), (30, 5), (7, 7)):
        with torch.device("meta"):
            patches = PatchEmbedding(image, patch, 3, 2)(
                torch.empty(1, 3, image, image)
            )
        tokens = patches.shape[1] + 1
        mistakes = {"[CLS] is a token too.": tokens - 1}
        mistakes["an image has two sides."] = 1 + image // patch
        where = f"{image} pixels, patches of {patch}"
        same(ask(answer, image, patch), tokens, where, mistakes)


def find_neighbours(answer: Callable) -> None:
    """Exercise 1.2: who is my neighbour."""
    for columns in (1, 3, 14):
        for number in range(columns**2):
            row, column = divmod(number, columns)
            steps = ((row - 1, column), (row + 1, column))
            steps += ((row, column - 1), (row, column + 1))
            inside = [
                r * columns + c for r, c in steps if {r, c} <= {*range(columns)}
            ]
            found = ask(answer, number, columns)
            where = f"patch {number} of a grid with {columns} columns"
            require(
                isinstance(found, list | tuple), f"{where}: a list is asked for."
            )
            found = [int(n) for n in found]
            outside = [n for n in found if not 0 <= n < columns**2]
            require(not outside, f"{where}: {outside} are no patches of the grid.")
            around = [n for n in found if n not in inside]
            require(
                not around,
                f"{where}: {around} are no neighbours. A row ends at the edge of "
                "the image; the next number begins another one.",
            )
            require(len(found) >= len(inside), f"{where}: some are missing.")
            require(
                found == inside, f"{where}: the order is above, below, left, right."
            )


def channel_last_tokens(answer: Callable) -> None:
    """Exercise 1.3: another order."""
    for seed, (channels, side, patch, dim) in enumerate(
        ((3, 12, 4, 5), (2, 15, 3, 4))
    ):
        conv = nn.Conv2d(channels, dim, patch, patch)
        images = numbers(2, channels, side, side, seed=seed)
        expected = rearrange(conv(images), "b d h w -> b (h w) d")
        flat = rearrange(
            images, "b c (h p) (w q) -> b (h w) (p q c)", p=patch, q=patch
        )
        mistakes = {
            "patches and kernel are laid flat in different orders.": F.linear(
                flat, conv.weight.flatten(1), conv.bias
            ),
            "the bias is missing.": expected - conv.bias,
        }
        where = f"{channels} channels, {side} pixels, patches of {patch}"
        same(ask(answer, images, conv), expected, where, mistakes, tolerance=1e-4)


def stretched_positions(answer: Callable) -> None:
    """Exercise 1.4: A larger image."""
    for seed, (old, new, dim) in enumerate(((14, 24, 8), (4, 7, 3), (6, 3, 5))):
        table = numbers(1, 1 + old**2, dim, seed=seed)
        expected = resample_positions(table, new)
        image = rearrange(table[:, 1:], "1 (h w) d -> 1 d h w", h=old)
        ways = {
            "align_corners must be False.": {
                "mode": "bicubic",
                "align_corners": True,
            },
            "the mode is bicubic.": {"mode": "bilinear", "align_corners": False},
        }
        mistakes = {}
        for hint, way in ways.items():
            wrong = F.interpolate(image, (new, new), **way).flatten(2).mT
            mistakes[hint] = torch.cat([table[:, :1], wrong], dim=1)
        turned = rearrange(expected[:, 1:], "1 (h w) d -> 1 (w h) d", h=new)
        mistakes["rows and columns are exchanged."] = torch.cat(
            [table[:, :1], turned], dim=1
        )
        found = ask(answer, table, old, new)
        where = f"from {old} by {old} to {new} by {new}"
        if isinstance(found, Tensor) and found.shape == expected.shape:
            kept = torch.equal(found[:, 0], table[:, 0])
            require(kept, f"{where}: the row of [CLS] has changed.")
        same(found, expected, where, mistakes)


# --- 2. Attention ---


def bytes_of_weights(answer: Callable) -> None:
    """Exercise 2.1: the size of the table."""
    for batch, heads, tokens, each in (
        (64, 12, 197, 2),
        (3, 5, 7, 4),
        (1, 1, 50, 8),
    ):
        dtype = {2: torch.float16, 4: torch.float32, 8: torch.float64}[each]
        expected = meta_bytes(batch, heads, tokens, tokens, dtype=dtype)
        mistakes = {
            "every token looks at every token.": expected // tokens,
            "each head has a table of its own.": expected // heads,
            "these are numbers, not bytes.": expected // each,
        }
        where = f"{batch} images, {heads} heads, {tokens} tokens, {each} bytes"
        same(ask(answer, batch, heads, tokens, each), expected, where, mistakes)


def masked_attention(answer: Callable) -> None:
    """Exercise 2.2: who may be looked at."""
    for seed, (batch, heads, tokens, dim) in enumerate(
        ((2, 4, 6, 8), (3, 1, 5, 2))
    ):
        query, key, value = numbers(3, batch, heads, tokens, dim, seed=seed)
        lengths = torch.arange(tokens, tokens - batch, -1)
        real = torch.arange(tokens) < lengths[:, None]
        mask = real[:, None, None, :]
        expected = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        scores = query @ key.mT / dim**0.5
        weights = scores.softmax(dim=-1)
        on_queries = scores.masked_fill(~real[:, None, :, None], float("-inf"))
        mistakes = {
            "padding is still listened to.": weights @ value,
            "set to 0 after the softmax, weights no longer sum to 1.": weights
            * mask
            @ value,
            "the mask is on the keys, the last axis.": on_queries.softmax(dim=-1)
            @ value,
            "the scores are divided by the root of d.": (query @ key.mT)
            .masked_fill(~mask, float("-inf"))
            .softmax(dim=-1)
            @ value,
        }
        where = f"{batch} captions of up to {tokens} tokens"
        same(ask(answer, query, key, value, real), expected, where, mistakes)


def distance_attention(answer: Callable) -> None:
    """Exercise 2.3: near instead of similar."""
    for seed, is_unit in enumerate((True, False, False)):
        query, key, value = numbers(3, 2, 3, 6, 4, seed=seed)
        key = F.normalize(key, dim=-1) if is_unit else key
        near = -torch.cdist(query, key).square()
        expected = (near / (2 * 4**0.5)).softmax(dim=-1) @ value
        mistakes = {
            "these are dot products: equal only where keys have length 1.": (
                query @ key.mT / 4**0.5
            ).softmax(dim=-1)
            @ value,
            "the 2 of the formula is missing.": (near / 4**0.5).softmax(dim=-1)
            @ value,
            "the root of d is missing.": (near / 2).softmax(dim=-1) @ value,
            "the far ones win: mind the sign.": (-near / 4).softmax(dim=-1) @ value,
            "the distance is squared in the formula.": (
                -torch.cdist(query, key) / 4
            ).softmax(dim=-1)
            @ value,
        }
        where = "keys of length 1" if is_unit else "keys of different lengths"
        same(ask(answer, query, key, value), expected, where, mistakes, 1e-4)


class LargestTable(TorchFunctionMode):
    """Remembers the most columns of a table with a row a query."""

    def __init__(self, queries: int):
        self.queries, self.columns = queries, 0

    def __torch_function__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        if (
            isinstance(made, Tensor)
            and made.ndim > 1
            and made.shape[-2] == self.queries
        ):
            self.columns = max(self.columns, made.shape[-1])
        return made


def blockwise_attention(answer: Callable) -> None:
    """Exercise 2.4: attention without the table."""
    shapes = ((37, 50, 8, 16), (37, 50, 8, 25), (11, 9, 3, 4), (5, 23, 2, 23))
    for seed, (queries, keys, dim, block) in enumerate(shapes):
        for size in (1, 1000):
            query = size * numbers(
                1, 2, queries, dim, seed=seed, dtype=torch.float64
            )
            key, value = numbers(
                2, 1, 2, keys, dim, seed=seed + 9, dtype=torch.float64
            )
            expected = F.scaled_dot_product_attention(query, key, value)
            where = f"{keys} keys in blocks of {block}"
            where += ", large scores" if size > 1 else ""
            with LargestTable(queries) as made:
                found = ask(answer, query, key, value, block)
            same(found, expected, where)
            require(
                made.columns <= max(block, dim),
                f"{where}: a table with {made.columns} columns of scores is made.",
            )


# --- 3. Vision Transformer ---


def count_vit_small(answer: Callable) -> None:
    """Exercise 3.1: A smaller model."""
    sealed(
        "3.1",
        ask(answer),
        "fbc42c4af7da7ab7",
        "ViT-S/16",
        {
            "3689a8ae94352f14": "the pooler is counted, which is not asked for.",
            "c835b119f6b9989b": "positions are missing.",
            "73e56c6910440bce": "the head is counted, which is not asked for.",
            "d7742d7bc3b38161": "these are the parameters of ViT-B/16.",
        },
    )


def tokens_and_side(answer: Callable) -> None:
    """Exercise 3.2: when the square takes over."""
    for dim, patch in ((768, 16), (384, 16), (1024, 14), (100, 8)):
        found = ask(answer, dim, patch)
        where = f"width {dim}, patches of {patch}"
        pair = isinstance(found, tuple | list) and len(found) == 2
        require(pair, f"{where}: two numbers are asked for.")
        tokens, side = found
        attention, mlp = 4 * tokens**2 * dim, 2 * tokens * 2 * dim * 4 * dim
        way = "large" if attention > mlp else "small"
        require(
            attention == mlp,
            f"{where}: T is too {way}: the square costs "
            f"{attention / mlp:.3g} times as much as the MLP alone.",
        )
        whole = side % patch == 0
        require(whole, f"{where}: the side is no whole number of patches.")
        fits = (side // patch) ** 2 <= tokens
        require(fits, f"{where}: the side is too large: it needs more tokens.")
        largest = (side // patch + 1) ** 2 > tokens
        require(largest, f"{where}: the side is too small: another patch fits.")


def rms_norm(answer: Callable) -> None:
    """Exercise 3.3: half a LayerNorm."""
    for seed, (scale, shift) in enumerate(((1.0, 0.0), (3.0, 2.0), (1e-3, 1e-3))):
        tokens = scale * numbers(2, 5, 64, seed=seed) + shift
        weight = numbers(64, seed=seed + 7)
        expected = F.rms_norm(tokens, (64,), weight, eps=1e-6)
        length = tokens.square().mean(dim=-1, keepdim=True)
        mistakes = {
            "no mean is subtracted.": F.layer_norm(tokens, (64,), weight, eps=1e-6),
            "the weight is missing.": expected / weight,
            "the mean of the squares, not their sum.": expected / 8,
            "divide by the root.": weight * tokens / (length + 1e-6),
            "epsilon stands under the root.": weight
            * tokens
            / (length.sqrt() + 1e-6),
            "epsilon is missing.": weight * tokens / length.sqrt(),
        }
        where = f"tokens of size {scale:g} around {shift:g}"
        same(ask(answer, tokens, weight), expected, where, mistakes)


def their_tensors(answer: Callable) -> None:
    """Exercise 3.4: the other way."""
    for depth, channels, patch in ((1, 3, 4), (3, 1, 2)):
        config = ViTConfig(8, patch, channels, dim=12, depth=depth, num_heads=3)
        vit = ViT(config)
        with torch.no_grad():
            for number, parameter in enumerate(vit.parameters()):
                parameter.copy_(0.3 * numbers(*parameter.shape, seed=number))
        shape = (12, channels, patch, patch)
        tensors = ask(answer, vit.state_dict(), depth, shape)
        where = f"a ViT of {depth} block" + "s" * (depth > 1)
        hidden = read_by_transformers(tensors, config, where)
        pixels = numbers(2, channels, 8, 8)
        with evaluating(vit), torch.no_grad():
            same(hidden(pixels), vit(pixels), where, tolerance=1e-4)


def read_by_transformers(tensors, config: ViTConfig, where: str) -> Callable:
    """The forward pass of `transformers`' ViT with these tensors."""
    import transformers

    require(isinstance(tensors, dict), f"{where}: a dictionary is asked for.")
    theirs = transformers.ViTConfig(
        image_size=config.image_size,
        patch_size=config.patch_size,
        num_channels=config.in_channels,
        hidden_size=config.dim,
        num_hidden_layers=config.depth,
        num_attention_heads=config.num_heads,
        intermediate_size=round(config.dim * config.mlp_ratio),
    )
    named = NAMES_OF_TRANSFORMERS
    expected = {
        name.format(layer=layer)
        for name in named
        for layer in range(config.depth if "{" in name else 1)
    }
    missing = sorted(expected - tensors.keys())
    require(
        not missing, f"{where}: {len(missing)} names are missing: {missing[:1]}"
    )
    unknown = sorted(tensors.keys() - expected)
    require(
        not unknown, f"{where}: {len(unknown)} names are not theirs: {unknown[:1]}"
    )
    kernel = tensors["embeddings.patch_embeddings.projection.weight"]
    require(kernel.ndim == 4, f"{where}: the kernel has the shape (D, C, P, P).")
    with tempfile.TemporaryDirectory() as place:
        theirs.save_pretrained(place)
        save_tensors(tensors, Path(place) / "model.safetensors", {"format": "pt"})
        vit = transformers.ViTModel.from_pretrained(place, add_pooling_layer=False)

    @torch.no_grad()
    def forward(pixels: Tensor) -> Tensor:
        return vit.eval()(pixels).last_hidden_state

    return forward


BLOCK_OF_TRANSFORMERS = (
    "attention.attention.query",
    "attention.attention.key",
    "attention.attention.value",
    "attention.output.dense",
    "intermediate.dense",
    "output.dense",
    "layernorm_before",
    "layernorm_after",
)
NAMES_OF_TRANSFORMERS = [
    "embeddings.cls_token",
    "embeddings.position_embeddings",
    *(
        f"{name}.{kind}"
        for kind in ("weight", "bias")
        for name in (
            "embeddings.patch_embeddings.projection",
            "layernorm",
            *(f"encoder.layer.{{layer}}.{part}" for part in BLOCK_OF_TRANSFORMERS),
        )
    ),
]


# --- 4. Text ---


def table_megabytes(answer: Callable) -> None:
    """Exercise 4.1: the size of the table."""
    sizes = ((40_000, 768, 2), (1000, 384, 4), (123, 45, 8))
    for captions, dim, each in sizes:
        dtype = {2: torch.float16, 4: torch.float32, 8: torch.float64}[each]
        expected = meta_bytes(captions, dim, dtype=dtype) / 1e6
        where = f"{captions:,} captions, {dim} numbers of {each} bytes"
        mistakes = {"a megabyte has 10^6 bytes here.": expected * 1e6 / 2**20}
        same(ask(answer, captions, dim, each), expected, where, mistakes)


def distilbert(vocabulary=30, positions=8, dim=4, hidden=6, layers=3, heads=2):
    """A DistilBERT of these sizes, with random weights."""
    import transformers

    return transformers.DistilBertModel(
        transformers.DistilBertConfig(
            vocab_size=vocabulary,
            max_position_embeddings=positions,
            dim=dim,
            hidden_dim=hidden,
            n_layers=layers,
            n_heads=heads,
        )
    )


def count_distilbert(answer: Callable) -> None:
    """Exercise 4.2: count a DistilBERT."""
    for sizes in ((30_522, 512, 768, 3072, 6), (7, 5, 4, 3, 2), (50, 11, 6, 10, 1)):
        with torch.device("meta"):
            expected = size_of(distilbert(*sizes))
        _, _, dim, hidden, layers = sizes
        mistakes = {
            "the LayerNorm of the embeddings is missing.": expected - 2 * dim,
            "the LayerNorms of the layers are missing.": expected
            - 4 * dim * layers,
            "the biases are missing.": expected - layers * (5 * dim + hidden),
            "attention has four square linear layers.": expected
            - layers * (dim * dim + dim),
        }
        where = "{:,} words, {} positions, width {}, {}, {} layers".format(*sizes)
        same(ask(answer, *sizes), expected, where, mistakes)


def pool_max(answer: Callable) -> None:
    """Exercise 4.3: another way to pool."""
    for seed, (captions, tokens, dim) in enumerate(((3, 7, 4), (5, 4, 6))):
        hidden = numbers(captions, tokens, dim, seed=seed) - 2  # often below zero
        lengths = torch.arange(captions) % tokens + 1
        mask = (torch.arange(tokens) < lengths[:, None]).long()
        rows = zip(hidden, lengths, strict=True)
        expected = torch.stack([row[:length].amax(dim=0) for row, length in rows])
        mistakes = {
            "padding takes part in the maximum.": hidden.amax(dim=1),
            "a zero beats every negative value.": (hidden * mask[..., None]).amax(
                dim=1
            ),
        }
        where = f"{captions} captions of up to {tokens} tokens"
        same(ask(answer, hidden, mask), expected, where, mistakes)


def unfreeze_last(answer: Callable) -> None:
    """Exercise 4.4: unfreeze the last layers."""
    from distilclip.text import TextEncoder

    encoder = TextEncoder(distilbert(), None)
    each = size_of(encoder.model.transformer.layer[0])
    for layers in (2, 0, 3, 1):
        count = ask(answer, encoder, layers)
        where = f"{layers} of 3 layers"
        trained = {n for n, p in encoder.named_parameters() if p.requires_grad}
        last = tuple(f"model.transformer.layer.{n}." for n in range(3 - layers, 3))
        stray = sorted(
            name for name in trained if not name.startswith(last or ("-",))
        )
        require(
            not stray,
            f"{where}: {len(stray)} other tensors still learn: {stray[:1]}",
        )
        frozen = {
            n for n, _ in encoder.named_parameters() if n.startswith(last or ("-",))
        } - trained
        require(
            not frozen, f"{where}: {len(frozen)} tensors of the last are frozen."
        )
        same(count, layers * each, f"{where}, parameters")


# --- 5. Loss ---


def guesses(answer: Callable) -> None:
    """Exercise 5.1: read a loss."""
    for loss in (1.10, 0.0, 0.7, 2.3, 6.24):
        expected = min(range(1, 1000), key=lambda n: abs(loss - math.log(n)))
        mistakes = {
            "the logarithm is the natural one.": round(2**loss),
            "to a whole number, please.": math.exp(loss),
            "round to the nearest, not down.": math.floor(math.exp(loss)),
        }
        found = ask(answer, loss)
        if (
            loss > 6
        ):  # where rounding exp and the nearest logarithm may differ by one
            require(abs(found - expected) <= 1, f"a loss of {loss}: far from it.")
        else:
            same(found, expected, f"a loss of {loss}", mistakes)


def expected_collisions(answer: Callable) -> None:
    """Exercise 5.2: false negatives of a flat loader."""
    for images, k, batch in ((2, 2, 2), (3, 2, 3), (2, 3, 4), (4, 1, 3), (3, 3, 5)):
        rows = [row // k for row in range(images * k)]
        batches = list(itertools.combinations(rows, batch))
        pairs = [itertools.combinations(drawn, 2) for drawn in batches]
        shared = sum(one == other for drawn in pairs for one, other in drawn)
        expected = shared / len(batches)
        pairs_of_a_batch = math.comb(batch, 2)
        mistakes = {
            "rows are drawn without replacement.": pairs_of_a_batch / images,
            "a row is no pair with itself: k - 1 others show its image.": (
                pairs_of_a_batch * k / (images * k - 1)
            ),
            "there is one row less to draw from for the second.": (
                pairs_of_a_batch * (k - 1) / (images * k)
            ),
            "each pair counts once.": 2 * expected,
        }
        where = f"{images} images with {k} captions, a batch of {batch}"
        same(ask(answer, images, k, batch), expected, where, mistakes)


def floor_of(answer: Callable) -> None:
    """Exercise 5.3: the floor of a batch."""
    example = torch.eye(4, dtype=torch.bool)
    example[0, 1] = example[0, 2] = True
    tables = [example]
    for seed, size in enumerate((3, 6, 9)):
        tables.append(
            (numbers(size, size, seed=seed) > 0.5) | torch.eye(size).bool()
        )
    for table in tables:
        sides = table.double(), table.T.double()
        shares = [side / side.sum(dim=1, keepdim=True) for side in sides]
        rows, columns = (
            torch.special.entr(s).sum(dim=1).mean().item() for s in shares
        )
        means = [side.sum(dim=1).mean().log().item() for side in sides]
        mistakes = {
            "the columns have a floor of their own.": rows,
            "the rows have a floor of their own.": columns,
            "the loss is the mean of both directions.": rows + columns,
            "the mean of the logarithms, not the logarithm of the mean.": sum(means)
            / 2,
        }
        found = ask(answer, table)
        where = f"a table of {len(table)} by {len(table)}"
        same(float(found), (rows + columns) / 2, where, mistakes)


def gradient_of_cosines(answer: Callable) -> None:
    """Exercise 5.4: the gradient by hand."""
    for seed, (size, scale) in enumerate(((4, 10.0), (7, 2.5), (2, 30.0))):
        cosine = numbers(size, size, seed=seed, dtype=torch.float64).tanh()
        cosine = cosine.requires_grad_()
        target = torch.arange(size)
        logits = scale * cosine
        loss = (
            F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)
        ) / 2
        (expected,) = torch.autograd.grad(loss, cosine)
        with torch.no_grad():
            rows = scale * (logits.softmax(dim=1) - torch.eye(size)) / size
        mistakes = {"only the rows are there.": rows, "half of the rows.": rows / 2}
        found = ask(answer, cosine.detach().clone(), scale)
        same(found, expected, f"{size} pairs, scale {scale:g}", mistakes)


# --- 6. The model ---


def expected_first_loss(answer: Callable) -> None:
    """Exercise 6.1: the first loss."""
    for batch in (256, 2, 100, 1000):
        alike = torch.ones(batch, 1, dtype=torch.float64)
        expected = contrastive_loss(alike, alike, 10.0).item()
        mistakes = {
            "the logarithm is the natural one.": math.log2(batch),
            "the natural one, not that of 10.": math.log10(batch),
            "this is the probability of the right answer.": 1 / batch,
        }
        same(ask(answer, batch), expected, f"a batch of {batch}", mistakes)


def projection_numbers(answer: Callable) -> None:
    """Exercise 6.2: the price of the shared space."""
    from distilclip.model import Projection

    for image, text, width in ((384, 768, 256), (5, 7, 3), (96, 384, 64)):
        for norm in (False, True):
            parts = [Projection(dim, width, norm) for dim in (image, text)]
            expected = sum(map(size_of, parts))
            mistakes = {
                "with the LayerNorm comes a bias of the linear map.": expected
                - 2 * width * norm,
                "each side has a norm and a bias.": expected - 3 * width * norm,
                "the LayerNorm is missing.": expected - 6 * width * norm,
            }
            where = f"{image} and {text} to {width}, norm={norm}"
            found = ask(answer, image, text, width, norm)
            same(found, expected, where, mistakes)


def mixed_query(answer: Callable) -> None:
    """Exercise 6.3: search with a picture and a word."""
    for seed, weight in enumerate((0.25, 0.0, 1.0, 0.6)):
        image, text = torch.eye(2) if seed == 0 else units(2, 8, seed=seed)
        expected = F.normalize((1 - weight) * image + weight * text, dim=0)
        mistakes = {
            "the word has the weight w, the picture the rest.": F.normalize(
                weight * image + (1 - weight) * text, dim=0
            ),
            "the vector's length is not 1.": (1 - weight) * image + weight * text,
        }
        found = ask(answer, image, text, weight)
        same(found, expected, f"w = {weight}", mistakes)


def loss_without_image_gradients(answer: float) -> None:
    """Exercise 6.4: A broken model."""
    loss = float(answer)
    require(
        loss > 0.05, f"{loss:.3f}: it is below 0.05. Do the pictures still learn?"
    )
    require(
        loss < math.log(32) - 0.3,
        f"{loss:.2f} is near ln 32: does the text's projection learn, and for 100 "
        "steps?",
    )


# --- 7. Data ---


def cache_bytes(answer: int) -> None:
    """Exercise 7.1: how large the cache is."""
    sealed(
        "7.1",
        answer,
        "26182e54bcd9846a",
        "6,000 pictures of 224 by 224",
        {
            "43de9cfb5c2bbe0b": "a picture has three channels.",
            "79915df0d047f2ca": "a byte a channel, not a float32.",
            "cd4a19cae42052df": "this is one picture.",
            "c0bf4347c0e9776e": "in bytes, please.",
        },
    )


def striped(width: int, height: int) -> Image.Image:
    """A picture with a red left edge, a blue right one, green between."""
    image = Image.new("RGB", (width, height), (0, 255, 0))
    image.paste((255, 0, 0), (0, 0, width // 4, height))
    image.paste((0, 0, 255), (width - width // 4, 0, width, height))
    return image


def padded_square(answer: Callable) -> None:
    """Exercise 7.2: the whole picture in a white square."""
    for width, height, size in (
        (64, 32, 64),
        (32, 64, 64),
        (80, 20, 40),
        (30, 30, 60),
    ):
        found = ask(answer, striped(width, height), size)
        where = f"{width} by {height} pixels into {size}"
        right = isinstance(found, Image.Image) and found.size == (size, size)
        require(right, f"{where}: a picture of {size} by {size} is asked for.")
        pixels = torch.from_numpy(np.array(found.convert("RGB"))).long()
        ink = (pixels.double() - 255).abs().sum(dim=-1) > 60
        rows, columns = (ink.any(dim=axis).nonzero().flatten() for axis in (1, 0))
        require(len(rows) > 0, f"{where}: nothing of the picture is there.")
        shown = columns[-1] - columns[0] + 1, rows[-1] - rows[0] + 1
        wanted = [size * side / max(width, height) for side in (width, height)]
        middle = pixels[
            size // 2, [int(columns[0]) + 1, int(columns[-1]) - 1]
        ].tolist()
        if height < width:
            ends = middle[0][0] > 150 and middle[1][2] > 150
            require(
                ends, f"{where}: its ends are cut off. The whole picture, please."
            )
        bent = any(abs(a - b) > 2 for a, b in zip(shown, wanted, strict=True))
        filled = bent and shown == (size, size)
        require(
            not filled, f"{where}: it fills the square: bent, cut, not on white."
        )
        require(not bent, f"{where}: it has not the size that just fits.")
        centre = [(line[0] + line[-1] + 1) / 2 for line in (columns, rows)]
        centred = all(abs(place - size / 2) <= 1 for place in centre)
        require(centred, f"{where}: it is not in the middle.")
        white = [pixels[0, 0], pixels[-1, -1]]
        if width != height:
            blank = all((corner > 250).all() for corner in white)
            require(blank, f"{where}: what is left of the square is not white.")
    cut_out = Image.new("RGBA", (40, 20), (0, 0, 0, 0))
    shade = ask(answer, cut_out, 40).convert("RGB").getpixel((20, 20))
    require(
        min(shade) > 250, "A transparent picture: it is white behind. Use to_rgb."
    )
    turned = striped(60, 20)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be shown turned by a quarter
    turned.info["exif"] = exif.tobytes()
    turned.getexif()[0x0112] = 6
    corner = ask(answer, turned, 60).convert("RGB").getpixel((5, 30))
    require(min(corner) > 250, "A rotated picture: it is not turned. Use to_rgb.")


def mirror_caption(answer: Callable) -> None:
    """Exercise 7.3: the caption of a mirrored picture."""
    other = {"left": "right", "right": "left"}
    texts = (
        "a cat left of a dog",
        "on the right, a star; on the left, a cup",
        "a bright star",
        "leftover rice, upright, to the right",
        "left left right",
        "nothing to exchange",
    )
    for text in texts:
        words = "".join(c if c.isalpha() else f"\0{c}\0" for c in text).split("\0")
        expected = "".join(other.get(word, word) for word in words)
        mistakes = {
            "a word that was exchanged is exchanged back.": text.replace(
                "left", "right"
            ).replace("right", "left"),
            "only one of the two words is exchanged.": text.replace(
                "left", "right"
            ),
        }
        found = ask(answer, text)
        bright = "bright" in text or "upright" in text
        inside = isinstance(found, str) and ("bleft" in found or "upleft" in found)
        require(
            not (bright and inside),
            f"{text!r}: letters inside a word are exchanged.",
        )
        same(found, expected, repr(text), mistakes)


def epoch_of_concepts(answer: Callable) -> None:
    """Exercise 7.4: an epoch in which no concept comes twice."""
    concepts = [str(number % 23) for number in range(100)]
    epochs = {}
    for seed, epoch in itertools.product(range(3), range(8)):
        torch.manual_seed(100 * seed + epoch)
        rows = torch.as_tensor(ask(answer, concepts, seed, epoch)).tolist()
        where = f"seed {seed}, epoch {epoch}"
        several = len({concepts[row] for row in rows}) < len(rows)
        require(not several, f"{where}: a concept comes twice.")
        require(len(rows) == 23, f"{where}: {len(rows)} rows for 23 concepts.")
        torch.manual_seed(7)
        again = torch.as_tensor(ask(answer, concepts, seed, epoch)).tolist()
        same_again = rows == again
        require(same_again, f"{where}: asked again, it is another one.")
        epochs[seed, epoch] = rows
    orders = {tuple(concepts[row] for row in rows) for rows in epochs.values()}
    require(
        len(orders) > 1, "The order of the concepts is the same in every epoch."
    )
    for axis, name in enumerate(("seed", "epoch")):
        kept = [rows for key, rows in epochs.items() if key[1 - axis] == 0]
        differ = len({tuple(rows) for rows in kept}) == len(kept)
        require(differ, f"Another {name} does not give another order.")
    drawn = set(itertools.chain(*epochs.values()))
    require(len(drawn) > 90, "Some rows of a concept are never drawn.")


# --- 8a and 8b. Training ---


def count_steps(answer: tuple) -> None:
    """Exercise 8a.1: how many steps."""
    pair = isinstance(answer, tuple | list) and len(answer) == 2
    require(pair, "Two numbers are asked for.")
    rounded = "an incomplete last batch is left out."
    sealed(
        "8a.1",
        answer[0],
        "07f5e0a6c5b82edd",
        "steps of an epoch",
        {"0ea1c077f2335928": rounded, "e136c24b46b80a68": rounded},
    )
    sealed(
        "8a.1",
        answer[1],
        "ca861c0b1a5df48b",
        "steps of a run",
        {
            "951fb221c9e39ba0": rounded,
            "56e0d0157762e6aa": "it is left out in every epoch.",
            "6d8f25379490667b": "it is left out in every epoch.",
            "08bf3476eca75d27": "it is left out in every epoch.",
        },
    )


def linear_schedule(answer: Callable) -> None:
    """Exercise 8a.2: A linear schedule."""
    for total, warmup in ((100, 0.1), (50, 0.2), (1000, 0.03)):
        rise = round(total * warmup)
        for step in (
            0,
            rise - 1,
            rise,
            rise + 1,
            (rise + total) // 2,
            total - 1,
            total,
        ):
            points = (
                (step + 1, rise, 0)
                if step < rise
                else (total - step, total - rise, 0)
            )
            expected = points[0] / points[1]
            mistakes = {
                "the line ends at step `total`, at zero.": (total - step) / total,
                "the first step has a share already: (step + 1) / rise.": step
                / rise,
                "it falls as a cosine.": 0.5
                * (1 + math.cos(math.pi * (step - rise) / (total - rise))),
            }
            where = f"step {step} of {total}, warm-up {warmup}"
            same(ask(answer, step, total, warmup), expected, where, mistakes)


def state_gigabytes(answer: Callable) -> None:
    """Exercise 8b.1: how large is a checkpoint."""
    for image, text in ((86e6, 66e6), (22e6, 11e6), (1e9, 5e8)):
        for frozen, average in itertools.product((False, True), repeat=2):
            kept = ["weights", "first moment", "second moment"] + ["mean"] * average
            learning = [image] if frozen else [image, text]
            expected = sum(4 * count for _ in kept for count in learning) / 1e9
            mistakes = {
                "a gigabyte has 10^9 bytes here.": expected * 1e9 / 2**30,
                "AdamW keeps two numbers for each weight.": sum(
                    4 * count for _ in kept[1:] for count in learning
                )
                / 1e9,
                "what is frozen is not saved.": 4
                * len(kept)
                * (image + text)
                / 1e9,
                "what is frozen has no moments, and is not saved.": (
                    4 * (len(kept) * image + text) / 1e9
                ),
            }
            where = f"{image:g} and {text:g}, frozen={frozen}, average={average}"
            found = ask(answer, image, text, frozen=frozen, average=average)
            same(found, expected, where, mistakes)


def loss_scale(answer: tuple) -> None:
    """Exercise 8b.2: what a float16 gradient loses."""
    pair = isinstance(answer, tuple | list) and len(answer) == 2
    require(pair, "Two numbers are asked for: the scale, and the largest gradient.")
    scale, largest = map(float, answer)
    power = scale > 0 and math.log2(scale).is_integer()
    require(power, f"{scale:g} is no power of two.")
    survives = (torch.tensor(1e-9 * scale).half().double() / scale).item()
    error = abs(survives - 1e-9) / 1e-9
    require(
        error < 0.01,
        f"With {scale:g}, 1e-9 becomes {survives:.3g}, off by {error:.0%}: a "
        "larger scale moves it to where float16 has more digits."
        if survives < 1
        else f"With {scale:g}, 1e-9 itself overflows.",
    )
    same(largest, 65504 / scale, "the largest gradient", tolerance=0.01)


# --- 9. Search ---


def chance(answer: tuple) -> None:
    """Exercise 9.1: chance."""
    pair = isinstance(answer, tuple | list) and len(answer) == 2
    require(pair, "Two numbers are asked for.")
    shares = "in per cent, please."
    sealed(
        "9.1", answer[0], "dcb249043cb7c729", "R@1", {"194de33e56e66f42": shares}
    )
    sealed(
        "9.1",
        answer[1],
        "bb6f94d226f39cd5",
        "R@10",
        {"b543d7a2b85f9222": shares, "dcb249043cb7c729": "ten places, not one."},
    )


def median_rank(answer: Callable) -> None:
    """Exercise 9.2: median rank."""
    for seed, (pictures, texts) in enumerate(((5, 3), (6, 9), (4, 15))):
        images, words = (
            numbers(pictures, 3, seed=seed),
            numbers(texts, 3, seed=seed + 5),
        )
        images, words = (
            F.normalize(side.round(), dim=-1) for side in (images, words)
        )
        owners = [number % pictures for number in range(texts)]
        table = words @ images.T
        worst, best = [], []
        for row, owner in zip(table.tolist(), owners, strict=True):
            rest = [value for n, value in enumerate(row) if n != owner]
            worst.append(1 + sum(value > row[owner] - 1e-6 for value in rest))
            best.append(1 + sum(value > row[owner] + 1e-6 for value in rest))
        expected = float(statistics.median(worst))
        mistakes = {
            "the best rank is 1.": expected - 1,
            "ties count against the right one.": float(statistics.median(best)),
            "the median, not the mean.": statistics.fmean(worst),
        }
        where = f"{texts} captions, {pictures} pictures"
        same(float(ask(answer, images, words, owners)), expected, where, mistakes)


def chance_of_image(answer: Callable) -> None:
    """Exercise 9.3: chance with several captions."""
    for c, captions, k in (
        (5, 1000, 10),
        (2, 6, 3),
        (1, 7, 2),
        (3, 8, 4),
        (3, 5, 3),
    ):
        if captions > 100:
            expected = 1 - math.prod(
                (captions - k - n) / (captions - n) for n in range(c)
            )
        else:
            tops = list(itertools.combinations(range(captions), k))
            expected = sum(min(top) < c for top in tops) / len(tops)
        mistakes = {
            "the chances of several captions do not add up.": c * k / captions,
            "places are not drawn again: no two captions share one.": 1
            - (1 - k / captions) ** c,
            "a caption cannot stand in two places.": 1 - (1 - c / captions) ** k,
            "this is the chance that none is among them.": 1 - expected,
        }
        where = f"{c} of {captions} captions, the first {k}"
        same(ask(answer, c, captions, k), expected, where, mistakes, tolerance=1e-4)


def vector_of_pictures(answer: Callable) -> None:
    """Exercise 9.4: several examples at once."""
    for seed, count in enumerate((2, 3, 5)):
        known = units(8, 4, seed=seed)
        model = SimpleNamespace(
            encode_image=lambda rows, known=known: known[list(rows)]
        )
        rows = list(range(1, count + 1))
        mean = known[rows].mean(dim=0)
        mistakes = {
            "the vector's length is not 1.": mean,
            "it is the vector of the first picture only.": known[rows[0]],
            "its length is not 1, and it is a sum.": known[rows].sum(dim=0),
        }
        where = f"{count} pictures"
        same(ask(answer, model, rows), F.normalize(mean, dim=0), where, mistakes)


# --- 10. Explain ---


def rollout_shares(answer: tuple) -> None:
    """Exercise 10.1: the residual's share."""
    pair = isinstance(answer, tuple | list) and len(answer) == 2
    require(pair, "Two numbers are asked for.")
    sealed(
        "10.1",
        answer[0],
        "b23c9f8cfc47b0ff",
        "each token at itself",
        {"43b85a91ccc8d8bb": "attention gives the other half."},
    )
    sealed(
        "10.1",
        answer[1],
        "8b5ad293384523ad",
        "evenly at four tokens",
        {
            "b984dfa47b4209b1": "half of it is the identity.",
            "43b85a91ccc8d8bb": "attention adds its share.",
            "3bb74ac0aa1c2140": "the identity adds its half.",
            "aeea26f0dcbe21ff": "half of a quarter, and half of 1.",
        },
    )


def attention_distance(answer: Callable) -> None:
    """Exercise 10.2: how far do heads look."""
    for seed, (layers, pictures, heads, side) in enumerate(
        ((1, 1, 1, 2), (3, 2, 4, 3))
    ):
        tokens = 1 + side**2
        scores = numbers(layers, pictures, heads, tokens, tokens, seed=seed)
        maps = (0 * scores if seed == 0 else scores).softmax(dim=-1)
        grid = torch.cartesian_prod(torch.arange(side), torch.arange(side)).double()
        distance = torch.cdist(grid, grid).float()
        patches = maps[..., 1:, 1:]
        whole = (patches * distance).sum(dim=-1)
        each = whole / patches.sum(dim=-1)
        mistakes = {
            "the weights of a row do not sum to 1 without [CLS].": whole.mean(
                dim=(1, 3)
            ),
            "a mean for each layer and head.": each.mean(),
        }
        where = f"{layers} layers, {heads} heads, {side} by {side} patches"
        found = ask(answer, maps, distance)
        same(found, each.mean(dim=(1, 3)), where, mistakes, tolerance=1e-4)


def without_gap(answer: Callable) -> None:
    """Exercise 10.3: close the gap."""
    for seed, count in enumerate((6, 20)):
        images = F.normalize(numbers(count, 4, seed=seed) + 1, dim=-1)
        texts = F.normalize(numbers(count, 4, seed=seed + 3) - 1, dim=-1)
        shift = images.mean(dim=0) - texts.mean(dim=0)
        expected = F.normalize(texts + shift, dim=-1)
        mistakes = {
            "the captions have not moved.": texts,
            "their length is no longer 1.": texts + shift,
            "they went the other way.": F.normalize(texts - shift, dim=-1),
            "all captions move by one and the same vector.": images,
        }
        where = f"{count} pairs"
        same(ask(answer, images, texts), expected, where, mistakes)


# --- 11. Scale ---


def slowdown(answer: Callable) -> None:
    """Exercise 11.1: the price of a cut."""
    for forward, backward in ((1.0, 2.5), (1.0, 2.0), (3.0, 1.0)):
        plain = forward + backward
        expected = (forward + plain) / plain
        mistakes = {
            "this is how much is added.": expected - 1,
            "the second pass has a forward pass, too.": 1.0,
            "this is the time, not how many times as long.": expected * plain,
        }
        where = f"forward {forward:g} s, backward {backward:g} s"
        same(ask(answer, forward, backward), expected, where, mistakes)


def bias_gradient(answer: Tensor, model: nn.Module, whole: dict) -> None:
    """`model` gives the embeddings of the batch `whole`; the bias begins at -10."""
    bias = torch.tensor(-10.0, dtype=torch.float64, requires_grad=True)
    with torch.no_grad():
        images, texts = model(whole)
        scale = model.get_parameter("log_logit_scale").exp()
    (expected,) = torch.autograd.grad(
        sigmoid_loss(images, texts, scale, bias), bias
    )
    none = torch.zeros_like(expected)
    mistakes = {"it is zero: does the loss use the bias?": none}
    same(answer.detach(), expected, "the gradient of the bias", mistakes, 1e-6)


def local_loss(answer: Callable) -> None:
    """Exercise 11.3: split the table."""
    for seed, (world, each) in enumerate(((4, 3), (2, 5), (1, 4))):
        images, texts = units(2, world * each, 6, seed=seed, dtype=torch.float64)
        logits, target = 14.3 * images @ texts.T, torch.arange(world * each)
        rows, columns = (
            F.cross_entropy(side, target, reduction="none")
            .view(world, each)
            .mean(dim=1)
            for side in (logits, logits.T)
        )
        whole = ((rows + columns) / 2).mean()
        here = images.view(world, each, 6), texts.view(world, each, 6)
        for rank in range(world):
            mistakes = {
                "this is the whole loss: only the own rows and columns.": whole,
                "the own captions' columns are missing.": rows[rank],
                "the own pictures' rows are missing.": columns[rank],
                "the others' captions are wrong answers, too.": contrastive_loss(
                    here[0][rank], here[1][rank], 14.3
                ),
                "the mean of both sides, not their sum.": rows[rank]
                + columns[rank],
            }
            found = torch.as_tensor(ask(answer, images, texts, 14.3, rank, world))
            expected = (rows[rank] + columns[rank]) / 2
            same(found, expected, f"process {rank} of {world}", mistakes)


def embeddings_dominate(
    answer: Callable, per_pair: float, width: int, rate: float
) -> None:
    """`per_pair` operations at `rate` a second, embeddings of `width` numbers."""
    for share, link in ((256, 12.5e9), (64, 1.25e9), (1024, 3e11)):
        world = ask(answer, share, link)
        sending = 24 * (world - 1) * share * width / link
        computing = share * per_pair / rate
        where = f"{share} pairs, {link:g} bytes a second"
        if not is_equal(sending, computing, 1e-4):
            way = "many" if sending > computing else "few"
            raise NotYetError(
                f"{where}: {world:,.1f} are too {way}: sending takes "
                f"{sending / computing:.3g} times as long as computing."
            )


# --- 12. Sharing ---


def bytes_without_text(answer: Callable, model: nn.Module) -> None:
    """`model` is the chapter's; a smaller one is tried, too."""
    small = nn.Module()
    small.vision, small.text = nn.Linear(3, 5), distilbert()
    small.image_projection, small.text_projection = nn.Linear(5, 2), nn.Linear(4, 2)
    small.log_logit_scale = nn.Parameter(torch.zeros(()))
    for name, tried in (("the model", model), ("a small model", small)):
        named = dict(tried.named_parameters())
        kept = [p for n, p in named.items() if not n.startswith("text.")]
        expected = sum(p.numel() * p.element_size() for p in kept)
        mistakes = {
            "these are numbers: a float32 has four bytes.": expected // 4,
            "the text encoder is counted, too.": 4 * size_of(tried),
            "the projections and the scale belong to it as well.": 4
            * size_of(tried.get_submodule("vision")),
            "the scale is a parameter, too.": expected - 4,
        }
        same(ask(answer, tried), expected, name, mistakes)


def found_with(answer: Callable) -> None:
    """Exercise 12.2: the wrong constants."""
    ours = ask(answer, (0.5,) * 3, (0.5,) * 3)
    require(
        ours <= 1,
        f"{ours:.3g}: a share is asked for, between 0 and 1, not per cent.",
    )
    known = "The chapter's own constants"
    require(abs(ours - 0.97) < 0.015, f"{known}: {ours:.3f} is not what it found.")
    theirs = ask(answer, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    where = "ImageNet's constants"
    require(theirs < ours, f"{where}: they give as much. Are mean and std used?")
    sealed(
        "12.2",
        round(20 * theirs),
        "e57407deb3cbeeb2",
        where,
        {
            "46b55d3e5da5e1c1": "too much is found.",
            "39fe366d98ab37cd": "too little is found.",
        },
    )


class Pushes:
    """A push that fails with each of `errors`, then works; counts its calls."""

    def __init__(self, *errors: Exception):
        self.errors, self.calls = list(errors), 0

    def __call__(self) -> str:
        self.calls += 1
        if self.errors:
            raise self.errors.pop(0)
        return "pushed"


def push_patiently(answer: Callable) -> None:
    """Exercise 12.3: once more."""
    lost, refused = ConnectionError("lost"), PermissionError("refused")
    cases = (
        ("it works at once", (), 3, "pushed", 1),
        ("two lines break", (lost, lost), 3, "pushed", 3),
        ("it is refused", (refused, lost), 3, "PermissionError", 1),
        ("refused at the second try", (lost, refused), 3, "PermissionError", 2),
        ("three lines break", (lost, lost, lost, lost), 3, "ConnectionError", 3),
        ("five tries", (lost,) * 4, 5, "pushed", 5),
        ("one try", (lost,), 1, "ConnectionError", 1),
    )
    for where, errors, tries, wanted, calls in cases:
        push = Pushes(*errors)
        try:
            end = ask(answer, push, tries)
        except OSError as error:
            end = type(error).__name__
        unasked = push.calls < calls
        require(
            not unasked, f"{where}: asked {push.calls} times, which is too few."
        )
        require(
            push.calls <= calls,
            f"{where}: asked {push.calls} times, which is too often.",
        )
        require(end == wanted, f"{where}: it ends with {end!r}.")


# --- 13. Export ---


def bytes_of_matrix(answer: Callable) -> None:
    """Exercise 13.1: bytes."""
    for inputs, outputs in ((768, 3072), (10, 3), (384, 384)):
        floats = meta_bytes(inputs, outputs, dtype=torch.float32)
        whole = meta_bytes(inputs, outputs, dtype=torch.int8)
        scales = meta_bytes(outputs, dtype=torch.float32)
        where = f"{inputs} inputs, {outputs} outputs, "
        same(ask(answer, inputs, outputs, bits=32), floats, where + "32 bits")
        mistakes = {
            "the scales are missing.": whole,
            "a scale for each output, not for each input.": whole + 4 * inputs,
            "a scale has four bytes.": whole + outputs,
            "this is the matrix in 32 bits.": floats,
        }
        found = ask(answer, inputs, outputs, bits=8)
        same(found, whole + scales, where + "8 bits", mistakes)


def quantised(answer: Callable) -> None:
    """Exercise 13.2: fewer bits."""
    for seed, (rows, columns) in enumerate(((6, 4), (30, 7))):
        sizes = torch.arange(1, columns + 1)
        matrix = (numbers(rows, columns, seed=seed) * sizes).numpy()
        for bits in (8, 3, 2, 5):
            steps = 2 ** (bits - 1) - 1
            found = torch.as_tensor(ask(answer, matrix.copy(), bits)).double()
            exact = torch.as_tensor(matrix).double()
            scale = exact.abs().amax(dim=0) / steps
            expected = (exact / scale).round() * scale
            one, eight = exact.abs().max() / steps, exact.abs().amax(dim=0) / 127
            by_row = exact.abs().amax(dim=1, keepdim=True) / steps
            mistakes = {
                "eight bits, whatever is asked for.": (exact / eight).round()
                * eight,
                "nothing is rounded.": exact,
                "each column has a scale of its own.": (exact / one).round() * one,
                "a scale a column, not a row.": (exact / by_row).round() * by_row,
                "these are the integers: multiply by the scale.": (
                    exact / scale
                ).round(),
            }
            same(found, expected, f"{bits} bits", mistakes, tolerance=1e-4)


def embedding_share(answer: Callable) -> None:
    """Exercise 13.3: half the network, half the file."""
    for sizes in ((30, 8, 4, 6, 3), (500, 16, 8, 12, 1)):
        encoder = nn.Module()
        encoder.model = distilbert(*sizes)
        tables = encoder.model.embeddings
        words, whole = tables.word_embeddings.weight.numel(), size_of(encoder)
        mistakes = {
            "positions and norm are no words.": size_of(tables) / whole,
            "of all parameters, not of the others.": words / (whole - words),
            "a share, not per cent.": 100 * words / whole,
            "this is a number of parameters.": words,
        }
        found = float(ask(answer, encoder))
        same(found, words / whole, f"a vocabulary of {sizes[0]}", mistakes)


# --- 14. Pretrained ---


def count_clip_vision(answer: Callable) -> None:
    """Exercise 14.1: what a tower weighs."""
    for side, patch, dim, depth in ((224, 32, 768, 12), (48, 12, 64, 3)):
        config = ViTConfig(side, patch, dim=dim, depth=depth, num_heads=4)
        with torch.device("meta"):
            whole = size_of(ViT(config)) - dim + 2 * dim  # no patch bias, a norm
        mistakes = {
            "the patches have no bias.": whole + dim,
            "there is a norm before the first block, too.": whole - 2 * dim,
            "a norm has a weight and a bias.": whole - dim,
            "[CLS] has a position, too.": whole - dim,
        }
        where = f"{side} pixels in patches of {patch}, width {dim}"
        same(ask(answer, side, patch, dim, depth), whole, where, mistakes)


def unseen_share(answer: Callable) -> None:
    """Exercise 14.2: the rim."""
    for side, patch in ((384, 14), (224, 32), (100, 30)):
        seen = side // patch * patch / side
        mistakes = {
            "this is the share of a side, not of the square.": 1 - seen,
            "this is what it does see.": seen**2,
            "a share, not per cent.": 100 * (1 - seen**2),
        }
        where = f"{side} pixels in patches of {patch}"
        same(float(ask(answer, side, patch)), 1 - seen**2, where, mistakes)


def pair_probabilities(answer: Callable) -> None:
    """Exercise 14.3: one picture, one sentence."""
    for scale, bias in ((10.0, -10.0), (4.0, 1.0)):
        images = F.normalize(numbers(3, 8, seed=1), dim=-1)
        texts = F.normalize(numbers(5, 8, seed=2), dim=-1)
        logits = scale * images @ texts.T + bias
        mistakes = {
            "these are the logits.": logits,
            "a softmax needs rivals; a pair stands alone.": logits.softmax(dim=1),
            "the bias is missing.": (logits - bias).sigmoid(),
            "the bias is added, not subtracted.": (logits - 2 * bias).sigmoid(),
        }
        found = ask(answer, images, texts, scale, bias)
        same(found, logits.sigmoid(), f"scale {scale}, bias {bias}", mistakes)


QUESTIONS: dict[str, Callable[..., None]] = {
    "1.1": count_tokens,
    "1.2": find_neighbours,
    "1.3": channel_last_tokens,
    "1.4": stretched_positions,
    "2.1": bytes_of_weights,
    "2.2": masked_attention,
    "2.3": distance_attention,
    "2.4": blockwise_attention,
    "3.1": count_vit_small,
    "3.2": tokens_and_side,
    "3.3": rms_norm,
    "3.4": their_tensors,
    "4.1": table_megabytes,
    "4.2": count_distilbert,
    "4.3": pool_max,
    "4.4": unfreeze_last,
    "5.1": guesses,
    "5.2": expected_collisions,
    "5.3": floor_of,
    "5.4": gradient_of_cosines,
    "6.1": expected_first_loss,
    "6.2": projection_numbers,
    "6.3": mixed_query,
    "6.4": loss_without_image_gradients,
    "7.1": cache_bytes,
    "7.2": padded_square,
    "7.3": mirror_caption,
    "7.4": epoch_of_concepts,
    "8a.1": count_steps,
    "8a.2": linear_schedule,
    "8b.1": state_gigabytes,
    "8b.2": loss_scale,
    "9.1": chance,
    "9.2": median_rank,
    "9.3": chance_of_image,
    "9.4": vector_of_pictures,
    "10.1": rollout_shares,
    "10.2": attention_distance,
    "10.3": without_gap,
    "11.1": slowdown,
    "11.2": bias_gradient,
    "11.3": local_loss,
    "11.4": embeddings_dominate,
    "12.1": bytes_without_text,
    "12.2": found_with,
    "12.3": push_patiently,
    "13.1": bytes_of_matrix,
    "13.2": quantised,
    "13.3": embedding_share,
    "14.1": count_clip_vision,
    "14.2": unseen_share,
    "14.3": pair_probabilities,
}

"""Looking inside: what a trained model looks at, and what it confuses.

Attention maps and their rollout, what each patch and each word adds to a cosine,
the shape of the shared space, and a test of attribute binding with two repairs.
Built in chapter 10; the papers are named where they are used.
"""

import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from einops import rearrange, reduce
from torch import Tensor
from torch.optim import AdamW

from distilclip.attention import MultiHeadAttention
from distilclip.data import Batch, TrainingPairs, seeded
from distilclip.loss import contrastive_loss, cosines, soft_cross_entropy
from distilclip.model import DistilCLIP
from distilclip.runs.checkpoint import Run
from distilclip.runs.settings import TrainConfig
from distilclip.sources.scenes import (
    COLOUR_NAME,
    COLOURS,
    HELD_OUT,
    THING_NAME,
    describe,
)
from distilclip.training import descend, take_steps
from distilclip.vit import ViT, evaluating, pool_image


@contextmanager
def recorded_attention(vision: ViT) -> Iterator[list[Tensor]]:
    """Collect the attention weights of a forward pass: (B, heads, N, N) a layer.

    The fused kernel never holds these tables. So a hook on each attention layer
    computes them in the open, and puts the result that follows from them in the
    place of the kernel's: gradients reach the tables. When the `with` block ends,
    the hooks are gone.
    """
    tables: list[Tensor] = []

    def mix_in_the_open(
        attention: MultiHeadAttention, inputs: tuple[Tensor, ...], output: Tensor
    ) -> Tensor:
        table = attention.weights(inputs[0])
        tables.append(table)
        value = attention.split_heads(inputs[0])[2]
        return attention.output(rearrange(table @ value, "b h n d -> b n (h d)"))

    hooks = [
        module.register_forward_hook(mix_in_the_open)
        for module in vision.modules()
        if isinstance(module, MultiHeadAttention)
    ]
    try:
        yield tables
    finally:
        for hook in hooks:
            hook.remove()


@torch.no_grad()
def attention_maps(vision: ViT, pixel_values: Tensor) -> Tensor:
    """All attention weights: (B, C, H, W) -> (layers, B, heads, N, N).

    Row i says from which tokens token i takes; rows sum to 1. With a [CLS] token,
    it is token 0.
    """
    with evaluating(vision), recorded_attention(vision) as tables:
        vision(pixel_values)
    return torch.stack(tables)


def attention_rollout(maps: Tensor) -> Tensor:
    """Attention through all layers: maps (layers, B, heads, N, N) -> (B, N, N).

    After Abnar and Zuidema (2020). Heads are averaged. The residual stream carries
    each token past every layer, so a layer's table is half attention and half
    identity; the product of the layers' tables says how much of each input token
    has reached each output token. Rows sum to 1. It counts where attention went,
    not whether what it fetched was of use.
    """
    identity = torch.eye(maps.shape[-1], dtype=maps.dtype, device=maps.device)
    rollout = identity.expand(maps.shape[1], -1, -1)
    for table in maps.mean(dim=2):
        rollout = (0.5 * table + 0.5 * identity) @ rollout
    return rollout


def pooled_row(model: DistilCLIP, tables: Tensor) -> Tensor:
    """What the picture's vector takes from each patch: (B, N, N) -> (B, h, w).

    The picture's vector is read off one token (`image_pool` "first": its row of the
    table) or off the mean of all patches ("mean": the mean of their rows). The
    column of the [CLS] token, where there is one, is no patch and is left out:
    where rows sum to 1, what is missing from 1 in a grid went there. Raises
    ValueError for a model that pools in another way: there is no such row.
    """
    if model.config.image_pool not in ("first", "mean"):
        raise ValueError(
            "This model's picture is read by a pool of its own (SigLIP), not off a "
            "row of the tables: use patch_relevance or occlusion."
        )
    patches = slice(int(model.config.vision.cls_token), None)
    row = pool_image(tables, model.config.image_pool, model.config.vision.cls_token)
    row = row[:, patches]
    return rearrange(row, "b (h w) -> b h w", h=model.vision.config.patches_a_side)


def cover_patches(
    model: DistilCLIP, pixel_values: Tensor, chosen: Tensor
) -> Tensor:
    """Paint the patches `chosen` (B, h, w, bool) of pixels (B, C, H, W) white."""
    size = model.config.vision.patch_size
    mask = chosen.repeat_interleave(size, dim=-2).repeat_interleave(size, dim=-1)
    return torch.where(
        mask.unsqueeze(1), white_pixel(model, pixel_values), pixel_values
    )


@torch.no_grad()
def occlusion(
    model: DistilCLIP, pixel_values: Tensor, text_embeds: Tensor
) -> Tensor:
    """The cosine lost when a patch is painted white (Zeiler and Fergus, 2014).

    Normalised pixels (B, C, H, W) and the unit vectors of their captions (B, E) ->
    (B, h, w). Slow and plain: one forward pass for each patch. What two patches
    show together, and neither alone, it cannot see.
    """
    side = model.vision.config.patches_a_side
    lost = pixel_values.new_zeros(len(pixel_values), side, side)
    with evaluating(model):
        whole = (model.embed_image(pixel_values) * text_embeds).sum(dim=-1)
        for row in range(side):
            for column in range(side):
                chosen = torch.zeros_like(lost, dtype=torch.bool)
                chosen[:, row, column] = True
                covered = model.embed_image(
                    cover_patches(model, pixel_values, chosen)
                )
                lost[:, row, column] = whole - (covered * text_embeds).sum(dim=-1)
    return lost


def patch_relevance(
    model: DistilCLIP, pixel_values: Tensor, text_embeds: Tensor, steps: int = 32
) -> Tensor:
    """What each patch adds to the cosine with a caption -> (B, h, w).

    Integrated gradients: normalised pixels (B, C, H, W), the unit vectors of their
    captions (B, E). The picture fades in from white in `steps` steps; at each, the
    gradient says how much more of a pixel would raise the cosine, and the patch
    gets its pixels' share (Sundararajan et al., 2017). Summed over the patches this
    is the cosine of the picture less that of a white one, up to the error of the
    steps. It works for every `image_pool`, because it looks at inputs and not at
    rows.
    """
    white = white_pixel(model, pixel_values)
    gradient = torch.zeros_like(pixel_values)
    with evaluating(model), torch.enable_grad():
        for step in range(steps):
            faded = white + (step + 0.5) / steps * (pixel_values - white)
            faded = faded.detach().requires_grad_()
            cosine = (model.embed_image(faded) * text_embeds.detach()).sum()
            gradient += torch.autograd.grad(cosine, faded)[0] / steps
    size = model.config.vision.patch_size
    share = gradient * (pixel_values - white)
    return reduce(share, "b c (h p) (w q) -> b h w", "sum", p=size, q=size)


@torch.no_grad()
def deletion_curve(
    model: DistilCLIP,
    pixel_values: Tensor,
    text_embeds: Tensor,
    relevance: Tensor,
    points: int = 13,
) -> Tensor:
    """The mean cosine as patches turn white, the most relevant first -> (points).

    `relevance` (B, h, w) is the explanation under test: the better it is, the
    faster the curve falls (Samek et al., 2017). It runs from the whole picture to a
    white one, in equal steps.
    """
    ranks = (
        relevance.flatten(1)
        .argsort(dim=1, descending=True, stable=True)
        .argsort(dim=1)
    )
    ranks = ranks.view_as(relevance)
    curve = []
    with evaluating(model):
        for count in torch.linspace(0, ranks[0].numel(), points).round():
            covered = model.embed_image(
                cover_patches(model, pixel_values, ranks < count)
            )
            curve.append((covered * text_embeds).sum(dim=-1).mean())
    return torch.stack(curve)


@torch.no_grad()
def word_relevance(
    model: DistilCLIP, caption: str, image_embed: Tensor
) -> list[tuple[str, float]]:
    """The cosine with a picture (E) that is lost when each word is left out.

    Words, not word pieces: what stands between spaces. A negative number is a word
    that the caption would do better without. Raises ValueError for a caption
    without words.
    """
    words = caption.split()
    if not words:
        raise ValueError("The caption has no words: there is nothing to leave out.")
    shorter = [" ".join(words[:i] + words[i + 1 :]) for i in range(len(words))]
    cosine = model.encode_text([" ".join(words), *shorter]) @ image_embed
    return [
        (word, (cosine[0] - cosine[1 + i]).item()) for i, word in enumerate(words)
    ]


def position_similarity(vision: ViT) -> Tensor:
    """Cosines between the position embeddings of all patches: (h, w, h, w).

    Entry [i, j] is a map of the picture as the patch in row i and column j sees it
    (Dosovitskiy et al., 2021, figure 7).
    """
    positions = vision.position_embedding.detach()[
        0, int(vision.config.cls_token) :
    ]
    positions = F.normalize(positions, dim=-1)
    side = vision.config.patches_a_side
    return (positions @ positions.T).view(side, side, side, side)


def modality_gap(image_embeds: Tensor, text_embeds: Tensor) -> float:
    """The distance between the centres of two clouds, (N, E) and (M, E).

    After Liang et al. (2022).
    """
    return (image_embeds.mean(dim=0) - text_embeds.mean(dim=0)).norm().item()


def principal_axes(points: Tensor, count: int = 2) -> tuple[Tensor, Tensor]:
    """The centre (D) of points (N, D), and their `count` longest axes (count, D).

    Pearson's principal components: orthogonal unit vectors along which the points
    vary most. `(points - centre) @ axes.T` draws them. An axis has no sign of its
    own; its largest entry is made positive, so that every machine draws the same
    picture.
    """
    if not 1 <= count <= min(points.shape):
        raise ValueError(
            f"count must be between 1 and {min(points.shape)}, got {count}."
        )
    centre = points.mean(dim=0)
    axes = torch.linalg.svd(points - centre, full_matrices=False).Vh[:count]
    largest = axes.gather(1, axes.abs().argmax(dim=1, keepdim=True))
    return centre, axes * largest.sign()


def nearest_neighbours(
    queries: Tensor, candidates: Tensor, answers: Sequence[int] | Tensor, k: int = 5
) -> tuple[Tensor, Tensor]:
    """What each query finds (M, k), and the place of its right answer (M).

    `queries` (M, E) and `candidates` (N, E) are unit vectors, `answers` (M) is the
    row of the right candidate for each query. Place 1 is the best; ties count
    against the model.
    """
    scores = queries @ candidates.T
    right = scores.gather(1, torch.as_tensor(answers).view(-1, 1))
    return scores.topk(k, dim=1).indices, (scores >= right).sum(dim=1)


def probe_accuracy(
    features: Tensor, labels: Tensor, unseen: float = 0.25, ridge: float = 1e-6
) -> float:
    """How well a linear map reads `labels` (N) off unseen `features` (N, D).

    Ridge regression onto one-hot labels, the largest output wins: a linear probe
    (Alain and Bengio, 2017). It says whether something can be read off, not whether
    anyone does. `unseen` is the share of rows set aside, the last ones; `ridge` is
    in units of the features' mean square.
    """
    inputs = F.pad(features.double(), (0, 1), value=1.0)
    known = round(len(labels) * (1 - unseen))
    targets = F.one_hot(labels).double()[:known]
    squares = inputs[:known].T @ inputs[:known]
    squares.diagonal().add_(ridge * squares.diagonal().mean())
    solution = torch.linalg.solve(squares, inputs[:known].T @ targets)
    guesses = (inputs[known:] @ solution).argmax(dim=1)
    return (guesses == labels[known:]).double().mean().item()


def whitening(features: Tensor, floor: float = 0.01) -> Tensor:
    """The symmetric matrix (D, D) that makes all directions of `features` equal.

    The inverse square root of the second moment. `floor`, in units of the mean
    eigenvalue, keeps directions that hold nothing but noise from being turned up
    without end. A linear layer that was trained on `features @ matrix` does the
    same on plain features with `weight @ matrix`.
    """
    moment = features.double().T @ features.double() / len(features)
    loudness, directions = torch.linalg.eigh(moment)
    gains = (loudness.clamp(min=0) + floor * loudness.mean()).rsqrt()
    return (directions * gains @ directions.T).to(features.dtype)


def scene_captions(scene: dict) -> list[str]:
    """Two ways to describe a scene by colours, shapes and places alone."""
    things = scene["first"], scene["second"]
    first, second = (thing.split(" ", 1)[1] for thing in things)  # without the size
    return describe(first, second, scene["relation"])[:2]


def swap_colours(caption: str) -> str:
    """Exchange the two colours of a caption: the same words, another picture.

    "a red circle left of a blue square" becomes "a blue circle left of a red
    square". Raises ValueError unless the caption names exactly two colours of
    `scenes`.
    """
    parts = COLOUR_NAME.split(caption)
    if len(parts) != 5:
        raise ValueError(
            f"{caption!r} does not name two of the colours {', '.join(COLOURS)}."
        )
    parts[1], parts[3] = parts[3], parts[1]
    return "".join(parts)


def swap_is_fair(caption: str) -> bool:
    """Whether exchanging the colours gives a caption that is true elsewhere.

    Two colours and two shapes, and no pair of them that training never shows: else
    the swapped caption could be told from the right one without a look at the
    picture (Hsieh et al., 2023).
    """
    swapped = THING_NAME.findall(swap_colours(caption))
    different = all(len(set(words)) == 2 for words in zip(*swapped, strict=True))
    return different and not HELD_OUT & set(swapped)


def false_captions(scene: dict) -> dict[str, str]:
    """Three ways to be wrong about a scene, beside its first caption.

    "another colour": the first thing has a colour that is not in the picture.
    "colours swapped": as `swap_colours`. "order swapped": the things have changed
    places.
    """
    caption = scene_captions(scene)[0]
    (colour, shape), (other, _) = THING_NAME.findall(caption)
    free = [
        c
        for c in COLOURS
        if c not in (colour, other) and (c, shape) not in HELD_OUT
    ]
    return {
        "another colour": caption.replace(
            colour, free[len(caption) % len(free)], 1
        ),
        "colours swapped": swap_colours(caption),
        "order swapped": scene_captions(
            scene | {"first": scene["second"], "second": scene["first"]}
        )[0],
    }


def choice_accuracy(
    image_embeds: Tensor, right_embeds: Tensor, wrong_embeds: Tensor
) -> float:
    """How often a picture is nearer to its caption than to a false one: a share.

    All (N, E). Guessing gives 0.5. A tie counts as wrong.
    """
    right = (image_embeds * right_embeds).sum(dim=-1)
    return (
        (right > (image_embeds * wrong_embeds).sum(dim=-1)).double().mean().item()
    )


def hard_negative_loss(
    image_embeds: Tensor,
    text_embeds: Tensor,
    negative_embeds: Tensor,
    logit_scale: Tensor | float,
    positives: Tensor,
    wrong: Tensor,
) -> Tensor:
    """The contrastive loss with a false caption added for each pair -> scalar.

    After Yuksekgonul et al. (2023). Unit vectors (B, E) of images, of their
    captions and of false captions. Each image picks its own among all 2B texts;
    each caption picks among the B images, as before. `positives` (B, B) as in
    `contrastive_loss`; `wrong` (B, B, bool) says in row i which false captions are
    false for image i: the others are left out. NegCLIP's other part, mining images
    that look alike, is not here.
    """
    texts = torch.cat([text_embeds, negative_embeds])
    logits = logit_scale * cosines(image_embeds, texts)
    left_out = torch.cat([torch.zeros_like(wrong), ~wrong], dim=1)
    logits = logits.masked_fill(left_out, -1e9)
    targets = torch.cat([positives, torch.zeros_like(wrong)], dim=1)
    by_text = logits[:, : len(text_embeds)].T
    return (
        soft_cross_entropy(logits, targets)
        + soft_cross_entropy(by_text, positives.T)
    ) / 2


def scene_loss(
    model: DistilCLIP,
    batch: Batch,
    features: Tensor,
    false_features: Tensor | None = None,
    fair: Tensor | None = None,
) -> Tensor:
    """The loss of a batch of scenes, on frozen text features -> scalar.

    The features (M, D) belong to the captions' numbers; see `train_on_scenes`.
    """
    drawn, scale = batch.caption_ids, model.logit_scale
    images = model.embed_image(model.normalise(batch.pixels))
    texts = model.embed_text_features(features[drawn])
    if false_features is None or fair is None:
        return contrastive_loss(images, texts, scale, batch.positives)
    false = model.embed_text_features(false_features[drawn])
    wrong = fair[drawn].diag()
    return hard_negative_loss(images, texts, false, scale, batch.positives, wrong)


def start_scene_run(model: DistilCLIP, lr: float) -> Run:
    """A run in float32 that trains all but the text encoder, at one rate."""
    config = TrainConfig(
        lr=lr, warmup=0.05, weight_decay=0.1, beta2=0.98, clip_gradient=1.0
    )
    learning = [p for n, p in model.named_parameters() if not n.startswith("text.")]
    group = {"params": learning, "peak": lr, "weight_decay": config.weight_decay}
    optimizer = AdamW([group], lr, betas=(0.9, config.beta2))
    scaler = torch.amp.GradScaler("cpu", enabled=False)
    return Run(model, optimizer, scaler, "float32", config)


def scene_batches(
    pairs: TrainingPairs, steps: int, batch_size: int, seed: int
) -> Iterator[Batch]:
    """A batch of scenes for each of `steps` steps, epoch after epoch."""
    done = 0
    while done < steps:
        epoch = pairs.epoch(batch_size, seed, epoch=done)
        for rows in itertools.islice(epoch, steps - done):
            yield pairs.draw(rows, seeded(seed, 1, done))
            done += 1


def train_on_scenes(
    model: DistilCLIP,
    pairs: TrainingPairs,
    features: Tensor,
    false_features: Tensor | None = None,
    fair: Tensor | None = None,
    steps: int = 600,
    batch_size: int = 64,
    lr: float = 2e-3,
    seed: int = 0,
    watch: Callable[[int], None] | None = None,
) -> list[float]:
    """Train all but a frozen text encoder on its features -> each step's loss.

    `features` (M, D) belong to `pairs.captions`. With `false_features` (M, D),
    those of a false caption for each, the loss is `hard_negative_loss` where `fair`
    (M, bool) allows it. `watch` is called with the number of steps done. The loop
    is chapter 8a's. Raises ValueError for fewer pairs than one batch.
    """
    if len(pairs) < batch_size:
        count = len(pairs)
        raise ValueError(f"{count} pairs do not fill one batch of {batch_size}.")
    run = start_scene_run(model, lr)

    def step(batch: Batch) -> float:
        model.train()
        model.text.eval()
        loss = scene_loss(model, batch, features, false_features, fair)
        run.optimizer.zero_grad()
        loss.backward()
        return descend(run, loss)[0]

    def after() -> None:
        model.eval()
        if watch:
            watch(run.step)

    take_steps(
        run, scene_batches(pairs, steps, batch_size, seed), step, steps, after
    )
    return run.sums["losses"]


def white_pixel(model: DistilCLIP, pixel_values: Tensor) -> Tensor:
    """A white picture as the model sees it: (1, C, 1, 1)."""
    pixel = torch.full_like(pixel_values[:1, :, :1, :1], 255, dtype=torch.uint8)
    return model.normalise(pixel)

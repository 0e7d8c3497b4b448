"""Batches larger than memory, several processes, and data larger than memory.

A contrastive loss needs the whole batch at once, but its encoders do not. Gradient
caching runs them a micro-batch at a time; processes that `torchrun` started
exchange embeddings and average their gradients, by hand or, while the backward
pass still runs, through `DistributedDataParallel`; a stream is shuffled a block at
a time. Built in chapter 11, after Gao et al., "Scaling Deep Contrastive Learning
Batch Size under Memory Limited Setup" (2021), and Li et al., "PyTorch Distributed:
Experiences on Accelerating Data Parallel Training" (2020).
"""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import timedelta
from typing import Any
from weakref import WeakSet

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from distilclip.data import seeded
from distilclip.loss import check_positives, cosines


def log_normalisers(
    image_embeds: Tensor, text_embeds: Tensor, logit_scale: Tensor, chunk_size: int
) -> tuple[Tensor, Tensor]:
    """The logarithm of what each softmax divides by: rows (B, 1), columns (M).

    At most `chunk_size` rows of the similarity matrix are in memory.
    """
    rows, columns = [], image_embeds.new_full((len(text_embeds),), -torch.inf)
    for images in image_embeds.split(chunk_size):
        logits = logit_scale * cosines(images, text_embeds)
        rows.append(logits.logsumexp(dim=1, keepdim=True))
        columns = torch.logaddexp(columns, logits.logsumexp(dim=0))
    return torch.cat(rows), columns


def chunked_contrastive_loss(
    image_embeds: Tensor,
    text_embeds: Tensor,
    logit_scale: Tensor | float,
    positives: Tensor | None = None,
    chunk_size: int = 128,
) -> Tensor:
    """`contrastive_loss` with `chunk_size` rows of its matrix in memory -> scalar.

    Arguments, value and gradients are those of `contrastive_loss`; the memory grows
    with B, not with its square. The gradients come from the softmax's formula, not
    from autograd, which would keep every row for later: they cannot be
    differentiated again.
    """
    size, texts = len(image_embeds), len(text_embeds)
    scale = torch.as_tensor(logit_scale)
    if positives is not None:
        check_positives(positives, torch.empty(size, texts, device="meta"))
    elif texts != size:
        raise ValueError(f"{size} images do not pair up with {texts} texts.")
    inputs = image_embeds, text_embeds, scale
    with torch.no_grad(), torch.autocast(image_embeds.device.type, enabled=False):
        value, gradients = loss_and_gradients(*inputs, positives, chunk_size)
    # Each term that is added here is zero, and has the gradient found above.
    for tensor, gradient in zip(inputs, gradients, strict=True):
        value = value + ((tensor - tensor.detach()) * gradient).sum()
    return value


def loss_and_gradients(
    image_embeds: Tensor,
    text_embeds: Tensor,
    logit_scale: Tensor,
    positives: Tensor | None,
    chunk_size: int,
) -> tuple[Tensor, tuple[Tensor, Tensor, Tensor]]:
    """The contrastive loss, and its gradients by both embeddings and by the scale.

    By the softmax's formula, a chunk of rows at a time, in float32 at least.
    """
    dtype = torch.promote_types(image_embeds.dtype, torch.float32)
    images, texts = image_embeds.to(dtype), text_embeds.to(dtype)
    size, scale = len(images), logit_scale.to(images)
    row_counts, column_counts = (
        images.new_ones(size, 1),
        images.new_ones(len(texts)),
    )
    if positives is not None:
        row_counts = positives.sum(dim=1, keepdim=True, dtype=dtype)
        column_counts = positives.sum(dim=0, dtype=dtype)
    row_norms, column_norms = log_normalisers(images, texts, scale, chunk_size)
    value, to_scale = torch.zeros_like(scale), torch.zeros_like(scale)
    to_images, to_texts = torch.empty_like(images), torch.zeros_like(texts)
    everyone = torch.arange(size, device=images.device)
    for rows in everyone.split(chunk_size):
        cosine = cosines(images[rows], texts)
        matches = (
            rows.unsqueeze(1) == everyone if positives is None else positives[rows]
        )
        by_rows = row_norms[rows], row_counts[rows], size
        by_columns = column_norms, column_counts, len(texts)
        gradient = torch.zeros_like(cosine)
        for norms, counts, number in (by_rows, by_columns):
            log_probabilities, targets = scale * cosine - norms, matches / counts
            value -= (targets * log_probabilities).sum() / (2 * number)
            gradient += (log_probabilities.exp() - targets) / (2 * number)
        to_images[rows] = scale * (gradient @ texts)
        to_texts += scale * (gradient.T @ images[rows])
        to_scale += (gradient * cosine).sum()
    return value, (to_images, to_texts, to_scale)


def random_state() -> list[Tensor]:
    """The state of PyTorch's generators: on the CPU, and on a GPU in use."""
    states = [torch.get_rng_state()]
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        states.append(torch.cuda.get_rng_state())
    return states


def set_random_state(states: list[Tensor]) -> None:
    """Go back to where `random_state` was taken, to draw the same again."""
    torch.set_rng_state(states[0])
    if len(states) > 1:
        torch.cuda.set_rng_state(states[1])


def cached_contrastive_backward(
    encode: Callable[[Any], tuple[Tensor, Tensor]],
    batches: Sequence,
    logit_scale: Tensor | float,
    positives: Tensor | None = None,
    scaler: torch.amp.GradScaler | None = None,
    loss: Callable[..., Tensor] = chunked_contrastive_loss,
) -> Tensor:
    """The gradient of a large batch in the memory of a small one -> its loss.

    `encode` turns each of `batches` into image_embeds and text_embeds, (b, E) each.
    Every `grad` is added to as by `loss(image_embeds, text_embeds, logit_scale,
    positives).backward()` on the whole batch (Gao et al., 2021); `scaler`
    multiplies the loss before. Each micro-batch, of any size, is encoded twice,
    with PyTorch's random numbers replayed. Of several processes `batches` are this
    one's, `positives` is what `gather_positives` makes, and `average_gradients`
    comes after; `data_parallel` sends with the last. Raises ValueError where
    `batches` is empty or can be read only once, or `encode` does not repeat itself.
    """
    if isinstance(batches, Iterator) or not len(batches):
        raise ValueError("batches must be a non-empty list: it is read twice.")
    states, encoded = [], []
    with torch.no_grad():
        for batch in batches:
            states.append(random_state())
            encoded.append(encode(batch))
    after, sides = random_state(), list(zip(*encoded, strict=True))
    embeds = [torch.cat(side).requires_grad_() for side in sides]
    value = loss(*(gather_embeds(side) for side in embeds), logit_scale, positives)
    (value if scaler is None else scaler.scale(value)).backward()
    # None where the loss does not look at a side
    grads = [torch.zeros_like(s) if s.grad is None else s.grad for s in embeds]
    sizes = [[len(part) for part in side] for side in sides]
    gradients = zip(*map(torch.split, grads, sizes), strict=True)
    parts = zip(batches, states, encoded, gradients, strict=True)
    for number, (batch, state, old, gradient) in enumerate(parts, start=1):
        set_random_state(state)
        with nullcontext() if number == len(batches) else unsent(encode):
            backward_again(encode(batch), old, gradient)
    set_random_state(after)
    return value.detach()


def backward_again(
    embeds: Sequence[Tensor], known: Sequence[Tensor], gradients: Sequence[Tensor]
) -> None:
    """Send the gradients of a micro-batch's embeddings back through its encoders.

    `embeds` come from encoding it again; `known` are those of the first time.
    Raises ValueError where the two differ.
    """
    for old, new in zip(known, embeds, strict=True):
        if not torch.allclose(old, new.detach(), rtol=0, atol=1e-3, equal_nan=True):
            raise ValueError(
                "encode gave other embeddings when it was called again with the "
                "same micro-batch: draw what is random before, or from PyTorch's "
                "own generator."
            )
    pairs = list(zip(embeds, gradients, strict=True))
    torch.autograd.backward(
        [new for new, _ in pairs if new.requires_grad],
        [gradient for new, gradient in pairs if new.requires_grad],
    )


@contextmanager
def process_group(
    device: str = "cpu", timeout: float = 1800.0
) -> Iterator[tuple[int, int]]:
    """Join the processes that `torchrun` started -> this one's rank, their number.

    GPUs talk through NCCL, each process with a card of its own, CPUs through Gloo.
    Without torchrun it is (0, 1), and nothing is opened. Whoever waits for another
    process longer than `timeout` seconds gives up with ConnectionError; under NCCL
    PyTorch's own watchdog ends the process. Raises ValueError where this machine
    has fewer GPUs than processes: NCCL allows no two on one.
    """
    if "RANK" not in os.environ or "WORLD_SIZE" not in os.environ:
        yield 0, 1
        return
    on_gpu = torch.device(device).type == "cuda"
    if on_gpu:
        check_cards(int(os.environ.get("LOCAL_WORLD_SIZE", 1)))
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", 0)))
    backend, patience = "nccl" if on_gpu else "gloo", timedelta(seconds=timeout)
    communicate(dist.init_process_group, backend, timeout=patience)
    try:
        yield processes()
    finally:
        close_group()


# What sends gradients in this process, see `data_parallel`
SENDING: WeakSet[DistributedDataParallel] = WeakSet()


def close_group() -> None:
    """Leave the other processes.

    What sends gradients lets go of the group first. Were it the last to hold it, it
    would wait for a thread of the group, and that thread for Python's lock, which
    it holds: a process that has done its work would never end.
    """
    for parallel in list(SENDING):
        for name in ("logger", "reducer"):
            vars(parallel).pop(name, None)
    dist.destroy_process_group()


def check_cards(count: int) -> None:
    """ValueError where this machine has fewer GPUs than `count` processes need."""
    cards = torch.cuda.device_count()
    if cards < count:
        raise ValueError(
            f"{count} processes want a GPU each, and this machine has {cards}: "
            f"give torchrun --nproc-per-node {max(1, cards)}, or use --device cpu."
        )


def processes() -> tuple[int, int]:
    """This process's rank, and their number: (0, 1) for one that works alone."""
    if not (dist.is_available() and dist.is_initialized()):
        return 0, 1
    return dist.get_rank(), dist.get_world_size()


def broadcast_weights(module: nn.Module) -> None:
    """Give every process the parameters and buffers that rank 0 has.

    A common seed does not do it: matrices that come from a factorisation differ in
    their last digits with the number of threads, and copies that start apart drift
    apart.
    """
    if processes()[1] > 1:
        for tensor in module.state_dict().values():
            communicate(dist.broadcast, tensor, 0)


def gather(tensor: Tensor) -> Tensor:
    """All processes' tensors in one, (B, ...) -> (world * B, ...).

    In the order of ranks. No gradient flows back. Raises ValueError where not all
    bring the same shape.
    """
    _, world = processes()
    tensor = tensor.detach().contiguous()
    if world == 1:
        return tensor
    shape = torch.tensor(tensor.shape, device=tensor.device)
    shapes = [torch.empty_like(shape) for _ in range(world)]
    communicate(dist.all_gather, shapes, shape)
    if any(other.tolist() != shape.tolist() for other in shapes):
        shown = ", ".join(str(tuple(other.tolist())) for other in shapes)
        raise ValueError(
            f"All processes must bring tensors of the same shape, got {shown}."
        )
    parts = [torch.empty_like(tensor) for _ in range(world)]
    communicate(dist.all_gather, parts, tensor)
    return torch.cat(parts)


class GatherWithGradient(torch.autograd.Function):
    """`gather` and its derivative: the sum of what all want of one's part."""

    @staticmethod
    def forward(ctx, embeds: Tensor) -> Tensor:
        """(B, E) -> (world * B, E)."""
        return gather(embeds)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:
        """(world * B, E) -> (B, E)."""
        rank, world = processes()
        gradient = gradient.contiguous().clone()
        communicate(dist.all_reduce, gradient)
        return gradient.chunk(world)[rank]


def gather_embeds(embeds: Tensor) -> Tensor:
    """All processes' embeddings, (B, E) -> (world * B, E), with gradients to each.

    Where every process computes the loss of the whole batch from these, and the
    gradients are averaged, by `average_gradients` or `data_parallel`, they are
    those of one process with the whole batch.
    """
    return embeds if processes()[1] == 1 else GatherWithGradient.apply(embeds)


def gather_positives(own_caption_ids: Tensor, caption_ids: Tensor) -> Tensor:
    """Which captions are right for which image: bool (world * B, world * B).

    `own_caption_ids` (B, K) lists every caption of each image, filled up with -1,
    `caption_ids` (B) the one that was drawn.
    """
    own, drawn = gather(own_caption_ids), gather(caption_ids)
    positives = torch.zeros(
        len(own), len(drawn), dtype=torch.bool, device=own.device
    )
    for caption in own.T:
        positives |= caption.unsqueeze(1) == drawn
    return positives


def average_gradients(
    parameters: Iterable[nn.Parameter], bucket_size: int = 2**23
) -> None:
    """Replace every parameter's `grad` by its mean over all processes.

    They travel in buckets of about `bucket_size` numbers: a message has a fixed
    cost besides its length. Every process must hold gradients for the same
    parameters.
    """
    _, world = processes()
    gradients = [
        parameter.grad for parameter in parameters if parameter.grad is not None
    ]
    while world > 1 and gradients:
        bucket = [gradients.pop(0)]
        size = bucket[0].numel()
        while (
            gradients
            and gradients[0].dtype == bucket[0].dtype
            and size < bucket_size
        ):
            size += gradients[0].numel()
            bucket.append(gradients.pop(0))
        message = torch.cat([gradient.flatten() for gradient in bucket])
        communicate(dist.all_reduce, message)
        message /= world
        parts = message.split([gradient.numel() for gradient in bucket])
        for gradient, part in zip(bucket, parts, strict=True):
            gradient.copy_(part.view_as(gradient))


class Encoders(nn.Module):
    """A model's encoders as one module, which `DistributedDataParallel` asks for.

    It holds the parameters of `parts` that learn, and no more: what is frozen is
    not sent. Its forward is `encode`; given None, the sum of all that it holds.
    """

    def __init__(self, encode: Callable, parts: Iterable[nn.Module]):
        super().__init__()
        learning = [p for part in parts for p in part.parameters()]
        self.learning = nn.ParameterList(p for p in learning if p.requires_grad)
        # In a tuple, or an `encode` that is a module would bring what it holds
        self.encode = (encode,)

    def forward(self, batch: Any) -> Any:
        if batch is None:
            return sum(parameter.sum() for parameter in self.learning)
        return self.encode[0](batch)


def data_parallel(
    encode: Callable, parts: Iterable[nn.Module], bucket_mib: float = 25.0
) -> Callable:
    """`encode`, whose backward pass averages gradients over the processes.

    Those of the parameters of `parts` that learn now: after `requires_grad` changes
    it must be made anew. `parts` stand in the order in which `encode` runs them,
    and each parameter must take part in every backward pass. Gradients travel in
    buckets of about `bucket_mib` MiB, each as soon as it is full. One process gets
    `encode` back as it is. Raises ConnectionError where others cannot be reached.
    """
    if processes()[1] == 1:
        return encode
    module = Encoders(encode, parts)
    parallel = DistributedDataParallel(
        module,
        init_sync=False,  # they have been, by `broadcast_weights`
        bucket_cap_mb=bucket_mib,
        gradient_as_bucket_view=True,
    )
    SENDING.add(parallel)
    # PyTorch arranges its buckets after the first backward pass, in the order in
    # which gradients came, and the order of a sum decides its last digits. Arranged
    # here, a resumed run's first step adds up as the uninterrupted run's did.
    with in_touch():
        parallel(None).backward()
    module.zero_grad(set_to_none=True)
    return parallel


def unsent(encode: Callable) -> AbstractContextManager:
    """A context in which backward passes of `data_parallel` send nothing."""
    is_parallel = isinstance(encode, DistributedDataParallel)
    return encode.no_sync() if is_parallel else nullcontext()


def communicate(operation: Callable, *arguments, **options) -> None:
    """Run an operation of torch.distributed.

    Raises ConnectionError where the others cannot be reached.
    """
    try:
        operation(*arguments, **options)
    except RuntimeError as error:
        raise lost_touch(error) from error


def lost_touch(error: RuntimeError) -> ConnectionError:
    """The sentence for an error of torch.distributed."""
    rank = os.environ.get("RANK", processes()[0])
    reason = str(error).split("] ", 1)[-1]
    return ConnectionError(
        f"Process {rank} lost touch with the others: one of them has stopped "
        "or hangs. Read what they say, then start all of them again, with "
        "--resume for a training run. "
        f"({reason.splitlines()[0].split('. ')[0]})"
    )


@contextmanager
def in_touch() -> Iterator[None]:
    """Around a backward pass that sends messages: errors as `communicate` has them.

    An error that comes from nobody else passes as it is.
    """
    try:
        yield
    except RuntimeError as error:
        if not any(name in str(error).lower() for name in ("gloo", "nccl")):
            raise
        raise lost_touch(error) from error


# Where a stream begins: `within` is a shard's own state, `row` counts in the block
START = {"pass": 0, "shard": 0, "within": None, "block": 0, "seen": 0, "row": 0}


def behind(start: dict, rows: int) -> dict:
    """Where the block begins that follows one of `rows` rows at `start`."""
    seen, block = start["seen"] + rows, start["block"] + 1
    return start | {"seen": seen, "block": block}


class ShuffledStream:
    """The rows of a stream without end: pass after pass, shuffled block by block.

    `shards` are functions that open a shard, which is iterable and has `state_dict`
    and `load_state_dict`, as `datasets`' iterable data sets have. A pass visits
    them in an order of its own. `block_size` rows are read, across the borders of
    shards, and shuffled together; what `join` makes of a block comes instead of it.
    All of it follows from `seed`.

    `place` says where the stream is, in what JSON can hold: a stream that is made
    with it goes on with the same rows. `fetch` is given the iterator of blocks, to
    read ahead. Raises ValueError where a pass has fewer than `at_least` rows.
    """

    def __init__(
        self,
        shards: Sequence[Callable[[], Any]],
        block_size: int,
        seed: int,
        place: dict | None = None,
        join: Callable[[list], list] = list,
        fetch: Callable[[Iterator], Iterator] = iter,
        at_least: int = 1,
    ):
        self.shards, self.block_size, self.seed = shards, block_size, seed
        self.place = place or START
        self.join, self.fetch, self.at_least = join, fetch, at_least

    def shuffled(self, size: int, *numbers: int) -> list[int]:
        """The numbers below `size` in an order that follows from `numbers`."""
        return torch.randperm(size, generator=seeded(self.seed, *numbers)).tolist()

    def blocks(self) -> Iterator[tuple[dict, list]]:
        """Each block as it is read, from `place` on, and where it starts."""
        start = self.place | {"row": 0}
        while True:
            rows: list = []
            order = self.shuffled(len(self.shards), 4, start["pass"])
            for number in range(start["shard"], len(order)):
                shard = self.shards[order[number]]()
                if number == start["shard"] and start["within"] is not None:
                    shard.load_state_dict(start["within"])
                for row in shard:
                    rows.append(row)
                    if len(rows) == self.block_size:
                        here = {"shard": number, "within": shard.state_dict()}
                        block = self.join(rows)
                        yield start, block
                        start, rows = behind(start, len(block)) | here, []
            block = self.join(rows)
            yield start, block
            self.check_pass(behind(start, len(block))["seen"])
            start = START | {"pass": start["pass"] + 1}

    def check_pass(self, seen: int) -> None:
        """ValueError where a whole pass has `seen` rows, and that is too few."""
        if seen < self.at_least:
            raise ValueError(
                f"The stream has {seen} rows to train on, fewer than the "
                f"{self.at_least} of a batch: choose a smaller batch size."
            )

    def __iter__(self) -> Iterator[Any]:
        """Rows from `place` on; `place` is then behind the row that was given."""
        done = self.place["row"]
        for start, rows in self.fetch(self.blocks()):
            order = self.shuffled(len(rows), 5, start["pass"], start["block"])
            for row in range(done, len(rows)):
                self.place = start | {"row": row + 1}
                yield rows[order[row]]
            done = 0

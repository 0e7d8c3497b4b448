"""Gradient caching and several processes: the loss and the gradients of one large batch."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from contextlib import suppress
from functools import partial
from itertools import islice
from pathlib import Path

import pytest
import scale_worker as worker
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch.nn.functional import cross_entropy, normalize

from distilclip.loss import contrastive_loss, sigmoid_loss
from distilclip.scale import (
    ShuffledStream,
    average_gradients,
    cached_contrastive_backward,
    check_cards,
    chunked_contrastive_loss,
    data_parallel,
    gather_embeds,
    gather_positives,
    in_touch,
    process_group,
    processes,
    random_state,
    set_random_state,
)

EXACT = 1e-9  # what float64 must agree to


def largest_difference(ours: dict, theirs: dict) -> float:
    assert ours.keys() == theirs.keys()
    return max((ours[name] - theirs[name]).abs().max().item() for name in ours)


def micro_batches(batch: dict, size: int) -> list[dict]:
    return [
        worker.part(batch, slice(start, start + size)) for start in range(0, worker.PAIRS, size)
    ]


def whole_batch(model, batches, positives, loss=contrastive_loss):
    """Loss and gradients of all micro-batches at once, each one encoded by itself.

    Dropout then draws the numbers that it draws for the cached run's first pass.
    """
    model.zero_grad()
    sides = zip(*[worker.encoder(model)(batch) for batch in batches], strict=True)
    value = loss(*(torch.cat(side) for side in sides), model.logit_scale, positives)
    value.backward()
    return value.detach(), worker.gradients(model)


def exact_loss(image_embeds, text_embeds, logit_scale, positives=None):
    """The same loss by PyTorch's cross-entropy with probabilities as targets, in float64."""
    logits = logit_scale * image_embeds @ text_embeds.T
    if positives is None:
        positives = torch.eye(len(logits))
    rows, columns = (table.double() / table.sum(1, True) for table in (positives, positives.T))
    return (cross_entropy(logits, rows) + cross_entropy(logits.T, columns)) / 2


def unit(*shape: int) -> torch.Tensor:
    embeds = normalize(torch.randn(*shape, dtype=torch.float64), dim=-1)
    return embeds.requires_grad_()


# The loss in chunks


@pytest.mark.parametrize("chunk_size", [1, 5, 12, 100])
@pytest.mark.parametrize("masked", [False, True])
def test_chunked_loss_equals_the_whole_table(chunk_size, masked):
    torch.manual_seed(0)
    images, texts, scale = unit(12, 8), unit(12, 8), torch.tensor(30.0, requires_grad=True)
    batch = worker.pairs()
    positives = gather_positives(batch["own"], batch["drawn"]) if masked else None
    whole = exact_loss(images, texts, scale, positives)
    chunked = chunked_contrastive_loss(images, texts, scale, positives, chunk_size)
    assert abs(whole - chunked).item() < EXACT
    expected = torch.autograd.grad(3 * whole, (images, texts, scale))
    found = torch.autograd.grad(3 * chunked, (images, texts, scale))
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.dtype == theirs.dtype
        assert torch.allclose(ours, theirs, rtol=1e-6 if ours.ndim == 0 else 0, atol=EXACT)


@pytest.mark.parametrize("chunk_size", [1, 5, 100])
def test_chunked_loss_of_several_captions_a_picture_is_the_whole_one(chunk_size):
    torch.manual_seed(0)
    images, texts, scale = unit(12, 8), unit(36, 8), torch.tensor(30.0, requires_grad=True)
    positives = torch.eye(12, dtype=torch.bool).repeat_interleave(3, dim=1)
    positives[2, 30] = positives[10, 8] = True
    values = [
        contrastive_loss(images, texts, scale, positives),
        chunked_contrastive_loss(images, texts, scale, positives, chunk_size),
    ]
    torch.testing.assert_close(*values)
    gradients = [torch.autograd.grad(value, (images, texts, scale)) for value in values]
    for whole, chunked in zip(*gradients, strict=True):
        torch.testing.assert_close(chunked, whole)


def test_chunked_loss_takes_half_precision_and_a_plain_number():
    torch.manual_seed(0)
    images = unit(8, 4).detach().bfloat16().requires_grad_()
    texts = unit(8, 4).detach().bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        whole, chunked = (
            f(images, texts, 14.0) for f in (contrastive_loss, chunked_contrastive_loss)
        )
    assert chunked.dtype == torch.float32
    assert torch.allclose(whole, chunked)
    expected, found = (torch.autograd.grad(value, images)[0] for value in (whole, chunked))
    assert found.dtype == torch.bfloat16
    assert torch.allclose(found.float(), expected.float(), atol=1e-2)


def test_chunked_loss_stays_finite_where_exponentials_overflow():
    images = torch.eye(6, requires_grad=True)
    value = chunked_contrastive_loss(images, torch.eye(6), 1000.0, chunk_size=4)
    value.backward()
    assert value.item() == pytest.approx(0, abs=1e-6)
    assert images.grad.isfinite().all()


def test_chunked_loss_refuses_what_the_whole_one_refuses():
    with pytest.raises(ValueError, match="diagonal"):
        chunked_contrastive_loss(unit(3, 4), unit(3, 4), 1.0, torch.zeros(3, 3, dtype=torch.bool))
    with pytest.raises(ValueError, match="3 images do not pair up with 4"):
        chunked_contrastive_loss(unit(3, 4), unit(4, 4), 1.0)


# Gradient caching


@pytest.mark.parametrize("size", [1, 4, 5, 12])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize(
    ("loss", "reference"),
    [(chunked_contrastive_loss, exact_loss), (contrastive_loss, contrastive_loss)],
)
def test_cached_gradients_are_those_of_the_whole_batch(size, masked, loss, reference):
    model, batch = worker.small_clip(dropout=0.2, patch_dropout=0.5), worker.pairs()
    positives = gather_positives(batch["own"], batch["drawn"]) if masked else None
    batches = micro_batches(batch, size)  # 5 does not divide 12
    torch.manual_seed(7)
    value, expected = whole_batch(model, batches, positives, reference)
    after = torch.rand(1)
    model.zero_grad()
    torch.manual_seed(7)
    cached = cached_contrastive_backward(
        worker.encoder(model), batches, model.logit_scale, positives, loss=loss
    )
    assert abs(cached - value).item() < EXACT
    assert not cached.requires_grad
    assert expected["log_logit_scale"].abs().item() > 1e-4
    assert largest_difference(worker.gradients(model), expected) < EXACT
    assert torch.equal(torch.rand(1), after), "random numbers go on as after one encoding"


def test_without_dropout_micro_batches_do_not_matter():
    model, batch = worker.small_clip(), worker.pairs()
    value = contrastive_loss(*worker.encoder(model)(batch), model.logit_scale)
    value.backward()
    expected = worker.gradients(model)
    model.zero_grad()
    cached = cached_contrastive_backward(
        worker.encoder(model), micro_batches(batch, 5), model.logit_scale
    )
    assert abs(cached - value).item() < EXACT
    assert largest_difference(worker.gradients(model), expected) < EXACT


def test_without_replay_dropout_would_give_other_gradients(monkeypatch):
    """The test above can fail: dropout matters here, and only replay saves the gradient."""
    model, batches = worker.small_clip(dropout=0.2), micro_batches(worker.pairs(), 4)
    monkeypatch.setattr("distilclip.scale.set_random_state", lambda states: None)
    with pytest.raises(ValueError, match="other embeddings"):
        cached_contrastive_backward(worker.encoder(model), batches, model.logit_scale)


def test_gradients_are_added_to_those_that_are_there():
    model, batches = worker.small_clip(), micro_batches(worker.pairs(), 4)
    run = partial(cached_contrastive_backward, worker.encoder(model), batches)
    run(model.logit_scale)
    once = worker.gradients(model)
    run(model.logit_scale)
    twice = {name: gradient / 2 for name, gradient in worker.gradients(model).items()}
    assert largest_difference(twice, once) < EXACT


def test_a_scaler_multiplies_all_gradients():
    model, batches = worker.small_clip(), micro_batches(worker.pairs(), 4)
    plain = cached_contrastive_backward(worker.encoder(model), batches, model.logit_scale)
    expected = worker.gradients(model)
    model.zero_grad()
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    scaled = cached_contrastive_backward(
        worker.encoder(model), batches, model.logit_scale, scaler=scaler
    )
    assert torch.equal(plain, scaled), "the loss that comes back is not scaled"
    found = {name: gradient / 1024 for name, gradient in worker.gradients(model).items()}
    assert largest_difference(found, expected) < EXACT


@pytest.mark.parametrize("inside", [False, True])
def test_autocast_around_or_inside_the_encoder(inside):
    model, batches = worker.small_clip().float(), micro_batches(worker.pairs(), 4)
    for batch in batches:
        batch["pixel_values"] = batch["pixel_values"].float()
    autocast = partial(torch.autocast, "cpu", dtype=torch.bfloat16)

    def encode(batch):
        with autocast(enabled=inside or torch.is_autocast_enabled("cpu")):
            return worker.encoder(model)(batch)

    with autocast():
        _, expected = whole_batch(model, batches, None)
    model.zero_grad()
    with autocast(enabled=not inside):
        cached_contrastive_backward(encode, batches, model.logit_scale)
    found = worker.gradients(model)
    for name, gradient in expected.items():
        size = gradient.abs().max().item()
        assert (found[name] - gradient).abs().max().item() <= 0.05 * size + 1e-5, name


def test_a_frozen_side_gets_no_gradient():
    model, batches = worker.small_clip(), micro_batches(worker.pairs(), 4)
    model.text.requires_grad_(False)
    model.text_projection.requires_grad_(False)
    _, expected = whole_batch(model, batches, None)
    model.zero_grad()
    cached_contrastive_backward(worker.encoder(model), batches, model.logit_scale)
    assert largest_difference(worker.gradients(model), expected) < EXACT
    assert not any(name.startswith("text") for name in expected)


def test_another_loss_brings_its_own_parameter():
    model, batches = worker.small_clip(), micro_batches(worker.pairs(), 4)
    bias = torch.tensor(-10.0, dtype=torch.float64, requires_grad=True)

    def loss(image_embeds, text_embeds, logit_scale, positives):
        return sigmoid_loss(image_embeds, text_embeds, logit_scale, bias, positives)

    value, expected = whole_batch(model, batches, None, loss)
    expected["bias"], bias.grad = bias.grad, None
    model.zero_grad()
    cached = cached_contrastive_backward(
        worker.encoder(model), batches, model.logit_scale, loss=loss
    )
    assert abs(cached - value).item() < EXACT
    assert largest_difference(worker.gradients(model) | {"bias": bias.grad}, expected) < EXACT


def test_a_loss_may_look_at_one_side_only():
    model, batches = worker.small_clip(), micro_batches(worker.pairs(), 4)

    def loss(image_embeds, text_embeds, logit_scale, positives):
        return logit_scale * image_embeds.sum()

    _, expected = whole_batch(model, batches, None, loss)
    model.zero_grad()
    cached_contrastive_backward(worker.encoder(model), batches, model.logit_scale, loss=loss)
    found = worker.gradients(model)
    assert not any(found.pop(name).any() for name in found.keys() - expected.keys())
    assert largest_difference(found, expected) < EXACT


def test_memory_for_the_backward_pass_does_not_grow_with_the_batch():
    """Bytes that autograd keeps at any one moment of a cached step: those of one micro-batch."""
    model = worker.small_clip()
    encode, most = worker.encoder(model), []
    for repeats in (1, 8):
        batches = micro_batches(worker.pairs(), 4) * repeats
        kept = []

        def counting(batch, kept=kept):
            total = 0

            def pack(tensor):
                nonlocal total
                total += tensor.numel() * tensor.element_size()
                return tensor

            with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
                embeds = encode(batch)
            kept.append(total)
            return embeds

        cached_contrastive_backward(counting, batches, model.logit_scale)
        assert kept[: len(batches)] == [0] * len(batches), "the first pass keeps nothing"
        most.append(max(kept))
    assert most[0] == most[1] > 0


def test_batches_must_be_readable_twice():
    model, batches = worker.small_clip(), micro_batches(worker.pairs(), 4)
    for wrong in ([], iter(batches), (batch for batch in batches)):
        with pytest.raises(ValueError, match="read twice"):
            cached_contrastive_backward(worker.encoder(model), wrong, model.logit_scale)


def test_an_encoder_with_a_memory_is_refused():
    model, batches = worker.small_clip(), micro_batches(worker.pairs(), 4)
    generator = torch.Generator().manual_seed(0)

    def encode(batch):
        noise = torch.rand(batch["pixel_values"].shape, generator=generator)
        return worker.encoder(model)(batch | {"pixel_values": batch["pixel_values"] + noise})

    with pytest.raises(ValueError, match="other embeddings"):
        cached_contrastive_backward(encode, batches, model.logit_scale)


def test_random_numbers_can_be_drawn_again():
    state = random_state()
    first = torch.rand(3)
    set_random_state(state)
    assert torch.equal(torch.rand(3), first)


# One process


def test_alone_nothing_is_exchanged(monkeypatch):
    monkeypatch.delenv("RANK", raising=False)
    embeds = unit(3, 4)
    with process_group() as place:
        assert place == processes() == (0, 1)
        assert gather_embeds(embeds) is embeds
        parameter = torch.nn.Parameter(torch.ones(2))
        parameter.grad = torch.tensor([1.0, 2.0])
        average_gradients([parameter])
        assert parameter.grad.tolist() == [1.0, 2.0]


def test_alone_an_encoder_is_itself_and_its_errors_pass():
    layer = torch.nn.Linear(2, 2)
    assert data_parallel(layer, [layer]) is layer
    with pytest.raises(RuntimeError, match="no grad"), in_touch():
        raise RuntimeError("no grad")


def test_positives_are_those_of_a_batch():
    batch = worker.pairs()
    expected = torch.tensor(
        [[int(drawn) in own.tolist() for drawn in batch["drawn"]] for own in batch["own"]]
    )
    assert torch.equal(gather_positives(batch["own"], batch["drawn"]), expected)
    assert expected.sum() > worker.PAIRS


# Several processes


# How many nodes torchrun is started as, and the processes of each
GROUPS = {"two": (1, 2), "four": (1, 4), "two nodes": (2, 1)}


def free_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]


def start_node(
    script: list[str], nodes: int, each: int, rendezvous: str, log: Path
) -> subprocess.Popen:
    """One of some nodes that run a script in `each` processes, and what it says goes to a file.

    It is a torchrun of its own, on this machine; all of them meet at the address `rendezvous`.
    """
    command = [
        *(sys.executable, "-m", "torch.distributed.run", f"--nnodes={nodes}"),
        *(f"--nproc-per-node={each}", "--rdzv-backend=c10d", "--local-addr=127.0.0.1"),
        *(f"--rdzv-endpoint={rendezvous}", "--rdzv-id=test", *script),
    ]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    with log.open("w") as file:
        return subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=file)


def kill_nodes(nodes: list[subprocess.Popen], folder: Path) -> None:
    """End some nodes, and then all processes that have left their numbers in a folder."""
    for node in nodes:
        node.kill()
        node.wait()
    for left in folder.glob("process_*"):
        with suppress(ProcessLookupError):
            os.kill(int(left.name.removeprefix("process_")), signal.SIGKILL)
        left.unlink()


def wait_for(condition, nodes: list[subprocess.Popen], said) -> None:
    """Until something is so; no node may fail before, and five minutes must be enough."""
    until = time.monotonic() + 300
    while not condition():
        assert not any(node.poll() for node in nodes) and time.monotonic() < until, said()
        time.sleep(0.1)


@pytest.fixture(scope="module", params=GROUPS.values(), ids=GROUPS)
def several_processes(request, tmp_path_factory) -> tuple[Path, int]:
    """The folder where processes that torchrun started left losses and gradients; their number."""
    nodes, each = request.param
    folder = tmp_path_factory.mktemp("processes")
    rendezvous, logs = f"127.0.0.1:{free_port()}", [folder / f"{n}.txt" for n in range(nodes)]
    script = [worker.__file__, str(folder)]
    started = [start_node(script, nodes, each, rendezvous, log) for log in logs]
    try:
        wait_for(
            lambda: all(node.poll() == 0 for node in started),  # every process ends
            started,
            lambda: "".join(log.read_text() for log in logs),
        )
    finally:
        kill_nodes(started, folder)
    return folder, nodes * each


@pytest.mark.slow
@pytest.mark.parametrize("method", worker.METHODS)
def test_several_processes_equal_one(method, several_processes):
    model, batch = worker.small_clip(), worker.pairs()
    model.text.requires_grad_("frozen" not in method)
    reference = exact_loss if "cached" in method else contrastive_loss
    positives = gather_positives(batch["own"], batch["drawn"])
    value, expected = whole_batch(model, [batch], positives, reference)
    folder, world = several_processes
    assert len(list(folder.glob(f"{method}_*.safetensors"))) == world
    for rank in range(world):
        found = load_file(folder / f"{method}_{rank}.safetensors")
        assert torch.equal(found.pop("positives"), positives)
        assert abs(found.pop("loss") - value).item() < EXACT
        assert largest_difference(found, expected) < EXACT


def test_gathering_without_gradients_would_be_noticed(monkeypatch):
    """What the test above would find if `gather_embeds` cut the gradient: another gradient."""
    model, batch = worker.small_clip(), worker.pairs()
    _, expected = whole_batch(model, [batch], None)
    sums = {name: torch.zeros_like(gradient) for name, gradient in expected.items()}
    encoded = [worker.encoder(model)(half) for half in micro_batches(batch, 6)]
    for rank in range(2):  # each process sees only its own embeddings with a graph
        seen = [
            [side if position == rank else side.detach() for side in sides]
            for position, sides in enumerate(encoded)
        ]
        images, texts = (torch.cat(side) for side in zip(*seen, strict=True))
        model.zero_grad()
        contrastive_loss(images, texts, model.logit_scale).backward(retain_graph=True)
        for name, gradient in worker.gradients(model).items():
            sums[name] += gradient / 2
    assert largest_difference(sums, expected) > 1e-4


@pytest.mark.slow
def test_a_node_that_dies_ends_in_a_sentence_and_the_run_goes_on(config, tmp_path):
    """As a user starts it: two machines' torchruns, one of which loses its power."""
    settings = config(tmp_path / "run", epochs=40, text_lr=1e-3, text_start=0.5)
    names = ("data", "out", "text_model", "image_size", "patch_size", "dim", "depth", "num_heads")
    names += ("embed_dim", "epochs", "batch_size", "text_lr", "text_start", "precision", "device")
    options = [f"--{name.replace('_', '-')}={getattr(settings, name)}" for name in names]
    places = [tmp_path / "first", tmp_path / "second"]
    metrics = tmp_path / "run" / "metrics.jsonl"

    def epochs() -> int:
        return metrics.read_text().count('"kind": "epoch"') if metrics.is_file() else 0

    def start(*more: str) -> list[subprocess.Popen]:
        """Two nodes that train, each with a folder of its own for what it says."""
        rendezvous = f"127.0.0.1:{free_port()}"
        nodes = []
        for place in places:
            place.mkdir(exist_ok=True)
            script = [worker.__file__, str(place), "train", *options, *more]
            nodes.append(start_node(script, 2, 1, rendezvous, place / "said.txt"))
        return nodes

    def said() -> str:
        return "".join((place / "said.txt").read_text() for place in places)

    nodes = start()
    try:
        wait_for(lambda: epochs() >= 8, nodes, said)
        kill_nodes(nodes[1:], places[1])
        wait_for(lambda: "lost touch with the others" in said(), [], said)
    finally:
        for node, place in zip(nodes, places, strict=True):
            kill_nodes([node], place)
    assert "start all of them again, with --resume" in said()
    assert 8 <= epochs() < 40
    nodes = start("--resume")
    try:
        wait_for(lambda: metrics.read_text().count('"final"') == 2, nodes, said)
    finally:
        for node, place in zip(nodes, places, strict=True):
            kill_nodes([node], place)
    assert epochs() == 40


SECOND_IS_LATE = """
import os, sys, time, torch
from distilclip.scale import data_parallel, gather, in_touch, process_group
with process_group(timeout=3) as (rank, world):
    if {backward}:
        layers = torch.nn.Sequential(*[torch.nn.Linear(9, 9) for _ in range(3)])
        encode = data_parallel(layers, layers, bucket_mib=1e-4)
    if rank == 1:
        {event}
    if {backward}:
        with in_touch():
            encode(torch.ones(2, 9)).sum().backward()
    gather(torch.ones(2))
"""


LOST = "ConnectionError: Process 0 lost touch with the others"
SHAPE = "ValueError: All processes must bring tensors of the same shape"
DIES_HALFWAY = "layers[1].weight.register_hook(lambda gradient: os._exit(3))"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("event", "backward", "message"),
    [
        ("os._exit(3)", False, LOST),
        ("time.sleep(600)", False, LOST),
        ("gather(torch.ones(3))", False, SHAPE),
        ("os._exit(3)", True, LOST),
        ("time.sleep(600)", True, LOST),
        (DIES_HALFWAY, True, LOST),
    ],
    ids=["dies", "hangs", "other shape", "dies before", "hangs before", "dies halfway"],
)
def test_a_process_that_fails_does_not_hold_up_the_other(event, backward, message):
    """Without torchrun, which would end the first when the second dies."""
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": "2"}
    first, second = (
        subprocess.Popen(
            [sys.executable, "-c", SECOND_IS_LATE.format(event=event, backward=backward)],
            env=os.environ | place | {"RANK": str(rank)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    )
    try:
        _, said = first.communicate(timeout=120)
    finally:
        second.kill()
        second.communicate()
    assert first.returncode == 1
    assert message in said.splitlines()[-1]


@pytest.mark.parametrize(("cards", "count", "advice"), [(1, 2, 1), (0, 1, 1), (3, 4, 3)])
def test_more_processes_than_cards_are_refused_in_a_sentence(monkeypatch, cards, count, advice):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: cards)
    message = f"{count} processes want a GPU each, and this machine has {cards}: .*node {advice},"
    with pytest.raises(ValueError, match=message):
        check_cards(count)
    for rank, name in enumerate(("RANK", "LOCAL_RANK")):
        monkeypatch.setenv(name, str(rank))
    monkeypatch.setenv("WORLD_SIZE", str(count))
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(count))
    with pytest.raises(ValueError, match=message), process_group("cuda"):
        pass


def test_as_many_processes_as_cards_are_fine(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    check_cards(1)
    check_cards(2)


# Streams


class ListShard:
    """A shard of a few rows that counts how many of them were read."""

    def __init__(self, rows: list):
        self.rows, self.done = rows, 0

    def state_dict(self) -> dict:
        return {"done": self.done}

    def load_state_dict(self, state: dict) -> None:
        self.done = state["done"]

    def __iter__(self):
        for row in self.rows[self.done :]:
            self.done += 1
            yield row


def shards_of(sizes: list[int]) -> tuple[list, list[int]]:
    """Functions that open shards of so many rows, and all their rows: the numbers from 0."""
    ends = [sum(sizes[: number + 1]) for number in range(len(sizes))]
    parts = [list(range(end - size, end)) for end, size in zip(ends, sizes, strict=True)]
    return [partial(ListShard, part) for part in parts], list(range(sum(sizes)))


SIZES = st.lists(st.integers(0, 9), min_size=1, max_size=6).filter(any)


@given(SIZES, st.integers(1, 12), st.integers(0, 3), st.integers(0, 2**31))
def test_each_pass_over_a_stream_meets_each_row_once(sizes, block, passes, seed):
    shards, rows = shards_of(sizes)
    stream = islice(ShuffledStream(shards, block, seed), (passes + 1) * len(rows))
    for _ in range(passes + 1):
        assert sorted(islice(stream, len(rows))) == rows


@given(SIZES, st.integers(1, 12), st.lists(st.integers(0, 30), max_size=5), st.booleans())
def test_a_stream_goes_on_from_any_place_with_the_same_rows(sizes, block, stops, join):
    shards, _ = shards_of(sizes)
    options = {"join": lambda rows: [row for row in rows if row % 3 != 1]} if join else {}
    kept = options.get("join", list)(list(range(sum(sizes))))
    if not kept:
        with pytest.raises(ValueError, match="The stream has 0 rows to train on"):
            next(iter(ShuffledStream(shards, block, 3, **options)))
        return
    whole = list(islice(ShuffledStream(shards, block, 3, **options), sum(stops) + 40))
    place, found = None, []
    for stop in [*stops, 40]:
        stream = ShuffledStream(shards, block, 3, place, **options)
        found += islice(stream, stop)
        place = json.loads(json.dumps(stream.place))
    assert found == whole
    assert not Counter(whole[: len(kept)]) - Counter(kept)


def test_passes_and_seeds_have_orders_of_their_own_and_shards_are_mixed():
    shards, rows = shards_of([20] * 5)
    first, second = (list(islice(ShuffledStream(shards, 40, seed), 200)) for seed in (0, 1))
    orders = [tuple(rows) for both in (first, second) for rows in (both[:100], both[100:])]
    assert len({*orders, tuple(rows)}) == 5
    assert len({row // 20 for row in first[:40]}) == 2  # of two shards, and not one by one
    assert len({row // 20 for row in first[:8]}) == 2


def test_a_stream_holds_no_more_than_its_blocks():
    opened = []

    def open_shard(number: int):
        opened.append(number)
        return ListShard([number] * 10)

    stream = iter(ShuffledStream([partial(open_shard, n) for n in range(50)], 20, seed=0))
    for count in range(1, 100):
        next(stream)
        assert len(opened) <= count // 10 + 3


@pytest.mark.parametrize("sizes", [[3], [1, 2], [0, 3, 0]])
def test_a_pass_of_less_than_a_batch_ends_in_a_sentence(sizes):
    shards, _ = shards_of(sizes)
    stream = ShuffledStream(shards, 2, 0, at_least=4)
    message = "The stream has 3 rows to train on, fewer than the 4 of a batch"
    with pytest.raises(ValueError, match=message):
        list(stream)
    assert len(list(islice(ShuffledStream(shards, 2, 0, at_least=3), 9))) == 9

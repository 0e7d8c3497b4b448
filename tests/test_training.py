"""Training trains, stops and goes on as if nothing had happened, and refuses what cannot work."""

import json
import math
import random
from dataclasses import asdict

import numpy as np
import pytest
import torch
from PIL import Image
from recorded_runs import assert_same_weights, losses
from safetensors.torch import load_file
from samples import COLOURS, rest_slow
from transformers import DistilBertConfig, DistilBertModel

import distilclip.training as training
from distilclip import DistilCLIP, TrainConfig, load_pairs, train
from distilclip.data import seeded
from distilclip.runs.checkpoint import STATE_FILE, read_state
from distilclip.search import evaluate_retrieval
from distilclip.storage.pictures import normalise_pixels
from distilclip.training import (
    StepInputs,
    autocast,
    check_batch,
    choose_device,
    choose_precision,
    draw_batch,
    learning_rate,
    parameter_groups,
    picture_size,
    prefetch,
    prepare_data,
    shrink,
    start_run,
    train_epoch,
    update_average,
    views,
)

CPU = torch.device("cpu")


def test_learning_starts_at_ln_n_and_learns(shapes, config, tmp_path):
    result = train(config(tmp_path / "run", epochs=40, text_model="minilm"), progress=False)
    curve = losses(result.history)
    assert len(curve) == 40
    # With random towers a batch of 16 is a guess among 16.
    assert curve[0] == pytest.approx(math.log(16), abs=0.8)
    assert curve[-1] < 0.7 * math.log(16)
    test = json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[-1])
    assert test["split"] == "test" and test["t2i_r5"] == result.metrics["test"]["t2i_r5"]
    loaded = DistilCLIP.from_pretrained(tmp_path / "run")
    picture = Image.open(shapes / "20.png")
    assert torch.equal(loaded.encode_image(picture), result.model.encode_image(picture))
    words = [f"a {colour} box in column 0 of the top" for colour in COLOURS]
    scores = (loaded.encode_image(picture) @ loaded.encode_text(words).T)[0]
    assert COLOURS[scores.argmax()] == "blue"


def test_a_frozen_text_encoder_stays_as_it_was_and_a_tuned_one_moves(config, tmp_path):
    start = DistilCLIP(config(tmp_path).model_config()).text.state_dict()
    for text_lr in (0.0, 1e-4):
        result = train(config(tmp_path / f"{text_lr}", epochs=1, text_lr=text_lr), progress=False)
        same = all(torch.equal(start[n], t) for n, t in result.model.text.state_dict().items())
        assert same == (text_lr == 0)
        state = load_file(tmp_path / f"{text_lr}" / STATE_FILE)
        assert any(name.startswith("model.text.") for name in state) == (text_lr > 0)


def test_a_frozen_text_encoder_reads_a_caption_once_in_a_run(config, tmp_path, monkeypatch):
    settings = config(tmp_path / "x", text_lr=0)
    run = start_run(settings, CPU)
    data = prepare_data(run.model, load_pairs(settings.data)["train"], settings)
    read = []
    encode = run.model.text.encode
    monkeypatch.setattr(run.model.text, "encode", lambda texts: read.extend(texts) or encode(texts))
    known = data.pairs.captions
    queries = [known[5], "something else", known[0], "something new", "something else"]
    for _ in range(2):
        embeds = data.encode_text(run.model, queries)
        assert (embeds - run.model.encode_text(queries)).abs().max() < 1e-5
    assert read == ["something else", "something new"] and not embeds.requires_grad
    data.features = None  # it begins to learn
    assert torch.equal(data.encode_text(run.model, queries), run.model.encode_text(queries))


@pytest.mark.parametrize("changes", [{"text_lr": 0}, {"text_lr": 1e-3, "text_start": 0.6}])
def test_a_runs_metrics_are_those_of_its_model(config, tmp_path, changes):
    settings = config(tmp_path / "run", epochs=3, evaluations=3, ema=0.5, **changes)
    result = train(settings, progress=False)
    splits = load_pairs(settings.data)
    for split, metrics in result.metrics.items():
        assert evaluate_retrieval(result.model, splits[split]) == pytest.approx(metrics)


def test_a_text_encoder_that_starts_late_is_frozen_before(config, tmp_path):
    runs = {
        name: train(config(tmp_path / name, epochs=4, **changes), progress=False)
        for name, changes in {
            "frozen": {},
            "late": {"text_lr": 1e-3, "text_start": 0.5},
            "early": {"text_lr": 1e-3},
        }.items()
    }
    frozen, late, early = (losses(result.history) for result in runs.values())
    assert late[:2] == frozen[:2] and late[2:] != frozen[2:] and early[0] != frozen[0]
    start = DistilCLIP(config(tmp_path).model_config()).text.state_dict()
    moved = runs["late"].model.text.state_dict()
    assert any(not torch.equal(start[name], tensor) for name, tensor in moved.items())


@pytest.fixture(scope="module")
def two_layers(tmp_path_factory, tokenizer):
    """The folder of a random DistilBERT of two layers, without dropout."""
    torch.manual_seed(0)
    sizes = {"dim": 16, "n_layers": 2, "n_heads": 2, "hidden_dim": 32}
    shape = DistilBertConfig(vocab_size=len(tokenizer), **sizes, dropout=0, attention_dropout=0)
    folder = tmp_path_factory.mktemp("models") / "two_layers"
    DistilBertModel(shape).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def test_only_the_last_layers_of_the_text_encoder_learn(config, tmp_path, two_layers):
    changes = {"text_model": two_layers, "text_lr": 1e-3, "text_layers": 1, "epochs": 2}
    settings = config(tmp_path, **changes, text_start=0.5, sort_captions=True)
    result = train(settings, progress=False)
    start = DistilCLIP(settings.model_config()).text.state_dict()
    moved = {n for n, t in result.model.text.state_dict().items() if not torch.equal(start[n], t)}
    last = {n for n in start if n.startswith("model.transformer.layer.1.")}
    # A key's bias shifts all scores of a row alike: softmax does not see it.
    assert last - {"model.transformer.layer.1.attention.k_lin.bias"} <= moved <= last


def test_what_the_frozen_layers_gave_changes_no_loss(config, tmp_path, two_layers, monkeypatch):
    changes = {"text_model": two_layers, "text_lr": 1e-3, "epochs": 2}
    kept = train(config(tmp_path / "kept", **changes, text_layers=1), progress=False)
    # The same layers learn, and the whole encoder reads every caption anew.
    unfreeze = training.unfreeze_text
    monkeypatch.setattr(
        training, "unfreeze_text", lambda text, learns, _: unfreeze(text, learns, 1)
    )
    read = train(config(tmp_path / "read", **changes), progress=False)
    np.testing.assert_allclose(losses(kept.history), losses(read.history), rtol=1e-5)


def test_more_layers_than_there_are_cannot_learn(config, tmp_path, two_layers):
    settings = config(tmp_path, text_model=two_layers, text_lr=1e-3, text_layers=3)
    with pytest.raises(ValueError, match=r"text_layers 3 is too many: .* has 2\."):
        train(settings, progress=False)
    assert not list(tmp_path.iterdir())


def test_pictures_come_at_half_their_width_before_full_size_start(config, tmp_path, monkeypatch):
    sizes, embed = [], training.embed

    def watching(run, inputs, *rest):
        sizes.append(tuple(inputs.pixels.shape[1:]))
        return embed(run, inputs, *rest)

    monkeypatch.setattr(training, "embed", watching)
    result = train(config(tmp_path, epochs=4, full_size_start=0.5), progress=False)
    steps = result.history[-1]["step"]
    assert sizes == [(3, 16, 16)] * (steps // 2) + [(3, 32, 32)] * (steps // 2)


@pytest.mark.parametrize(
    ("image_size", "patch_size", "half"), [(48, 8, 24), (224, 16, 112), (40, 8, 16), (8, 8, 8)]
)
def test_half_the_width_is_a_whole_number_of_patches(image_size, patch_size, half):
    config = TrainConfig(
        image_size=image_size, patch_size=patch_size, epochs=10, full_size_start=0.66
    )
    sizes = [picture_size(config, config.model_config().vision, epoch) for epoch in range(10)]
    assert sizes == [half] * 7 + [image_size] * 3


def test_a_shrunk_picture_is_as_bright():
    pixels = torch.randint(256, (2, 3, 8, 8), dtype=torch.uint8)
    half = shrink(pixels, 4)
    assert half.dtype == torch.uint8 and half.shape == (2, 3, 4, 4)
    plain = torch.full((1, 3, 8, 8), 200, dtype=torch.uint8)
    assert torch.equal(shrink(plain, 4), plain[..., :4, :4])
    assert abs(half.float().mean() - pixels.float().mean()) < 3
    assert shrink(pixels, 8) is pixels


@pytest.mark.parametrize("slower", ["float32", "bfloat16"])
@pytest.mark.parametrize("seed", range(20))
def test_a_busy_machine_does_not_choose_the_slower_format(
    config, tmp_path, monkeypatch, seed, slower
):
    """Bursts of other work, which make a pass up to ten times as long, fall on either format."""
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True)
    chance, busy = random.Random(seed), [False]

    def time_pass(model, pixels, precision):
        busy[0] = chance.random() < (0.7 if busy[0] else 0.3)
        seconds = 2.0 if precision == slower else 1.0
        return seconds * (chance.uniform(3, 10) if busy[0] else chance.uniform(1, 1.1))

    monkeypatch.setattr(training, "time_pass", time_pass)
    settings = config(tmp_path, precision="auto")
    model = DistilCLIP(settings.model_config())
    other = {"float32": "bfloat16", "bfloat16": "float32"}[slower]
    assert choose_precision(settings, model, CPU) == other


def test_the_chosen_format_and_its_reason_are_logged(config, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True)
    monkeypatch.setattr(training, "time_formats", lambda *_: {"float32": 0.5, "bfloat16": 0.2})
    settings = config(tmp_path, precision="auto")
    with caplog.at_level("INFO", "distilclip.training"):
        choose_precision(settings, DistilCLIP(settings.model_config()), CPU)
    assert "bfloat16 (a pass of the image side: float32 0.500 s, bfloat16 0.200 s)" in caplog.text


@pytest.mark.parametrize("precision", rest_slow(["bfloat16", "float16"]))
def test_half_precision_learns_what_float32_learns(config, tmp_path, precision):
    curves = []
    for name in ("float32", precision):
        result = train(config(tmp_path / name, precision=name, epochs=6), progress=False)
        curves.append(losses(result.history))
        assert all(p.dtype == torch.float32 for p in result.model.parameters())
    assert curves[0] == pytest.approx(curves[1], rel=0.05)
    with autocast(CPU, precision):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == getattr(torch, precision)


def test_a_step_that_overflows_float16_changes_nothing(config, tmp_path):
    settings = config(tmp_path, precision="float16", ema=0.9, text_lr=1e-4)
    run = start_run(settings, CPU)
    data = prepare_data(run.model, load_pairs(settings.data)["train"], settings)
    run.scaler.load_state_dict(run.scaler.state_dict() | {"scale": 2.0**40})
    before = [{n: t.clone() for n, t in m.state_dict().items()} for m in (run.model, run.average)]
    inputs, positives = draw_batch(data, torch.arange(16), 0, settings, run.model.tokenize)
    loss = training.train_step(run, inputs, positives)
    assert math.isfinite(loss)
    for model, tensors in zip((run.model, run.average), before, strict=True):
        assert all(torch.equal(tensors[n], t) for n, t in model.state_dict().items())
    for moments in run.optimizer.state_dict()["state"].values():
        assert not any(moment.any() for moment in moments.values())
    assert run.scaler.get_scale() == 2.0**39
    run.scaler.load_state_dict(run.scaler.state_dict() | {"scale": 2.0**10})
    training.train_step(run, inputs, positives)
    assert not torch.equal(before[0]["log_logit_scale"], run.model.log_logit_scale)


def test_gradients_that_no_scale_can_save_stop_the_run(config, tmp_path):
    settings = config(tmp_path, precision="float16")
    run = start_run(settings, CPU)
    data = prepare_data(run.model, load_pairs(settings.data)["train"], settings)
    run.scaler.load_state_dict(run.scaler.state_dict() | {"scale": 0.5})
    run.model.vision.patch_embedding.projection.bias.register_hook(lambda g: g * math.inf)
    inputs, positives = draw_batch(data, torch.arange(16), 0, settings, run.model.tokenize)
    with pytest.raises(FloatingPointError, match="its gradient"):
        training.train_step(run, inputs, positives)


PARTLY = [{}, {"vision_lr": 0.0}, {"text_layers": 1}, {"text_lr": 0.0}, {"micro_batch": 5}]
PARTLY += [{"image_pool": "first"}, {"cls_token": False, "final_norm": False}]
PARTLY += [{"projection_norm": True, "pad_to_max_length": True, "patch_dropout": 0.5}]


@pytest.mark.parametrize("changes", PARTLY)
def test_all_that_learns_in_the_encoders_takes_part_in_every_step(config, tmp_path, changes):
    """Which several processes rely on: a gradient that never comes would never be sent."""
    start_from = {}
    if changes.get("vision_lr") == 0:
        train(config(tmp_path / "start", epochs=1), progress=False)
        start_from = {"start_from": str(tmp_path / "start")}
    settings = config(tmp_path, **{"text_lr": 1e-4} | changes | start_from)
    run = start_run(settings, CPU)
    data = prepare_data(run.model, load_pairs(settings.data)["train"], settings)
    drawn = draw_batch(data, torch.arange(16), 0, settings, run.model.tokenize)
    training.train_step(run, *drawn)
    for name, parameter in run.model.named_parameters():
        assert (parameter.grad is not None) == parameter.requires_grad, name


def test_weight_decay_spares_norms_biases_and_positions(config, tmp_path):
    settings = config(tmp_path, text_lr=1e-4, weight_decay=0.3)
    model = DistilCLIP(settings.model_config())
    names = {parameter: name for name, parameter in model.named_parameters()}
    groups = parameter_groups(model, settings)
    assert sorted(names.values()) == sorted(names[p] for g in groups for p in g["params"])
    for group in groups:
        for parameter in group["params"]:
            name = names[parameter]
            assert group["lr"] == (1e-4 if name.startswith("text.") else settings.lr)
            spared = any(w in name.lower() for w in ("norm", "bias", "position", "cls", "scale"))
            assert group["weight_decay"] == (0 if spared else 0.3), name


def test_a_pretrained_vit_is_tuned_at_its_own_rate_or_frozen(config, tmp_path, tiny_vit):
    for rate in (0.0, 1e-4):
        changes = {"vision_model": tiny_vit, "vision_lr": rate, "epochs": 1}
        run = start_run(config(tmp_path, **changes), CPU)
        assert {group["peak"] for group in run.optimizer.param_groups} == {rate, 2e-3} - {0.0}
        start = {name: tensor.clone() for name, tensor in run.model.vision.state_dict().items()}
        result = train(config(tmp_path / f"{rate}", **changes), progress=False)
        end = result.model.vision.state_dict()
        assert all(torch.equal(start[name], end[name]) for name in start) == (rate == 0)
    with pytest.raises(ValueError, match="name a pretrained one"):
        config(tmp_path, vision_lr=0.0)


def test_a_pretrained_vit_that_starts_late_is_frozen_before(config, tmp_path, tiny_vit):
    pretrained = {"vision_model": tiny_vit, "epochs": 4, "patch_dropout": 0.5}
    runs = {
        name: train(config(tmp_path / name, **pretrained, **changes), progress=False)
        for name, changes in {
            "frozen": {"vision_lr": 0.0},
            "late": {"vision_lr": 1e-3, "vision_start": 0.5},
            "early": {"vision_lr": 1e-3},
        }.items()
    }
    frozen, late, early = (losses(result.history) for result in runs.values())
    # The last frozen step sees all patches, the first one that learns draws some
    assert late[:2] == frozen[:2] and late[2:] != frozen[2:] and early[0] != frozen[0]
    start, end = (runs[name].model.vision.state_dict() for name in ("frozen", "late"))
    assert any(not torch.equal(start[name], end[name]) for name in start)


def test_the_preset_for_a_pretrained_vit_tunes_what_it_starts_from(config, tmp_path, tiny_vit):
    named = asdict(config(tmp_path / "run", vision_model=tiny_vit, epochs=4))
    names = ("data", "out", "text_model", "vision_model", "epochs", "batch_size", "image_size")
    given = {name: named[name] for name in names} | {"device": "cpu", "precision": "float32"}
    settings = TrainConfig(preset="t4-pretrained", **given)
    start = start_run(settings, CPU).model.state_dict()
    result = train(settings, progress=False)
    moved = {n for n, t in result.model.state_dict().items() if not torch.equal(start[n], t)}
    assert {name.split(".")[0] for name in moved} >= {"vision", "text", "image_projection"}
    usual = TrainConfig(preset="t4-pretrained", vision_model=given["vision_model"])
    assert 0 < usual.vision_start < 1 and usual.vision_lr < usual.lr


def test_the_average_is_a_running_mean_of_the_weights(config, tmp_path, monkeypatch):
    seen, step = [], training.train_step

    def watching(run, *arguments):
        if not seen:
            seen.append({n: p.detach().clone() for n, p in run.model.named_parameters()})
        loss = step(run, *arguments)
        seen.append({n: p.detach().clone() for n, p in run.model.named_parameters()})
        return loss

    monkeypatch.setattr(training, "train_step", watching)
    result = train(config(tmp_path / "run", ema=0.6), progress=False)
    mean = seen[0]
    for number, weights in enumerate(seen[1:]):
        decay = min(0.6, (1 + number) / (10 + number))
        mean = {name: decay * mean[name] + (1 - decay) * weights[name] for name in mean}
    matrix = "image_projection.linear.weight"
    assert (mean[matrix] - seen[-1][matrix]).abs().max() > 1e-4
    saved = DistilCLIP.from_pretrained(tmp_path / "run")
    for model in (result.model, saved):
        for name, parameter in model.named_parameters():
            torch.testing.assert_close(parameter, mean[name], rtol=0, atol=1e-5)


def test_an_average_without_memory_is_the_model(config, tmp_path):
    model, average = (DistilCLIP(config(tmp_path).model_config()) for _ in range(2))
    update_average(average, model, 0.0, 1000)
    assert_same_weights(average, model)


@pytest.mark.parametrize("each", rest_slow([3, 1]))
@pytest.mark.parametrize("text_lr", [pytest.param(0, marks=pytest.mark.slow), 1e-3])
def test_micro_batches_train_as_the_whole_batch_does(config, tmp_path, each, text_lr):
    changes = {"text_lr": text_lr, "epochs": 2, "captions_per_picture": each}
    whole = train(config(tmp_path / "whole", **changes), progress=False)
    for size in (4, 5, 16):
        parts = train(config(tmp_path / f"{size}", micro_batch=size, **changes), progress=False)
        assert losses(whole.history) == pytest.approx(losses(parts.history), abs=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("each", [1, 2])
def test_two_processes_train_as_one_does(config, tmp_path, each):
    from fault_worker import together  # needs a system that forks

    changes = {"text_lr": 1e-3, "captions_per_picture": each}
    one = train(config(tmp_path / "one", **changes), progress=False)
    (first, metrics), (second, none) = together(config(tmp_path / "two", micro_batch=4, **changes))
    assert first == second == "done" and metrics and not none
    lines = [json.loads(x) for x in (tmp_path / "two" / "metrics.jsonl").read_text().splitlines()]
    assert losses(lines) == pytest.approx(losses(one.history), abs=1e-3)
    two = DistilCLIP.from_pretrained(tmp_path / "two")
    for name, parameter in one.model.named_parameters():
        torch.testing.assert_close(two.get_parameter(name), parameter, rtol=0, atol=2e-3)


def test_only_the_first_process_draws_bars(config, tmp_path, monkeypatch):
    class EnoughError(Exception):
        pass

    def prepare(model, rows, config, progress, epoch):
        raise EnoughError(progress)

    monkeypatch.setattr(training, "prepare_data", prepare)
    for rank in range(2):
        monkeypatch.setattr(training, "processes", lambda rank=rank: (rank, 2))
        with pytest.raises(EnoughError) as seen:
            train(config(tmp_path / f"{rank}"))
        assert seen.value.args == (rank == 0,)


def test_a_batch_that_two_processes_cannot_share_is_refused(config, tmp_path):
    with pytest.raises(ValueError, match="cannot be shared by 3 processes"):
        check_batch(config(tmp_path), range(64), world=3)


def test_pictures_whose_captions_name_a_side_are_never_mirrored(config, tmp_path):
    settings = config(tmp_path, flip=True)
    rows = load_pairs(settings.data)["train"].select(range(24))
    captions = [
        ["a Left-hand turn", "a turn"] if n % 2 else ["a turn", "bright"] for n in range(24)
    ]
    rows = rows.remove_columns("captions").add_column("captions", captions)
    model = DistilCLIP(settings.model_config())
    data = prepare_data(model, rows, settings)
    assert data.may_flip.tolist() == [True, False] * 12
    mirrored = torch.zeros(24)
    for step in range(40):
        inputs, _ = draw_batch(data, torch.arange(24), step, settings, model.tokenize)
        mirrored += inputs.flip
        seen = views(inputs.pixels, inputs.flip, settings, seeded(0))
        assert torch.equal(seen[inputs.flip], inputs.pixels[inputs.flip].flip(-1))
        assert torch.equal(seen[~inputs.flip], inputs.pixels[~inputs.flip])
    assert not mirrored[1::2].any()
    assert 0.4 < (mirrored[::2] / 40).mean() < 0.6
    still, _ = draw_batch(data, torch.arange(24), 0, config(tmp_path), model.tokenize)
    assert not still.flip.any()


def test_a_batch_follows_from_the_seed_and_the_step_alone(config, tmp_path):
    settings = config(tmp_path, text_lr=1e-4, flip=True)
    run = start_run(settings, CPU)
    data = prepare_data(run.model, load_pairs(settings.data)["train"], settings)
    rows = torch.arange(16)
    one, two, other = (
        draw_batch(data, rows, step, settings, run.model.tokenize) for step in (7, 7, 8)
    )
    for name in ("pixels", "flip"):
        assert torch.equal(getattr(one[0], name), getattr(two[0], name))
    assert one[0].form == two[0].form == "tokens"
    assert all(torch.equal(t, two[0].captions[name]) for name, t in one[0].captions.items())
    assert torch.equal(one[1], two[1])
    assert not torch.equal(one[0].flip, other[0].flip)


def test_on_a_gpu_the_next_batch_is_drawn_in_the_background(monkeypatch):
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: tensor + 100)
    drawn = []

    def draw(item):
        drawn.append(item)
        number = torch.tensor(item)
        return StepInputs(number, number, {"features": number}, "features"), number

    batches = list(prefetch(draw, range(4), torch.device("cuda")))
    assert len(batches) == 4
    for number, (inputs, positives) in enumerate(batches):
        pinned = (inputs.pixels, inputs.flip, inputs.captions["features"])
        assert [int(tensor) for tensor in pinned] == [100 + number] * 3
        assert int(positives) == number and inputs.form == "features"
    assert drawn == [0, 1, 2, 3]
    assert list(prefetch(draw, [], torch.device("cuda"))) == []

    def broken(item):
        raise ValueError("a picture is broken")

    with pytest.raises(ValueError, match="a picture is broken"):
        list(prefetch(broken, range(4), torch.device("cuda")))


def test_decoded_pictures_are_kept_where_a_cache_is_named(config, tmp_path):
    settings = {"cache": str(tmp_path / "cache"), "epochs": 1}
    one = train(config(tmp_path / "one", **settings), progress=False)
    files = {file: file.stat().st_mtime_ns for file in (tmp_path / "cache").iterdir()}
    assert len(files) >= 2
    two = train(config(tmp_path / "two", **settings), progress=False)
    assert_same_weights(one.model, two.model)
    assert files == {file: file.stat().st_mtime_ns for file in (tmp_path / "cache").iterdir()}


def test_only_the_image_side_is_compiled_and_only_if_asked(config, tmp_path, monkeypatch):
    compiled = []
    monkeypatch.setattr(torch.nn.Module, "compile", lambda module: compiled.append(module))
    start_run(config(tmp_path), CPU)
    assert not compiled
    run = start_run(config(tmp_path, compile=True), CPU)
    assert compiled == [run.model.vision]


def test_an_epoch_goes_on_where_it_was_left(config, tmp_path, monkeypatch):
    settings = config(tmp_path)
    run = start_run(settings, CPU)
    data = prepare_data(run.model, load_pairs(settings.data)["train"], settings)
    steps = []
    monkeypatch.setattr(training, "train_step", lambda run, *_: steps.append(run.step) or 1.0)
    bar = training.tqdm(disable=True)
    run.step, run.save_at = 4, math.inf
    train_epoch(run, data, 1, bar, save=lambda: None)
    assert steps == [4, 5] and run.step == 6
    train_epoch(run, data, 1, bar, save=lambda: None)
    assert steps == [4, 5]


def test_the_learning_rate_rises_and_falls():
    rates = [learning_rate(step, 100, 0.1) for step in range(101)]
    assert rates[0] == pytest.approx(0.1) and rates[9] == 1.0 and rates[10] == 1.0
    assert rates[10:] == sorted(rates[10:], reverse=True) and rates[100] == pytest.approx(0)
    assert rates[55] == pytest.approx(0.5)
    assert learning_rate(0, 100, 0.0) == 1.0


def test_nothing_is_left_behind_where_the_data_are_at_fault(config, tmp_path):
    with pytest.raises(ValueError, match="fewer than one batch of 500"):
        train(config(tmp_path / "run", batch_size=500), progress=False)
    with pytest.raises(ValueError, match="Unknown data source"):
        train(config(tmp_path / "run", data="nothing"), progress=False)
    with pytest.raises(FileNotFoundError, match="Cannot get 'no/where'"):
        train(config(tmp_path / "run", text_model="no/where"), progress=False)
    assert not (tmp_path / "run").exists()


def test_a_loss_that_is_no_number_stops_the_run(config, tmp_path, monkeypatch):
    bad = torch.tensor(math.nan, requires_grad=True)
    monkeypatch.setattr(training, "contrastive_loss", lambda *_: bad * 1)
    with pytest.raises(FloatingPointError, match="The loss became nan"):
        train(config(tmp_path / "run"), progress=False)
    assert read_state(tmp_path / "run", config(tmp_path / "run"))["step"] == 0


def test_pixels_are_normalised_as_the_model_says(config, tmp_path):
    settings = config(tmp_path)
    run = start_run(settings, CPU)
    data = prepare_data(run.model, load_pairs(settings.data)["train"], settings)
    inputs, _ = draw_batch(data, torch.arange(16), 0, settings, run.model.tokenize)
    ours, _ = training.embed(run, inputs, seeded(0))
    mean, std = run.model.config.image_mean, run.model.config.image_std
    theirs = run.model.embed_image(normalise_pixels(inputs.pixels, mean, std))
    torch.testing.assert_close(ours, theirs)


def test_the_captions_projection_has_a_rate_of_its_own(small_model):
    config = TrainConfig(preset="cpu", lr=1e-3, text_projection_lr=2e-5, vision_lr=5e-4)
    rates = {}
    for group in parameter_groups(small_model, config):
        rates |= {id(parameter): group["peak"] for parameter in group["params"]}
    assert rates[id(small_model.text_projection.linear.weight)] == 2e-5
    assert rates[id(small_model.image_projection.linear.weight)] == 1e-3
    assert rates[id(small_model.vision.cls_token)] == 5e-4
    assert TrainConfig(preset="original", lr=1e-3).text_projection_lr == 1e-3  # where not given
    with pytest.raises(ValueError, match="text_projection_lr must be positive"):
        TrainConfig(text_projection_lr=0)


@pytest.mark.parametrize("name", ["auto", "cpu", "cpu:0"])
def test_a_device_that_is_there_is_chosen(name):
    expected = "cuda" if name == "auto" and torch.cuda.is_available() else "cpu"
    assert choose_device(name).type == expected


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["meta", "xla", "hpu", "lazy", "vulkan", "fpga", "privateuseone"])
def test_a_device_that_is_not_there_is_refused_by_its_name(name, config, tmp_path):
    with pytest.raises(ValueError, match=f"There is no device '{name}' here: choose auto, cpu"):
        train(config(tmp_path / "run", device=name), progress=False)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", ["", "gpu", "cpu:x", "CUDA", "cuda0 "])
def test_a_name_that_is_none_is_refused(name):
    with pytest.raises(ValueError, match=r"Unknown device|No CUDA device|There is no device"):
        choose_device(name)


def test_without_memory_the_settings_are_named_and_the_saved_state_is_intact(
    config, tmp_path, monkeypatch
):
    whole = train(config(tmp_path / "whole", epochs=2), progress=False)
    step, calls = training.train_step, []

    def lacking(*arguments):
        calls.append(None)
        if len(calls) == 2:
            raise torch.OutOfMemoryError(
                "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 ..."
            )
        return step(*arguments)

    monkeypatch.setattr(training, "train_step", lacking)
    out = tmp_path / "run"
    with pytest.raises(torch.OutOfMemoryError, match=r"batch_size than 16.*micro_batch.*is intact"):
        train(config(out, epochs=2), progress=False)
    resumed = train(config(out, epochs=2, resume=True), progress=False)
    assert_same_weights(whole.model, resumed.model)


@pytest.mark.parametrize("pool", ["cls", "mean"])
def test_the_pooling_of_the_text_encoder_can_be_chosen(config, tmp_path, pool):
    asked = config(tmp_path / "run", text_pool=pool, epochs=1)
    assert train(asked, progress=False).model.text.pool == pool
    assert DistilCLIP.from_pretrained(tmp_path / "run").text.pool == pool
    with pytest.raises(ValueError, match="text_pool must be 'cls' or 'mean', got 'max'"):
        config(tmp_path, text_pool="max")


def test_captions_without_a_known_word_are_counted_once(config, tmp_path, caplog, shapes):
    rows = load_pairs(shapes)["train"].map(
        lambda row, number: {"captions": [f"\u1230 {chr(0x1200 + number)}"]},
        with_indices=True,
    )
    asked = config(tmp_path / "run", text_lr=1e-4)
    run = start_run(asked, CPU)
    prepare_data(run.model, rows, asked)
    (record,) = caplog.records
    assert f"knows no word of {len(rows)} texts" in record.getMessage()


ABSENT = ["cuda", "cuda:99", "cuda:-1", "mps", "xpu", "meta", "hpu", "mkldnn", "vulkan", "banana"]
ABSENT += ["", "cpu:x", "CPU", "cuda:", "privateuseone", "xla", "0", "cpu cpu", "é"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="here some of them are")
@pytest.mark.parametrize("name", ABSENT)
def test_a_device_that_is_not_here_is_one_sentence(name, recwarn):
    if name == "mps" and torch.backends.mps.is_available():
        return
    with pytest.raises(
        ValueError, match=r"^(No CUDA device|Unknown device|There is no device)"
    ) as said:
        choose_device(name)
    assert "\n" not in str(said.value) and str(said.value).endswith(".") and not recwarn

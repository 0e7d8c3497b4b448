"""What a card must do as the CPU does. On a machine without one only the CPU's half runs."""

import math

import pytest
import torch

from distilclip import training
from distilclip.data import load_pairs
from distilclip.training import draw_batch, prefetch, prepare_data, start_run, train

ON_CARD = pytest.param("cuda", marks=pytest.mark.cuda)


def start(settings, device: str):
    """A run on `device`, its data, and its first batch."""
    run = start_run(settings, torch.device(device))
    data = prepare_data(run.model, load_pairs(settings.data)["train"], settings)
    rows = torch.arange(settings.batch_size)
    return run, data, draw_batch(data, rows, 0, settings, run.model.tokenize)


def on_cpu(model) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().cpu().clone() for name, tensor in model.state_dict().items()}


@pytest.mark.parametrize("device", ["cpu", ON_CARD])
@pytest.mark.parametrize("micro_batch", [0, 8])
def test_a_step_is_that_of_the_cpu(config, tmp_path, device, micro_batch):
    found = {}
    for name, size in (("cpu", 0), (device, micro_batch)):
        settings = config(tmp_path, text_lr=1e-4, device=name, micro_batch=size)
        run, _, batch = start(settings, name)
        loss = training.train_step(run, *batch)
        grads = [p.grad.cpu().flatten() for p in run.model.parameters() if p.grad is not None]
        found[name, size] = loss, torch.cat(grads)
    (loss, gradient), (other, found_gradient) = found["cpu", 0], found[device, micro_batch]
    assert other == pytest.approx(loss, rel=1e-3)
    assert (found_gradient - gradient).norm() < 1e-2 * gradient.norm()


@pytest.mark.parametrize("device", ["cpu", ON_CARD])
def test_an_overflow_in_float16_changes_nothing(config, tmp_path, device):
    settings = config(tmp_path, precision="float16", text_lr=1e-4, device=device)
    run, _, batch = start(settings, device)
    run.scaler.load_state_dict(run.scaler.state_dict() | {"scale": 2.0**40})
    before = on_cpu(run.model)
    assert math.isfinite(training.train_step(run, *batch))
    assert all(torch.equal(before[n], tensor) for n, tensor in on_cpu(run.model).items())
    assert run.scaler.get_scale() == 2.0**39
    run.scaler.load_state_dict(run.scaler.state_dict() | {"scale": 2.0**10})
    training.train_step(run, *batch)
    assert not torch.equal(before["log_logit_scale"], on_cpu(run.model)["log_logit_scale"])


@pytest.mark.parametrize("device", ["cpu", ON_CARD])
def test_a_stopped_run_goes_on_where_it_was(config, tmp_path, monkeypatch, device):
    whole = train(config(tmp_path / "whole", device=device), progress=False)
    step, calls = training.train_step, []

    def stopping(*arguments):
        calls.append(None)
        if len(calls) == 6:
            raise KeyboardInterrupt
        return step(*arguments)

    out = tmp_path / "run"
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(training, "train_step", stopping)
        train(config(out, device=device), progress=False)
    resumed = train(config(out, device=device, resume=True), progress=False)
    ours = on_cpu(resumed.model)
    for name, tensor in on_cpu(whole.model).items():  # a card's sums may differ in their order
        assert torch.allclose(ours[name], tensor, rtol=0, atol=0 if device == "cpu" else 1e-3)


@pytest.mark.cuda
def test_batches_for_a_card_come_pinned(config, tmp_path):
    settings = config(tmp_path, device="cuda")
    run, data, _ = start(settings, "cuda")

    def draw(step: int):
        return draw_batch(data, torch.arange(16), step, settings, run.model.tokenize)

    for inputs, _ in prefetch(draw, range(3), torch.device("cuda")):
        assert inputs.pixels.is_pinned() and inputs.flip.is_pinned()


@pytest.mark.cuda
def test_a_full_card_ends_in_a_sentence(config, tmp_path):
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(1e-6)
    try:
        with pytest.raises(torch.OutOfMemoryError, match="batch_size than 16"):
            train(config(tmp_path / "run", device="cuda"), progress=False)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)

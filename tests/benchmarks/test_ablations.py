"""Every ablation is a recipe of its own, and its epochs are timed by the processor."""

import time

import ablations
import pytest

import distilclip.training as training


def test_epochs_are_timed_by_what_the_processor_does(monkeypatch):
    train_epoch = training.train_epoch

    def lazy_epoch(work: float, rest: float) -> None:
        start = time.process_time()
        while time.process_time() - start < work:
            pass
        time.sleep(rest)

    monkeypatch.setattr(training, "train_epoch", lazy_epoch)
    monkeypatch.setattr(ablations.torch, "get_num_threads", lambda: 2)
    monkeypatch.setattr(training, "prepare_data", lazy_epoch)
    with ablations.timed_epochs() as seconds:
        training.prepare_data(0.4, 0)
        training.train_epoch(0.2, 0.3)
        training.train_epoch(0.1, 0.3)
    assert seconds == pytest.approx([0.2, 0.1, 0.05], abs=0.04)
    assert training.train_epoch is lazy_epoch is not train_epoch


def test_every_ablation_is_a_recipe_of_its_own():
    configurations = [str(ablations.configure(c, 0, 1, "")) for c in ablations.variants().values()]
    assert len(set(configurations)) == len(configurations)
    original = ablations.configure(ablations.ORIGINAL, 0, 1, "")
    assert original.lr == original.text_lr == original.text_projection_lr == 5e-5
    assert not original.sort_captions and original.pad_to_max_length and not original.patch_dropout

"""Our ViT is the ViT of `transformers`, weight for weight."""

import contextlib
import itertools
import json

import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from samples import modes_of

from distilclip import ViT, ViTConfig
from distilclip.vit import drop_patches, evaluating, orthogonal, resample_positions


def save_reference(folder, model_class=transformers.ViTModel, **changes):
    """A random checkpoint as `transformers` writes it, with biases that are not zero."""
    torch.manual_seed(0)
    settings = {
        "image_size": 32,
        "patch_size": 8,
        "hidden_size": 48,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "intermediate_size": 100,
    }
    model = model_class(transformers.ViTConfig(**(settings | changes))).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    return model


@pytest.mark.parametrize(
    "changes",
    [{}, {"num_channels": 1, "patch_size": 16}, {"layer_norm_eps": 1e-3, "num_attention_heads": 2}],
)
def test_equals_transformers_vit(tmp_path, changes):
    theirs = save_reference(tmp_path, **changes)
    ours = ViT.from_pretrained(tmp_path).eval()
    images = torch.randn(2, changes.get("num_channels", 3), 32, 32)
    with torch.no_grad():
        expected = theirs(images).last_hidden_state
        assert (ours(images) - expected).abs().max() < 1e-5


def test_reads_a_classifier_whose_tensors_have_a_prefix(tmp_path):
    theirs = save_reference(tmp_path, transformers.ViTForImageClassification)
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        expected = theirs.vit(images).last_hidden_state
        assert (ViT.from_pretrained(tmp_path).eval()(images) - expected).abs().max() < 1e-5


def test_reads_a_checkpoint_in_several_files(tmp_path):
    theirs = save_reference(tmp_path / "whole")
    theirs.save_pretrained(tmp_path / "parts", max_shard_size="50KB")
    assert len(list((tmp_path / "parts").glob("*.safetensors"))) > 1
    images = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        expected = theirs(images).last_hidden_state
        ours = ViT.from_pretrained(tmp_path / "parts").eval()(images)
    assert (ours - expected).abs().max() < 1e-5


def test_vit_base_has_the_known_number_of_parameters():
    with torch.device("meta"):
        counted = sum(p.numel() for p in ViT(ViTConfig()).parameters())
        theirs = transformers.ViTModel(transformers.ViTConfig(), add_pooling_layer=False)
    assert counted == sum(p.numel() for p in theirs.parameters()) == 85_798_656


def test_the_original_systems_flaws_can_be_had():
    config = ViTConfig(
        image_size=16, patch_size=8, dim=8, depth=1, num_heads=2, cls_token=False, final_norm=False
    )
    vit = ViT(config)
    assert vit(torch.zeros(1, 3, 16, 16)).shape == (1, 4, 8)
    assert not any(name.startswith("norm") for name, _ in vit.named_parameters())


def test_patch_dropout_keeps_cls_and_acts_only_in_training():
    config = ViTConfig(image_size=32, patch_size=8, dim=8, depth=1, num_heads=2, patch_dropout=0.75)
    vit, images = ViT(config), torch.randn(2, 3, 32, 32)
    assert vit(images).shape == (2, 1 + 4, 8)
    assert vit.eval()(images).shape == (2, 1 + 16, 8)


def test_dropped_patches_are_a_subset_in_another_choice_for_each_image():
    torch.manual_seed(0)
    tokens = torch.arange(100.0).view(1, 100, 1).expand(2, -1, -1)
    kept = drop_patches(tokens, 0.5).squeeze(-1).tolist()
    assert all(len(set(row)) == 50 and set(row) <= set(range(100)) for row in kept)
    assert set(kept[0]) != set(kept[1])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image_size": 30, "patch_size": 8}, "image_size 30 is not divisible by patch_size 8"),
        ({"dim": 10, "num_heads": 3}, "dim 10 is not divisible by num_heads 3"),
        ({"depth": 0}, "depth must be at least 1"),
        ({"dropout": 1.0}, "dropout must be in"),
    ],
)
def test_impossible_shapes_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        ViTConfig(**changes)


def test_other_checkpoints_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"has no file config\.json"):
        ViT.from_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}))
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(ValueError, match="holds a model of type 'bert'"):
        ViT.from_pretrained(tmp_path)


def test_a_name_that_is_nowhere_gives_one_sentence():
    with pytest.raises(FileNotFoundError, match="Cannot get 'nobody/nothing'"):
        ViT.from_pretrained("nobody/nothing")


@pytest.mark.parametrize("size", [16, 24, 48])
def test_another_image_size_resizes_the_positions_as_transformers_does(tmp_path, size):
    theirs = save_reference(tmp_path)
    ours = ViT.from_pretrained(tmp_path, image_size=size).eval()
    images = torch.randn(2, 3, size, size)
    with torch.no_grad():
        expected = theirs(images, interpolate_pos_encoding=True).last_hidden_state
        assert (ours(images) - expected).abs().max() < 1e-5
    assert ours.config.image_size == size


@pytest.mark.parametrize("size", [16, 32, 40])
def test_any_size_is_what_transformers_does_with_it(tmp_path, size):
    theirs = save_reference(tmp_path).train()
    ours = ViT.from_pretrained(tmp_path).train()
    images = torch.randn(2, 3, size, size)
    expected = theirs(images, interpolate_pos_encoding=True).last_hidden_state
    result = ours(images, any_size=True)
    assert (result - expected).abs().max() < 1e-5
    for output in (result, expected):
        output.square().sum().backward()
    ours, theirs = ours.position_embedding.grad, theirs.embeddings.position_embeddings.grad
    assert (ours - theirs).abs().max() < 1e-4 * theirs.abs().max()


def test_any_size_without_cls_and_only_when_asked_for():
    config = ViTConfig(image_size=32, patch_size=8, dim=8, depth=1, num_heads=2, cls_token=False)
    vit = ViT(config)
    assert vit(torch.zeros(1, 3, 16, 16), any_size=True).shape == (1, 4, 8)
    with pytest.raises(ValueError, match="Expected images of shape"):
        vit(torch.zeros(1, 3, 16, 16))
    with pytest.raises(ValueError, match="Expected images of shape"):
        vit(torch.zeros(1, 3, 16, 24), any_size=True)
    with pytest.raises(ValueError, match="multiples of patch_size"):
        vit(torch.zeros(1, 3, 12, 12), any_size=True)


def test_positions_of_the_same_grid_stay_as_they_are():
    positions = torch.randn(1, 1 + 49, 8)
    assert torch.equal(resample_positions(positions, 7), positions)
    resized = resample_positions(positions, 14)
    assert resized.shape == (1, 1 + 196, 8)
    assert torch.equal(resized[:, 0], positions[:, 0])


def test_an_image_size_that_the_patches_do_not_divide_is_refused(tmp_path):
    save_reference(tmp_path)
    with pytest.raises(ValueError, match="image_size 30 is not divisible by patch_size 8"):
        ViT.from_pretrained(tmp_path, image_size=30)


@pytest.mark.parametrize(("rows", "columns"), [(5, 5), (4, 9), (9, 4)])
def test_orthogonal_directions_are_unit_vectors_at_right_angles(rows, columns):
    torch.manual_seed(0)
    matrix = orthogonal(rows, columns)
    assert matrix.shape == (rows, columns)
    short = matrix if rows <= columns else matrix.T
    torch.testing.assert_close(short @ short.T, torch.eye(len(short)).double())
    assert not torch.equal(matrix, orthogonal(rows, columns))


@settings(max_examples=30, deadline=None)
@given(modes=st.lists(st.booleans(), min_size=1, max_size=23), fails=st.booleans())
def test_evaluating_gives_every_part_its_own_mode_back(modes, fails):
    vit = ViT(ViTConfig(image_size=8, patch_size=8, dim=8, depth=2, num_heads=2, dropout=0.5))
    for part, mode in zip(vit.modules(), itertools.cycle(modes), strict=False):
        part.training = mode
    before, images = modes_of(vit), torch.randn(2, 3, 8, 8)
    ended = pytest.raises(KeyError) if fails else contextlib.nullcontext()
    with ended, evaluating(vit):
        assert not any(modes_of(vit).values())
        with evaluating(vit.blocks[1]):  # one inside the other
            assert torch.equal(vit(images), vit(images))
        assert not any(modes_of(vit).values())
        vit.blocks.train()  # what happens inside does not last
        if fails:
            raise KeyError
    assert modes_of(vit) == before

"""Cutting and projecting is what a strided convolution does, and it can be undone."""

import pytest
import torch

from distilclip import PatchEmbedding, patchify, unpatchify


@pytest.mark.parametrize(("channels", "patch"), [(3, 8), (1, 4), (5, 16)])
def test_equals_a_strided_convolution(channels, patch):
    torch.manual_seed(0)
    embedding = PatchEmbedding(32, patch, channels, 24).double()
    convolution = torch.nn.Conv2d(channels, 24, patch, patch).double()
    with torch.no_grad():
        convolution.weight.copy_(embedding.projection.weight.view(convolution.weight.shape))
        convolution.bias.copy_(embedding.projection.bias)
    images = torch.randn(2, channels, 32, 32, dtype=torch.float64)
    expected = convolution(images).flatten(2).transpose(1, 2)
    assert (embedding(images) - expected).abs().max() < 1e-12


def test_unpatchify_undoes_patchify_on_images_that_are_not_square():
    images = torch.randn(2, 3, 24, 40)
    assert torch.equal(unpatchify(patchify(images, 8), 8, 24, 40), images)


def test_patches_run_row_by_row():
    images = torch.zeros(1, 1, 4, 6)
    images[0, 0, :2, 4:] = 1  # the last patch of the first row
    assert patchify(images, 2).sum(-1).tolist() == [[0, 0, 4, 0, 0, 0]]


@pytest.mark.parametrize("shape", [(1, 3, 30, 32), (1, 3, 32, 30)])
def test_sides_must_be_multiples(shape):
    with pytest.raises(ValueError, match="multiples of patch_size"):
        patchify(torch.zeros(shape), 8)


def test_indivisible_size_is_refused():
    with pytest.raises(ValueError, match="image_size 30 is not divisible by patch_size 8"):
        PatchEmbedding(30, 8, 3, 16)


@pytest.mark.parametrize("shape", [(1, 1, 32, 32), (1, 3, 16, 16), (3, 32, 32)])
def test_other_shapes_are_refused(shape):
    with pytest.raises(ValueError, match="Expected images of shape"):
        PatchEmbedding(32, 8, 3, 16)(torch.zeros(shape))

"""The loss is CLIP's, starts at ln N, and never punishes a caption that is right."""

import math

import pytest
import torch
import torch.nn.functional as F
from transformers.models.clip import modeling_clip

from distilclip import contrastive_loss, sigmoid_loss

# transformers 5.0 calls it clip_loss.
CLIP_LOSS = getattr(modeling_clip, "image_text_contrastive_loss", None) or modeling_clip.clip_loss


def unit(*shape, dtype=torch.float64):
    return F.normalize(torch.randn(*shape, dtype=dtype), dim=-1)


def test_equals_the_loss_of_transformers_clip():
    torch.manual_seed(0)
    images, texts, scale = unit(9, 16), unit(9, 16), torch.tensor(14.0, dtype=torch.float64)
    expected = CLIP_LOSS(scale * texts @ images.T)
    assert abs(contrastive_loss(images, texts, scale) - expected) < 1e-12


def test_is_ln_n_at_zero_scale():
    for n in (2, 7, 64):
        assert contrastive_loss(unit(n, 8), unit(n, 8), 0.0).item() == pytest.approx(math.log(n))


def test_the_diagonal_alone_as_positives_changes_nothing():
    images, texts = unit(6, 8), unit(6, 8)
    plain = contrastive_loss(images, texts, 10.0)
    masked = contrastive_loss(images, texts, 10.0, torch.eye(6, dtype=torch.bool))
    assert abs(plain - masked) < 1e-12


def test_a_second_right_caption_is_no_negative():
    torch.manual_seed(0)
    images, texts = unit(4, 8), unit(4, 8)
    texts[1] = texts[0]  # images 0 and 1 share a caption
    images[1] = images[0]
    texts.requires_grad_()
    positives = torch.eye(4, dtype=torch.bool)
    positives[0, 1] = positives[1, 0] = True
    logits = (20 * images @ texts.T).detach().requires_grad_()
    for mask, pushed in ((positives, False), (None, True)):
        target = mask if mask is not None else torch.eye(4, dtype=torch.bool)
        loss = -(target / target.sum(1, keepdim=True) * logits.log_softmax(1)).sum(1).mean()
        ours = contrastive_loss(images, texts, 20.0, mask)
        other = -(target.T / target.T.sum(1, keepdim=True) * logits.T.log_softmax(1)).sum(1).mean()
        assert abs(ours - (loss + other) / 2) < 1e-12
        (gradient,) = torch.autograd.grad((loss + other) / 2, logits)
        assert (gradient[0, 1] > 1e-9) == pushed


@pytest.mark.parametrize("each", [1, 2, 5])
def test_several_captions_of_each_picture_share_its_target(each):
    torch.manual_seed(0)
    images, texts = unit(6, 8), unit(6 * each, 8)
    positives = torch.eye(6, dtype=torch.bool).repeat_interleave(each, dim=1)
    positives[0, -1] = True  # one of the last picture's is right for the first one, too
    logits = 20 * images @ texts.T
    targets = [mask / mask.sum(1, keepdim=True) for mask in (positives.double(), positives.T)]
    expected = F.cross_entropy(logits, targets[0]) + F.cross_entropy(logits.T, targets[1])
    assert abs(contrastive_loss(images, texts, 20.0, positives) - expected / 2) < 1e-6


def test_captions_that_do_not_belong_to_their_pictures_are_refused():
    positives = torch.eye(3, dtype=torch.bool).repeat(1, 2)  # not one after the other
    with pytest.raises(ValueError, match="True on its diagonal"):
        contrastive_loss(unit(3, 4), unit(6, 4), 1.0, positives)


def test_swapping_the_sides_and_permuting_the_batch_change_nothing():
    images, texts = unit(8, 4), unit(8, 4)
    loss = contrastive_loss(images, texts, 5.0)
    order = torch.randperm(8)
    assert abs(contrastive_loss(texts, images, 5.0) - loss) < 1e-12
    assert abs(contrastive_loss(images[order], texts[order], 5.0) - loss) < 1e-12


def test_half_precision_is_computed_in_float32():
    images, texts = unit(8, 16).bfloat16(), unit(8, 16).bfloat16()
    expected = contrastive_loss(images.float(), texts.float(), 100.0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(contrastive_loss(images, texts, 100.0), expected)


def test_sigmoid_loss_equals_binary_cross_entropy():
    images, texts = unit(5, 8), unit(5, 8)
    logits = 10 * images @ texts.T - 10
    expected = F.binary_cross_entropy_with_logits(
        logits, torch.eye(5, dtype=torch.float64), reduction="sum"
    )
    assert abs(sigmoid_loss(images, texts, 10.0, -10.0) - expected / 5) < 1e-12


@pytest.mark.parametrize(
    ("positives", "message"),
    [
        (torch.zeros(3, 3, dtype=torch.bool), "True on its diagonal"),
        (torch.eye(3), "must be a bool tensor"),
        (torch.eye(4, dtype=torch.bool), "must be a bool tensor of shape"),
    ],
)
@pytest.mark.parametrize("loss", [contrastive_loss, lambda i, t, s, p: sigmoid_loss(i, t, s, 0, p)])
def test_unfit_positives_are_refused(loss, positives, message):
    with pytest.raises(ValueError, match=message):
        loss(unit(3, 4), unit(3, 4), 1.0, positives)

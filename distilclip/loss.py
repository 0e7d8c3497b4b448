"""The matching game: two batches of embeddings go in, one number comes out.

Every image must pick its own caption out of the batch, and every caption its own
image. Built in chapter 5, after Radford et al., "Learning Transferable Visual
Models From Natural Language Supervision" (2021); the sigmoid version follows Zhai
et al., "Sigmoid Loss for Language Image Pre-Training" (2023).
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def contrastive_loss(
    image_embeds: Tensor,
    text_embeds: Tensor,
    logit_scale: Tensor | float,
    positives: Tensor | None = None,
) -> Tensor:
    """CLIP's symmetric contrastive loss (Radford et al., 2021, figure 3) -> scalar.

    `image_embeds` and `text_embeds` are unit vectors (B, E); row i of one belongs
    to row i of the other. `logit_scale` multiplies the cosines: it is 1 /
    temperature, not its logarithm.

    `positives` (B, B, bool) marks in row i every caption that is right for image i,
    where there may be more than one. All of them share the target; none is ever a
    negative. The diagonal must be True. With `positives` there may be K captions
    for each image, (B * K, E), those of the first image first; it is (B, B * K)
    then. Computed in float32 or wider, always.
    """
    logits = logit_scale * cosines(image_embeds, text_embeds)
    if positives is None:
        targets = torch.arange(len(logits), device=logits.device)
        of_images = F.cross_entropy(logits, targets)
        of_texts = F.cross_entropy(logits.T, targets)
    else:
        check_positives(positives, logits)
        of_images = soft_cross_entropy(logits, positives)
        of_texts = soft_cross_entropy(logits.T, positives.T)
    return (of_images + of_texts) / 2


def soft_cross_entropy(logits: Tensor, positives: Tensor) -> Tensor:
    """Cross-entropy against targets spread evenly over each row's positives."""
    targets = positives / positives.sum(dim=1, keepdim=True)
    return -(targets * logits.log_softmax(dim=1)).sum(dim=1).mean()


def sigmoid_loss(
    image_embeds: Tensor,
    text_embeds: Tensor,
    logit_scale: Tensor | float,
    logit_bias: Tensor | float,
    positives: Tensor | None = None,
) -> Tensor:
    """SigLIP's loss (Zhai et al., 2023, algorithm 1) -> scalar.

    Every cell of the similarity matrix (B, B) is a yes-or-no question of its own,
    so no softmax ties the batch together. Shapes and `positives` as in
    `contrastive_loss`; `logit_bias` starts near -10: almost every cell is a "no".
    """
    logits = logit_scale * cosines(image_embeds, text_embeds) + logit_bias
    if positives is None:
        positives = torch.eye(len(logits), dtype=torch.bool, device=logits.device)
    check_positives(positives, logits)
    signs = positives.to(logits.dtype) * 2 - 1  # +1 for a match, -1 for a mismatch
    return -F.logsigmoid(signs * logits).sum(dim=1).mean()


def cosines(image_embeds: Tensor, text_embeds: Tensor) -> Tensor:
    """The similarity matrix of images and texts: (B, E) and (M, E) -> (B, M).

    In float32 at least, and autocast is switched off: half precision has too few
    digits for what a scale of 100 multiplies.
    """
    dtype = torch.promote_types(image_embeds.dtype, torch.float32)
    with torch.autocast(image_embeds.device.type, enabled=False):
        return image_embeds.to(dtype) @ text_embeds.to(dtype).T


def check_positives(positives: Tensor, logits: Tensor) -> None:
    """Raise ValueError unless `positives` can mark the right pairs of `logits`.

    It must be bool, of the same shape, and True on its diagonal, which with K
    captions for each image goes through the first of each.
    """
    if positives.dtype != torch.bool or positives.shape != logits.shape:
        raise ValueError(
            f"positives must be a bool tensor of shape {tuple(logits.shape)}, "
            f"got {positives.dtype} of shape {tuple(positives.shape)}."
        )
    if not positives[:, :: positives.shape[1] // len(positives)].diagonal().all():
        raise ValueError(
            "positives must be True on its diagonal: each pair matches itself."
        )

"""Pixels become tokens: an image goes in, a sequence of vectors comes out.

An image (B, C, H, W) is cut into square patches, each patch is laid out flat, and
one linear layer turns it into a token (B, N, D). Built in chapter 1, after section
3.1 of Dosovitskiy et al., "An Image is Worth 16x16 Words" (2021).
"""

from einops import rearrange
from torch import Tensor, nn


def patchify(images: Tensor, patch_size: int) -> Tensor:
    """Cut images (B, C, H, W) into flat patches (B, N, C * P * P), row by row.

    Raises ValueError where a side of the image is not a multiple of `patch_size`.
    """
    height, width = images.shape[-2:]
    if height % patch_size or width % patch_size:
        raise ValueError(
            f"An image of {height}x{width} pixels cannot be cut into patches of "
            f"{patch_size}: both sides must be multiples of patch_size."
        )
    pattern = "b c (h p) (w q) -> b (h w) (c p q)"
    return rearrange(images, pattern, p=patch_size, q=patch_size)


def unpatchify(patches: Tensor, patch_size: int, height: int, width: int) -> Tensor:
    """Put flat patches (B, N, C * P * P) back together: the inverse of `patchify`.

    `height` and `width` are those of the image, in pixels.
    """
    rows, columns = height // patch_size, width // patch_size
    pattern = "b (h w) (c p q) -> b c (h p) (w q)"
    return rearrange(
        patches, pattern, h=rows, w=columns, p=patch_size, q=patch_size
    )


def check_patch_size(image_size: int, patch_size: int) -> None:
    """Raise ValueError unless `patch_size` divides `image_size`."""
    if image_size % patch_size:
        raise ValueError(
            f"image_size {image_size} is not divisible by patch_size {patch_size}: "
            "choose a patch size that divides the image size, such as 16 for 224."
        )


class PatchEmbedding(nn.Module):
    """Cut images into patches and make each a token: (B, C, H, W) -> (B, N, D).

    The projection is a plain `nn.Linear` over the flat patch. It computes what a
    convolution with kernel and stride `patch_size` computes, with the same weights,
    reshaped. Images are squares of `image_size` pixels; with `any_size`, of any
    multiple of `patch_size`.
    """

    def __init__(
        self, image_size: int, patch_size: int, in_channels: int, dim: int
    ):
        super().__init__()
        check_patch_size(image_size, patch_size)
        self.image_size = image_size
        self.patch_size = patch_size
        self.in_channels = in_channels
        self.num_patches = (image_size // patch_size) ** 2
        self.projection = nn.Linear(in_channels * patch_size**2, dim)

    def forward(self, images: Tensor, any_size: bool = False) -> Tensor:
        side = images.shape[-1] if any_size else self.image_size
        expected = (self.in_channels, side, side)
        if images.ndim != 4 or tuple(images.shape[1:]) != expected:
            wanted = ", ".join(map(str, expected))
            raise ValueError(
                f"Expected images of shape (batch, {wanted}), "
                f"got {tuple(images.shape)}."
            )
        return self.projection(patchify(images, self.patch_size))

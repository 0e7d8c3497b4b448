"""Tokens look at tokens: a sequence goes in, one of the same shape comes out.

Every token asks a question (query), every token offers an answer (key and value),
and each takes a weighted average of the values. Built in chapter 2, after section
3.2 of Vaswani et al., "Attention Is All You Need" (2017).
"""

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn


def check_num_heads(dim: int, num_heads: int) -> None:
    """Raise ValueError unless the heads can share the channels equally."""
    if dim % num_heads:
        raise ValueError(
            f"dim {dim} is not divisible by num_heads {num_heads}: "
            "every head gets an equal share of the channels."
        )


class MultiHeadAttention(nn.Module):
    """Self-attention with several heads: (B, N, D) -> (B, N, D).

    Queries, keys and values come from one linear layer, so that a single matrix
    product makes all three. Each head works on D / num_heads channels, by PyTorch's
    fused kernel (in bfloat16 on a CPU, by plain products). `dropout` acts on the
    attention weights, while training only.
    """

    def __init__(self, dim: int, num_heads: int, dropout: float = 0.0):
        super().__init__()
        check_num_heads(dim, num_heads)
        self.num_heads = num_heads
        self.dropout = dropout
        self.qkv = nn.Linear(dim, 3 * dim)
        self.output = nn.Linear(dim, dim)

    def split_heads(self, tokens: Tensor) -> Tensor:
        """Queries, keys, values: (B, N, D) -> (3, B, heads, N, D / heads)."""
        pattern = "b n (three h d) -> three b h n d"
        return rearrange(self.qkv(tokens), pattern, three=3, h=self.num_heads)

    def forward(self, tokens: Tensor) -> Tensor:
        query, key, value = self.split_heads(tokens)
        dropout = self.dropout if self.training else 0.0
        with torch.autocast("cpu", enabled=False):
            if query.dtype == torch.bfloat16 and query.device.type == "cpu":
                # There, plain products are twice as fast as the kernel, which is
                # not made for bfloat16. The softmax rounds only its result.
                scores = query * query.shape[-1] ** -0.5 @ key.transpose(-2, -1)
                mixed = F.dropout(scores.softmax(dim=-1), dropout) @ value
            else:
                mixed = F.scaled_dot_product_attention(
                    query, key, value, dropout_p=dropout
                )
        return self.output(rearrange(mixed, "b h n d -> b n (h d)"))

    def weights(self, tokens: Tensor) -> Tensor:
        """How much each token (row) takes from each one (column): (B, heads, N, N).

        The fused kernel never holds this matrix; it is computed here for those who
        want to look.
        """
        query, key, _ = self.split_heads(tokens)
        scores = query @ key.transpose(-2, -1) / query.shape[-1] ** 0.5
        return scores.softmax(dim=-1)

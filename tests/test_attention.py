"""Our attention is PyTorch's, its weights are what it says, and order means nothing to it."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from distilclip import MultiHeadAttention


def reference_with_same_weights(ours: MultiHeadAttention, dim: int, heads: int):
    theirs = torch.nn.MultiheadAttention(dim, heads, batch_first=True).double()
    with torch.no_grad():
        theirs.in_proj_weight.copy_(ours.qkv.weight)
        theirs.in_proj_bias.copy_(ours.qkv.bias)
        theirs.out_proj.weight.copy_(ours.output.weight)
        theirs.out_proj.bias.copy_(ours.output.bias)
    return theirs


@settings(max_examples=15, deadline=None)
@given(
    batch=st.integers(1, 3), tokens=st.integers(1, 9), heads=st.integers(1, 4), seed=st.integers(0)
)
def test_equals_torch_multihead_attention(batch, tokens, heads, seed):
    torch.manual_seed(seed % 2**31)
    dim = 6 * heads
    ours = MultiHeadAttention(dim, heads).double()
    torch.nn.init.normal_(ours.qkv.bias)
    theirs = reference_with_same_weights(ours, dim, heads)
    x = torch.randn(batch, tokens, dim, dtype=torch.float64)
    expected, expected_weights = theirs(x, x, x, average_attn_weights=False)
    assert (ours(x) - expected).abs().max() < 1e-12
    assert (ours.weights(x) - expected_weights).abs().max() < 1e-12


def test_permuting_the_tokens_permutes_the_output():
    torch.manual_seed(0)
    attention = MultiHeadAttention(24, 3).double()
    x = torch.randn(2, 7, 24, dtype=torch.float64)
    order = torch.randperm(7)
    assert (attention(x[:, order]) - attention(x)[:, order]).abs().max() < 1e-12


def test_dropout_acts_only_in_training():
    torch.manual_seed(0)
    attention, x = MultiHeadAttention(16, 2, dropout=0.5), torch.randn(1, 5, 16)
    assert not torch.equal(attention(x), attention(x))
    attention.eval()
    assert torch.equal(attention(x), attention(x))


@pytest.mark.parametrize("autocast", [True, False])
def test_bfloat16_on_a_cpu_is_near_float32(autocast):
    torch.manual_seed(0)
    attention, x = MultiHeadAttention(32, 4), torch.randn(2, 9, 32)
    expected = attention(x)
    if autocast:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            result = attention(x)
    else:
        result = attention.bfloat16()(x.bfloat16())
    assert result.dtype == torch.bfloat16
    assert 0 < (result.float() - expected).abs().max() < 0.02
    result.float().sum().backward()
    assert torch.isfinite(attention.qkv.weight.grad).all()


def test_indivisible_heads_are_refused():
    with pytest.raises(ValueError, match="dim 10 is not divisible by num_heads 3"):
        MultiHeadAttention(10, 3)

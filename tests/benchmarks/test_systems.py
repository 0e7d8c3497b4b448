"""The systems side by side get the same data and do the same work."""

import pytest
import systems
import torch
from transformers import DistilBertModel, ViTModel
from transformers import VisionTextDualEncoderConfig as DualConfig
from transformers import VisionTextDualEncoderModel as DualModel


def test_the_patch_of_transformers_is_needed_and_gives_distilbert_s_own_token(random_text):
    dual = systems.dual_encoder(systems.SMALL, random_text).eval()
    tokens = {"input_ids": torch.arange(1, 11).view(2, 5), "attention_mask": torch.ones(2, 5).int()}
    pixels = torch.randn(2, 3, 32, 32)
    text = DistilBertModel.from_pretrained(random_text).eval()
    expected = dual.text_projection(text(**tokens).last_hidden_state[:, 0])
    found = dual(pixel_values=pixels, **tokens).text_embeds
    torch.testing.assert_close(found, expected / expected.norm(dim=-1, keepdim=True))
    config = DualConfig.from_vision_text_configs(dual.vision_model.config, text.config)
    unpatched = DualModel(config, ViTModel(dual.vision_model.config), text)
    with pytest.raises((IndexError, KeyError, AttributeError)):
        unpatched(pixel_values=pixels, **tokens)


def test_ours_and_transformers_get_the_same_captions(our_steps, random_text):
    theirs = systems.build_transformers(systems.SMALL, random_text)["transformers"]
    ours = our_steps.make()
    padding = [ours() for _ in range(6)]
    assert padding == [theirs() for _ in range(6)]
    assert len(set(padding)) > 1  # by the captions, not by chance


def test_a_kind_of_step_leaves_the_others_as_they_are(our_steps):
    half, whole, locked = (
        our_steps.make(),
        our_steps.make(every_patch=True),
        our_steps.make(text_locked=True),
    )
    seen, run = [], our_steps.run
    block, words = (
        run.model.vision.blocks[0],
        run.model.text.get_parameter("model.transformer.layer.0.ffn.lin1.weight"),
    )
    block.register_forward_hook(lambda _, inputs, output: seen.append(output.shape[1]))
    for step, learns in ((half, True), (whole, True), (locked, False), (half, True)):
        before = words.detach().clone()
        step()
        assert torch.equal(before, words) != learns
    assert seen == [3, 5, 3, 3]  # two patches or four, and [CLS]

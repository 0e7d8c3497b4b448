"""What is shown of a model is what it does: tables equal references, shares add up."""

import numpy as np
import pytest
import torch
import transformers
from samples import mix_modes, modes_of

from distilclip import ViT
from distilclip.data import TrainingPairs
from distilclip.explain import (
    attention_maps,
    attention_rollout,
    choice_accuracy,
    cover_patches,
    deletion_curve,
    false_captions,
    hard_negative_loss,
    modality_gap,
    nearest_neighbours,
    occlusion,
    patch_relevance,
    pooled_row,
    position_similarity,
    principal_axes,
    probe_accuracy,
    recorded_attention,
    scene_captions,
    swap_colours,
    swap_is_fair,
    train_on_scenes,
    whitening,
    word_relevance,
)
from distilclip.loss import contrastive_loss
from distilclip.model import DistilCLIP, DistilCLIPConfig
from distilclip.sources.scenes import COLOURS, HELD_OUT, draw_scenes
from distilclip.storage.pictures import pixels_of
from distilclip.vit import ViTConfig


def random_units(rows, width=16, seed=0):
    vectors = torch.randn(rows, width, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.normalize(vectors, dim=-1)


@pytest.fixture
def pixels():
    return torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(3)).clamp(-1, 1)


@pytest.fixture(params=["first", "mean", "first, no [CLS]"])
def any_model(request, small_text):
    """A model of each kind of pooling, with weights large enough that attention is not flat."""
    torch.manual_seed(1)
    how = request.param.split(",")[0]
    vision = ViTConfig(
        image_size=32,
        patch_size=8,
        dim=32,
        depth=3,
        num_heads=4,
        cls_token="[CLS]" not in request.param,
        dropout=0.3,
        patch_dropout=0.5,
    )
    config = DistilCLIPConfig(vision=vision, text_model="random", embed_dim=16, image_pool=how)
    return DistilCLIP(config, small_text)


# Attention


@pytest.fixture
def two_vits(tmp_path):
    """A `transformers` ViT that shows its weights, and ours with the same weights."""
    torch.manual_seed(0)
    config = transformers.ViTConfig(
        image_size=32,
        patch_size=8,
        hidden_size=48,
        num_hidden_layers=3,
        num_attention_heads=4,
        intermediate_size=96,
        attn_implementation="eager",
    )
    theirs = transformers.ViTModel(config).eval()
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    theirs.save_pretrained(tmp_path)
    return theirs, ViT.from_pretrained(tmp_path)


def test_maps_equal_those_of_transformers(two_vits, pixels):
    theirs, ours = two_vits
    with torch.no_grad():
        expected = torch.stack(theirs(pixels, output_attentions=True).attentions)
    maps = attention_maps(ours, pixels)
    assert maps.shape == (3, 2, 4, 17, 17)
    assert (maps - expected).abs().max() < 1e-5
    assert expected.max() > 0.3  # a table that is flat everywhere would prove little


def test_maps_equal_those_of_torch(two_vits, pixels):
    vit = two_vits[1].eval()
    block, reference = vit.blocks[0], torch.nn.MultiheadAttention(48, 4, batch_first=True)
    with torch.no_grad():
        reference.in_proj_weight.copy_(block.attention.qkv.weight)
        reference.in_proj_bias.copy_(block.attention.qkv.bias)
        tokens = block.attention_norm(vit.embed(pixels))
        expected = reference(tokens, tokens, tokens, average_attn_weights=False)[1]
    assert (attention_maps(vit, pixels)[0] - expected).abs().max() < 1e-5


def test_recording_changes_nothing(any_model, pixels):
    vision = any_model.vision.eval()
    before = vision(pixels)
    with recorded_attention(vision) as tables:
        during = vision(pixels)
    assert (during - before).abs().max() < 1e-5
    assert len(tables) == 3
    vision(pixels)
    assert len(tables) == 3, "a hook was left behind"
    assert (vision(pixels) == before).all()


def test_hooks_are_removed_when_the_pass_fails(any_model):
    with pytest.raises(ValueError, match="Expected images"), recorded_attention(any_model.vision):
        any_model.vision(torch.zeros(1, 3, 8, 8))
    assert not any(block.attention._forward_hooks for block in any_model.vision.blocks)


def test_gradients_reach_the_recorded_tables(any_model, pixels):
    any_model.eval()
    with recorded_attention(any_model.vision) as tables:
        score = any_model.embed_image(pixels)[:, 0].sum()
    for gradient in torch.autograd.grad(score, tables):
        assert gradient.abs().max() > 0


def test_a_model_in_training_stays_in_training(any_model, pixels):
    any_model.train()
    any_model.text.eval()
    texts = random_units(2)
    for _ in range(2):
        maps = attention_maps(any_model.vision, pixels)
        assert maps.shape[-1] == 16 + any_model.config.vision.cls_token, "patches were dropped"
        patch_relevance(any_model, pixels, texts, steps=2)
        occlusion(any_model, pixels, texts)
    assert (attention_maps(any_model.vision, pixels) == maps).all()
    assert any_model.vision.training and any_model.training and not any_model.text.training


EXPLANATIONS = {
    "attention_maps": lambda model, pixels, _: attention_maps(model.vision, pixels),
    "occlusion": occlusion,
    "patch_relevance": lambda *given: patch_relevance(*given, steps=2),
    "deletion_curve": lambda *given: deletion_curve(*given, torch.rand(2, 4, 4), points=3),
    "word_relevance": lambda model, pixels, texts: word_relevance(
        model, "a cat", texts[0, : pixels.shape[-1] // 2]
    ),
}


@pytest.mark.parametrize("name", EXPLANATIONS)
def test_every_part_keeps_its_mode_whatever_is_explained(any_model, pixels, name):
    explain, texts = EXPLANATIONS[name], random_units(2)
    modes = mix_modes(any_model)
    explain(any_model, pixels, texts)
    assert modes_of(any_model) == modes
    with pytest.raises((ValueError, RuntimeError)):
        explain(any_model, pixels[..., :16, :16], texts)
    assert modes_of(any_model) == modes
    any_model.train().text.eval()
    modes = modes_of(any_model)
    explain(any_model, pixels, texts)
    assert modes_of(any_model) == modes


def test_rollout_follows_its_definition():
    maps = torch.rand(3, 2, 4, 5, 5, generator=torch.Generator().manual_seed(0)).softmax(dim=-1)
    for picture in range(2):
        expected = np.eye(5)
        for layer in range(3):
            table = np.mean([maps[layer, picture, head].numpy() for head in range(4)], axis=0)
            expected = (table + np.eye(5)) / 2 @ expected
        assert np.abs(attention_rollout(maps)[picture].numpy() - expected).max() < 1e-6
    assert torch.allclose(attention_rollout(maps).sum(dim=-1), torch.ones(2, 5))


def test_rollout_of_tokens_that_look_at_themselves_is_the_identity():
    maps = torch.eye(5).expand(4, 2, 3, 5, 5)
    assert torch.equal(attention_rollout(maps), torch.eye(5).expand(2, 5, 5))


def test_pooled_row_is_the_row_of_what_is_pooled(any_model):
    tokens = 16 + any_model.config.vision.cls_token
    tables = torch.rand(2, tokens, tokens, generator=torch.Generator().manual_seed(0))
    grid = pooled_row(any_model, tables)
    assert grid.shape == (2, 4, 4)
    skipped = int(any_model.config.vision.cls_token)
    rows = tables[:, 0] if any_model.config.image_pool == "first" else tables[:, skipped:].mean(1)
    assert torch.allclose(grid.flatten(1), rows[:, skipped:])


# Patches


class OnlyOnePatch(torch.nn.Module):
    """An image side that looks at the patch in row 1, column 2, and at nothing else."""

    def __init__(self, model):
        super().__init__()
        self.config = model.config
        self.vision = model.vision
        self.normalise = model.normalise
        self.direction = torch.nn.Parameter(random_units(1)[0])

    def embed_image(self, pixel_values):
        ink = (1 - pixel_values[:, :, 8:16, 16:24]).mean(dim=(1, 2, 3))
        other = random_units(1, seed=9)[0]
        return torch.nn.functional.normalize(ink[:, None] * self.direction + other, dim=-1)


@pytest.mark.parametrize("method", [occlusion, patch_relevance])
def test_relevance_picks_the_only_patch_that_counts(method, small_model, pixels):
    model = OnlyOnePatch(small_model)
    relevance = method(model, pixels, model.direction.detach().expand(2, -1))
    assert (relevance.flatten(1).argmax(dim=1) == 1 * 4 + 2).all()
    others = relevance.clone()
    others[:, 1, 2] = 0
    assert others.abs().max() < 1e-6


def test_shares_of_the_patches_add_up(any_model, pixels):
    texts = random_units(2)
    relevance = patch_relevance(any_model, pixels, texts, steps=64)
    any_model.eval()
    with torch.no_grad():
        white = any_model.embed_image(torch.ones_like(pixels))
        gained = ((any_model.embed_image(pixels) - white) * texts).sum(dim=-1)
    assert relevance.shape == (2, 4, 4)
    assert (relevance.sum(dim=(1, 2)) - gained).abs().max() < 0.02
    assert relevance.abs().sum() > 0.1


def test_relevance_works_where_gradients_are_off(any_model, pixels):
    texts = random_units(2)
    expected = patch_relevance(any_model, pixels, texts, steps=2)
    any_model.requires_grad_(False)
    with torch.no_grad():
        assert torch.equal(patch_relevance(any_model, pixels, texts, steps=2), expected)


def test_covering_paints_exactly_the_chosen_patches_white(small_model, pixels):
    chosen = torch.zeros(2, 4, 4, dtype=torch.bool)
    chosen[0, 1, 2] = chosen[1, 3, 0] = True
    covered = cover_patches(small_model, pixels, chosen)
    changed = (covered != pixels).any(dim=1)
    assert changed[0, 8:16, 16:24].float().mean() > 0.9
    assert changed.sum() == changed[0, 8:16, 16:24].sum() + changed[1, 24:, :8].sum()
    assert (covered[0, :, 8:16, 16:24] == 1).all()


def test_deletion_starts_whole_ends_white_and_prefers_the_better_explanation(small_model, pixels):
    model = OnlyOnePatch(small_model)
    texts = model.direction.detach().expand(2, -1)
    relevance = occlusion(model, pixels, texts)
    curve = deletion_curve(model, pixels, texts, relevance, points=17)
    worse = deletion_curve(model, pixels, texts, -relevance)
    assert len(curve) == 17
    with torch.no_grad():
        whole = (model.embed_image(pixels) * texts).sum(dim=-1).mean()
        white = (model.embed_image(torch.ones_like(pixels)) * texts).sum(dim=-1).mean()
    assert abs(curve[0] - whole) < 1e-6 and abs(curve[-1] - white) < 1e-6
    assert abs(curve[1] - white) < 1e-6, "the one patch that counts goes first"
    assert curve.mean() < worse.mean()


# Words


def test_word_relevance_is_the_cosine_lost(small_model):
    image = random_units(1)[0]
    found = word_relevance(small_model, "a  big red heart ", image)
    assert [word for word, _ in found] == ["a", "big", "red", "heart"]
    whole = small_model.encode_text("a big red heart")[0] @ image
    without_red = small_model.encode_text("a big heart")[0] @ image
    assert found[2][1] == pytest.approx((whole - without_red).item(), abs=1e-6)


def test_words_are_not_word_pieces(small_model):
    assert len(small_model.text.tokenizer.tokenize("hippopotamuses")) > 1
    assert len(word_relevance(small_model, "two hippopotamuses", random_units(1)[0])) == 2
    assert len(word_relevance(small_model, "hippopotamuses", random_units(1)[0])) == 1
    with pytest.raises(ValueError, match="no words"):
        word_relevance(small_model, "  ", random_units(1)[0])


# The space


def test_position_similarity_is_a_table_of_cosines(any_model):
    maps = position_similarity(any_model.vision)
    assert maps.shape == (4, 4, 4, 4)
    positions = any_model.vision.position_embedding[0, int(any_model.config.vision.cls_token) :]
    expected = torch.nn.functional.cosine_similarity(positions[6], positions[11], dim=0)
    assert torch.isclose(maps[1, 2, 2, 3], expected)
    assert torch.allclose(maps, maps.permute(2, 3, 0, 1), atol=1e-6)
    assert torch.allclose(maps.view(16, 16).diagonal(), torch.ones(16))


def test_modality_gap_is_the_distance_of_the_centres():
    cloud = random_units(50)
    shift = torch.zeros(16)
    shift[3] = 0.7
    assert modality_gap(cloud, cloud.flip(0)) == pytest.approx(0, abs=1e-6)
    assert modality_gap(cloud, cloud + shift) == pytest.approx(0.7, abs=1e-6)


@pytest.mark.parametrize("shape", [(200, 12), (8, 30)])
def test_principal_axes_equal_numpys(shape):
    points = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    points = points * torch.linspace(1, 3, shape[1]) + 5
    centre, axes = principal_axes(points, 3)
    array = points.double().numpy()
    assert np.abs(centre.numpy() - array.mean(axis=0)).max() < 1e-5
    expected = np.linalg.svd(array - array.mean(axis=0))[2][:3]
    for ours, theirs in zip(axes.double().numpy(), expected, strict=True):
        assert min(np.abs(ours - theirs).max(), np.abs(ours + theirs).max()) < 1e-4
        assert ours[np.abs(ours).argmax()] > 0
    variances = ((points - centre) @ axes.T).var(dim=0)
    assert (variances.diff() < 0).all()


def test_principal_axes_do_not_depend_on_the_sign_of_the_points():
    points = torch.randn(40, 6, generator=torch.Generator().manual_seed(1))
    assert torch.allclose(principal_axes(points)[1], principal_axes(-points)[1], atol=1e-5)
    with pytest.raises(ValueError, match="between 1 and 6"):
        principal_axes(points, 7)


def test_neighbours_and_places():
    candidates = torch.eye(4)
    queries = torch.tensor([[0.9, 0.1, 0.0, 0.0], [0.5, 0.6, 0.2, 0.1], [0.5, 0.5, 0.0, 0.0]])
    nearest, places = nearest_neighbours(queries, candidates, [0, 2, 1], k=2)
    assert nearest[:2].tolist() == [[0, 1], [1, 0]]
    assert places.tolist() == [1, 3, 2], "a tie counts against the model"


# Binding


def test_swapping_colours():
    caption = "a small red circle left of a large blue square"
    assert swap_colours(caption) == "a small blue circle left of a large red square"
    for scene in draw_scenes(30, "test"):
        for text in scene["captions"]:
            swapped = swap_colours(text)
            assert swap_colours(swapped) == text
            assert sorted(swapped.split()) == sorted(text.split()) or ";" in text or "," in text
            same = scene["first"].split()[1] == scene["second"].split()[1]
            assert (swapped == text) == same


@pytest.mark.parametrize("caption", ["a red circle", "a bored cat", "red, green and blue things"])
def test_a_caption_without_two_colours_cannot_be_swapped(caption):
    with pytest.raises(ValueError, match="does not name two"):
        swap_colours(caption)
    assert len(COLOURS) == 7


def test_choice_accuracy():
    images, texts = random_units(6), random_units(6, seed=1)
    assert choice_accuracy(images, images, texts) == 1
    assert choice_accuracy(images, texts, images) == 0
    assert choice_accuracy(images, texts, texts) == 0, "a tie is no answer"


def test_a_fair_swap_could_be_true_elsewhere():
    assert swap_is_fair("a red circle left of a blue square")
    assert not swap_is_fair("a red circle left of a red square"), "nothing changes"
    assert not swap_is_fair("a red circle left of a blue circle"), "one shape"
    assert not swap_is_fair("a blue circle left of a red triangle"), "blue triangles are held out"
    assert swap_is_fair("a blue triangle above a black square"), "only the swapped one must be seen"


def test_scene_captions_say_the_same_without_sizes():
    for scene in draw_scenes(20, "test"):
        for text in scene_captions(scene):
            assert "small" not in text and "large" not in text
        things = [name.split(" ", 1)[1] for name in (scene["first"], scene["second"])]
        first, second = scene_captions(scene)
        assert first.index(things[0]) <= first.rindex(things[1])
        assert second.index(things[1]) <= second.rindex(things[0])


def test_false_captions_are_false_each_in_its_way():
    for scene in draw_scenes(40, "test"):
        right, false = scene_captions(scene)[0], false_captions(scene)
        words = right.split()
        other = false["another colour"].split()
        differing = [place for place in range(len(words)) if words[place] != other[place]]
        assert differing == [1] and other[1] in COLOURS and other[1] not in words
        assert (other[1], words[2]) not in HELD_OUT
        assert false["colours swapped"] == swap_colours(right)
        assert sorted(false["order swapped"].split()) == sorted(words)
        if len({scene["first"][6:], scene["second"][6:]}) == 2:
            assert false["order swapped"] != right


def test_a_probe_reads_what_is_there_and_nothing_else():
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(800, 20, generator=generator) + 3
    labels = features[:, :3].argmax(dim=1)
    faint = features * torch.tensor([1e-2] * 3 + [1.0] * 17)
    assert probe_accuracy(features, labels) > 0.85
    assert probe_accuracy(faint, labels) > 0.85, "a faint direction is a direction"
    assert probe_accuracy(features[:, 3:], labels) < 0.5


def test_whitening_makes_every_direction_as_loud_and_folds_into_a_projection():
    generator = torch.Generator().manual_seed(0)
    mixed = torch.randn(10, 10, generator=generator)
    features = torch.randn(500, 10, generator=generator) * torch.logspace(0, -1, 10) @ mixed
    matrix = whitening(features, floor=0.0)
    white = features @ matrix
    assert (white.T @ white / 500 - torch.eye(10)).abs().max() < 1e-2
    assert torch.allclose(matrix, matrix.T, atol=1e-4)
    assert whitening(features, floor=0.1).abs().max() < matrix.abs().max()
    projection = torch.nn.Linear(10, 4, bias=False)
    expected = projection(white)
    projection.weight.data = projection.weight.data @ matrix
    assert torch.allclose(projection(features), expected, atol=1e-4)


def slow_hard_negative_loss(images, texts, negatives, scale, positives, wrong):
    """The same, one sum at a time, in float64."""
    images, texts, negatives = (x.double().numpy() for x in (images, texts, negatives))
    total = 0.0
    for i in range(len(images)):
        everyone = [np.exp(scale * images[i] @ text) for text in texts]
        everyone += [np.exp(scale * images[i] @ n) for j, n in enumerate(negatives) if wrong[i, j]]
        own = [scale * images[i] @ texts[j] for j in range(len(texts)) if positives[i, j]]
        total += np.log(sum(everyone)) - np.mean(own)
        everyone = [np.exp(scale * images[j] @ texts[i]) for j in range(len(images))]
        own = [scale * images[j] @ texts[i] for j in range(len(images)) if positives[j, i]]
        total += np.log(sum(everyone)) - np.mean(own)
    return total / 2 / len(images)


def test_hard_negative_loss_follows_its_definition():
    images, texts, negatives = (random_units(5, seed=seed) for seed in range(3))
    positives = torch.eye(5, dtype=torch.bool)
    positives[0, 3] = True
    wrong = torch.ones(5, 5, dtype=torch.bool)
    wrong[1, 1] = wrong[4, 0] = False
    loss = hard_negative_loss(images, texts, negatives, 7.0, positives, wrong)
    expected = slow_hard_negative_loss(images, texts, negatives, 7.0, positives, wrong)
    assert loss.item() == pytest.approx(expected, abs=1e-5)


def test_without_negatives_it_is_the_contrastive_loss():
    images, texts, negatives = (random_units(5, seed=seed) for seed in range(3))
    positives = torch.eye(5, dtype=torch.bool)
    loss = hard_negative_loss(images, texts, negatives, 7.0, positives, torch.zeros(5, 5) > 0)
    assert torch.isclose(loss, contrastive_loss(images, texts, 7.0, positives))


def test_the_nearer_a_false_caption_the_greater_the_loss():
    images, texts, far = (random_units(5, seed=seed) for seed in range(3))
    positives, wrong = torch.eye(5) > 0, torch.ones(5, 5) > 0
    near = torch.nn.functional.normalize(images + 0.1 * far, dim=-1)
    arguments = (7.0, positives, wrong)
    easy = hard_negative_loss(images, texts, far, *arguments)
    assert hard_negative_loss(images, texts, near, *arguments) > easy


@pytest.fixture
def scenes_to_train_on(small_text):
    scenes = draw_scenes(96, "train")
    pairs = TrainingPairs(
        pixels_of([scene["image"] for scene in scenes], 32), [scene_captions(s) for s in scenes]
    )
    right = small_text.encode(pairs.captions)
    false = small_text.encode([swap_colours(text) for text in pairs.captions])
    fair = torch.tensor([swap_is_fair(text) for text in pairs.captions])
    return pairs, right, false, fair


def test_training_learns_repeats_itself_and_leaves_the_text_encoder_alone(
    small_model, scenes_to_train_on
):
    start = {name: tensor.clone() for name, tensor in small_model.state_dict().items()}
    seen = []
    runs = []
    for _ in range(2):
        small_model.load_state_dict(start)
        runs.append(
            train_on_scenes(
                small_model, *scenes_to_train_on, steps=40, batch_size=32, watch=seen.append
            )
        )
    assert runs[0] == runs[1] and seen == [*range(1, 41)] * 2
    assert sum(runs[0][-5:]) < 0.8 * sum(runs[0][:5])
    for name, tensor in small_model.state_dict().items():
        assert name.startswith("text.") == bool((tensor == start[name]).all())
    with pytest.raises(ValueError, match="do not fill one batch"):
        train_on_scenes(small_model, *scenes_to_train_on, batch_size=97)


def test_false_captions_change_the_training(small_model, scenes_to_train_on):
    pairs, right, false, fair = scenes_to_train_on
    start = {name: tensor.clone() for name, tensor in small_model.state_dict().items()}
    losses = []
    for arguments in ((), (false, fair), (false, torch.zeros_like(fair))):
        small_model.load_state_dict(start)
        losses.append(
            train_on_scenes(small_model, pairs, right, *arguments, steps=3, batch_size=32)
        )
    assert losses[1][0] > losses[0][0] + 1e-3, "one more wrong answer makes the quiz harder"
    assert losses[2] == pytest.approx(losses[0], abs=1e-4), "nothing fair, nothing added"

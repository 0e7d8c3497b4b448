"""Recalls equal a slow count by hand, and searching finds what is there."""

import os

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from datasets import Dataset
from datasets import Image as DatasetImage
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from distilclip import (
    DistilCLIP,
    ImageIndex,
    load_pairs,
    retrieval_metrics,
    zero_shot_classify,
)
from distilclip.command.index_cache import folder_index
from distilclip.search import (
    caption_bank,
    count_shared,
    embed_classes,
    evaluate_retrieval,
    expand_queries,
    flatten_captions,
)
from distilclip.sources.scenes import load_scenes


def slow_recalls(images, texts, owners, ks=(1, 5, 10), names=None):
    """By the definition: rank everything, look where the right ones are. Ties count against.

    Equal `names` are one caption, right for every image that has it.
    """
    names = range(len(owners)) if names is None else names
    scores = (texts @ images.T).tolist()
    row_of = {name: row for name, row in zip(names, scores, strict=True)}
    right = {name: {o for n, o in zip(names, owners, strict=True) if n == name} for name in names}

    def rivals(score_of, is_right):
        best = max(score for key, score in score_of.items() if is_right(key))
        return sum(score >= best for key, score in score_of.items() if not is_right(key))

    text_ranks = [rivals(dict(enumerate(row_of[n])), lambda i, n=n: i in right[n]) for n in names]
    image_ranks = [
        rivals({n: row_of[n][image] for n in right}, lambda n, image=image: image in right[n])
        for image in sorted(set(owners))
    ]
    result = {f"i2t_r{k}": sum(r < k for r in image_ranks) / len(image_ranks) for k in ks}
    return result | {f"t2i_r{k}": sum(r < k for r in text_ranks) / len(text_ranks) for k in ks}


@settings(max_examples=60, deadline=None)
@given(
    count=st.integers(1, 14), captions=st.integers(1, 25), chunk=st.integers(1, 9), seed=st.data()
)
def test_recalls_equal_the_slow_reference(count, captions, chunk, seed):
    owners = seed.draw(
        st.lists(st.integers(0, count - 1), min_size=captions, max_size=captions), "owners"
    )
    torch.manual_seed(seed.draw(st.integers(0, 1000), "seed"))
    # Whole numbers: products are exact, and ties are common.
    images = torch.randint(-2, 3, (count, 3)).double()
    texts = torch.randint(-2, 3, (captions, 3)).double()
    ours = retrieval_metrics(images, texts, owners, chunk=chunk)
    assert ours == pytest.approx(slow_recalls(images, texts, owners))


@settings(max_examples=150, deadline=None)
@given(
    count=st.integers(1, 14), captions=st.integers(1, 25), chunk=st.integers(1, 9), seed=st.data()
)
def test_shared_captions_are_right_for_every_picture_that_has_them(count, captions, chunk, seed):
    """As the slow reference has it, for any sharing; where nothing is shared, as without it."""

    def draw(most, name):
        return seed.draw(st.lists(st.integers(0, most), min_size=captions, max_size=captions), name)

    owners, kinds = draw(count - 1, "owners"), draw(seed.draw(st.integers(0, 24), "most"), "kinds")
    names = [f"caption {kind}" for kind in kinds]
    torch.manual_seed(seed.draw(st.integers(0, 1000), "seed"))
    images = torch.randint(-2, 3, (count, 3)).float()
    texts = torch.randint(-2, 3, (25, 3)).float()[kinds]  # equal strings have equal vectors
    ours = retrieval_metrics(images, texts, owners, chunk=chunk, texts=names)
    assert ours == pytest.approx(slow_recalls(images, texts, owners, names=names))
    plain = retrieval_metrics(images, texts, owners, chunk=chunk)
    assert plain == retrieval_metrics(images, texts, owners, texts=names, strict=True)
    assert plain == retrieval_metrics(
        images, texts, owners, texts=[str(n) for n in range(captions)]
    )
    assert all(ours[name] >= plain[name] for name in plain)  # a rival less, never one more
    order = seed.draw(st.permutations(range(captions)), "order")
    moved = [[values[row] for row in order] for values in (owners, names)]
    assert ours == retrieval_metrics(images, texts[list(order)], moved[0], texts=moved[1])


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sets(st.integers(0, 6), min_size=1), min_size=1, max_size=20), st.integers(1, 9))
def test_a_model_that_never_errs_has_a_hundred_per_cent(captions_of_images, chunk):
    """Whoever shares what: a picture and its captions are nearer than it and any other caption."""
    texts, owners = flatten_captions([[str(n) for n in own] for own in captions_of_images])
    has = torch.tensor([[float(n in own) for n in range(7)] for own in captions_of_images])
    vectors = torch.eye(7)[[int(text) for text in texts]]
    recalls = retrieval_metrics(has, vectors, owners, chunk=chunk, texts=texts)
    assert set(recalls.values()) == {1.0}
    shared = count_shared([[str(n) for n in own] for own in captions_of_images])
    assert shared == int((has.sum(dim=0) > 1).sum())
    if shared:
        strict = retrieval_metrics(has, vectors, owners, chunk=chunk, texts=texts, strict=True)
        assert strict["i2t_r1"] < 1 and strict["t2i_r1"] < 1


def test_another_copy_of_a_picture_changes_nobodys_rank():
    """Only equal numbers of rivals are left where a drawing comes in five styles, say."""
    generator = torch.Generator().manual_seed(7)
    images = F.normalize(torch.randn(60, 12, generator=generator), dim=-1)
    vectors = F.normalize(images + 0.25 * torch.randn(60, 12, generator=generator), dim=-1)
    names = [str(n) for n in range(60)]
    alone = retrieval_metrics(images, vectors, range(60), texts=names)
    assert 0.1 < alone["i2t_r1"] < 0.9
    copies = retrieval_metrics(
        images.repeat(5, 1), vectors.repeat(5, 1), range(300), texts=names * 5
    )
    assert [copies[f"i2t_r{k}"] for k in (1, 5, 10)] == [alone[f"i2t_r{k}"] for k in (1, 5, 10)]
    assert copies["t2i_r1"] == alone["t2i_r1"]


def test_a_caption_of_very_many_pictures_needs_no_table():
    """A caption that all share is one caption: no square of its owners comes into memory."""
    images = F.normalize(torch.rand(60_000, 2, generator=torch.Generator().manual_seed(1)), dim=-1)
    texts = images[:1].expand(60_000, 2)
    recalls = retrieval_metrics(images, texts, range(60_000), texts=["a photograph"] * 60_000)
    assert set(recalls.values()) == {1.0}


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_counts_are_whole_and_nothing_is_made_double(dtype, monkeypatch):
    """Some devices have no float64: it comes in only where the embeddings have it."""
    images = F.normalize(torch.randn(70, 8, generator=torch.Generator().manual_seed(2)), dim=-1)
    made = []
    for name in ("double", "zeros_like", "empty_like", "new_full"):
        place = torch if hasattr(torch, name) else torch.Tensor
        keep = getattr(place, name)

        def watched(*given, keep=keep, **named):
            result = keep(*given, **named)
            made.append(getattr(result, "dtype", None))
            return result

        if callable(keep):
            monkeypatch.setattr(place, name, watched)
    names = [str(n // 2) for n in range(70)]
    vectors = images[torch.arange(70) // 2 * 2].to(dtype)
    retrieval_metrics(images.to(dtype), vectors, range(70), chunk=16, texts=names)
    assert made and (torch.float64 in made) == (dtype is torch.float64)


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ("ab", "texts must be a list of strings, got 'ab'"),
        ({"a", "b"}, "texts must be a list of strings"),
        (["a"], "2 vectors of texts, but 1 texts"),
        (["a", 2], "texts must be strings, got 2 in the list"),
        (3, "texts must be a list of strings, got 3"),
    ],
)
def test_texts_that_do_not_fit_are_refused(texts, message):
    with pytest.raises(ValueError, match=message):
        retrieval_metrics(torch.ones(3, 4), torch.ones(2, 4), [0, 1], texts=texts)


def rows_of(images, captions):
    """Rows as `load_pairs` gives them."""
    ids = [str(n) for n in range(len(images))]
    return Dataset.from_dict({"image": images, "captions": captions, "image_id": ids}).cast_column(
        "image", DatasetImage()
    )


def test_evaluation_asks_what_the_strings_are(small_model):
    colours = ("red", "red", "blue", "green")
    rows = rows_of(
        [Image.new("RGB", (32, 32), colour) for colour in colours],
        [["a sheet", "red"], ["a sheet", "crimson"], ["a sheet", "blue"], ["green"]],
    )
    asked = []

    def perfect(texts):
        """Vectors that lie where the pictures do: of those that have the caption, the mean."""
        asked.extend(texts)
        images = small_model.encode_image(list(rows["image"]))
        images = F.normalize(images - images.mean(dim=0), dim=-1)
        has = [[text in captions for captions in rows["captions"]] for text in texts]
        return F.normalize(torch.tensor(has).float() @ images, dim=-1)

    shared = evaluate_retrieval(small_model, rows, encode_text=perfect)
    strict = evaluate_retrieval(small_model, rows, encode_text=perfect, strict=True)
    assert asked == ["a sheet", "red", "crimson", "blue", "green"] * 2  # each string once
    assert all(shared[name] >= strict[name] for name in strict) and shared != strict
    with pytest.raises(ValueError, match="The captions of image 0 must be a list of strings"):
        evaluate_retrieval(
            small_model, rows.remove_columns("captions").add_column("captions", ["a"] * 4)
        )


@pytest.mark.slow
def test_the_packaged_model_knows_what_it_was_trained_on():
    """Its training pictures come in five styles with the same captions: all of them are right."""
    rows = load_pairs("emoji")["train"]
    labels = sorted(set(rows["label"]))[::5]
    rows = rows.select([row for row, label in enumerate(rows["label"]) if label in labels])
    assert count_shared(rows["captions"]) > 500
    model = DistilCLIP.from_pretrained("emoji")
    recalls = evaluate_retrieval(model, rows)
    assert recalls["i2t_r1"] >= 0.95 and recalls["t2i_r1"] >= 0.97


def test_a_bank_holds_each_list_of_captions_once(small_model):
    bank = caption_bank(small_model, [["a cat", "a tom"], ["a dog"], ["a cat", "a tom"]])
    first = F.normalize(small_model.encode_text(["a cat", "a tom"]).mean(dim=0), dim=0)
    torch.testing.assert_close(bank, torch.stack([first, small_model.encode_text("a dog")[0]]))


@pytest.mark.slow
def test_vectors_that_are_there_already_can_be_handed_over(small_model):
    vectors = {text: small_model.encode_text(text)[0] for text in ("a cat", "a tom", "a dog")}
    asked = []

    def look_up(texts):
        asked.extend(texts)
        return torch.stack([vectors[text] for text in texts])

    captions = [["a cat", "a tom"], ["a dog"]]
    bank = caption_bank(small_model, captions, encode_text=look_up)
    torch.testing.assert_close(bank, caption_bank(small_model, captions))
    rows = load_scenes(test=6)["test"]
    vectors |= {text: small_model.encode_text(text)[0] for row in rows["captions"] for text in row}
    metrics = evaluate_retrieval(small_model, rows, encode_text=look_up)
    assert metrics == evaluate_retrieval(small_model, rows)
    assert asked == ["a cat", "a tom", "a dog", *(t for row in rows["captions"] for t in row)]


def test_an_expanded_query_is_a_weighted_mean_of_the_bank():
    torch.manual_seed(0)
    queries, bank = (F.normalize(torch.randn(n, 4), dim=1) for n in (3, 5))
    for query, expanded in zip(queries, expand_queries(queries, bank, sharpness=7), strict=True):
        weights = [torch.exp(7 * (query @ known)) for known in bank]
        mean = sum(weight * known for weight, known in zip(weights, bank, strict=True))
        torch.testing.assert_close(expanded, mean / mean.norm())
    # What the bank has no word for is lost, and very sharp weights leave its nearest one.
    flat = F.pad(bank[:, :2], (0, 2))
    flat = F.normalize(flat, dim=1)
    assert expand_queries(queries, flat)[:, 2:].abs().max() == 0
    nearest = flat[(queries @ flat.T).argmax(dim=1)]
    torch.testing.assert_close(expand_queries(queries, flat, 1e4), nearest)


def clip_benchmark_recalls(images, texts, owners, k):
    """The definition of the package clip-benchmark (1.6.2), with its own names."""
    scores = texts @ images.T
    positive_pairs = torch.zeros_like(scores, dtype=torch.bool)
    positive_pairs[torch.arange(len(scores)), owners] = True

    def recall_at_k(scores, positive_pairs):
        topk_indices = torch.topk(scores, k, dim=1)[1]
        onehot = F.one_hot(topk_indices, num_classes=scores.shape[1])
        true_positives = (onehot * positive_pairs.unsqueeze(1)).sum(dim=(1, 2))
        return true_positives / positive_pairs.sum(dim=1)

    return {
        f"t2i_r{k}": (recall_at_k(scores, positive_pairs) > 0).float().mean().item(),
        f"i2t_r{k}": (recall_at_k(scores.T, positive_pairs.T) > 0).float().mean().item(),
    }


def torchmetrics_hit_rate(preds, target, top_k):
    """The definition of torchmetrics (1.9.0), `retrieval_hit_rate`, for one query."""
    return float(target[torch.argsort(preds, descending=True)][:top_k].sum() > 0)


@pytest.mark.parametrize("k", [1, 5, 10])
def test_recalls_are_those_of_the_field(k):
    generator = torch.Generator().manual_seed(3)
    images = F.normalize(torch.randn(120, 8, generator=generator), dim=-1)
    owners = torch.cat([torch.arange(120), torch.randint(120, (250,), generator=generator)])
    texts = images[owners] + 0.7 * torch.randn(370, 8, generator=generator)
    texts = F.normalize(texts, dim=-1)
    ours = retrieval_metrics(images, texts, owners, ks=(k,))
    assert ours == pytest.approx(clip_benchmark_recalls(images, texts, owners, k))
    assert all(0.02 < value < 0.98 for value in ours.values())
    scores = texts @ images.T
    hits = [
        torchmetrics_hit_rate(row, owner == torch.arange(120), k)
        for row, owner in zip(scores, owners, strict=True)
    ]
    assert ours[f"t2i_r{k}"] == pytest.approx(sum(hits) / len(hits))
    hits = [torchmetrics_hit_rate(row, owners == image, k) for image, row in enumerate(scores.T)]
    assert ours[f"i2t_r{k}"] == pytest.approx(sum(hits) / len(hits))


def test_recalls_do_not_depend_on_how_the_table_is_cut():
    generator = torch.Generator().manual_seed(4)
    images, texts = (
        F.normalize(torch.randn(n, 48, generator=generator), dim=-1) for n in (900, 1500)
    )
    owners = torch.randint(900, (1500,), generator=generator)
    images[450:] = images[:450]  # every picture twice: ties that rounding must not decide
    whole = retrieval_metrics(images, texts, owners, chunk=2000)
    assert whole["t2i_r1"] == 0 and whole["t2i_r10"] > 0
    for chunk in (37, 64, 511, 900):
        assert retrieval_metrics(images, texts, owners, chunk=chunk) == whole


def test_rounding_does_not_break_ties():
    same = F.normalize(torch.rand(1, 384, generator=torch.Generator().manual_seed(0)), dim=-1)
    for count in (13, 700):
        collapsed = same.repeat(count, 1)
        assert set(retrieval_metrics(collapsed, collapsed, range(count), (1, 10)).values()) == {0.0}


def test_half_precision_and_gradients_are_taken_as_they_come():
    embeds = F.normalize(torch.randn(60, 16, generator=torch.Generator().manual_seed(0)), dim=-1)
    expected = retrieval_metrics(embeds.bfloat16().float(), embeds.bfloat16().float(), range(60))
    assert retrieval_metrics(embeds.bfloat16(), embeds.bfloat16(), range(60)) == expected
    assert retrieval_metrics(embeds.requires_grad_(), embeds, range(60))["t2i_r1"] == 1.0
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert retrieval_metrics(embeds, embeds, range(60))["t2i_r1"] == 1.0


def test_arrays_have_the_recalls_of_tensors():
    generator = torch.Generator().manual_seed(0)
    images, texts = (F.normalize(torch.randn(n, 8, generator=generator), dim=1) for n in (20, 40))
    owners = torch.arange(40) % 20
    expected = retrieval_metrics(images, texts, owners)
    assert retrieval_metrics(images.numpy(), texts.numpy(), owners.numpy()) == expected
    assert retrieval_metrics(images.numpy().astype(np.float64), texts.double(), owners) == expected


def test_perfect_chance_and_collapsed_models():
    torch.manual_seed(0)
    embeds = F.normalize(torch.randn(200, 32), dim=-1)
    assert set(retrieval_metrics(embeds, embeds, range(200)).values()) == {1.0}
    other = F.normalize(torch.randn(200, 32), dim=-1)
    assert retrieval_metrics(embeds, other, range(200))["t2i_r10"] == pytest.approx(0.05, abs=0.04)
    same = torch.ones(200, 32)
    assert set(retrieval_metrics(same, same, range(200)).values()) == {0.0}


@pytest.mark.parametrize(
    ("owners", "message"),
    [([0], "2 texts, but 1 image ids"), ([0, 3], "between 0 and 2"), ([-1, 0], "between 0 and 2")],
)
def test_impossible_owners_are_refused(owners, message):
    with pytest.raises(ValueError, match=message):
        retrieval_metrics(torch.ones(3, 4), torch.ones(2, 4), owners)


def test_a_broken_model_is_not_called_perfect():
    embeds = torch.eye(4)
    embeds[2, 2] = torch.nan
    with pytest.raises(ValueError, match="not finite"):
        retrieval_metrics(embeds, embeds, range(4))


def test_retrieval_of_nothing_is_refused():
    with pytest.raises(ValueError, match="at least one image and one text"):
        retrieval_metrics(torch.ones(3, 4), torch.ones(0, 4), [])


# Zero-shot classes


def test_class_probabilities_sum_to_one_and_ensemble_templates(small_model):
    images = [Image.new("RGB", (32, 32), colour) for colour in ("red", "blue")]
    names, templates = ["cat", "dog", "bird"], ["a {}", "a picture of a {}"]
    probabilities = zero_shot_classify(small_model, images, names, templates)
    assert probabilities.shape == (2, 3)
    assert torch.allclose(probabilities.sum(1), torch.ones(2))
    means = torch.stack(
        [small_model.encode_text([t.format(n) for t in templates]).mean(0) for n in names]
    )
    cosines = small_model.encode_image(images) @ F.normalize(means, dim=-1).T
    assert torch.allclose(probabilities, (small_model.logit_scale * cosines).softmax(1), atol=1e-6)
    encoded = small_model.encode_image(images)
    assert torch.equal(zero_shot_classify(small_model, encoded, names, templates), probabilities)


def test_a_template_needs_a_place_for_the_name(small_model):
    with pytest.raises(ValueError, match=r"has no {}"):
        zero_shot_classify(small_model, [], ["cat"], ["a picture"])
    with pytest.raises(ValueError, match="at least one class"):
        zero_shot_classify(small_model, [], [])


def test_only_the_place_for_the_name_is_filled(small_model):
    """Braces of one's own stay, and every {} is filled."""
    names = ["cat", "dog {name}", "{}", "100 %s"]

    def by(*templates):
        return embed_classes(small_model, names, templates)

    for template, words in {
        "a {} with {braces}": lambda name: "a " + name + " with {braces}",
        "a {} photo of a {}.": lambda name: f"a {name} photo of a {name}.",
        "{{}} {0} {}": lambda name: "{" + name + "} {0} " + name,
        "%s {": None,
    }.items():
        if words is None:
            with pytest.raises(ValueError, match=r"has no {} for the name"):
                by(template)
        else:
            assert torch.equal(by(template), by(words))
            assert torch.equal(by(template), embed_classes(small_model, names, template))
            assert torch.equal(by(words), embed_classes(small_model, names, words))
    mean = by("a {}", lambda name: f"the {name}")
    single = by("a {}"), by("the {}")
    torch.testing.assert_close(mean, F.normalize(single[0] + single[1], dim=-1))


@pytest.mark.parametrize(
    ("names", "templates", "message"),
    [
        ("red circle", "a {}", "class_names must be a list of strings, got 'red circle'"),
        ({"red", "blue"}, "a {}", "class_names must be a list of strings"),
        (frozenset("ab"), "a {}", "class_names must be a list of strings"),
        (["red", 2], "a {}", "class_names must be strings, got 2 in the list"),
        (7, "a {}", "class_names must be a list of strings, got 7"),
        (["red"], [3], "A template is a string with {} or a function, got 3"),
        (["red"], None, "A template is a string with {} or a function, got None"),
        (["red"], [lambda name: None], "makes of the names must be strings, got None"),
        (["red", "blue"], [lambda name: "a picture"], "says 'a picture' for every class"),
        (["red"], [], "at least one class and one template"),
        ([], "a {}", "at least one class and one template"),
    ],
)
def test_classes_and_templates_that_mean_nothing_are_refused(
    small_model, names, templates, message
):
    with pytest.raises(ValueError, match=message) as refused:
        zero_shot_classify(small_model, torch.ones(1, 16), names, templates)
    assert str(refused.value).count("\n") == 0


def test_classes_may_come_in_any_order_that_is_one(small_model):
    expected = zero_shot_classify(small_model, torch.ones(1, 16), ["cat", "dog"])
    for names in (("cat", "dog"), (n for n in ["cat", "dog"]), {"cat": 0, "dog": 1}):
        assert torch.equal(zero_shot_classify(small_model, torch.ones(1, 16), names), expected)
    halves = zero_shot_classify(small_model, torch.ones(1, 16).half(), ["cat", "dog"])
    assert torch.equal(halves, expected)  # ones are ones in half precision


def test_one_string_is_no_list_of_texts(small_model):
    for captions in ("a cat", ["a cat", "a dog"]):
        with pytest.raises(ValueError, match="captions of an image must be a list of strings"):
            caption_bank(small_model, captions)
    for captions in ([], [["a cat"], []]):
        with pytest.raises(ValueError, match="A bank needs images, and a caption for each"):
            caption_bank(small_model, captions)
    with pytest.raises(ValueError, match="names must be a list, got the string 'ab'"):
        ImageIndex(small_model, "ab", torch.ones(2, 16))
    index = ImageIndex(small_model, ["a", "b"], torch.ones(2, 16))
    with pytest.raises(ValueError, match="names must be a list, got the string 'cd'"):
        index.add("cd", [Image.new("RGB", (32, 32))] * 2)
    with pytest.raises(ValueError, match="one at a time; got"):
        index.search(["a cat", "a dog"])


def test_vectors_of_another_model_are_no_pictures(small_model):
    with pytest.raises(ValueError, match="Vectors of 7 numbers; the model's have 16"):
        zero_shot_classify(small_model, torch.ones(2, 7), ["cat"])


# The index


def test_a_picture_finds_itself_first(small_model, pictures):
    index = ImageIndex.from_folder(small_model, pictures, batch_size=2)
    assert len(index) == 3
    for path in index.paths:
        best = index.search(Image.open(path), k=1)[0]
        assert best.path == path and best.score == pytest.approx(1, abs=1e-5)


def test_hits_have_names_and_files(small_model, pictures):
    hits = ImageIndex.from_folder(small_model, pictures).search("x", k=3)
    assert {hit.name for hit in hits} == {"red.png", "deep/blue.jpg", "green.webp"}
    assert all(hit.path == pictures / hit.name and hit.path.is_file() for hit in hits)


def test_words_less_words_points_away_from_them(small_model):
    vectors = F.normalize(torch.randn(500, 16, generator=torch.Generator().manual_seed(0)), dim=-1)
    index = ImageIndex(small_model, [str(n) for n in range(500)], vectors)
    first, second = small_model.encode_text(["a smiling cat", "a cat"])
    hits = index.search("a smiling cat", k=500, without="a cat", weight=0.7)
    expected = vectors @ F.normalize(first - 0.7 * second, dim=0)
    scores = {hit.name: hit.score for hit in hits}
    assert scores == pytest.approx({str(n): s for n, s in enumerate(expected.tolist())}, abs=1e-5)
    same = index.search(first - 0.7 * second, k=500)  # a vector is a query, too
    assert scores == pytest.approx({hit.name: hit.score for hit in same}, abs=1e-5)
    with pytest.raises(ValueError, match="Nothing is left of the query"):
        index.search("a cat", without="a cat", weight=1)
    with pytest.raises(ValueError, match="has the shape"):
        index.search(vectors)


def test_pictures_can_be_added_and_replaced(small_model):
    red, green, blue = (Image.new("RGB", (32, 32), c) for c in ("red", "green", "blue"))
    index = ImageIndex(small_model)
    with pytest.raises(ValueError, match="The index is empty"):
        index.search(red)
    index.add(["a", "b"], [red, green])
    index.add(["b", "c"], [blue, green])
    assert index.names == ["a", "b", "c"]
    assert torch.allclose(index.embeds, small_model.encode_image([red, blue, green]), atol=1e-6)
    assert index.search(blue, k=1)[0].name == "b"
    with pytest.raises(ValueError, match="1 pictures, but 2 different names"):
        index.add(["d", "e"], [red])


def test_a_data_set_is_indexed_by_its_ids(small_model):
    rows = load_scenes(train=3, test=70)["test"]
    index = ImageIndex.from_dataset(small_model, rows, batch_size=32)
    assert index.names == list(rows["image_id"]) and index.paths == []
    assert torch.allclose(index.embeds, small_model.encode_image(rows["image"]), atol=1e-5)
    hit = index.search(rows[11]["image"], k=1)[0]
    assert hit.name == rows[11]["image_id"] and hit.path is None


def test_a_folder_is_read_a_batch_at_a_time(small_model, tmp_path, monkeypatch):
    for number in range(23):
        Image.new("RGB", (40, 40), (10 * number, 0, 0)).save(tmp_path / f"{number}.png")
    sizes = []
    encode = small_model.encode_image
    monkeypatch.setattr(small_model, "encode_image", lambda p: sizes.append(p.shape) or encode(p))
    index = ImageIndex.from_folder(small_model, tmp_path, batch_size=10)
    assert len(index) == 23 and sizes == [(10, 3, 32, 32), (10, 3, 32, 32), (3, 3, 32, 32)]


def test_a_large_photograph_is_embedded_as_well_as_the_same(small_model, tmp_path):
    colours = torch.rand(3, 6, 8, generator=torch.Generator().manual_seed(0))
    photo = F.interpolate(colours[None], (1500, 2000), mode="bicubic")[0].clamp(0, 1) * 255
    photo = Image.fromarray(photo.permute(1, 2, 0).byte().numpy())
    photo.save(tmp_path / "large.jpg", quality=95)
    index = ImageIndex.from_folder(small_model, tmp_path)
    assert index.embeds[0] @ small_model.encode_image(photo)[0] > 0.999


def test_an_index_follows_its_folder(small_model, pictures):
    index = ImageIndex.from_folder(small_model, pictures)
    assert index.refresh() == (0, 0)
    Image.new("RGB", (30, 50), "white").save(pictures / "a_new.png")
    Image.new("RGB", (9, 9), "black").save(pictures / "red.png")  # another size in bytes
    status = (pictures / "green.webp").stat()
    os.utime(pictures / "green.webp", ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    (pictures / "deep" / "blue.jpg").unlink()
    assert index.refresh() == (3, 1)
    fresh = ImageIndex.from_folder(small_model, pictures)
    assert index.names == fresh.names == ["a_new.png", "green.webp", "red.png"]
    assert torch.allclose(index.embeds, fresh.embeds, atol=1e-6) and index.stamps == fresh.stamps


def test_duplicates_are_all_pairs_above_the_threshold(small_model):
    generator = torch.Generator().manual_seed(0)
    vectors = F.normalize(torch.randn(300, 16, generator=generator), dim=-1)
    vectors[250:] = F.normalize(vectors[:50] + 0.01 * torch.randn(50, 16, generator=generator))
    index = ImageIndex(small_model, [f"n{n}" for n in range(300)], vectors)
    table = vectors.double() @ vectors.double().T
    for threshold in (0.99, 0.8, 0.6):
        pairs = {
            (f"n{row}", f"n{column}")
            for row in range(300)
            for column in range(row + 1, 300)
            if table[row, column] >= threshold
        }
        for chunk in (64, 300, 1000):
            found = index.duplicates(threshold, chunk)
            assert {pair[:2] for pair in found} == pairs and len(found) == len(pairs)
            scores = [score for *_, score in found]
            assert scores == sorted(scores, reverse=True)
    assert len(index.duplicates(0.99)) == 50
    vectors[10] = vectors[20]
    assert [pair[:2] for pair in index.duplicates(1.0)] == [("n10", "n20")]
    with pytest.raises(ValueError, match="raise the threshold"):
        index.duplicates(0.1, limit=100)
    with pytest.raises(ValueError, match="threshold must lie"):
        index.duplicates(0)


def test_hits_are_sorted_cosines_and_k_may_exceed_the_folder(small_model, pictures):
    index = ImageIndex.from_folder(small_model, pictures)
    hits = index.search("something red", k=99)
    scores = [hit.score for hit in hits]
    assert len(hits) == 3 and scores == sorted(scores, reverse=True)
    words = small_model.encode_text("something red")[0]
    for hit in hits:
        expected = small_model.encode_image(Image.open(hit.path))[0] @ words
        assert hit.score == pytest.approx(expected.item(), abs=1e-5)


def test_closed_folders_are_refused_or_listed(small_model, pictures, monkeypatch):
    (pictures / "closed").mkdir()
    scan = os.scandir

    def scandir(path):
        if str(path).endswith("closed"):
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(PermissionError):
        ImageIndex.from_folder(small_model, pictures)
    index = ImageIndex.from_folder(small_model, pictures, skip_broken=True)
    assert len(index) == 3 and index.skipped == [(pictures / "closed", "Permission denied")]


def test_broken_pictures_are_refused_or_listed(small_model, pictures):
    (pictures / "broken.png").write_bytes(b"\x89PNG but not really")
    with pytest.raises(ValueError, match=r"Cannot decode .*broken\.png"):
        ImageIndex.from_folder(small_model, pictures)
    with pytest.raises(ValueError, match=r"Cannot decode .*broken\.png"):
        folder_index(small_model, pictures)  # the good ones are kept all the same
    kept = folder_index(small_model, pictures, skip_broken=True)
    assert kept.done.startswith("3 pictures: 0 embedded")
    index = ImageIndex.from_folder(small_model, pictures, skip_broken=True)
    assert len(index) == 3 and [path.name for path, _ in index.skipped] == ["broken.png"]


def test_folders_without_pictures_are_refused(small_model, tmp_path):
    with pytest.raises(ValueError, match="No pictures in"):
        ImageIndex.from_folder(small_model, tmp_path)
    with pytest.raises(FileNotFoundError, match="There is no folder"):
        ImageIndex.from_folder(small_model, tmp_path / "absent")


@pytest.mark.parametrize(("query", "k", "message"), [(" ", 3, "is empty"), ("a", 0, "at least 1")])
def test_impossible_searches_are_refused(small_model, pictures, query, k, message):
    with pytest.raises(ValueError, match=message):
        ImageIndex.from_folder(small_model, pictures).search(query, k)

"""Recalls equal a slow count by hand, and searching finds what is there."""

import os

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from distilclip import ImageIndex, retrieval_metrics, zero_shot_classify
from distilclip.command.index_cache import folder_index
from distilclip.search import caption_bank, evaluate_retrieval, expand_queries
from distilclip.sources.scenes import load_scenes


def slow_recalls(images, texts, owners, ks=(1, 5, 10)):
    """By the definition: rank everything, look where the right ones are. Ties count against."""
    scores = (texts @ images.T).tolist()
    text_ranks, image_ranks = [], []
    for text, row in enumerate(scores):
        own = row[owners[text]]
        text_ranks.append(sum(s >= own for i, s in enumerate(row) if i != owners[text]))
    for image in sorted(set(owners)):
        column = [row[image] for row in scores]
        best = max(column[t] for t, owner in enumerate(owners) if owner == image)
        others = [s for t, s in enumerate(column) if owners[t] != image]
        image_ranks.append(sum(s >= best for s in others))
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


def test_a_bank_holds_each_list_of_captions_once(small_model):
    bank = caption_bank(small_model, [["a cat", "a tom"], ["a dog"], ["a cat", "a tom"]])
    first = F.normalize(small_model.encode_text(["a cat", "a tom"]).mean(dim=0), dim=0)
    torch.testing.assert_close(bank, torch.stack([first, small_model.encode_text("a dog")[0]]))


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

"""Recalls equal a slow count by hand, and searching finds what is there."""

import html.parser
import os
import random
import signal
import time
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from distilclip import DistilCLIP, ImageIndex, retrieval_metrics, zero_shot_classify
from distilclip.gallery import write_gallery
from distilclip.index_cache import folder_index, index_file
from distilclip.search import Hit, caption_bank, evaluate_retrieval, expand_queries
from distilclip.sources import load_scenes


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


@pytest.fixture
def pictures(tmp_path):
    folder = tmp_path / "pictures"
    (folder / "deep").mkdir(parents=True)
    for name, colour in (("red.png", "red"), ("deep/blue.jpg", "blue"), ("green.webp", "green")):
        Image.new("RGB", (30, 50), colour).save(folder / name)
    (folder / "notes.txt").write_text("not a picture")
    (folder / ".hidden.png").write_text("not a picture either")
    return folder


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


# Very many pictures: FAISS


def clusters(count, dim=16):
    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(count // 50, dim, generator=generator)
    vectors = centres.repeat(50, 1) + 0.5 * torch.randn(count, dim, generator=generator)
    return F.normalize(vectors, dim=-1)


def test_faiss_finds_what_we_find(small_model):
    pytest.importorskip("faiss")
    vectors = clusters(5000)
    queries = F.normalize(vectors[::100] + 0.1, dim=-1)
    index = ImageIndex(small_model, [str(n) for n in range(5000)], vectors)
    scores, rows = index.nearest(queries, 10)
    table = queries @ vectors.T
    assert torch.equal(rows, table.topk(10).indices)
    for kind, recall in (("flat", 1.0), ("ivf", 0.9), ("hnsw", 0.9)):
        index.accelerate(kind)
        found_scores, found = index.nearest(queries, 10)
        share = (found.unsqueeze(2) == rows.unsqueeze(1)).any(dim=2).double().mean()
        assert share >= recall, kind
        if kind == "flat":
            assert torch.allclose(found_scores, scores, atol=1e-5)
        hit = index.search(vectors[1234], k=1)[0]
        assert hit.name == "1234" and hit.score == pytest.approx(1, abs=1e-5)
    index.add(["new"], [Image.new("RGB", (32, 32), "red")])  # and FAISS is left behind
    assert (
        len(index.nearest(small_model.encode_image(Image.new("RGB", (9, 9))), 5001)[1][0]) == 5001
    )


def test_faiss_may_be_absent_and_small_indexes_work(small_model, monkeypatch):
    index = ImageIndex(small_model, ["a", "b"], clusters(50)[:2])
    with pytest.raises(ValueError, match="Unknown kind of index 'tree'"):
        index.accelerate("tree")
    with monkeypatch.context() as absent:
        absent.setitem(__import__("sys").modules, "faiss", None)
        with pytest.raises(ImportError, match="pip install faiss-cpu"):
            index.accelerate("hnsw")
    pytest.importorskip("faiss")
    for kind in ("flat", "ivf", "hnsw"):
        index.accelerate(kind)
        assert [hit.name for hit in index.search(index.embeds[1], k=9)] == ["b", "a"]


def test_hits_are_sorted_cosines_and_k_may_exceed_the_folder(small_model, pictures):
    index = ImageIndex.from_folder(small_model, pictures)
    hits = index.search("something red", k=99)
    scores = [hit.score for hit in hits]
    assert len(hits) == 3 and scores == sorted(scores, reverse=True)
    words = small_model.encode_text("something red")[0]
    for hit in hits:
        expected = small_model.encode_image(Image.open(hit.path))[0] @ words
        assert hit.score == pytest.approx(expected.item(), abs=1e-5)


def test_an_index_survives_saving(small_model, pictures, tmp_path):
    index = ImageIndex.from_folder(small_model, pictures)
    index.save(tmp_path / "index.safetensors")
    loaded = ImageIndex.load(small_model, tmp_path / "index.safetensors")
    assert [p.resolve() for p in loaded.paths] == [p.resolve() for p in index.paths]
    assert torch.equal(loaded.embeds, index.embeds) and loaded.stamps == index.stamps
    assert loaded.refresh() == (0, 0)
    (tmp_path / "broken.safetensors").write_bytes(b"not an index")
    with pytest.raises(ValueError, match="is not an index, or is damaged"):
        ImageIndex.load(small_model, tmp_path / "broken.safetensors")
    with pytest.raises(FileNotFoundError, match="There is no index"):
        ImageIndex.load(small_model, tmp_path / "absent.safetensors")


def test_an_index_moves_with_its_folder(small_model, pictures, tmp_path):
    ImageIndex.from_folder(small_model, pictures).save(pictures / "index.safetensors")
    pictures.rename(tmp_path / "moved")
    loaded = ImageIndex.load(small_model, tmp_path / "moved" / "index.safetensors")
    assert all(path.is_file() for path in loaded.paths) and loaded.refresh() == (0, 0)


def test_names_that_are_no_unicode_survive_saving(small_model, tmp_path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    name = os.fsdecode(b"caf\xe9.png")
    Image.new("RGB", (9, 9)).save(folder / name)
    index = ImageIndex.from_folder(small_model, folder)
    index.save(tmp_path / "index")
    assert ImageIndex.load(small_model, tmp_path / "index").names == [name]
    write_gallery("x", index.search("x"), folder, tmp_path / "page.html")
    assert "caf%E9.png" in (tmp_path / "page.html").read_text(encoding="utf-8")


def test_an_index_belongs_to_the_model_that_made_it(small_model, small_text, pictures, tmp_path):
    index = ImageIndex.from_folder(small_model, pictures)
    index.save(tmp_path / "index")
    other = DistilCLIP(small_model.config, small_text)
    other.load_state_dict(small_model.state_dict())
    assert len(ImageIndex.load(other, tmp_path / "index")) == 3  # the same weights: the same model
    with torch.no_grad():
        other.text_projection.linear.weight.add_(1)  # decides no picture's vector
    assert len(ImageIndex.load(other, tmp_path / "index")) == 3
    with torch.no_grad():
        other.vision.state_dict()[next(iter(other.vision.state_dict()))].view(-1)[0] += 1e-3
    with pytest.raises(ValueError, match="was made by another model"):
        ImageIndex.load(other, tmp_path / "index")
    assert index_file(other, pictures) != index_file(small_model, pictures)


def test_any_cut_of_an_index_is_refused(small_model, pictures, tmp_path):
    ImageIndex.from_folder(small_model, pictures).save(tmp_path / "whole")
    content = (tmp_path / "whole").read_bytes()
    for length in range(0, len(content), 7):
        (tmp_path / "cut").write_bytes(content[:length])
        with pytest.raises(ValueError, match="is not an index, or is damaged"):
            ImageIndex.load(small_model, tmp_path / "cut")


def in_a_child_that_dies(action, after):
    """Run `action` in a forked process that kills itself, or is killed `after` so many seconds.

    Returns whether it was killed before it was done.
    """
    child = os.fork()
    if child == 0:
        try:
            torch.set_num_threads(1)  # OpenMP does not survive a fork
            action()
        finally:
            os._exit(0)
    end = time.monotonic() + after
    while time.monotonic() < end:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return status == signal.SIGKILL
        time.sleep(0.001)
    os.kill(child, signal.SIGKILL)
    return os.waitpid(child, 0)[1] == signal.SIGKILL


def test_an_index_of_ten_thousand_survives_kills_while_it_is_saved(small_model, tmp_path):
    generator = torch.Generator().manual_seed(0)
    vectors = torch.randn(2, 10_000, 16, generator=generator)
    names = [f"a folder/with a picture {n}.jpg" for n in range(10_000)]
    old, new = (ImageIndex(small_model, names, v) for v in vectors)
    file = tmp_path / "index.safetensors"
    old.save(file)
    started = time.perf_counter()
    new.save(tmp_path / "other")
    duration = time.perf_counter() - started
    delays, killed, found = random.Random(0), 0, []
    for _ in range(40):
        old.save(file)
        killed += in_a_child_that_dies(lambda: new.save(file), delays.uniform(0, 1.2 * duration))
        loaded = ImageIndex.load(small_model, file)
        assert loaded.names == names
        found.append([torch.equal(loaded.embeds, v) for v in vectors])
        assert sum(found[-1]) == 1  # the one or the other, never a mixture
    assert killed >= 10 and [True, False] in found


@pytest.mark.parametrize("step", ["save_file", "os.fsync", "os.replace"])
@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_kill_at_each_step_of_saving_leaves_a_whole_index(
    step, moment, small_model, tmp_path, monkeypatch
):
    vectors = torch.randn(2, 10_000, 16, generator=torch.Generator().manual_seed(0))
    names = [str(n) for n in range(10_000)]
    file = tmp_path / "index"
    ImageIndex(small_model, names, vectors[0]).save(file)
    original = __import__("distilclip.files", fromlist=["save_file"])
    owner, name = (original, step) if step == "save_file" else (os, step.removeprefix("os."))
    function = getattr(owner, name)

    def die(*arguments, **options):
        if moment == "after":
            function(*arguments, **options)
        os.kill(os.getpid(), signal.SIGKILL)

    def save():
        setattr(owner, name, die)
        ImageIndex(small_model, names, vectors[1]).save(file)

    assert in_a_child_that_dies(save, 60)
    is_new = step == "os.replace" and moment == "after"
    assert torch.equal(ImageIndex.load(small_model, file).embeds, vectors[int(is_new)])


# The index that the command keeps


def test_only_new_and_changed_pictures_are_embedded_again(small_model, pictures, monkeypatch):
    index, done, problem = folder_index(small_model, pictures)
    assert (len(index), done, problem) == (3, "3 pictures: 3 embedded, 0 forgotten", None)
    assert folder_index(small_model, pictures)[1] == "3 pictures: 0 embedded, 0 forgotten"
    Image.new("RGB", (5, 5)).save(pictures / "new.png")
    (pictures / "red.png").unlink()
    index, done, _ = folder_index(small_model, pictures)
    assert done == "3 pictures: 1 embedded, 1 forgotten"
    fresh, done, _ = folder_index(small_model, pictures, rebuild=True)
    assert done == "3 pictures: 3 embedded, 0 forgotten" and fresh.names == index.names
    assert torch.allclose(fresh.embeds, index.embeds, atol=1e-6)
    assert [hit.path for hit in index.search("x", 3)] == [hit.path for hit in fresh.search("x", 3)]


def test_without_a_cache_nothing_is_kept(small_model, pictures):
    _, done, _ = folder_index(small_model, pictures, cache=False)
    assert done == "3 pictures: 3 embedded, 0 forgotten"
    assert not index_file(small_model, pictures).exists()


def test_a_damaged_or_unwritable_cache_is_no_obstacle(small_model, pictures, tmp_path, monkeypatch):
    folder_index(small_model, pictures)
    file = index_file(small_model, pictures)
    file.write_bytes(file.read_bytes()[:-9])
    assert folder_index(small_model, pictures)[1].startswith("3 pictures: 3 embedded")
    assert folder_index(small_model, pictures)[1].startswith("3 pictures: 0 embedded")
    (tmp_path / "a file").write_text("where the cache's folder should be")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "a file"))
    index, done, problem = folder_index(small_model, pictures)
    assert len(index) == 3 and "a file" in problem and done.startswith("3 pictures: 3 embedded")


def test_an_interrupted_index_goes_on_where_it_stopped(small_model, tmp_path, monkeypatch):
    folder = tmp_path / "many"
    folder.mkdir()
    for number in range(200):
        Image.new("RGB", (8, 8), (number, 0, 0)).save(folder / f"{number:03}.png")
    encode, calls = small_model.encode_image, []

    def stop_at_the_third(pixels):
        calls.append(len(pixels))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return encode(pixels)

    with monkeypatch.context() as stopping, pytest.raises(KeyboardInterrupt):
        stopping.setattr(small_model, "encode_image", stop_at_the_third)
        folder_index(small_model, folder, progress=False)
    index, done, _ = folder_index(small_model, folder, progress=False)
    assert done == "200 pictures: 72 embedded, 0 forgotten"
    assert torch.allclose(
        index.embeds, ImageIndex.from_folder(small_model, folder).embeds, atol=1e-6
    )


def test_a_killed_index_goes_on_from_its_last_save(small_model, tmp_path, monkeypatch):
    folder = tmp_path / "many"
    folder.mkdir()
    for number in range(200):
        Image.new("RGB", (8, 8), (number, 0, 0)).save(folder / f"{number:03}.png")
    monkeypatch.setattr("distilclip.index_cache.AUTOSAVE_SECONDS", 0)
    keep, calls = ImageIndex.save, []

    def save_and_die(index, file):
        keep(index, file)
        calls.append(len(index))
        if len(calls) == 2:
            os.kill(os.getpid(), signal.SIGKILL)

    monkeypatch.setattr(
        small_model, "encode_image", lambda p: p.float().mean((2, 3)).repeat(1, 6)[:, :16]
    )

    def embed():
        ImageIndex.save = save_and_die
        folder_index(small_model, folder, progress=False)

    assert in_a_child_that_dies(embed, 60)
    _, done, _ = folder_index(small_model, folder, progress=False)
    assert done == "200 pictures: 72 embedded, 0 forgotten"
    assert not list(index_file(small_model, folder).parent.glob("*.part"))


def test_what_killed_processes_left_is_removed_in_time(small_model, pictures):
    folder_index(small_model, pictures)
    file = index_file(small_model, pictures)
    old, young = (file.parent / f".{file.name}.{name}.part" for name in ("old", "young"))
    for part in (old, young):
        part.write_bytes(b"half an index")
    os.utime(old, (0, 0))
    Image.new("RGB", (5, 5)).save(pictures / "new.png")
    folder_index(small_model, pictures)
    assert not old.exists() and young.exists()  # the young one may be another process at work


def test_two_processes_at_once_leave_one_whole_index(small_model, pictures):
    children = []
    small_model.encode_image = lambda p: p.float().mean((2, 3)).repeat(1, 6)[:, :16]
    for _ in range(4):
        child = os.fork()
        if child == 0:
            try:
                torch.set_num_threads(1)
                for _ in range(10):
                    folder_index(small_model, pictures, rebuild=True)
                os._exit(0)
            except BaseException:
                os._exit(1)
        children.append(child)
    assert all(os.waitpid(child, 0)[1] == 0 for child in children)
    assert folder_index(small_model, pictures)[1] == "3 pictures: 0 embedded, 0 forgotten"


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
    assert folder_index(small_model, pictures, skip_broken=True)[1].startswith("3 pictures: 0 emb")
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


# Galleries


class Page(html.parser.HTMLParser):
    def __init__(self):
        super().__init__()
        self.tags, self.text = [], ""

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text += data


def test_a_gallery_is_one_page_and_escapes_names(tmp_path):
    nasty = tmp_path / "<script>alert(1)</script>&.png"
    nasty = tmp_path / nasty.name.replace("/", "")
    Image.new("RGB", (10, 10)).save(nasty)
    query = '"><script>alert(2)</script>'
    write_gallery(query, [Hit(nasty.name, 0.5, nasty)], tmp_path, tmp_path / "page.html")
    page = Page()
    page.feed((tmp_path / "page.html").read_text())
    assert "script" not in {tag for tag, _ in page.tags}
    (image,) = [attributes for tag, attributes in page.tags if tag == "img"]
    assert image["src"].startswith("data:image/webp;base64,") and image["alt"] == ""
    (link,) = [attributes["href"] for tag, attributes in page.tags if tag == "a"]
    assert link == nasty.resolve().as_uri() and Path(unquote(urlsplit(link).path)) == nasty
    assert all(
        not value.startswith("http")
        for _, attributes in page.tags
        for name, value in attributes.items()
        if name in ("href", "src")
    )
    assert query in page.text and nasty.name in page.text and "0.500" in page.text


def test_a_gallery_can_be_a_picture(tmp_path):
    files = [tmp_path / f"{n}.png" for n in range(4)]
    for number, file in enumerate(files):
        Image.new("RGB", (30, 20), (60 * number, 0, 0)).save(file)
    hits = [Hit(file.name, 0.1, file) for file in files]
    write_gallery("x", hits, tmp_path, tmp_path / "all.png")
    with Image.open(tmp_path / "all.png") as sheet:
        assert sheet.size == (600, 400)
        assert sheet.getpixel((100, 300)) == (180, 0, 0)


def test_other_endings_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"A gallery is a \.html or \.png file"):
        write_gallery("x", [], tmp_path, tmp_path / "page.pdf")

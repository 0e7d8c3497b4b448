"""Recalls equal a slow count by hand, and searching finds what is there."""

import html.parser

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from distilclip import ImageIndex, retrieval_metrics, zero_shot_classify
from distilclip.gallery import write_gallery
from distilclip.search import Hit


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


def test_a_template_needs_a_place_for_the_name(small_model):
    with pytest.raises(ValueError, match=r"has no {}"):
        zero_shot_classify(small_model, [], ["cat"], ["a picture"])
    with pytest.raises(ValueError, match="at least one class"):
        zero_shot_classify(small_model, [], [])


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
    assert torch.equal(loaded.embeds, index.embeds)
    (tmp_path / "broken.safetensors").write_bytes(b"not an index")
    with pytest.raises(ValueError, match="is not an index, or is damaged"):
        ImageIndex.load(small_model, tmp_path / "broken.safetensors")
    with pytest.raises(FileNotFoundError, match="There is no index"):
        ImageIndex.load(small_model, tmp_path / "absent.safetensors")


def test_broken_pictures_are_refused_or_listed(small_model, pictures):
    (pictures / "broken.png").write_bytes(b"\x89PNG but not really")
    with pytest.raises(ValueError, match=r"Cannot decode .*broken\.png"):
        ImageIndex.from_folder(small_model, pictures)
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
    write_gallery(query, [Hit(nasty, 0.5)], tmp_path, tmp_path / "page.html")
    page = Page()
    page.feed((tmp_path / "page.html").read_text())
    assert "script" not in {tag for tag, _ in page.tags}
    (image,) = [attributes for tag, attributes in page.tags if tag == "img"]
    assert image["src"].startswith("data:image/webp;base64,") and image["alt"] == nasty.name
    assert query in page.text and nasty.name in page.text and "0.500" in page.text


def test_a_gallery_can_be_a_picture(tmp_path):
    files = [tmp_path / f"{n}.png" for n in range(4)]
    for number, file in enumerate(files):
        Image.new("RGB", (30, 20), (60 * number, 0, 0)).save(file)
    write_gallery("x", [Hit(file, 0.1) for file in files], tmp_path, tmp_path / "all.png")
    with Image.open(tmp_path / "all.png") as sheet:
        assert sheet.size == (600, 400)
        assert sheet.getpixel((100, 300)) == (180, 0, 0)


def test_other_endings_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"A gallery is a \.html or \.png file"):
        write_gallery("x", [], tmp_path, tmp_path / "page.pdf")

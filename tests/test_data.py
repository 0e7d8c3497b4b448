"""Pictures are decoded once and kept, captions keep their owners, and views are seeded."""

import errno
import os
import signal
from collections import Counter

import datasets
import pytest
import torch
import torch.nn.functional as F
from child_processes import in_processes
from PIL import Image
from samples import folder_of, picture

from distilclip import augment, load_pairs
from distilclip.data import TrainingPairs, decode_pixels, random_crops, restyle, seeded
from distilclip.sources.scenes import draw_scenes
from distilclip.storage.pictures import pixels_of, square


@pytest.mark.parametrize("name", ["emojis", "./nowhere", "/nowhere/at/all", ""])
def test_unknown_sources_are_refused(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=r"Unknown data source|No captioned pictures"):
        load_pairs(name)


# Pixels


def test_decoding_once_equals_decoding_each_time(emoji, tmp_path):
    rows = emoji["validation"].select(range(12))
    expected = pixels_of(rows["image"], 24)
    assert torch.equal(decode_pixels(rows, 24), expected)
    assert torch.equal(decode_pixels(rows, 24, cache=tmp_path), expected)
    (file,) = tmp_path.iterdir()
    before = file.stat().st_mtime_ns
    assert torch.equal(decode_pixels(rows, 24, cache=tmp_path), expected)
    assert file.stat().st_mtime_ns == before
    decode_pixels(rows.select(range(11)), 24, cache=tmp_path)
    assert len(list(tmp_path.iterdir())) == 2


def coloured_rows(count=12, size=(9, 7)):
    rows = [
        {"image": Image.new("RGB", size, (20 * n, 0, 99)), "image_id": str(n)} for n in range(count)
    ]
    return datasets.Dataset.from_list(rows).cast_column("image", datasets.Image())


def test_the_cache_is_named_after_contents_and_size(tmp_path):
    rows = coloured_rows()
    decode_pixels(rows, 8, cache=tmp_path)
    same = coloured_rows().remove_columns("image_id").add_column("image_id", ["x"] * 12)
    decode_pixels(same, 8, cache=tmp_path)  # other ids, the same pictures
    assert len(list(tmp_path.iterdir())) == 1
    turned = rows.select(range(11, -1, -1))
    for others, size in ((rows, 9), (turned, 8), (coloured_rows(size=(7, 9)), 8)):
        before = len(list(tmp_path.iterdir()))
        expected = decode_pixels(others, size)
        assert torch.equal(decode_pixels(others, size, cache=tmp_path), expected)
        assert len(list(tmp_path.iterdir())) == before + 1


def test_the_cache_notices_a_file_that_changed(tmp_path):
    folder = folder_of(tmp_path / "pictures")
    rows = load_pairs(folder)["train"]
    before = decode_pixels(rows, 8, cache=tmp_path / "cache")
    picture(folder / rows[0]["image_id"], "white", size=(30, 20))
    after = decode_pixels(rows, 8, cache=tmp_path / "cache")
    assert not torch.equal(before, after) and torch.equal(after, decode_pixels(rows, 8))


DAMAGE = {
    "empty": lambda content: b"",
    "cut in its header": lambda content: content[:50],
    "cut in its pixels": lambda content: content[:-1],
    "not an array": lambda content: b"x" * len(content),
    "of an older shape": lambda content: content.replace(b"(12, 3, 8, 8)", b"(12, 8, 8, 3)"),
    "of floats": lambda content: content.replace(b"|u1", b"<f4"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_cache_is_made_again(damage, tmp_path):
    rows = coloured_rows()
    expected = decode_pixels(rows, 8, cache=tmp_path).clone()
    (file,) = tmp_path.iterdir()
    whole = file.read_bytes()
    file.write_bytes(DAMAGE[damage](whole))
    assert file.read_bytes() != whole
    assert torch.equal(decode_pixels(rows, 8, cache=tmp_path), expected)
    assert file.read_bytes() == whole and len(list(tmp_path.iterdir())) == 1


def test_a_cache_holds_its_pixels_against_writers(tmp_path):
    rows = coloured_rows()
    first = decode_pixels(rows, 8, cache=tmp_path)
    expected = first.clone()
    first.zero_()  # a mapping of its own: neither the file nor another reader sees it
    assert torch.equal(decode_pixels(rows, 8, cache=tmp_path), expected)


def test_two_processes_may_fill_one_cache_at_once(tmp_path):
    rows = coloured_rows(60)
    expected = decode_pixels(rows, 8)

    def fill():
        assert torch.equal(decode_pixels(rows, 8, cache=tmp_path), expected)

    assert in_processes(fill, fill, fill) == [0, 0, 0]
    assert len(list(tmp_path.iterdir())) == 1
    fill()


@pytest.mark.parametrize("images", [0, 1, 7, 11])
def test_a_cache_survives_a_kill(images, tmp_path, monkeypatch):
    rows = coloured_rows()
    done = []

    def killed_at(image, size):
        if len(done) == images:
            os.kill(os.getpid(), signal.SIGKILL)
        done.append(image)
        return square(image, size)

    def fill():
        monkeypatch.setattr("distilclip.data.square", killed_at)
        decode_pixels(rows, 8, cache=tmp_path)

    assert in_processes(fill) == [-signal.SIGKILL]
    assert not list(tmp_path.glob("[!.]*"))  # nothing that a later run would trust
    assert torch.equal(decode_pixels(rows, 8, cache=tmp_path), decode_pixels(rows, 8))


def test_a_full_disk_is_an_error_before_the_first_pixel(tmp_path, monkeypatch):
    def full(handle, start, length):
        assert length >= 12 * 3 * 8 * 8
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full)
    monkeypatch.setattr("distilclip.data.fill_pixels", None)
    with pytest.raises(OSError, match="No space left"):
        decode_pixels(coloured_rows(), 8, cache=tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_broken_image_is_named_and_leaves_no_cache(tmp_path):
    folder = folder_of(tmp_path / "pictures")
    whole = (folder / "p4.png").read_bytes()
    (folder / "p4.png").write_bytes(whole[: len(whole) // 2])
    pairs = load_pairs(folder)
    split = next(s for s in pairs.values() if "p4.png" in s["image_id"])
    with pytest.raises(ValueError, match=r"Cannot decode the image 'p4\.png'"):
        decode_pixels(split, 16, cache=tmp_path / "cache")
    assert not list((tmp_path / "cache").iterdir())


# Batches


def test_a_drawn_caption_is_one_of_the_images_own():
    captions = [["a", "b"], ["c"], ["b", "d", "e"]]
    pairs = TrainingPairs(torch.zeros(3, 3, 2, 2, dtype=torch.uint8), captions)
    seen = set()
    for step in range(60):
        batch = pairs.draw(torch.arange(3), seeded(0, step))
        drawn = [pairs.captions[i] for i in batch.caption_ids]
        seen.update(zip(range(3), drawn, strict=True))
        for row, own in enumerate(captions):
            assert batch.positives[row].tolist() == [text in own for text in drawn]
        assert batch.positives.diagonal().all()
    assert seen == {(row, text) for row, own in enumerate(captions) for text in own}


def test_captions_of_like_length_are_drawn_as_often_and_padded_less():
    rows = draw_scenes(64, "lengths", image_size=8)
    pairs = TrainingPairs(torch.zeros(64, 3, 8, 8), [row["captions"] for row in rows])
    lengths = torch.tensor(list(map(len, pairs.captions))).float()
    everyone, counts, waste = torch.arange(64), Counter(), Counter()
    for step in range(400):
        for like_length in (False, True):
            batch = pairs.draw(everyone, seeded(step), like_length)
            assert batch.positives.diagonal().all()  # each caption is its image's own
            drawn = lengths[batch.caption_ids]
            waste[like_length] += 1 - (drawn.mean() / drawn.max()).item()
        counts.update(zip(everyone.tolist(), batch.caption_ids.tolist(), strict=True))
    assert waste[True] < 0.5 * waste[False]
    for row, captions in enumerate(rows):
        for text in set(captions["captions"]):
            share = counts[row, pairs.captions.index(text)] / 400
            assert share == pytest.approx(captions["captions"].count(text) / 5, abs=0.08)


@pytest.mark.parametrize("like_length", [False, True])
@pytest.mark.parametrize("each", [1, 2, 3, 5])
def test_several_captions_of_a_picture_are_others_each_time_and_drawn_alike(each, like_length):
    captions = [["a", "bb"], ["c"], list("defgh"), ["aaa", "bb", "i", "jj", "k", "ll", "m"]]
    pairs = TrainingPairs(torch.zeros(4, 3, 2, 2, dtype=torch.uint8), captions)
    counts, everyone = Counter(), torch.arange(4)
    for step in range(600):
        batch = pairs.draw(everyone, seeded(step), like_length, each)
        drawn = [pairs.captions[i] for i in batch.caption_ids]
        for row, own in enumerate(captions):
            its_own = drawn[row * each : (row + 1) * each]
            assert set(its_own) <= set(own)
            assert len(set(its_own)) == min(each, len(own))
            assert batch.positives[row].tolist() == [text in own for text in drawn]
            counts.update((row, text) for text in its_own)
    for row, own in enumerate(captions):
        for text in own:
            assert counts[row, text] / 600 == pytest.approx(each / len(own), rel=0.3)


def test_a_draw_just_below_one_is_the_last_caption(monkeypatch):
    pairs = TrainingPairs(torch.zeros(1, 3, 2, 2, dtype=torch.uint8), [list("abcde")])
    monkeypatch.setattr(torch, "rand", lambda *size, **_: torch.full(size, 1 - 2**-24))
    assert pairs.draw(torch.arange(1), seeded(0), each=5).caption_ids.tolist() == [0, 1, 2, 3, 4]


def test_like_length_draws_only_captions_that_are_there():
    pairs = TrainingPairs(torch.zeros(2, 1, 1, 1), [["aaa", "b"], ["cc"]])
    drawn = {
        tuple(pairs.draw(torch.arange(2), seeded(n), True).caption_ids.tolist()) for n in range(20)
    }
    assert {tuple(pairs.captions[i] for i in ids) for ids in drawn} == {("b", "cc"), ("aaa", "cc")}


def test_epochs_are_shuffled_and_follow_from_the_seed():
    pairs = TrainingPairs(torch.zeros(10, 1, 1, 1), [[str(n)] for n in range(10)])
    first = torch.cat(list(pairs.epoch(3, seed=5, epoch=0)))
    assert len(first) == 9 and len(set(first.tolist())) == 9
    assert torch.equal(first, torch.cat(list(pairs.epoch(3, seed=5, epoch=0))))
    assert not torch.equal(first, torch.cat(list(pairs.epoch(3, seed=5, epoch=1))))
    assert not torch.equal(first, torch.cat(list(pairs.epoch(3, seed=6, epoch=0))))


def test_augmentation_of_strength_zero_is_the_identity():
    pixels = torch.randint(0, 256, (3, 3, 16, 16), dtype=torch.uint8)
    same = augment(pixels, seeded(0), shift=0, scale=0, turn=0, colour=0, grey=0)
    assert (same - pixels / 255).abs().max() < 1e-3


def test_augmentation_is_seeded_bounded_and_different_for_each_image():
    pixels = torch.randint(0, 256, (1, 3, 16, 16), dtype=torch.uint8).expand(4, -1, -1, -1)
    views = augment(pixels, seeded(1), flip=True)
    assert views.shape == (4, 3, 16, 16) and views.min() >= 0 and views.max() <= 1
    assert torch.equal(views, augment(pixels, seeded(1), flip=True))
    assert all((views[0] - other).abs().mean() > 0.01 for other in views[1:])


def test_grey_views_have_no_colour():
    pixels = torch.randint(0, 256, (2, 3, 8, 8), dtype=torch.uint8)
    views = augment(pixels, seeded(0), colour=0, grey=1)
    assert (views - views.mean(1, keepdim=True)).abs().max() < 1e-5


def test_restyling_by_nothing_is_the_identity():
    images = torch.rand(5, 3, 16, 16, generator=seeded(1))
    assert torch.equal(restyle(images, seeded(2), texture=0, shade=0), images)


def test_texture_is_a_blend_with_a_convolution_of_the_image_s_own():
    images = torch.rand(4, 3, 16, 16, generator=seeded(1))
    views = restyle(images, seeded(2), texture=1, shade=0)
    generator = seeded(2)
    kernels = torch.randn(4, 3, 3, 3, 3, generator=generator) / 27**0.5
    blend = 0.6 * torch.rand(4, generator=generator)
    for image, view, kernel, share in zip(images, views, kernels, blend, strict=True):
        padded = F.pad(image[None] - 0.5, (1, 1, 1, 1), mode="replicate")
        other = F.conv2d(padded, kernel)[0] + 0.5
        torch.testing.assert_close(view, ((1 - share) * image + share * other).clamp(0, 1))


def test_texture_is_given_to_a_share_and_a_seed_decides_which():
    images = torch.rand(200, 3, 8, 8, generator=seeded(1))
    views = restyle(images, seeded(3), texture=0.25, shade=0)
    changed = (views != images).flatten(1).any(dim=1)
    assert 30 <= changed.sum() <= 70
    assert torch.equal(views, restyle(images, seeded(3), texture=0.25, shade=0))


def test_shade_is_smooth_bounded_and_leaves_white_alone():
    images = torch.full((6, 3, 32, 32), 0.5)
    images[:, :, :, :16] = 1.0
    views = restyle(images, seeded(4), texture=0, shade=0.2)
    assert torch.equal(views[:, :, :, :16], images[:, :, :, :16])
    light = views[:, :, :, 16:] - 0.5
    assert torch.equal(light[:, 0], light[:, 2])  # the same for every colour
    assert 0.02 < light.abs().max() < 0.3
    assert light.diff(dim=-2).abs().max() < 0.06  # from one pixel to the next
    assert len({light[i].mean().item() for i in range(6)}) == 6


def test_crops_keep_what_they_say_and_nothing_else_moves():
    ramp = torch.linspace(0, 255, 64).expand(64, 64)
    places = torch.stack([ramp, ramp.T, ramp]).to(torch.uint8).expand(300, -1, -1, -1)
    crops = random_crops(places, seeded(0), scale=0.4)
    assert crops.shape == places.shape and 0 <= crops.min() <= crops.max() <= 1
    spans = crops[:, :2].amax(dim=(2, 3)) - crops[:, :2].amin(dim=(2, 3))
    area, ratio = spans.prod(dim=1), spans[:, 0] / spans[:, 1]
    assert 0.36 < area.min() < 0.45 and 0.9 < area.max() < 1.01
    assert 0.7 < ratio.min() < 0.8 and 1.25 < ratio.max() < 1.4
    steps = crops[:, 0].diff(dim=-1)  # columns stay in order, at equal distances
    assert (steps > -0.01).all() and (crops[:, 0].std(dim=1) < 0.01).all()


@pytest.mark.parametrize("size", [1, 7, 32])
def test_a_crop_of_everything_is_the_picture(size):
    pixels = torch.randint(0, 256, (4, 3, size, size), dtype=torch.uint8, generator=seeded(1))
    torch.testing.assert_close(
        random_crops(pixels, seeded(0), scale=1.0), pixels.float() / 255, atol=1e-4, rtol=0
    )


def test_views_after_crops_are_those_of_floats():
    pixels = torch.randint(0, 256, (4, 3, 16, 16), dtype=torch.uint8, generator=seeded(1))
    options = {"texture": 0.5, "shade": 0.3}
    whole = augment(pixels, seeded(0), **options)
    assert torch.equal(augment(pixels.float() / 255, seeded(0), **options), whole)


def test_options_that_are_not_given_or_no_text(tmp_path):
    for number in range(4):
        Image.new("RGB", (8, 8), (number, 0, 0)).save(tmp_path / f"{number}.png")
    lines = [f"{number}.png\tnumber {number}" for number in range(4)]
    (tmp_path / "x.csv").write_text("\n".join(["image\tcaption", *lines]) + "\n")
    options = ("image_column", "caption_column", "split_column", "delimiter")
    for nothing in (None, ""):
        pairs = load_pairs(tmp_path / "x.csv", **dict.fromkeys(options, nothing))
        assert sum(map(len, pairs.values())) == 4
    for option in options:
        with pytest.raises(ValueError, match="delimiter must" if option == "delimiter" else option):
            load_pairs(tmp_path / "x.csv", **{option: 3})
    with pytest.raises(ValueError, match=r"caption_column must be a text.*got 3"):
        load_pairs(tmp_path / "x.csv", caption_column=["caption", 3])
    for name in ("TAB", "\\t", "\t"):
        assert sum(map(len, load_pairs(tmp_path / "x.csv", delimiter=name).values())) == 4
    with pytest.raises(ValueError, match=r"one character, or tab, .*semicolon.*got 'dots'"):
        load_pairs(tmp_path / "x.csv", delimiter="dots")


@pytest.mark.parametrize("name", ["", "  "])
def test_no_name_is_not_the_current_folder(name):
    with pytest.raises(ValueError, match="Unknown data source"):
        load_pairs(name)

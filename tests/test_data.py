"""Every source gives the same columns, captions keep their owners, and bad input is named."""

import csv
import errno
import json
import multiprocessing
import os
import signal
from collections import Counter

import datasets
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from distilclip import augment, load_pairs
from distilclip.data import (
    TrainingPairs,
    decode_pixels,
    normalise_pixels,
    pixels_of,
    restyle,
    seeded,
    square,
    to_rgb,
)
from distilclip.scenes import HELD_OUT, draw_scenes
from distilclip.sources import load_scenes, with_all_splits

COLUMNS = {"image", "captions", "image_id"}


def picture(path, colour="red", size=(20, 30)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path)
    return path


def folder_of(path, count=12):
    for number in range(count):
        picture(path / f"p{number}.png", (20 * number, 0, 0))
        (path / f"p{number}.txt").write_text(f"picture {number}\nanother of {number}\n")
    return path


# The embedded data set


@pytest.fixture(scope="module")
def emoji():
    return load_pairs("emoji")


def test_emoji_has_real_pictures_and_captions(emoji):
    assert set(emoji) == {"train", "validation", "test", "test_concepts"}
    assert COLUMNS | {"style", "emoji"} <= set(emoji["train"].column_names)
    row = emoji["test"][0]
    assert row["image"].size == (64, 64) and row["image"].mode == "RGB"
    assert np.asarray(row["image"]).std() > 10
    for split in emoji.values():
        assert all(2 <= len(c) <= 5 and all(map(str.strip, c)) for c in split["captions"])
        assert len(set(split["image_id"])) == len(split)


def test_emoji_styles_do_not_leak(emoji):
    styles = {"noto", "twemoji", "openmoji", "blob", "emojione"}
    assert set(emoji["train"]["style"]) == styles
    assert set(emoji["test"]["style"]) == set(emoji["test_concepts"]["style"]) == {"fluent"}
    assert set(emoji["test"]["emoji"]) <= set(emoji["train"]["emoji"])
    train = set(zip(emoji["train"]["emoji"], emoji["train"]["style"], strict=True))
    assert train.isdisjoint(
        zip(emoji["validation"]["emoji"], emoji["validation"]["style"], strict=True)
    )


def test_emoji_concepts_do_not_leak(emoji):
    seen = set(emoji["train"]["emoji"]) | set(emoji["validation"]["emoji"])
    unseen = set(emoji["test_concepts"]["emoji"])
    assert len(unseen) > 100 and unseen.isdisjoint(seen)
    said = {text for texts in emoji["train"]["captions"] for text in texts}
    assert said.isdisjoint(t for texts in emoji["test_concepts"]["captions"] for t in texts)


def test_emoji_captions_belong_to_one_concept(emoji):
    owner = {}
    for split in emoji.values():
        for character, captions in zip(split["emoji"], split["captions"], strict=True):
            for text in captions:
                assert owner.setdefault(text, character) == character


# Scenes


def test_scenes_are_seeded_and_described():
    first, again = load_scenes(20, 5), load_scenes(20, 5)
    for split in first:
        assert first[split]["captions"] == again[split]["captions"]
        assert all(len(set(captions)) == 5 for captions in first[split]["captions"])
    image, other = (np.asarray(s["train"][3]["image"]) for s in (first, again))
    assert (image == other).all()
    assert load_scenes(20, 5, seed=1)["train"]["captions"] != first["train"]["captions"]


def test_held_out_combinations_are_only_in_their_split():
    for split, rows in load_scenes(300, 60).items():
        for first, second in zip(rows["first"], rows["second"], strict=True):
            held = {tuple(name.split()[1:]) for name in (first, second)} & HELD_OUT
            assert bool(held) == (split == "test_combinations")


def test_a_scene_shows_what_it_says():
    colour = {"red": (214, 39, 40), "blue": (31, 90, 200)}
    for row in load_scenes(400, 1)["train"]:
        names = row["first"].split()[1], row["second"].split()[1]
        if set(names) != {"red", "blue"}:
            continue
        pixels = np.asarray(row["image"]).astype(int)
        axis = 1 if row["relation"] == "left of" else 0
        places = [
            np.argwhere(abs(pixels - colour[name]).sum(-1) < 20)[:, axis].mean() for name in names
        ]
        assert places[0] < places[1]


# Folders


def test_drawn_splits_are_a_tenth_each():
    """Of 3,000 ids, and whichever of the two splits is missing; binomial, so 300 ± 50."""
    ids = [f"p{n}.png" for n in range(3000)]
    whole = datasets.Dataset.from_dict({"image_id": ids})
    both = with_all_splits(datasets.DatasetDict(train=whole), "x")
    assert all(250 < len(both[split]) < 350 for split in ("validation", "test"))
    assert sorted(name for rows in both.values() for name in rows["image_id"]) == sorted(ids)
    one = with_all_splits(datasets.DatasetDict(train=whole, test=both["test"]), "x")
    assert list(one["validation"]["image_id"]) == list(both["validation"]["image_id"])
    none = with_all_splits(datasets.DatasetDict(both), "x")
    assert {split: len(rows) for split, rows in none.items()} == {s: len(both[s]) for s in both}


def test_a_folder_with_text_files(tmp_path):
    pairs = load_pairs(folder_of(tmp_path / "a" / "b").parent)
    assert all(map(len, pairs.values())) and len(pairs["train"]) >= 6
    ids = [i for split in pairs.values() for i in split["image_id"]]
    assert sorted(ids) == sorted(f"b/p{n}.png" for n in range(12))
    row = pairs["train"][0]
    assert set(row) == COLUMNS and row["image"].size == (20, 30)
    number = row["image_id"][3:-4]
    assert row["captions"] == [f"picture {number}", f"another of {number}"]
    assert load_pairs(tmp_path / "a")["test"]["image_id"] == pairs["test"]["image_id"]


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_a_folder_with_metadata_and_splits(tmp_path, kind):
    for split in ("train", "validation", "test"):
        rows = [
            {"file_name": "x/1.png", "text": "one, two"},
            {"file_name": "2.png", "text": "three"},
        ]
        for row in rows:
            picture(tmp_path / split / row["file_name"])
        if kind == "csv":
            with open(tmp_path / split / "metadata.csv", "w", newline="") as file:
                writer = csv.DictWriter(file, ["file_name", "text"])
                writer.writeheader()
                writer.writerows(rows)
        else:
            lines = "\n".join(json.dumps(row) for row in rows)
            (tmp_path / split / "metadata.jsonl").write_text(lines)
    pairs = load_pairs(tmp_path)
    assert pairs["test"]["captions"] == [["one, two"], ["three"]]
    assert pairs["test"]["image_id"] == ["test/x/1.png", "test/2.png"]


def test_metadata_with_several_captions(tmp_path):
    rows = [{"file_name": f"{n}.png", "captions": ["a", f"b {n}"]} for n in range(4)]
    for row in rows:
        picture(tmp_path / row["file_name"])
    (tmp_path / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert load_pairs(tmp_path)["train"][0]["captions"][0] == "a"


BAD_METADATA = [
    ("file_name,text\n../secret.png,no\n", ValueError, "lies outside"),
    ("file_name,text\nabsent.png,no\n", FileNotFoundError, "does not exist"),
    ("file_name,text\np0.png,\n", ValueError, "Empty caption: entry 1"),
    ("file_name,title\np0.png,no\n", ValueError, "No caption in entry 1"),
    ("name,text\np0.png,no\n", ValueError, "No file_name in entry 1"),
]


@pytest.mark.parametrize(("text", "error", "message"), BAD_METADATA)
def test_bad_metadata_is_named(tmp_path, text, error, message):
    picture(tmp_path / "secret.png")
    folder = folder_of(tmp_path / "pictures")
    (folder / "metadata.csv").write_text(text)
    with pytest.raises(error, match=message):
        load_pairs(folder)


def test_metadata_must_be_utf8(tmp_path):
    folder = folder_of(tmp_path)
    (folder / "metadata.csv").write_bytes(b"file_name,text\np0.png,caf\xe9\n")
    with pytest.raises(ValueError, match="is not UTF-8"):
        load_pairs(folder)


def test_an_empty_folder_is_refused(tmp_path):
    with pytest.raises(ValueError, match="No captioned pictures"):
        load_pairs(tmp_path)


def test_a_picture_without_captions_is_refused(tmp_path):
    folder = folder_of(tmp_path)
    (folder / "p3.txt").unlink()
    with pytest.raises(ValueError, match=r"p3\.png has no captions"):
        load_pairs(folder)
    (folder / "p3.txt").write_text(" \n")
    with pytest.raises(ValueError, match="Empty caption"):
        load_pairs(folder)


def test_too_few_pictures_to_split_are_refused(tmp_path):
    with pytest.raises(ValueError, match="has 2 captioned pictures; at least 3"):
        load_pairs(folder_of(tmp_path, 2))


@pytest.mark.parametrize("name", ["emojis", "./nowhere", "/nowhere/at/all", ""])
def test_unknown_sources_are_refused(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=r"Unknown data source|No captioned pictures"):
        load_pairs(name)


# The layouts of the Hub


def test_the_layout_of_flickr8k(tmp_path):
    (tmp_path / "data").mkdir()
    for split, count in (("train", 6), ("validation", 2), ("test", 2)):
        rows = {f"caption_{c}": [f"{split} {n} {c}" for n in range(count)] for c in range(5)}
        rows["image"] = [Image.new("RGB", (50, 40), (n, 0, 0)) for n in range(count)]
        datasets.Dataset.from_dict(rows).cast_column("image", datasets.Image()).to_parquet(
            tmp_path / "data" / f"{split}-00000-of-00001.parquet"
        )
    pairs = load_pairs(tmp_path)
    assert [len(pairs[s]) for s in ("train", "validation", "test")] == [6, 2, 2]
    assert set(pairs["train"].column_names) == COLUMNS
    assert pairs["test"][1]["captions"] == [f"test 1 {c}" for c in range(5)]


def test_the_layout_of_naruto(tmp_path):
    (tmp_path / "data").mkdir()
    rows = {
        "image": [Image.new("RGB", (50, 40), (n, 0, 0)) for n in range(20)],
        "text": [f"a man number {n}" for n in range(20)],
    }
    datasets.Dataset.from_dict(rows).cast_column("image", datasets.Image()).to_parquet(
        tmp_path / "data" / "train-00000-of-00001.parquet"
    )
    pairs = load_pairs(tmp_path)
    assert all(map(len, pairs.values())) and len(pairs["train"]) >= 10
    for split in pairs.values():
        for row in split:
            assert row["captions"] == [f"a man number {row['image'].getpixel((0, 0))[0]}"]
    ids = [i for split in pairs.values() for i in split["image_id"]]
    assert sorted(ids) == sorted(f"train/{n}" for n in range(20))  # each picture in one split
    again = load_pairs(tmp_path)
    assert all(again[s]["image_id"][:] == pairs[s]["image_id"][:] for s in pairs)


@pytest.mark.parametrize(
    ("name", "hub_id", "sizes"),
    [
        ("flickr8k", "jxie/flickr8k", [6, 3, 3]),
        ("naruto", "lambda/naruto-blip-captions", [8, 1, 1]),
        ("someone/anything", "someone/anything", [8, 1, 1]),
    ],
)
def test_the_names_of_the_hub_sources(name, hub_id, sizes, monkeypatch):
    def columns(count):
        texts = [f"number {n}" for n in range(count)]
        captions = (
            {f"caption_{c}": texts for c in range(5)} if name == "flickr8k" else {"text": texts}
        )
        rows = {"image": [Image.new("RGB", (5, 5))] * count, **captions}
        return datasets.Dataset.from_dict(rows).cast_column("image", datasets.Image())

    def on_the_hub(asked):
        assert asked == hub_id
        if name != "flickr8k":
            return datasets.DatasetDict(train=columns(10))
        return datasets.DatasetDict(train=columns(6), validation=columns(3), test=columns(3))

    monkeypatch.setattr(datasets, "load_dataset", on_the_hub)
    pairs = load_pairs(name)
    assert [len(pairs[s]) for s in ("train", "validation", "test")] == sizes
    assert all(len(c) == (5 if name == "flickr8k" else 1) for c in pairs["test"]["captions"])


# Pixels


def test_images_become_upright_rgb_on_white():
    clear = Image.new("RGBA", (4, 4), (255, 0, 0, 0))
    assert to_rgb(clear).getpixel((0, 0)) == (255, 255, 255)
    deep = Image.fromarray(np.full((4, 4), 65535, np.uint16))
    assert to_rgb(deep).getpixel((0, 0)) == (255, 255, 255)
    tall = Image.new("RGB", (2, 6), "red")
    tall.getexif()[0x0112] = 6  # turned by a quarter
    assert to_rgb(tall).size == (6, 2)
    for mode in ("1", "L", "P", "CMYK", "LA", "F"):
        assert to_rgb(Image.new(mode, (3, 3))).mode == "RGB"


@pytest.mark.parametrize("size", [(1, 1), (2000, 3), (5, 900), (33, 32)])
def test_any_size_becomes_a_square(size):
    assert square(Image.new("RGB", size), 16).size == (16, 16)


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


def in_processes(*tasks):
    """Run each task in a forked process; their exit codes, negative for a signal."""
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=task) for task in tasks]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    return [process.exitcode for process in processes]


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


def test_normalising_bytes_is_normalising_what_they_stand_for():
    pixels = torch.arange(48, dtype=torch.uint8).view(1, 3, 4, 4) * 5
    mean, std = (0.4, 0.5, 0.6), (0.2, 0.3, 0.4)
    expected = normalise_pixels(pixels.float() / 255, mean, std)
    assert torch.equal(normalise_pixels(pixels, mean, std), expected)
    assert pixels.dtype == torch.uint8 and pixels.max() == 235  # not changed themselves

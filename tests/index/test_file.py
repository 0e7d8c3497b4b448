"""An index survives saving, moving and kills, and belongs to the model that made it."""

import json
import os
import random
import signal
import time

import pytest
import safetensors.torch
import torch
from child_processes import in_a_child_that_dies
from PIL import Image

from distilclip import DistilCLIP, ImageIndex
from distilclip.command.gallery import write_gallery
from distilclip.command.index_cache import folder_index, index_file
from distilclip.index.file import image_side_key, write_index


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
    with pytest.raises(ValueError, match="was made by another model, or by a version"):
        ImageIndex.load(other, tmp_path / "index")
    assert index_file(other, pictures) != index_file(small_model, pictures)


def test_any_cut_of_an_index_is_refused(small_model, pictures, tmp_path):
    ImageIndex.from_folder(small_model, pictures).save(tmp_path / "whole")
    content = (tmp_path / "whole").read_bytes()
    for length in range(0, len(content), 7):
        (tmp_path / "cut").write_bytes(content[:length])
        with pytest.raises(ValueError, match="is not an index, or is damaged"):
            ImageIndex.load(small_model, tmp_path / "cut")


@pytest.mark.slow
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
    # On a busy machine most die too late or too early: go on until enough died in between
    while len(found) < 40 or (killed < 10 and len(found) < 400):
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
    owner = safetensors.torch if step == "save_file" else os
    name = step.removeprefix("os.")
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


def test_any_table_that_is_not_of_the_model_is_refused_and_made_anew(small_model, pictures):
    """Of another width or type, of other lengths, with names or stamps of any kind."""
    whole = folder_index(small_model, pictures).index
    file, key = index_file(small_model, pictures), image_side_key(small_model)
    embeds = whole.embeds
    entries = {"names": whole.names, "stamps": [None] * 3, "folder": None}
    strange = [(embeds[:, :5].clone(), {}), (torch.cat([embeds, embeds], 1), {})]
    strange += [(embeds.to(kind), {}) for kind in (torch.float16, torch.int64, torch.complex64)]
    strange += [(embeds * float("nan"), {}), (embeds.flatten(), {})]
    for value in (None, 5, "abc", [1, 2, 3], [[], [], []], {}, [None], ["a"], [["x"]] * 3):
        strange += [(embeds, {"names": value})] if value != "abc" else []
        if value not in ([None] * 3, [[], [], []]):
            strange.append((embeds, {"stamps": value}))
    strange.append((embeds, {"folder": ["x"]}))
    for table, changes in strange:
        write_index(file, table, entries | changes, key)
        with pytest.raises(ValueError, match="damaged"):
            ImageIndex.load(small_model, file)
        assert folder_index(small_model, pictures).done == "3 pictures: 3 embedded, 0 forgotten"


def test_an_index_whose_header_or_bytes_have_changed_is_refused(small_model, pictures, tmp_path):
    """Also where what is there would be an index: it would find other pictures."""
    file = tmp_path / "index"
    ImageIndex.from_folder(small_model, pictures).save(file)
    good = file.read_bytes()
    length = int.from_bytes(good[:8], "little")
    header, body = json.loads(good[8 : 8 + length]), good[8 + length :]
    embeds = header["embeds"]
    changes = [{"shape": [embeds["shape"][0] - 1, embeds["shape"][1]]}, {"dtype": "I32"}]
    for change in changes:
        text = json.dumps(header | {"embeds": embeds | change}).encode()
        file.write_bytes(len(text).to_bytes(8, "little") + text + body)
        with pytest.raises(ValueError, match="damaged"):
            ImageIndex.load(small_model, file)
    for place in range(0, len(body), 97):
        flipped = bytearray(good)
        flipped[8 + length + place] ^= 1
        file.write_bytes(flipped)
        with pytest.raises(ValueError, match="its checksum says that it has changed"):
            ImageIndex.load(small_model, file)


def test_a_link_to_itself_is_replaced_by_the_index(small_model, pictures, tmp_path):
    file = tmp_path / "index"
    file.symlink_to(file)
    index = ImageIndex.from_folder(small_model, pictures)
    index.save(file)
    assert ImageIndex.load(small_model, file).names == index.names

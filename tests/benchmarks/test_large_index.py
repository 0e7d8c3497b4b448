"""The benchmark of large indexes finds what it hid, and refuses an index that lacks pictures."""

import large_index
import pytest

from distilclip import DistilCLIP
from distilclip.command.index_cache import folder_index


@pytest.fixture(scope="module")
def model():
    return DistilCLIP.from_pretrained("emoji")


@pytest.fixture(autouse=True)
def one_model(model, monkeypatch):
    monkeypatch.setattr(DistilCLIP, "from_pretrained", lambda name: model)


def test_a_saved_index_is_loaded_and_each_vector_finds_itself(tmp_path):
    file = tmp_path / "index.safetensors"
    for step, figures in (("save", {"save"}), ("load", {"load", "search"})):
        line = large_index.in_this_process(step, 300, file)
        assert line.keys() == figures | {"peak_gib"} and line["peak_gib"] > 0.1


@pytest.mark.parametrize("lost", [0, 1])
def test_kept_and_resumed_pictures_make_the_whole(model, monkeypatch, lost):
    def search(folder, cache, stop_when_saved=False):
        with monkeypatch.context() as patched:
            patched.setenv("XDG_CACHE_HOME", str(cache))
            if not stop_when_saved:
                done = folder_index(model, folder, progress=False).done
                return {"embedded": int(done.split(": ")[1].split()[0]) - lost}
            rest = [file.rename(file.with_suffix(".away")) for file in folder.rglob("*3*.jpg")]
            folder_index(model, folder, progress=False)
            for file in rest:
                file.rename(file.with_suffix(".jpg"))
            return {"embedded": 0}

    monkeypatch.setattr(large_index, "search", search)
    if lost:
        with pytest.raises(AssertionError, match="pictures"):
            large_index.measure_folder(24)
    else:
        line = large_index.measure_folder(24)
        resumed = line["searches"]["resumed"]["embedded"]
        assert 0 < line["kept_when_killed"] == 24 - resumed < 24

"""COCO's captions and Karpathy's splits are read right, and what they lack is named."""

import json

import pytest
from samples import folder_of, picture

from distilclip.sources import coco
from distilclip.sources.entries import Asked

OWN_READERS = (
    (coco.recognises_coco, coco.read_coco),
    (coco.recognises_karpathy, coco.read_karpathy),
)


def read(path, **asked):
    """The captions and the split of each picture, by the one reader that takes the source."""
    readers = [reader for recognises, reader in OWN_READERS if recognises(path)]
    assert readers
    return {e.image_id: (e.captions, e.split) for e in readers[0](path, Asked(**asked))}


def name_of(number):
    return f"{number:012}.jpg"


def coco(path, split="train2017", numbers=range(3), folder=None, where="annotations", start=""):
    """COCO's file of one split, with two captions a picture, the second ones at the end."""
    for number in numbers:
        picture(path / (folder or split) / name_of(number), (20 * number, 0, 0))
    content = {
        "info": {"year": 2017},
        "licenses": [],
        "images": [
            {"license": 1, "file_name": name_of(n), "coco_url": "http://x/1.jpg", "id": n}
            for n in numbers
        ],
        "annotations": [
            {"image_id": n, "id": 10 * n + k, "caption": f'caption {k} of "{n}", é\n'}
            for k in range(2)
            for n in numbers
        ],
    }
    (path / where).mkdir(exist_ok=True, parents=True)
    file = path / where / f"captions_{split}.json"
    file.write_text(start + json.dumps(content), encoding="utf-8")
    return file


def expected(split, numbers, folder=None):
    captions = {n: [f'caption {k} of "{n}", é' for k in range(2)] for n in numbers}
    return {f"{folder or split}/{name_of(n)}": captions[n] for n in numbers}


@pytest.mark.parametrize("folder", ["{}", "images/{}", "images", "Images"])
@pytest.mark.parametrize("where", ["annotations", "annotations_trainval2017/annotations", "."])
def test_several_files_beside_their_pictures(tmp_path, folder, where):
    coco(tmp_path, "train2017", range(3), folder.format("train2017"), where)
    coco(tmp_path, "val2017", range(3, 5), folder.format("val2017"), where, start="\ufeff")
    (tmp_path / where / "instances_train2017.json").write_text("{}")
    found = read(tmp_path)
    wanted = {
        **expected("train2017", range(3), folder.format("train2017")),
        **expected("val2017", range(3, 5), folder.format("val2017")),
    }
    assert {name: captions for name, (captions, _) in found.items()} == wanted
    assert [split for _, split in found.values()] == ["train"] * 3 + ["val"] * 2


def test_one_file_that_the_user_names(tmp_path):
    coco(tmp_path, "train2017", range(3))
    file = coco(tmp_path, "val2014", range(3, 5), where="annotations_trainval2014/annotations")
    assert {split for _, split in read(file).values()} == {"val"} and len(read(file)) == 2


def test_a_name_that_says_no_split(tmp_path):
    file = coco(tmp_path, "mine", folder="images")
    assert {split for _, split in read(tmp_path).values()} == {""}
    coco(tmp_path, "val2017", range(3, 5))
    with pytest.raises(ValueError, match=r"captions_mine\.json says no split"):
        read(tmp_path)
    assert len(read(file)) == 3


def test_a_folder_of_pictures_that_is_missing_is_one_sentence(tmp_path):
    coco(tmp_path, "val2017", range(3, 5))
    file = coco(tmp_path, "train2017")
    for path in (tmp_path / "train2017").iterdir():
        path.unlink()
    with pytest.raises(
        FileNotFoundError, match=r"None of the 3 pictures that .* Put a folder train2017"
    ):
        read(tmp_path)
    skipped = []
    assert len(read(tmp_path, skipped=skipped)) == 2 and len(skipped) == 1
    assert str(file) in skipped[0]


def test_single_pictures_that_are_missing(tmp_path):
    coco(tmp_path, numbers=range(4))
    for number in (0, 2):
        (tmp_path / "train2017" / name_of(number)).unlink()
    with pytest.raises(FileNotFoundError, match=name_of(0)):
        read(tmp_path)
    skipped = []
    assert len(read(tmp_path, skipped=skipped)) == 2 and len(skipped) == 2


def test_what_has_no_caption_is_counted(tmp_path, caplog):
    file = coco(tmp_path)
    content = json.loads(file.read_text())
    content["images"].append({"id": 77, "file_name": "no_caption.jpg"})
    file.write_text(json.dumps(content))
    picture(tmp_path / "train2017" / "not_named.jpg", "blue")
    assert len(read(tmp_path)) == 3
    assert "Left out 1 picture, without a caption in" in caplog.text
    assert "not_named.jpg" in caplog.text


def change(content, case):
    """Put one fault into COCO's content -> what the message names."""
    image, annotation = content["images"][0], content["annotations"][0]
    if case == "no name":
        del image["file_name"]
        return "Image 1 of .* lacks an id or a file_name; it has license"
    if case == "one id twice":
        content["images"].append({**image, "file_name": "other.jpg"})
        return "The id 0 of "
    if case == "no image":
        annotation["image_id"] = 99
        return "no image with the id 99 of annotation 1"
    if case == "no caption":
        annotation["text"] = annotation.pop("caption")
        return "No caption in annotation 1 .* it has image_id, id, text"
    if case == "a number":
        annotation["caption"] = 7
        return "an int, not text: image 0"
    if case == "blank":
        content["annotations"] = [{"image_id": 0, "caption": " "}, *content["annotations"][1::3]]
        return "Empty caption: image 0"
    if case == "outside":
        image["file_name"] = "../../other.jpg"
        return "lies outside|does not exist"
    image["file_name"] = "http://somewhere/1.jpg"
    return "is an address"


@pytest.mark.parametrize(
    "case",
    ["no name", "one id twice", "no image", "no caption", "a number", "blank", "outside", "url"],
)
def test_faults_are_named(tmp_path, case):
    file = coco(tmp_path)
    content = json.loads(file.read_text())
    message = change(content, case)
    file.write_text(json.dumps(content))
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        read(tmp_path)
    skipped = []
    assert read(tmp_path, skipped=skipped) and skipped


@pytest.mark.parametrize("text", ['{"images": [', '{"images": {}}', '{"annotations": [1]}'])
def test_damaged_files_are_named(tmp_path, text):
    coco(tmp_path).write_text(text)
    with pytest.raises(ValueError, match=r"captions_train2017\.json (is damaged|has no list)"):
        read(tmp_path)


def karpathy(path, name="dataset_flickr8k.json", filepath=None, folder="Images"):
    """Karpathy's file for five pictures."""
    images = []
    for number, split in enumerate(["train", "val", "test", "restval", "train"]):
        picture(path / folder / f"{number}.jpg", (20 * number, 0, 0))
        sentences = [
            {"tokens": ["it", "s", str(k)], "raw": f"It's {k}, {number}.", "imgid": number}
            for k in range(2)
        ]
        image = {"sentids": [0, 1], "imgid": number, "sentences": sentences, "split": split}
        images.append({**image, "filename": f"{number}.jpg"})
        if filepath:
            images[-1]["filepath"] = filepath
    (path / name).write_text(json.dumps({"images": images, "dataset": "flickr8k"}))
    return images


@pytest.mark.parametrize(
    ("name", "filepath", "folder"),
    [
        ("dataset_flickr8k.json", None, "Images"),
        ("dataset_flickr8k.json", None, "Flicker8k_Dataset"),
        ("dataset_flickr30k.json", None, "flickr30k-images"),
        ("dataset_coco.json", "val2014", "val2014"),
        ("dataset_coco.json", "val2014", "images/val2014"),
        ("dataset.json", "val2014", "images"),
    ],
)
def test_karpathys_splits(tmp_path, name, filepath, folder):
    karpathy(tmp_path, name, filepath, folder)
    for source in (tmp_path, tmp_path / name):
        found = read(source)
        splits = [split for _, split in found.values()]
        assert splits == ["train", "val", "test", "restval", "train"]
        assert found[f"{folder}/3.jpg"][0] == ["It's 0, 3.", "It's 1, 3."]


def test_karpathys_sentences_without_their_text(tmp_path, caplog):
    images = karpathy(tmp_path)
    images[0]["sentences"] = [{"tokens": ["one", "dog"]}]
    images[1]["sentences"] = []
    (tmp_path / "dataset_flickr8k.json").write_text(json.dumps({"images": images}))
    found = read(tmp_path)
    assert found["Images/0.jpg"][0] == ["one dog"] and len(found) == 4
    assert "Left out 1 picture, without a caption" in caplog.text


def test_options_for_tables_are_refused(tmp_path):
    for name, write in (("a", karpathy), ("b", coco)):
        (tmp_path / name).mkdir()
        write(tmp_path / name)
        with pytest.raises(ValueError, match="names its own columns"):
            read(tmp_path / name, caption_columns=("title",))


def test_both_kinds_are_not_chosen_from(tmp_path):
    karpathy(tmp_path, "dataset_coco.json", folder="train2017")
    file = coco(tmp_path)
    with pytest.raises(ValueError, match="name one file as the source"):
        read(tmp_path)
    assert len(read(file)) == 3


def test_other_layouts_are_not_recognised(tmp_path):
    folder_of(tmp_path / "texts")
    (tmp_path / "texts" / "captions_mine.json").write_text('["a list"]')
    (tmp_path / "texts" / "dataset.json").write_text('{"labels": [["1.png", 3]]}')
    (tmp_path / "below" / "deep").mkdir(parents=True)
    coco(tmp_path / "below" / "deep")
    (tmp_path / "below" / "README").write_text("one more")
    for name in ("texts", "below", "absent", "texts/dataset.json", "texts/p1.png"):
        assert not any(recognises(tmp_path / name) for recognises, _ in OWN_READERS)

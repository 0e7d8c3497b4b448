"""Shards of captioned pictures: each picture a colour of its own, called by its number."""

import io
import tarfile

import pyarrow as pa
import pyarrow.parquet
from PIL import Image

IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def encoded(number: int) -> bytes:
    """A small PNG like no other number's."""
    file = io.BytesIO()
    colour = number % 256, number // 256, 255 - number % 256
    Image.new("RGB", (16, 16), colour).save(file, "PNG")
    return file.getvalue()


def captioned(numbers) -> list[tuple[bytes, str]]:
    return [(encoded(number), f"picture {number}") for number in numbers]


def write_tar(path, rows) -> None:
    """A tar of WebDataset: 000000.png and 000000.txt, and so on."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for number, (content, caption) in enumerate(rows):
            for suffix, data in (("png", content), ("txt", caption.encode())):
                member = tarfile.TarInfo(f"{path.stem}{number:06}.{suffix}")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))


def write_parquet(path, rows, group: int = 3, caption: str = "caption") -> None:
    """A parquet file, in groups of a few rows."""
    path.parent.mkdir(parents=True, exist_ok=True)
    images = pa.array([{"bytes": content, "path": None} for content, _ in rows], IMAGE)
    texts = pa.array([text for _, text in rows], pa.string())
    table = pa.table({"image": images, caption: texts})
    pyarrow.parquet.write_table(table, path, row_group_size=group)


WRITERS = {"tar": write_tar, "parquet": write_parquet}


def write_shards(folder, sizes, kind: str = "tar", start: int = 0):
    """Shards of so many pictures each, numbered through -> the folder."""
    for position, size in enumerate(sizes):
        rows = captioned(range(start, start + size))
        WRITERS[kind](folder / f"{position:05}.{kind}", rows)
        start += size
    return folder

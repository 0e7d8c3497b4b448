"""What `attack.py` tries: a generator a class, each of which draws one input after another.

A generator is given the room in which an input may work, and a source of chance, and returns an
`Attack`: arguments for the command or a call of the package, what it may change, and what must come
of it where that is known. `CLASSES` has them by name.
"""

import contextlib
import importlib
import io
import json
import os
import pickle
import random
import resource
import shutil
import signal
import socket
import struct
import sys
import tarfile
import tempfile
import traceback
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

# A run that costs nothing: a ViT of one layer on pictures of 16 pixels
SHAPE = {"image-size": 16, "patch-size": 8, "dim": 16, "depth": 1, "num-heads": 2}
SHAPE |= {"embed-dim": 8, "batch-size": 4, "epochs": 2, "evaluations": 2, "lr": 0.001}
SHAPE |= {"precision": "float32", "device": "cpu"}
WORDS = [
    "a",
    "red",
    "green",
    "blue",
    "box",
    "circle",
    "left",
    "right",
    "of",
    "the",
    "above",
    "small",
    "large",
    "dog",
    "cat",
    "and",
    "on",
    "in",
]
BAIT = "bait of the attack"  # what no output may hold
NOTHING: Callable[[], None] = lambda: None  # noqa: E731


@dataclass
class Attack:
    """One input: what is done, under which limits, and what may come of it.

    `arguments` are those of the command, unless there is a `call` of the package. `outputs` may be
    changed. `expect` is "works", "refused", or "" where either is right. `prepare` is done in the
    process of the input, `check` after status 0, and then the input `then`. Where it `is_silent`,
    nobody hears what is said. A `signal` comes after
    `moment` seconds; `memory` is what may be taken beyond what is there, in bytes.
    """

    about: str
    arguments: list[str | Path] = field(default_factory=list)
    call: Callable[[], object] | None = None
    outputs: list[Path] = field(default_factory=list)
    expect: str = ""
    stdin: str = ""
    prepare: Callable[[], object] = NOTHING
    check: Callable | None = None
    then: "Attack | None" = None
    is_silent: bool = False
    signal: int = 0
    moment: float = 0.0
    memory: int | None = None

    def describe(self) -> str:
        """What this input is, in a line."""
        words = " ".join(repr(os.fspath(each))[1:-1] or "''" for each in self.arguments)
        return f"{self.about}: {words}"[:700] if words else self.about[:700]


@dataclass
class Room:
    """The places of one input: its own, those that all share, and bait outside."""

    base: Path
    place: Path

    def __post_init__(self):
        self.here, self.home = self.place / "here", self.place / "home"
        self.outside = self.place / "outside"
        self.run, self.pictures = self.base / "run", self.base / "pictures"

    def own_places(self) -> list[Path]:
        """What an input may read."""
        return [self.here, self.home, self.base, self.base.parent / "libraries"]

    @contextlib.contextmanager
    def ready(self) -> Iterator[None]:
        """Make the places, and have this process look for its user's files in them."""
        shutil.rmtree(self.place, ignore_errors=True)
        for place in (self.here, self.home):
            place.mkdir(parents=True)
        shutil.copytree(self.base / "bait", self.outside)
        names = {"HOME": self.home, "XDG_CACHE_HOME": self.home / "cache", "TMPDIR": self.home}
        before = {name: os.environ.get(name) for name in names}
        os.environ |= {name: str(path) for name, path in names.items()}
        tempfile.tempdir = None
        try:
            yield
        finally:
            os.environ |= {name: value for name, value in before.items() if value is not None}

    def copy(self, name: str) -> Path:
        """A copy of something of the base, to be spoilt."""
        source, target = self.base / name, self.here / name
        (shutil.copytree if source.is_dir() else shutil.copy2)(source, target)
        return target

    def train(self, *more: str | Path, data: Path | None = None, **changes: object) -> list:
        """The arguments that train a small run in this room, into `run`."""
        settings = SHAPE | {"text-model": self.base / "text"} | changes
        options = [f"--{name}={value}" for name, value in settings.items()]
        return [
            "train",
            "--data",
            data or self.pictures,
            "--out",
            self.here / "run",
            *options,
            *more,
        ]

    def search(self, folder: Path, *more: str | Path) -> list[str | Path]:
        """The arguments that search a folder."""
        return ["search", self.run, "a red box", folder, *more]


# What all inputs share


def build_base(base: Path, log: Path) -> None:
    """Make pictures, models, a run and a cache in a process of its own, for all rooms."""
    libraries = base.parent / "libraries"
    os.environ |= {"HF_HOME": str(libraries), "MPLCONFIGDIR": str(libraries)}
    for name in ("training", "search", "command.search_model"):  # most, for both at once
        importlib.import_module(f"distilclip.{name}")
    child = os.fork()
    if child == 0:
        status = 1
        try:
            sys.dont_write_bytecode = True
            os.dup2(os.open(log, os.O_CREAT | os.O_WRONLY), 2)
            fill_base(base)
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(status)
    if os.waitpid(child, 0)[1]:
        raise SystemExit(f"Not even the undisturbed run works: {log.read_text()[-3000:]}")


def fill_base(base: Path) -> None:
    """What `build_base` says, in this process."""
    from distilclip.command.cli import main

    base.mkdir(parents=True)
    write_pictures(base / "pictures", 12)
    write_text_encoder(base / "text")
    write_vit(base / "vit")
    bait = base / "bait"
    write_pictures(bait / "folder", 2)
    picture(random.Random(7)).save(bait / "secret.png")
    for name in ("secret.txt", "secret.csv", "secret.json"):
        (bait / name).write_text(f"image,caption\nsecret.png,{BAIT}\n")
    room = Room(base, base.parent / "room_base")
    room.place.mkdir()
    with room.ready(), contextlib.redirect_stdout(io.StringIO()) as said:
        assert main(list(map(str, [*room.train(), "--cache", room.here / "pixels"]))) == 0
        shutil.move(room.here / "run", base / "run")
        shutil.move(room.here / "pixels", base / "pixels")
        assert main(["evaluate", str(base / "run"), "--json", str(room.here / "eval.json")]) == 0
        (base / "found.txt").write_text("")
        for form in ("--html=found.html", "--png=found.png"):
            os.chdir(room.here)
            said.truncate(0)
            said.seek(0)
            assert main([*map(str, room.search(room.pictures)), form]) == 0
        found = [line for line in said.getvalue().splitlines() if "Gallery" not in line]
        (base / "found.txt").write_text("\n".join(found))
        shutil.copytree(room.home / "cache", base / "cache")
    ours = [n for n, module in sys.modules.items() if getattr(module, "__spec__", None)]
    (base / "modules.json").write_text(json.dumps([n for n in ours if n != "__main__"]))
    shutil.rmtree(room.place)


def picture(draw: random.Random, size: tuple[int, int] = (20, 20)):
    """Noise, which no codec makes much smaller."""
    from PIL import Image

    return Image.frombytes("RGB", size, draw.randbytes(3 * size[0] * size[1]))


def write_pictures(folder: Path, count: int) -> None:
    """Pictures of noise with captions beside them."""
    folder.mkdir(parents=True)
    draw = random.Random(count)
    for number in range(count):
        picture(draw).save(folder / f"{number:02}.png")
        (folder / f"{number:02}.txt").write_text(" ".join(draw.sample(WORDS, 5)) + "\n")


def write_text_encoder(folder: Path) -> None:
    """A DistilBERT with few words and random weights."""
    import torch
    from transformers import BertTokenizerFast, DistilBertConfig, DistilBertModel

    letters = [chr(c) for c in range(33, 127) if not chr(c).isupper()]
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    vocabulary = [*special, *letters, *(f"##{c}" for c in letters), *sorted(set(WORDS) - {"a"})]
    torch.manual_seed(0)
    sizes = {"dim": 16, "n_layers": 1, "n_heads": 2, "hidden_dim": 32}
    sizes |= {"max_position_embeddings": 64, "vocab_size": len(vocabulary)}
    DistilBertModel(DistilBertConfig(**sizes)).save_pretrained(folder)
    vocab = {word: number for number, word in enumerate(vocabulary)}
    BertTokenizerFast(vocab=vocab).save_pretrained(folder)


def write_vit(folder: Path) -> None:
    """A ViT of `transformers`, small, with random weights."""
    import torch
    from transformers import ViTConfig, ViTModel

    torch.manual_seed(0)
    shape = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    shape |= {"intermediate_size": 32, "image_size": 16, "patch_size": 8}
    ViTModel(ViTConfig(**shape), add_pooling_layer=False).save_pretrained(folder)


# Values, names and bytes of every kind

NUMBERS = [0, -1, 1, 2, 3, 7, 0.5, -0.5, 1e-300, 1e300, 10**6, 10**9, 10**12, 2**63, 10**30]
NUMBERS += [float("nan"), float("inf"), float("-inf"), True, False]
THINGS = [None, "", " ", "x", "0", "-1", [], [1, 2], [0.5] * 3, ["a"], [[]], {}, {"a": 1}, [None]]
THINGS += ["../../etc/passwd", "/etc/passwd", "é", "\ud800", "\0", "a" * 5000, [10**20], "[UNK]"]
WORDINGS = [
    "",
    " ",
    "0",
    "-1",
    "1",
    "2",
    "3",
    "0.5",
    "1e400",
    "-1e400",
    "nan",
    "inf",
    "-inf",
    "1e-9",
]
WORDINGS += ["1_0", "0x10", "١", "x", "é", "💥", "a\nb", "a" * 300, "~nosuchuser/x", "..", "."]
WORDINGS += ["1000000000", "99999999999999999999", "1e18", "True", "None", "--", "-", "%s", "{}"]
WORDINGS += ["/dev/null", "\udcff", "\x1b[31m", "a,b", ",", ";", "tab", "\\t"]
DEVICES = ["cuda", "cuda:0", "cuda:99", "cuda:-1", "mps", "xpu", "meta", "hpu", "vulkan", "mkldnn"]
DEVICES += [
    "banana",
    "",
    "cpu:0",
    "cpu:7",
    "CPU",
    "cpu ",
    "privateuseone",
    "auto",
    "0",
    "-1",
    "fpga",
]
DEVICES += ["xla", "lazy", "ipu", "maia", "opencl", "hip", "ve", "mtia", "cuda:", "cpu:x", ":", "é"]
STRANGE = [
    "new\nline.png",
    "\x1b[31mred.png",
    " .png",
    "-k.png",
    "--html=x.png",
    "%00.png",
    "a\\b.png",
]
STRANGE += [
    "\udcff.png",
    "é" * 80 + ".png",
    "💥.png",
    "'.png",
    '".png',
    "<b>.png",
    "$(id).png",
    "~.png",
]
STRANGE += [".png", "..png", "CON.png", "a.PNG.png", "*.png", "a" * 250 + ".png", "\u202egnp.png"]


class Payload:
    """Something whose unpickling leaves a file."""

    def __reduce__(self):
        return os.system, ('touch "$HOME/was run"',)


def spoilt(draw: random.Random, content: bytes) -> bytes:
    """Bytes with something done to them."""
    length = len(content)
    place = draw.randrange(length + 1)
    way = draw.randrange(11)
    if way == 0:
        return content[:place]
    if way == 1:
        return b""
    if way == 2:
        return pickle.dumps(Payload())
    if way == 3:
        return content + draw.randbytes(draw.choice([1, 100, 5000]))
    if way == 4:
        return content[:place] + draw.randbytes(draw.choice([1, 8, 300])) + content[place:]
    if way == 5:
        return content[:place] + bytes(draw.choice([1, 8, 300])) + content[place + 300 :]
    if way == 6:
        return draw.randbytes(draw.choice([1, 8, 5000]))
    if way == 7:
        return draw.choice(
            [b"{}", b"[]", b"null", b"\xff\xfe", b"[" * 100_000, b"<html>", b"GIF89a"]
        )
    if way == 8 and length > 16:  # lengths are at the beginning of many formats
        return draw.randbytes(8) + content[8:]
    changed = bytearray(content)
    for _ in range(draw.choice([1, 1, 5, 50])):
        if changed:
            changed[draw.randrange(len(changed))] = draw.randrange(256)
    return bytes(changed)


def spoil_json(draw: random.Random, content: object) -> object:
    """The same object with one or a few values that are others, of any kind, or gone."""
    content = json.loads(json.dumps(content))
    for _ in range(draw.choice([1, 1, 1, 2, 4])):
        places = list(inner_places(content))
        if not places:
            return draw.choice(THINGS)
        holder, key = draw.choice(places)
        way = draw.random()
        if way < 0.15:
            with contextlib.suppress(KeyError, IndexError):
                del holder[key]
        elif way < 0.3 and isinstance(holder, dict):
            holder[draw.choice(["x", "", "auto_map", "_name_or_path", "é"])] = draw.choice(THINGS)
        else:
            holder[key] = draw.choice(NUMBERS + THINGS)
    return content


def inner_places(content: object) -> Iterator[tuple]:
    """Every holder and key below an object of JSON."""
    pairs = content.items() if isinstance(content, dict) else enumerate(content)
    if isinstance(content, dict | list):
        for key, value in pairs:
            yield content, key
            if isinstance(value, dict | list):
                yield from inner_places(value)


def spoil_file(draw: random.Random, file: Path) -> str:
    """Spoil one file, or put something else in its place -> what was done."""
    way = draw.random()
    if way < 0.06:
        file.unlink()
        return f"no {file.name}"
    if way < 0.12:
        return f"{replace_by_other(draw, file)} as {file.name}"
    if file.suffix == ".json" and way < 0.75:
        content = spoil_json(draw, json.loads(file.read_text()))
        file.write_text(json.dumps(content))
        return f"other values in {file.name}"
    if file.suffix == ".safetensors" and way < 0.6:
        file.write_bytes(spoil_safetensors(draw, file.read_bytes()))
        return f"another header in {file.name}"
    file.write_bytes(spoilt(draw, file.read_bytes()))
    return f"other bytes in {file.name}"


def replace_by_other(draw: random.Random, file: Path) -> str:
    """Put what is no plain file where a file was -> what it is."""
    file.unlink(missing_ok=True)
    kinds: dict[str, Callable[[], object]] = {
        "a folder": file.mkdir,
        "a pipe": lambda: os.mkfifo(file),
        "a link to itself": lambda: file.symlink_to(file),
        "a link to nothing": lambda: file.symlink_to("nothing"),
        "a link to a long name": lambda: file.symlink_to("x" * 300),
        "a link to a device": lambda: file.symlink_to("/dev/zero"),
        "a socket": lambda: make_socket(file),
    }
    kind = draw.choice(list(kinds))
    kinds[kind]()
    return kind


def make_socket(file: Path) -> None:
    """A socket that nobody answers, by a short relative name: long ones are refused."""
    before = os.getcwd()
    os.chdir(file.parent)
    try:
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(file.name[:50])
    finally:
        os.chdir(before)


def spoil_safetensors(draw: random.Random, content: bytes) -> bytes:
    """A safetensors file with another header, or other numbers in its tensors."""
    length = int.from_bytes(content[:8], "little")
    header, body = json.loads(content[8 : 8 + length]), content[8 + length :]
    way = draw.random()
    names = [name for name in header if name != "__metadata__"]
    if way < 0.3:
        header = spoil_json(draw, header)
    elif way < 0.4:
        header[draw.choice(["x", "", "vision.x", "é"])] = header.pop(draw.choice(names))
    elif way < 0.5:
        header[draw.choice(names)]["shape"] = draw.choice([[0], [2**40, 2**40], [1, 2], [], [-1]])
    elif way < 0.6:
        header[draw.choice(names)]["dtype"] = draw.choice(["F16", "I64", "BOOL", "F8_E5M2", "X"])
    else:
        value = draw.choice([float("nan"), float("inf"), 3e38, 0.0, -1e30])
        place = 4 * draw.randrange(max(1, len(body) // 4))
        body = body[:place] + struct.pack("<f", value) + body[place + 4 :]
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + body


def outside_names(room: Room) -> list[str]:
    """Names with which a source may try to lead to what is not its own."""
    secret = room.outside / "secret.png"
    relative = os.path.relpath(secret, room.here / "data")
    names = [str(secret), relative, f"./{relative}", f"x/../{relative}", f"file://{secret}"]
    names += [
        "http://127.0.0.1:9/a.png",
        "https://example.org/a.png",
        "s3://b/a.png",
        "//host/a.png",
    ]
    names += [f"zip://a.png::{secret}", "hf://datasets/a/b/c.png", "ftp://127.0.0.1/a", "data:,x"]
    names += [f"simplecache::file://{secret}", f"{secret}\0.png", relative.replace("/", "\\")]
    names += [
        "/dev/zero",
        "/proc/self/mem",
        "/dev/stdin",
        "~/x.png",
        "pipe.png",
        "link.png",
        "",
        ".",
    ]
    return [*names, "sub", "x" * 300, "\udcff.png", "/etc/passwd", "file:///etc/passwd"]


# Options


def options(room: Room, draw: random.Random) -> Attack:
    """A command with options that it may not have, or with values that they may not have."""
    command = draw.choice(["train", "train", "evaluate", "search", "search", ""])
    commands: dict[str, list] = {
        "train": room.train(),
        "evaluate": ["evaluate", room.run],
        "search": room.search(room.pictures),
        "": [],
    }
    arguments = list(map(str, commands[command]))
    known = known_options(command)
    for _ in range(draw.choice([1, 1, 2, 3])):
        name, value = draw.choice(known), draw.choice(WORDINGS)
        if name in ("--epochs", "--epoch-pictures") and value[:3] in ("100", "999", "1e1"):
            value = "3"  # to work for years is no fault
        way = draw.random()
        added = [f"{name}={value}"] if way < 0.7 else [name, value] if way < 0.9 else [value]
        place = (
            draw.randrange(1, len(arguments) + 1) if way > 0.95 and arguments else len(arguments)
        )
        arguments[place:place] = [each.replace("\0", "") for each in added]
    outputs = [room.here / "run"]
    out = named_outputs(arguments)
    return Attack("options", arguments, outputs=[*outputs, *out], stdin="a dog\n\n")


def named_outputs(arguments: list[str]) -> list[Path]:
    """Where options say that something is to be written."""
    names = ("--out", "--json", "--html", "--png", "--cache")
    found = []
    for each, after in zip(arguments, [*arguments[1:], ""], strict=True):
        name, _, value = each.partition("=")
        if len(name) > 2 and any(known.startswith(name) for known in names):
            found.append(Path(value or after))
    return [path for path in found if str(path) not in (".", "..", "/")]


def known_options(command: str) -> list[str]:
    """The options of a command, and some that it does not have."""
    from distilclip.command.cli import build_parser

    known = ["--help", "--version", "--no-such", "-x", "--out", "-", "--", "--js"]
    parser = build_parser([command])
    for action in parser._actions:
        for name, sub in (action.choices or {}).items() if action.nargs else ():
            if name == command:
                known += [option for each in sub._actions for option in each.option_strings]
    return known


def devices(room: Room, draw: random.Random) -> Attack:
    """A device that is not there, or that nobody has heard of."""
    name = draw.choice(DEVICES)
    if draw.random() < 0.3:
        name += draw.choice(["", ":", ":1", ":cpu", "x", " "])
    precision = draw.choice(["auto", "float32", "bfloat16", "float16", "int8"])
    arguments = room.train(f"--device={name}", f"--precision={precision}")
    return Attack("a device", arguments, outputs=[room.here / "run"])


def paths(room: Room, draw: random.Random) -> Attack:
    """What is no plain file or folder where one is expected."""
    there = room.here / draw.choice(["x", "x.png", "x.json", "x.html", "é", "x.csv", "x.parquet"])
    kind = replace_by_other(draw, there)
    name: str = str(there)
    if draw.random() < 0.5:
        kind = "a name"
        name = draw.choice(
            ["~nosuchuser/x", "~nosuchuser", "nothing here", "x" * 300, "", " ", "a\nb"]
        )
        name = draw.choice(
            [name, f"{there}/x", "/dev/null", "/dev/zero", "/dev/full", "\udcff", "a/b"]
        )
        name = draw.choice([name, "owner/name", "http://127.0.0.1:9/x", "~", "/proc/self/mem"])
    forms: list[list] = [
        room.train(f"--data={name}"),
        room.train(f"--out={name}"),
        room.train(f"--text-model={name}"),
        room.train(f"--vision-model={name}"),
        room.train(f"--start-from={name}"),
        room.train(f"--cache={name}"),
        ["evaluate", name, "--data", room.pictures],
        ["evaluate", room.run, f"--data={name}"],
        ["evaluate", room.run, f"--json={name}"],
        ["search", name, "a box", room.pictures],
        ["search", room.run, "a box", name],
        ["search", room.run, name, room.pictures],
        ["search", room.run, room.pictures, f"--image={name}"],
        room.search(room.pictures, f"--html={name}"),
        room.search(room.pictures, f"--png={name}"),
        room.search(room.pictures, f"--captions={name}"),
    ]
    arguments = draw.choice(forms)
    outputs = [room.here / "run", *named_outputs(list(map(str, arguments)))]
    return Attack(kind, arguments, outputs=outputs)


def words(room: Room, draw: random.Random) -> Attack:
    """Any text as a question."""
    alphabet = "ab 🙂👩‍🚀é\u0301\u200d\ufe0f\x1b\x7f\u202e漢字\n\t\\'\"<>&%{}\udcff-=٣￿𝔘"
    text = "".join(draw.choice(alphabet) for _ in range(draw.choice([1, 2, 5, 30, 3000])))
    forms: list[list] = [
        ["search", room.run, "--", text, room.pictures],
        ["search", room.run, room.pictures, f"-q={text}", "-q", "a dog"],
        ["search", room.run, room.pictures, "-q", "-", draw.choice(["--json", "--files"])],
        ["search", room.run, "a dog", room.pictures, f"--without={text}"],
        ["search", room.run, room.pictures, f"--query={text}", "--html=page.html"],
        ["evaluate", room.run, f"--split={text}"],
        ["evaluate", room.run, "--data", room.pictures, f"--caption-column={text}"],
    ]
    return Attack("words", draw.choice(forms), outputs=[Path("page.html")], stdin=text)


def outputs(room: Room, draw: random.Random) -> Attack:
    """An output in the place of what is read, or of what is somebody else's."""
    data, run = room.copy("pictures"), room.copy("run")
    (data / "notes").mkdir()
    (data / "found.html").write_text("mine")
    settings = json.loads((run / "train_config.json").read_text()) | {"data": str(data)}
    (run / "train_config.json").write_text(json.dumps(settings))
    link = room.here / "link"
    target = draw.choice([*data.iterdir(), *run.iterdir(), data, run, room.here, data / "new"])
    link.symlink_to(target)
    name = draw.choice(
        [target, target, link, f"{target}/", f"{data}/../{target.name}", target / "x"]
    )
    new = [data / "new", target / "x"]
    forms: dict[str, list] = {
        "out": [*room.train(data=data), "--out", name, *draw.choice([[], ["--resume"]])],
        "start": [*room.train(data=data), "--out", name, "--start-from", run],
        "cache": [*room.train(data=data), "--cache", name],
        "json": ["evaluate", run, "--data", data, "--json", name],
        "json of what was trained on": ["evaluate", run, "--json", name],
        "html": ["search", run, "a dog", data, "--html", name],
        "png": ["search", run, "a dog", data, "--png", name],
        "png of a query": ["search", run, data, "--image", data / "00.png", "--png", name],
    }
    kind = draw.choice(list(forms))
    allowed = [*new, *([] if os.path.lexists(name) else [Path(name)])]
    if kind in ("html",):
        allowed += [data / "found.html"]
    if kind in ("out", "start"):
        allowed += [target] if target.name == "notes" else []  # a folder that is empty
        allowed += [run] if "--resume" in forms[kind] else []
    if kind == "cache":
        allowed += [room.here / "run"] + [p for p in (data, run, room.here) if p == target]
    return Attack(f"an output in place of an input ({kind})", forms[kind], outputs=allowed)


# Data


def commands_on(room: Room, draw: random.Random, data: Path, *more: str) -> Attack:
    """One of the commands on some data."""
    skip = draw.choice([["--skip-broken"], []])
    forms: list[list] = [
        room.train(*skip, *more, data=data),
        room.train(*skip, *more, data=data),
        [
            "evaluate",
            room.run,
            "--data",
            data,
            "--split",
            draw.choice(["train", "test"]),
            *skip,
            *more,
        ],
    ]
    if data.is_dir() and not more:
        forms += [room.search(data, *skip), room.search(data, *skip, "--html=found.html")]
        forms += [room.train("--streaming", *skip, data=data)]
    out = [room.here / "run", room.here / "found.html"]
    return Attack("", draw.choice(forms), outputs=out)


def folders(room: Room, draw: random.Random) -> Attack:
    """A folder of pictures with captions, in which something is strange."""
    data = room.copy("pictures").rename(room.here / "data")
    faults = [spoil_folder(room, draw, data) for _ in range(draw.choice([1, 1, 2, 4]))]
    attack = commands_on(room, draw, data)
    attack.about = "a folder with " + ", ".join(faults)
    return attack


def spoil_folder(room: Room, draw: random.Random, data: Path) -> str:
    """Put something strange into a folder of pictures -> what it is."""
    name = draw.choice(STRANGE)
    ours = sorted(data.glob("*.png")) or [data / "00.png"]
    kind = draw.choice(
        ["bait", "name", "other", "text", "empty", "deep", "loop", "table", "folder"]
    )
    if kind == "bait":
        target = draw.choice([*room.outside.iterdir()])
        link = data / draw.choice(
            ["link.png", "link.txt", "00.txt", "metadata.csv", "train", "b.tar"]
        )
        link.unlink(missing_ok=True)
        link.symlink_to(target)
    elif kind == "name":
        with contextlib.suppress(OSError):
            shutil.copy(ours[0], data / name)
            (data / name).with_suffix(".txt").write_text("a dog")
    elif kind == "other":
        file = data / draw.choice(
            [ours[0].name, "strange.png", "00.txt", "x.tar", "metadata.jsonl"]
        )
        if not file.is_dir():
            kind = f"{replace_by_other(draw, file)} as {file.name}"
    elif kind == "text":
        texts = [
            b"\xff\xfe\0",
            b"",
            b"\n\n",
            b"a" * 200_000,
            b"\0",
            "\ufeffé\u200b".encode(),
            b"\x1b[2J",
        ]
        with contextlib.suppress(OSError):
            ours[-1].with_suffix(".txt").write_bytes(draw.choice(texts))
    elif kind == "empty":
        for file in ours[draw.randrange(len(ours)) :]:
            with contextlib.suppress(OSError):
                file.write_bytes(b"")
    elif kind == "deep":
        place = data.joinpath(*["d"] * draw.choice([3, 60, 200]))
        place.mkdir(parents=True, exist_ok=True)
        shutil.copy(ours[0], place / "deep.png")
    elif kind == "loop":
        with contextlib.suppress(OSError):
            (data / "loop").symlink_to(draw.choice([data, data.parent, "/", "."]))
    elif kind == "table":
        kind = write_strange_table(room, draw, data)
    else:
        split = data / draw.choice(["train", "val", "test", "images", "Images"])
        split.mkdir(exist_ok=True)
        for file in ours[: draw.randrange(len(ours) + 1)]:
            with contextlib.suppress(OSError):
                shutil.copy(file, split / file.name)
    return kind


def tables(room: Room, draw: random.Random) -> Attack:
    """A folder with a table, or a table alone, whose cells are strange."""
    data = room.copy("pictures").rename(room.here / "data")
    for file in data.glob("*.txt"):
        file.unlink()
    kind = write_strange_table(room, draw, data)
    source = data
    if draw.random() < 0.4:
        source = draw.choice([p for p in data.iterdir() if p.suffix not in (".png", "")] or [data])
    columns = draw.choice([[], [], ["--image-column=file_name"], ["--caption-column=text,x"]])
    columns += draw.choice(
        [[], [], ["--split-column=split"], [f"--delimiter={draw.choice(WORDINGS)}"]]
    )
    attack = commands_on(room, draw, source, *[c.replace("\0", "") for c in columns])
    if source != data:  # a table that a user names may lead anywhere on this machine
        attack.arguments += [room.outside / "secret.png", "/etc/passwd"][:0]
    attack.about = f"a table with {kind}"
    return attack


def write_strange_table(room: Room, draw: random.Random, data: Path) -> str:
    """A table of a folder's pictures, in one of the layouts, with strange entries."""
    names = sorted(path.name for path in data.glob("*.png"))
    rows = [
        {"file_name": name, "text": " ".join(draw.sample(WORDS, 3)), "split": "train"}
        for name in names
    ]
    kind = draw.choice(["names", "captions", "columns", "bytes", "rows"])
    if kind == "names":
        for row in draw.sample(rows, min(len(rows), draw.choice([1, 3, 12]))):
            row["file_name"] = draw.choice(outside_names(room))
    elif kind == "captions":
        for row in draw.sample(rows, min(len(rows), 3)):
            row["text"] = draw.choice(THINGS + NUMBERS)
    elif kind == "columns":
        for row in rows:
            row[draw.choice(["text", "", "file_name", "caption_2", "split"])] = draw.choice(THINGS)
    elif kind == "rows":
        rows = draw.choice([[], rows * 50, rows[:1], [{}], [{"file_name": names and names[0]}]])
    layout, content = draw.choice(table_layouts(rows))
    file = data / layout
    file.parent.mkdir(exist_ok=True)
    if file.is_symlink() or file.is_dir():
        return f"nothing in place of {layout}"
    encoded = content.encode(draw.choice(["utf-8", "utf-8", "utf-8", "utf-16"]), "surrogatepass")
    file.write_bytes(spoilt(draw, encoded) if kind == "bytes" else encoded)
    return f"other {kind} in {layout}"


def table_layouts(rows: list[dict]) -> list[tuple[str, str]]:
    """The files of the layouts that name pictures in text, with these rows."""
    import csv

    columns = list(dict.fromkeys(name for row in rows for name in row)) or ["file_name"]
    texts = {}
    for mark, name in ((",", "metadata.csv"), ("\t", "list.tsv"), ("|", "results.csv")):
        buffer = io.StringIO(newline="")
        writer = csv.DictWriter(buffer, columns, delimiter=mark)
        writer.writeheader()
        writer.writerows(rows)
        texts[name] = buffer.getvalue()
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    images = [{"id": n, "file_name": row.get("file_name")} for n, row in enumerate(rows)]
    notes = [{"id": n, "image_id": n, "caption": r.get("text")} for n, r in enumerate(rows)]
    coco = json.dumps({"images": images, "annotations": notes})
    kaggle = "image,caption\n" + "".join(f"{r.get('file_name')},{r.get('text')}\n" for r in rows)
    token = "".join(f"{r.get('file_name')}#0\t{r.get('text')}\n" for r in rows)
    karpathy = [
        {"filename": r.get("file_name"), "split": "train", "sentences": [{"raw": r.get("text")}]}
        for r in rows
    ]
    return [
        *texts.items(),
        ("metadata.jsonl", lines),
        ("table.jsonl", lines),
        ("captions_train2017.json", coco),
        ("annotations/captions_val2014.json", coco),
        ("captions.txt", kaggle),
        ("Flickr8k.token.txt", token),
        ("dataset.json", json.dumps({"images": karpathy})),
        ("dataset_flickr8k.json", json.dumps({"images": karpathy})),
    ]


def parquet(room: Room, draw: random.Random) -> Attack:
    """Parquet, or a data set that was saved to the disk, with strange cells, types or bytes."""
    data = room.here / "data"
    data.mkdir()
    kind = draw.choice(["names", "types", "bytes", "readme", "saved", "schema"])
    rows = parquet_rows(room, draw, kind)
    if kind == "saved":
        save_strangely(room, draw, data, rows)
    else:
        file = data / draw.choice(
            ["train.parquet", "train-00000-of-00001.parquet", "data/x.parquet"]
        )
        file.parent.mkdir(exist_ok=True)
        write_parquet(draw, rows, file, strange_schema=kind == "schema")
        if kind == "bytes":
            file.write_bytes(spoilt(draw, file.read_bytes()))
        if kind == "readme":
            write_readme(room, draw, data)
    os.mkfifo(data / "pipe.png")
    (data / "link.png").symlink_to(room.outside / "secret.png")
    attack = commands_on(room, draw, data)
    attack.about = f"parquet with other {kind}"
    return attack


def parquet_rows(room: Room, draw: random.Random, kind: str) -> list[dict]:
    """Rows with pictures in them, some of which are something else."""
    rows = []
    for number in range(12):
        buffer = io.BytesIO()
        picture(random.Random(number)).save(buffer, "PNG")
        image: object = {"bytes": buffer.getvalue(), "path": f"{number}.png"}
        rows.append({"image": image, "caption": " ".join(draw.sample(WORDS, 4))})
    if kind in ("names", "saved", "readme"):
        for row in draw.sample(rows, draw.choice([1, 3, 12])):
            name = draw.choice(outside_names(room)).replace("\udcff", "?")
            row["image"] = {"bytes": draw.choice([None, None, b"", b"x"]), "path": name}
    if kind == "types":
        name = draw.choice(["image", "caption"])
        value = draw.choice(
            [1, "x", None, b"\xff", [1], ["a", "b"], {"bytes": 1}, {"a": b""}, 1.5, []]
        )
        rows = [row | {name: value} for row in rows]
    return rows


def write_parquet(draw: random.Random, rows: list[dict], file: Path, strange_schema: bool) -> None:
    """Rows as parquet; with what `datasets` keeps in a schema made up, where asked."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.Table.from_pylist(rows)
    if strange_schema:
        feature: object = {
            "image": {"_type": "Image"},
            "caption": {"dtype": "string", "_type": "Value"},
        }
        about = {"info": {"features": spoil_json(draw, feature)}}
        text = draw.choice([json.dumps(about), "x", "[]", json.dumps({"info": 1})])
        table = table.replace_schema_metadata({"huggingface": text.encode(errors="replace")})
    pq.write_table(table, file)


def write_readme(room: Room, draw: random.Random, data: Path) -> None:
    """A card that says which files make the data set, and means others."""
    name = draw.choice([*outside_names(room), "../outside/secret.csv", "**", "../**", "*.parquet"])
    configs = [{"config_name": "default", "data_files": [{"split": "train", "path": name}]}]
    front = json.dumps({"configs": spoil_json(draw, configs) if draw.random() < 0.3 else configs})
    (data / "README.md").write_text(f"---\n{front}\n---\n", errors="replace")
    if draw.random() < 0.3:
        (data / "data.py").write_text("import os; os.system('touch \"$HOME/was run\"')")


def save_strangely(room: Room, draw: random.Random, data: Path, rows: list[dict]) -> None:
    """What `save_to_disk` writes, with one of its files changed."""
    import datasets
    import pyarrow as pa

    whole = datasets.Dataset(pa.Table.from_pylist(rows))
    saved = datasets.DatasetDict({"train": whole}) if draw.random() < 0.5 else whole
    saved.save_to_disk(data)
    for info in data.rglob("dataset_info.json"):  # pictures, though they are none
        about = json.loads(info.read_text())
        about["features"]["image"] = {"_type": "Image"}
        info.write_text(json.dumps(about))
    file = draw.choice([p for p in data.rglob("*") if p.is_file()])
    if file.name == "state.json" and draw.random() < 0.5:
        state = json.loads(file.read_text())
        state["_data_files"] = [{"filename": draw.choice(outside_names(room))}]
        file.write_text(json.dumps(state))
    elif draw.random() < 0.8:
        spoil_file(draw, file)


def archives(room: Room, draw: random.Random) -> Attack:
    """WebDataset tars with members that are strange."""
    data = room.here / "data"
    data.mkdir()
    file = data / draw.choice(["00000.tar", "train-000.tar", "train/0.tar"])
    file.parent.mkdir(exist_ok=True)
    kind = draw.choice(["names", "links", "sizes", "captions", "bytes", "kinds"])
    with tarfile.open(file, "w") as tar:
        for number in range(12):
            strange = draw.random() < 0.3
            for member, content in tar_members(room, draw, number, kind if strange else ""):
                tar.addfile(member, io.BytesIO(content))
    if kind in ("bytes", "sizes"):
        file.write_bytes(spoilt(draw, file.read_bytes()))
    attack = commands_on(room, draw, data)
    attack.about = f"an archive with other {kind}"
    return attack


def tar_members(room: Room, draw: random.Random, number: int, kind: str) -> list[tuple]:
    """A picture and its caption as members of an archive, one of them strange."""
    buffer = io.BytesIO()
    picture(random.Random(number)).save(buffer, "PNG")
    contents = {"png": buffer.getvalue(), "txt": " ".join(draw.sample(WORDS, 4)).encode()}
    members = []
    for suffix, content in contents.items():
        member = tarfile.TarInfo(f"{number:04}.{suffix}")
        if kind == "names":
            member.name = draw.choice([*outside_names(room), *STRANGE, "", "a/../b.png"]).rstrip(
                "\0"
            )
            member.name = member.name.replace("\0", "") + draw.choice(["", f".{suffix}"])
        if kind == "links":
            member.type = draw.choice([tarfile.SYMTYPE, tarfile.LNKTYPE])
            member.linkname, content = draw.choice(outside_names(room)).replace("\0", ""), b""
        if kind == "kinds":
            member.type = draw.choice([tarfile.FIFOTYPE, tarfile.CHRTYPE, tarfile.DIRTYPE, b"Z"])
            content = b"" if member.type != b"Z" else content
        if kind == "captions" and suffix == "txt":
            content = draw.choice([b"", b"\xff", b"\0", b"{}", b"a" * 100_000, b"\n"])
        member.size = len(content)
        members.append((member, content))
    return members


# Pictures


def images(room: Room, draw: random.Random) -> Attack:
    """A picture that is none, that is damaged, or that would take too much."""
    data = room.copy("pictures").rename(room.here / "data")
    kind, content = draw.choice(PICTURES)(draw)
    suffix = draw.choice(
        [".png", ".jpg", ".webp", ".gif", ".tiff", ".bmp", ".eps", ".ico", ".avif"]
    )
    file = data / f"strange{suffix}"
    file.write_bytes(content)
    file.with_suffix(".txt").write_text("a dog")
    if draw.random() < 0.2:
        out = room.here / "found.html"
        arguments = ["search", room.run, room.pictures, "--image", file, "--html", out]
        return Attack(f"{kind} as {suffix}", arguments, outputs=[out])
    attack = commands_on(room, draw, data)
    attack.about = f"{kind} as {suffix}"
    return attack


def damaged_picture(draw: random.Random) -> tuple[str, bytes]:
    """A picture in some format, spoilt."""
    from PIL import Image

    kind = draw.choice(
        ["PNG", "JPEG", "GIF", "WEBP", "TIFF", "BMP", "ICO", "PPM", "AVIF", "TGA", "JPEG2000"]
    )
    mode = draw.choice(["RGB", "RGB", "L", "RGBA", "P", "1", "CMYK", "I;16", "LA"])
    image, buffer = picture(draw, draw.choice([(20, 20), (1, 1), (300, 2), (64, 64)])), io.BytesIO()
    try:
        Image.init()
        image.convert(mode).save(buffer, kind)
    except Exception:  # a format that lacks the mode
        buffer = io.BytesIO()
        kind = "PNG"
        image.save(buffer, kind)
    return f"a spoilt {kind}", spoilt(draw, buffer.getvalue())


def png_chunk(kind: bytes, content: bytes) -> bytes:
    """A chunk of a PNG."""
    total = zlib.crc32(kind + content)
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", total)


def large_claim(draw: random.Random) -> tuple[str, bytes]:
    """A small file that says that it is a very large picture."""
    size = draw.choice(
        [(60_000, 60_000), (2**31 - 1, 1), (1, 2**31 - 1), (0, 0), (30_000, 30_000), (2**16, 9)]
    )
    header = struct.pack(
        ">IIBBBBB", *size, draw.choice([1, 8, 16]), draw.choice([0, 2, 3, 6]), 0, 0, 0
    )
    body = zlib.compress(bytes(draw.choice([100, 10**6])))
    chunks = png_chunk(b"IHDR", header) + png_chunk(b"IDAT", body) + png_chunk(b"IEND", b"")
    other = struct.pack("<HHHHHBB", 0, 0, 0, 0, 0, 0, 0)
    gif = b"GIF89a" + struct.pack("<HH", 65535, 65535) + b"\x80\0\0" + bytes(6) + b"," + other
    bmp = b"BM" + struct.pack(
        "<IHHIIiiHHIIiiII", 60, 0, 0, 54, 40, 2**30, 2**30, 1, 24, 0, 0, 0, 0, 0, 0
    )
    return draw.choice(
        [
            (f"a claim of {size}", b"\x89PNG\r\n\x1a\n" + chunks),
            ("a large GIF", gif),
            ("a large BMP", bmp),
        ]
    )


def text_bomb(draw: random.Random) -> tuple[str, bytes]:
    """A PNG whose comment or profile unpacks to much."""
    buffer = io.BytesIO()
    picture(draw).save(buffer, "PNG")
    packer = zlib.compressobj()
    packed = b"".join(packer.compress(bytes(1 << 20)) for _ in range(draw.choice([2, 80])))
    kind = draw.choice([b"zTXt", b"iCCP"])
    chunk = png_chunk(kind, b"Comment\0\0" + packed + packer.flush())
    return "a text bomb", buffer.getvalue()[:33] + chunk + buffer.getvalue()[33:]


def many_scans(draw: random.Random) -> tuple[str, bytes]:
    """A progressive JPEG with as many scans as one likes."""
    buffer = io.BytesIO()
    picture(draw, (200, 200)).save(buffer, "JPEG", progressive=True)
    content = buffer.getvalue()
    start = content.rindex(b"\xff\xda")
    scan = content[start:-2]
    return "many scans", content[:-2] + scan * draw.choice([10, 3000]) + content[-2:]


def many_frames(draw: random.Random) -> tuple[str, bytes]:
    """An animation, or a TIFF of many pages."""
    frames = [picture(draw) for _ in range(draw.choice([2, 100]))]
    buffer, kind = io.BytesIO(), draw.choice(["GIF", "TIFF", "WEBP", "PNG"])
    frames[0].save(buffer, kind, save_all=True, append_images=frames[1:])
    return f"many frames of {kind}", buffer.getvalue()


def other_program(draw: random.Random) -> tuple[str, bytes]:
    """What Pillow would hand to another program, or what a browser would run."""
    eps = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 20 20\n(x) print showpage\n%%EOF\n"
    kinds = {
        "EPS": eps,
        "PDF": b"%PDF-1.4\n1 0 obj<</Type/Catalog>>endobj\ntrailer<</Root 1 0 R>>\n%%EOF",
        "SVG": b'<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>',
        "WMF": b"\xd7\xcd\xc6\x9a" + bytes(60),
        "HTML": b"<html><script>alert(1)</script>",
        "shell": b'#!/bin/sh\ntouch "$HOME/was run"\n',
        "pickle": pickle.dumps(Payload()),
        "FPX": b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(500),
        "HDF5": b"\x89HDF\r\n\x1a\n" + bytes(100),
        "GRIB": b"GRIB" + bytes(3) + b"\1",
        "DOS EPS": b"\xc5\xd0\xd3\xc6" + struct.pack("<II", 30, len(eps)) + bytes(18) + eps,
    }
    kind = draw.choice(list(kinds))
    return kind, kinds[kind]


PICTURES = [damaged_picture] * 5 + [other_program] * 2
PICTURES += [large_claim, text_bomb, many_scans, many_frames]


# Models


def models(room: Room, draw: random.Random) -> Attack:
    """A model of ours, one of whose files is something else."""
    run = room.copy("run")
    names = ["config.json", "config.json", "model.safetensors", "model.safetensors"]
    names += [
        "tokenizer.json",
        "tokenizer_config.json",
        "preprocessor_config.json",
        "train_config.json",
    ]
    kind = spoil_file(draw, run / draw.choice([name for name in names if (run / name).is_file()]))
    if draw.random() < 0.15:
        kind += " and a pickle"
        (run / draw.choice(["pytorch_model.bin", "model.pt"])).write_bytes(pickle.dumps(Payload()))
    out = [room.here / "fine", room.here / "run/README.md"]
    forms: list[list] = [
        ["search", run, "a red box", room.pictures, draw.choice(["--no-cache", "--rebuild"])],
        ["evaluate", run, "--data", room.pictures],
        ["evaluate", run],
        ["train", "--data", room.pictures, "--out", "fine", "--start-from", run, "--epochs=1"],
    ]
    forms[3] += ["--batch-size=4", "--device=cpu", "--precision=float32"]
    return Attack(kind, draw.choice(forms), outputs=out)


def encoders(room: Room, draw: random.Random) -> Attack:
    """A pretrained text encoder or ViT, one of whose files is something else."""
    which = draw.choice(["text", "vit"])
    folder = room.copy(which)
    files = [path for path in folder.iterdir() if path.suffix in (".json", ".safetensors", ".txt")]
    likely = [path for path in files if path.name in ("config.json", "model.safetensors")]
    kind = spoil_file(draw, draw.choice(files + likely))
    if draw.random() < 0.3:
        from distilclip import TextEncoder, ViT

        kinds: dict[str, Callable] = {
            "text": TextEncoder.from_pretrained,
            "vit": ViT.from_pretrained,
        }
        return Attack(f"{kind} of {which}", call=partial(kinds[which], folder))
    option = "--text-model" if which == "text" else "--vision-model"
    arguments = room.train(f"{option}={folder}")
    return Attack(f"{kind} of {which}", arguments, outputs=[room.here / "run"])


# What was kept: states and caches


def states(room: Room, draw: random.Random) -> Attack:
    """A run to be resumed, some of whose files are something else."""
    run = room.copy("run")
    file = run / "training_state.safetensors"
    way = draw.random()
    if way < 0.5:
        content = file.read_bytes()
        length = int.from_bytes(content[:8], "little")
        header, body = json.loads(content[8 : 8 + length]), content[8 + length :]
        state = spoil_json(draw, json.loads(header["__metadata__"]["state"]))
        header["__metadata__"]["state"] = json.dumps(state)
        if draw.random() < 0.7:  # as a person would who edits it: the sum is left out
            header["__metadata__"].pop("checksum")
        text = json.dumps(header).encode()
        file.write_bytes(len(text).to_bytes(8, "little") + text + body)
        kind = "other values in a state"
    elif way < 0.8:
        kind = spoil_file(draw, file)
    else:
        kind = spoil_file(draw, draw.choice([path for path in run.iterdir() if path.is_file()]))
    return Attack(kind, room.train("--resume"), outputs=[run])


def caches(room: Room, draw: random.Random) -> Attack:
    """A kept index, or kept pixels, that are something else."""
    if draw.random() < 0.3:
        pixels = room.copy("pixels")
        file = draw.choice(list(pixels.iterdir()))
        content = file.read_bytes()
        place = draw.randrange(128)  # of its header: other pixels cannot be told
        changed = content[:place] + draw.randbytes(draw.choice([1, 4])) + content[place + 1 :]
        file.write_bytes(
            draw.choice([changed, b"", content[: draw.randrange(len(content))], changed])
        )
        arguments = room.train("--cache", pixels)
        return Attack("kept pixels", arguments, outputs=[room.here / "run", pixels], expect="works")
    shutil.copytree(room.base / "cache", room.home / "cache")
    (index,) = (room.home / "cache" / "distilclip" / "indexes").iterdir()
    kind = spoil_index(draw, index)
    expected = (room.base / "found.txt").read_text()

    def as_always(ending) -> list[str]:
        same = ending.out.strip() == expected.strip()
        return [] if same else [f"found other pictures: {ending.out[:200]!r}"]

    return Attack(kind, room.search(room.pictures), expect="works", check=as_always)


def spoil_index(draw: random.Random, index: Path) -> str:
    """Make something else of a kept index -> what it is."""
    import torch
    from safetensors import safe_open
    from safetensors.torch import save_file

    if draw.random() < 0.5:
        return spoil_file(draw, index)
    with safe_open(index, "pt") as opened:
        metadata = opened.metadata()
        tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    embeds = tensors["embeds"]
    shapes = {
        "a wider index": lambda: torch.cat([embeds, embeds], dim=1),
        "a narrower index": lambda: embeds[:, :3].clone(),
        "an index of whole numbers": embeds.long,
        "an index in float16": embeds.half,
        "an index of truth values": embeds.bool,
        "an empty index": lambda: embeds[:0].clone(),
        "a flat index": embeds.flatten,
        "an index of no numbers": lambda: torch.full_like(embeds, float("nan")),
        "an index of complex numbers": lambda: embeds.to(torch.complex64),
    }
    kind = draw.choice([*shapes, "entries", "entries"])
    if kind == "entries":
        entries = json.loads(tensors["entries"].numpy().tobytes())
        content = json.dumps(spoil_json(draw, entries)).encode()
        tensors["entries"] = torch.frombuffer(bytearray(content), dtype=torch.uint8)
    else:
        tensors["embeds"] = shapes[kind]()
    save_file(tensors, index, metadata)
    return kind


# What happens to a process


def goes_on(room: Room, arguments: list) -> Attack:
    """The same command again, with --resume where there is a state: it ends with the same model."""

    def as_undisturbed(_) -> list[str]:
        names = ("model.safetensors", "metrics.jsonl")
        ours, whole = ((place / names[0]).read_bytes() for place in (room.here / "run", room.run))
        return [] if ours == whole else ["ended with another model"]

    def resume_if_there_is_a_state() -> None:
        if (room.here / "run" / "training_state.safetensors").is_file():
            again.arguments.append("--resume")

    again = Attack("again", list(arguments), outputs=[room.here / "run"], expect="works")
    again.prepare, again.check = resume_if_there_is_a_state, as_undisturbed
    return again


def signals(room: Room, draw: random.Random) -> Attack:
    """A signal at any moment; afterwards the run goes on to the same model."""
    sent = draw.choice([signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGKILL])
    arguments = room.train()
    attack = Attack(f"{sent.name}", arguments, outputs=[room.here / "run"], signal=sent)
    attack.prepare = partial(signal.signal, signal.SIGINT, signal.default_int_handler)
    attack.moment = draw.uniform(0, 0.8)
    attack.then = goes_on(room, arguments)
    return attack


def disk(room: Room, draw: random.Random) -> Attack:
    """A disk that is full at some size of a file; afterwards everything works."""
    room_left = draw.choice(
        [0, 1, 100, 1000, 4096, draw.randrange(60_000), draw.randrange(300_000)]
    )
    forms = [
        room.train(),
        room.train("--cache", room.here / "pixels"),
        ["evaluate", room.run, "--json", room.here / "found.json"],
        room.search(room.pictures, "--html", room.here / "found.html"),
        room.search(room.pictures, "--png", room.here / "found.png"),
    ]
    arguments = draw.choice(forms)
    outputs = ["run", "pixels", "found.json", "found.html", "found.png"]
    attack = Attack(f"room for {room_left} bytes", arguments)
    attack.outputs = [room.here / name for name in outputs]
    attack.prepare = lambda: full_disk(room_left)
    attack.then = Attack("again", list(arguments), outputs=attack.outputs, expect="works")
    if arguments[0] == "train":
        attack.then = goes_on(room, arguments)
        attack.then.outputs = attack.outputs
    return attack


def full_disk(room_left: int) -> None:
    """Let no file grow beyond so many bytes, but for what this process says."""
    for number, name in ((1, "stdout"), (2, "stderr")):  # a pipe has no size
        into_a_pipe(number)
        setattr(sys, name, open(number, "w", encoding="utf-8", closefd=False))  # noqa: SIM115
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room_left, room_left))


def into_a_pipe(number: int) -> None:
    """Let another process write to the file what this one says."""
    reading, writing = os.pipe()
    if os.fork() == 0:
        os.setpgid(0, 0)  # it ends when what it reads ends
        os.close(writing)
        while content := os.read(reading, 65536):
            os.write(number, content)
        os._exit(0)
    os.close(reading)
    os.dup2(writing, number)
    os.close(writing)


def memory(room: Room, draw: random.Random) -> Attack:
    """Too little memory; afterwards everything works."""
    attack = disk(room, draw)
    attack.prepare = NOTHING
    asked = 64 << 20  # what a command asks for before it begins
    most = draw.choice([0, asked, asked, 5 * asked])
    attack.memory = draw.randrange(most) if most else 0
    attack.memory += draw.choice([0, asked]) if most == asked else 0
    attack.about = f"{attack.memory >> 20} MiB of memory"
    return attack


def terminals(room: Room, draw: random.Random) -> Attack:
    """Streams that are closed, broken, full, or of another encoding."""
    encoding = draw.choice(["ascii", "cp1252", "utf-16", "latin-1", "shift_jis", "utf-8"])
    out, err = (draw.choice(["file", "closed", "broken", "full", "none"]) for _ in range(2))
    data = room.copy("pictures").rename(room.here / "pictures →")
    shutil.copy(data / "00.png", data / "é→💥.png")
    found, figures = room.here / "found.html", room.here / "found.json"
    forms = [
        room.train(),
        ["evaluate", room.run, "--data", data, "--json", figures],
        room.search(data, "--html", found),
        room.search(data, "--json"),
        ["search", room.run, "→ é 💥", data, "-f"],
        ["search", "nothing", "a dog", data],
    ]
    attack = Attack(f"{encoding}, output {out}, errors {err}", draw.choice(forms))
    attack.is_silent = err != "file" or encoding == "utf-16"
    attack.outputs = [room.here / "run", found, figures]

    def prepare() -> None:
        for name, number, kind in (("stdout", 1, out), ("stderr", 2, err)):
            setattr(sys, name, stream_of(kind, number, encoding))

    attack.prepare = prepare
    names = {"train": "run/model.safetensors", "evaluate": "found.json"}
    wanted = names.get(str(attack.arguments[0]))
    if wanted:
        wrote = (room.here / wanted).is_file
        attack.check = lambda _: [] if wrote() else [f"finished without {wanted}"]
    return attack


def stream_of(kind: str, number: int, encoding: str):
    """A stream that is closed, broken or full, in place of one that is open."""
    if kind == "none":
        return None
    if kind == "broken":
        reading, writing = os.pipe()
        os.close(reading)
        os.dup2(writing, number)
    if kind == "full":
        os.dup2(os.open("/dev/full", os.O_WRONLY), number)
    if kind == "closed":
        os.close(number)
        return open(os.open(os.devnull, os.O_RDONLY), "w", encoding=encoding)
    return open(number, "w", encoding=encoding, closefd=False)


# Calls of the package


def calls(room: Room, draw: random.Random) -> Attack:
    """A public function with what is not for it."""
    import numpy as np
    import torch
    from PIL import Image

    import distilclip

    things: list = [
        None,
        5,
        "",
        "x",
        b"x",
        [],
        [None],
        {},
        [1, 2],
        object(),
        1.5,
        Path("x"),
        "a\0b",
    ]
    things += [np.zeros(0), np.zeros((2, 2)), np.full((2, 2, 3), np.nan), np.zeros((9, 9, 9, 9, 9))]
    things += [torch.zeros(0), torch.zeros(3, 4), torch.full((2, 3, 8, 8), float("inf")), [[["a"]]]]
    things += [torch.zeros(2, 3, 0, 5), torch.zeros(1, 3, 8, 8, dtype=torch.complex64), ["a", 5]]
    things += [
        Image.new("RGB", (1, 1)),
        [Image.new("F", (3, 3), float("nan"))],
        range(3),
        ["\ud800"],
    ]
    thing, other, name = draw.choice(things), draw.choice(things), draw.choice(WORDINGS)
    model = partial(distilclip.DistilCLIP.from_pretrained, room.run)
    uses: dict[str, Callable[[], object]] = {
        "load_pairs": lambda: distilclip.load_pairs(thing),
        "encode_image": lambda: model().encode_image(thing),
        "encode_text": lambda: model().encode_text(thing),
        "forward": lambda: model()(**token_ids(draw)),
        "embed_text": lambda: model().embed_text(**token_ids(draw, pixels=False)),
        "zero_shot_classify": lambda: distilclip.zero_shot_classify(model(), thing, other),
        "from_pretrained": lambda: distilclip.DistilCLIP.from_pretrained(str(name)),
        "text": lambda: distilclip.TextEncoder.from_pretrained(str(name)),
        "from_folder": lambda: distilclip.ImageIndex.from_folder(model(), thing, progress=False),
        "search": lambda: distilclip.ImageIndex.from_folder(
            model(), room.pictures, progress=False
        ).search(thing),
        "load": lambda: distilclip.ImageIndex.load(model(), thing),
    }
    use = draw.choice(list(uses))
    about = f"{use}({thing!r:.60}, {other!r:.60}, {name!a:.60})"
    return Attack(about.replace("\n", " "), call=uses[use])


def token_ids(draw: random.Random, pixels: bool = True) -> dict:
    """Inputs of a model with token ids that its vocabulary may not have."""
    import torch

    ids = torch.tensor([[2, draw.choice([5, -1, 10**6, 2**40, 250]), 3]])
    ids = draw.choice([ids, ids.expand(2, 3), ids.repeat(1, 50)])
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    return inputs | ({"pixel_values": torch.zeros(len(ids), 3, 16, 16)} if pixels else {})


CLASSES: dict[str, Callable[[Room, random.Random], Attack]] = {
    each.__name__: each
    for each in (
        *(options, devices, paths, words, outputs, folders, tables, parquet, archives, images),
        *(models, encoders, states, caches, signals, disk, memory, terminals, calls),
    )
}


def draw_attack(kind: str, seed: str, room: Room) -> Attack:
    """The input of a class that a seed means, with its files in the room."""
    return CLASSES[kind](room, random.Random(f"{kind} {seed}"))

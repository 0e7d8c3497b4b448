"""The command `distilclip`: train, evaluate and search from a shell."""

import argparse
import dataclasses
import itertools
import json
import os
import sys
import types
import typing
from pathlib import Path

from distilclip import __version__

EPILOGUE = "Documentation: notebooks/ and https://github.com/sidmanale643/Distil-CLIP"


def main(arguments: list[str] | None = None) -> int:
    """Run the command; what a user can cause ends in one sentence and a non-zero status."""
    arguments = sys.argv[1:] if arguments is None else arguments
    options = build_parser(arguments).parse_args(arguments)
    try:
        quieten_libraries()  # imports them, which takes seconds: Ctrl-C may come here, too
        options.run(options)
        sys.stdout.flush()
    except BrokenPipeError:  # whoever read our output, such as `head`, has had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (ValueError, OSError, FloatingPointError) as error:
        print(f"distilclip: error: {describe(error)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt as stopped:
        print(f"\ndistilclip: {str(stopped) or 'Stopped.'}", file=sys.stderr)
        return 130
    return 0


def describe(error: Exception) -> str:
    """What went wrong, in one line; an error of the system names its file."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror}: {error.filename}" if error.filename else error.strerror
    return " ".join(str(error).split())


def quieten_libraries() -> None:
    """Keep other libraries' progress bars and notes out of ours."""
    import datasets
    import transformers

    datasets.disable_progress_bars()
    transformers.logging.set_verbosity_error()


def build_parser(arguments: list[str]) -> argparse.ArgumentParser:
    """All commands and their options; `arguments` says whether `search` takes words or --image."""
    parser = argparse.ArgumentParser(prog="distilclip", description=__doc__, epilog=EPILOGUE)
    parser.add_argument("--version", action="version", version=f"distilclip {__version__}")
    commands = parser.add_subparsers(required=True, metavar="command")

    train = commands.add_parser("train", help="train a model on image-caption pairs")
    train.add_argument(
        "--data", default="emoji", help="emoji, scenes, flickr8k, naruto, a folder, or a Hub id"
    )
    train.add_argument("--out", required=True, help="folder for the run")
    train.add_argument("--preset", default="cpu", choices=("cpu", "t4", "original"))
    train.add_argument("--resume", action="store_true", help="go on with the run in --out")
    add_settings(train.add_argument_group("settings of the preset, to change one by one"))
    train.set_defaults(run=run_train)

    evaluate = commands.add_parser("evaluate", help="recall at 1, 5 and 10 on a split")
    evaluate.add_argument("model", metavar="RUN", help="folder of a run, or a Hub id")
    evaluate.add_argument("--data", default="emoji")
    evaluate.add_argument("--split", default="test")
    evaluate.add_argument(
        "--skip-broken", action="store_true", help="leave out pictures that cannot be decoded"
    )
    evaluate.add_argument("--json", type=Path, metavar="FILE", help="write the figures here too")
    evaluate.set_defaults(run=run_evaluate)

    search = commands.add_parser(
        "search",
        help="find pictures in a folder with words or with a picture",
        usage='%(prog)s RUN "words" FOLDER [options]\n'
        "       %(prog)s RUN FOLDER --image FILE [options]",
        description="The pictures of a folder that are nearest to some words, or to a picture.",
        epilog="What has been embedded is kept in ~/.cache/distilclip/indexes (or below "
        "$XDG_CACHE_HOME): the next search embeds only pictures that are new or have changed.",
        allow_abbrev=False,
    )
    search.add_argument("model", metavar="RUN", help="folder of a run, emoji, or a Hub id")
    options = itertools.takewhile(lambda argument: argument != "--", arguments)
    if not any(option.split("=")[0] == "--image" for option in options):
        search.add_argument("query", metavar="words", help="what to look for")
    search.add_argument("folder", metavar="FOLDER", type=Path, help="where the pictures are")
    search.add_argument(
        "--image", type=Path, metavar="FILE", help="look for pictures like this one"
    )
    search.add_argument("--without", metavar="WORDS", help="point the search away from these words")
    search.add_argument(
        "--captions",
        metavar="DATA",
        help="first say the words as the captions of this data set would, such as emoji",
    )
    search.add_argument("-k", type=int, default=9, help="how many to show (default: 9)")
    search.add_argument("--html", type=Path, metavar="FILE", help="write a page to look at")
    search.add_argument("--png", type=Path, metavar="FILE", help="write a contact sheet")
    search.add_argument(
        "--skip-broken", action="store_true", help="leave out pictures that cannot be decoded"
    )
    search.add_argument(
        "--no-cache", action="store_true", help="embed everything now and keep nothing"
    )
    search.add_argument("--rebuild", action="store_true", help="embed everything anew and keep it")
    search.set_defaults(run=run_search)
    return parser


def add_settings(group: argparse._ArgumentGroup) -> None:
    """An option for every field of TrainConfig that has none yet."""
    from distilclip.settings import TrainConfig

    hints = typing.get_type_hints(TrainConfig)
    for field in dataclasses.fields(TrainConfig):
        if field.name in ("data", "out", "preset", "resume"):
            continue
        kind = hints[field.name]
        if isinstance(kind, types.UnionType):
            kind = typing.get_args(kind)[0]
        flag = f"--{field.name.replace('_', '-')}"
        if kind is bool:
            group.add_argument(flag, action=argparse.BooleanOptionalAction, default=field.default)
        else:
            group.add_argument(flag, type=kind, default=field.default, metavar=kind.__name__)


def run_train(options: argparse.Namespace) -> None:
    from distilclip.train import TrainConfig, format_metrics, train

    names = [field.name for field in dataclasses.fields(TrainConfig)]
    result = train(TrainConfig(**{name: getattr(options, name) for name in names}))
    for split, metrics in result.metrics.items():
        print(f"{split}: {format_metrics(metrics)}")
    print(f"The model is in {result.folder}.")


def load_run(name: str):
    """The model of a run; ValueError or FileNotFoundError where `name` is no run."""
    from distilclip.model import DistilCLIP

    if Path(name).is_dir() and not (Path(name) / "config.json").is_file():
        raise FileNotFoundError(f"{name} is not the folder of a run: it has no config.json.")
    return DistilCLIP.from_pretrained(name)


def run_evaluate(options: argparse.Namespace) -> None:
    from distilclip.data import load_pairs
    from distilclip.files import write_text
    from distilclip.search import evaluate_retrieval
    from distilclip.train import format_metrics

    model = load_run(options.model)
    splits = load_pairs(options.data, options.skip_broken)
    if options.split not in splits:
        raise ValueError(
            f"{options.data} has no split {options.split!r}: choose {', '.join(splits)}."
        )
    rows = splits[options.split]
    metrics = evaluate_retrieval(model, rows, progress=True)
    captions = sum(map(len, rows["captions"]))
    print(f"{options.data} {options.split}, {len(rows)} images, {captions} captions:")
    print(format_metrics(metrics))
    if options.json:
        about = {"data": options.data, "split": options.split, "images": len(rows)}
        write_text(options.json, json.dumps(about | {"captions": captions} | metrics, indent=2))


def run_search(options: argparse.Namespace) -> None:
    check_search(options)
    from distilclip.data import load_pairs
    from distilclip.gallery import write_gallery
    from distilclip.index_cache import folder_index
    from distilclip.search import caption_bank, expand_queries

    model = load_run(options.model)
    if options.image:
        query, title = load_query(options.image, model), f"Like {options.image.name}"
    else:
        query, title = options.query, options.query
        if options.captions:
            bank = caption_bank(model, load_pairs(options.captions)["train"]["captions"])
            query = expand_queries(model.encode_text(query), bank)[0]
    title += f", without {options.without}" if options.without else ""
    index, done, problem = folder_index(
        model, options.folder, not options.no_cache, options.rebuild, options.skip_broken
    )
    print(f"{options.folder}: {done}.", file=sys.stderr)
    if problem:
        print(f"The index is not kept ({problem}).", file=sys.stderr)
    if index.skipped:
        print(f"Skipped {len(index.skipped)} that cannot be read:", file=sys.stderr)
        for path, reason in index.skipped:
            print(f"  {printable(str(path))}: {reason}", file=sys.stderr)
    hits = index.search(query, options.k, options.without)
    galleries = [file for file in (options.html, options.png) if file]
    for file in galleries:
        write_gallery(title, hits, options.folder, file, options.image)
    for rank, hit in enumerate(hits, start=1):
        print(f"{rank:>3}  {hit.score:.3f}  {printable(str(hit.path))}")
    for file in galleries:
        print(f"Gallery: {file}")


def check_search(options: argparse.Namespace) -> None:
    """Refuse what cannot work before anything is loaded; ValueError or FileNotFoundError."""
    if options.html and options.html.suffix.lower() not in (".html", ".htm"):
        raise ValueError(f"--html takes a file that ends in .html, got {options.html}.")
    if options.png and options.png.suffix.lower() != ".png":
        raise ValueError(f"--png takes a file that ends in .png, got {options.png}.")
    if options.k < 1:
        raise ValueError(f"-k must be at least 1, got {options.k}.")
    for words in (options.query if not options.image else None, options.without):
        if words is not None and not words.strip():
            raise ValueError("The query is empty: say what to look for.")
    if options.image and not options.image.is_file():
        raise FileNotFoundError(f"There is no picture {options.image}.")
    if not options.folder.is_dir():
        raise FileNotFoundError(f"There is no folder {options.folder}.")


def load_query(file: Path, model):
    """The picture to look for, read as the pictures of a folder are."""
    from distilclip.index_files import read_picture
    from distilclip.sources import why_undecodable

    try:
        return read_picture(file, model.config.vision.image_size)
    except Exception as error:  # Pillow raises many kinds for a broken file
        raise ValueError(f"Cannot decode {file}: {why_undecodable(error)}.") from None


def printable(text: str) -> str:
    """Text for one line of a terminal: control characters and half characters written out."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


if __name__ == "__main__":
    sys.exit(main())

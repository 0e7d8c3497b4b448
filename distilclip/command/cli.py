"""The command `distilclip`: train, evaluate and search from a shell."""

import argparse
import contextlib
import dataclasses
import itertools
import json
import logging
import sys
import typing
import warnings
from collections.abc import Iterator
from pathlib import Path

from distilclip import __version__
from distilclip.storage.terminal import prepare_streams, printable, silence, tell

EPILOGUE = (
    "Documentation: notebooks/ and https://github.com/sidmanale643/Distil-CLIP"
)


def main(arguments: list[str] | None = None) -> int:
    """Run the command and return its status.

    What a user can cause ends in one sentence and a status other than 0.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    prepare_streams()
    # Pillow's remarks about odd files name its own source, not the picture.
    warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")
    options = build_parser(arguments).parse_args(arguments)
    try:
        check_values(options)
        prepare_memory()
        with notes_shown():
            status = options.run(options) or 0
            sys.stdout.flush()
    except BrokenPipeError:  # the reader of our output, such as `head`, has enough
        silence(sys.stdout)
        return 0
    except (ValueError, OSError, FloatingPointError) as error:
        silence_if_broken(error)
        tell(f"distilclip: error: {describe(error)}", sys.stderr)
        return 1
    except (RuntimeError, MemoryError, SystemError) as error:
        if "home directory" in str(error):  # Python's, for ~nobody/pictures
            tell(
                "distilclip: error: A path begins with ~ and a name that no user "
                "here has.",
                sys.stderr,
            )
            return 1
        from distilclip.runs.memory import explain_out_of_memory, is_out_of_memory

        if not is_out_of_memory(error):
            raise
        tell(f"distilclip: error: {explain_out_of_memory(error)}", sys.stderr)
        return 1
    except KeyboardInterrupt as stopped:
        tell(f"\ndistilclip: {str(stopped) or 'Stopped.'}", sys.stderr)
        return 130
    return status


def prepare_memory() -> None:
    """Raise MemoryError where a command cannot end well, and give bars no thread.

    A bar's thread only draws it more often; where memory lacks, Python may wait for
    its start without end.
    """
    from tqdm import tqdm

    from distilclip.storage.spare import ANY_WORK, check_spare

    tqdm.monitor_interval = 0
    check_spare(ANY_WORK)


def check_values(options: argparse.Namespace) -> None:
    """Raise ValueError where -- stands for the value of an option."""
    values = list(vars(options).values())
    values += [
        each for value in values if isinstance(value, list) for each in value
    ]
    if [] in values:
        raise ValueError("Two hyphens (--) are no value of an option: say another.")


class Parser(argparse.ArgumentParser):
    """A parser of options whose errors are a line each."""

    def error(self, message: str) -> typing.NoReturn:
        super().error(printable(message))


def silence_if_broken(error: Exception) -> None:
    """Give up standard output where writing to it is what failed."""
    if isinstance(error, OSError) and error.filename is None:
        try:
            sys.stdout.flush()
        except (OSError, ValueError):
            silence(sys.stdout)


def describe(error: Exception) -> str:
    """What went wrong, in one line; an error of the system names its file."""
    if isinstance(error, OSError) and error.strerror:
        place = error.filename or "standard output, or a file without a name"
        return f"{error.strerror}: {place}"
    return " ".join(str(error).split())


class Notes(logging.Handler):
    """What the package notes, as lines on standard error."""

    def emit(self, record: logging.LogRecord) -> None:
        tell(printable(self.format(record)), sys.stderr)


@contextlib.contextmanager
def notes_shown() -> Iterator[None]:
    """Show what the package notes, also where nothing is wrong, in the block."""
    log, notes = logging.getLogger("distilclip"), Notes()
    before = log.level
    log.setLevel(logging.INFO)
    log.addHandler(notes)
    try:
        yield
    finally:
        log.removeHandler(notes)
        log.setLevel(before)


def quieten_libraries() -> None:
    """Keep other libraries' progress bars and notes out of ours: imports them."""
    import datasets
    import transformers

    datasets.disable_progress_bars()
    transformers.logging.set_verbosity_error()


def build_parser(arguments: list[str]) -> argparse.ArgumentParser:
    """All commands and their options.

    `arguments` says whether `search` takes words or --image.
    """
    parser = Parser(prog="distilclip", description=__doc__, epilog=EPILOGUE)
    version = f"distilclip {__version__}"
    parser.add_argument("--version", action="version", version=version)
    commands = parser.add_subparsers(required=True, metavar="command")
    add_train(commands)
    add_evaluate(commands)
    add_search(commands, arguments)
    add_serve(commands)
    return parser


def add_train(commands: argparse._SubParsersAction) -> None:
    """The command `train`, with an option for every setting of a run."""
    train = commands.add_parser(
        "train", help="train a model on image-caption pairs"
    )
    add_settings(train)
    train.set_defaults(run=run_train)


def add_settings(train: argparse.ArgumentParser) -> None:
    """An option for every field of TrainConfig.

    An option that is not given leaves no trace, so that the preset fills the field.
    """
    from distilclip.runs.settings import PRECISIONS, PRESETS, TrainConfig

    special: dict[str, dict[str, typing.Any]] = {
        "out": {"required": True, "metavar": "FOLDER"},
        "preset": {"choices": tuple(PRESETS)},
        "resume": {"action": "store_true"},
        "precision": {"choices": PRECISIONS},
    }
    settings = train.add_argument_group("settings, to change one by one")
    kinds = typing.get_type_hints(TrainConfig)
    for field in dataclasses.fields(TrainConfig):
        name, kind = field.name, kinds[field.name]
        group = train if name in ("data", "out", "preset", "resume") else settings
        about = field.metadata["about"]
        if name not in ("out", "resume"):
            about += f" ({values_by_preset(name)})"
        form: dict[str, typing.Any] = {"type": kind, "metavar": kind.__name__}
        if kind is bool:
            form = {"action": argparse.BooleanOptionalAction}
        elif field.metadata["kind"] == "columns":
            form["action"] = Joined
        form = special.get(name, form)
        group.add_argument(
            f"--{name.replace('_', '-')}",
            default=argparse.SUPPRESS,
            help=about.replace("%", "%%"),
            **form,
        )


class Joined(argparse.Action):
    """An option that may be given several times: values with commas between."""

    def __call__(self, parser, namespace, values, option_string=None):
        before = getattr(namespace, self.dest, "")
        setattr(namespace, self.dest, f"{before},{values}" if before else values)


def add_reading(parser: argparse.ArgumentParser) -> None:
    """The options that say how data are read, as `train` has them."""
    from distilclip.runs.settings import READING, TrainConfig

    for field in dataclasses.fields(TrainConfig):
        if field.name in READING:
            parser.add_argument(
                f"--{field.name.replace('_', '-')}",
                default="",
                metavar="str",
                help=field.metadata["about"],
                action=Joined if field.metadata["kind"] == "columns" else "store",
            )


def values_by_preset(name: str) -> str:
    """What a setting is unless it is given: "default: 5", or "cpu 48, t4 224"."""
    from distilclip.runs.settings import (
        DEFAULTS,
        FOLLOWS_LR,
        OF_THE_MODEL,
        PRESETS,
    )

    defaults = DEFAULTS | dict.fromkeys(FOLLOWS_LR, "lr")
    values = {
        preset: shown((defaults | settings)[name])
        for preset, settings in PRESETS.items()
        if not (settings.get("start_from") and name in OF_THE_MODEL)
    }
    if len(set(values.values())) == 1:
        return f"default: {values.popitem()[1]}"
    return ", ".join(f"{preset} {value}" for preset, value in values.items())


def shown(value: bool | int | float | str) -> str:
    """The value of a setting, for the help."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:g}" if isinstance(value, float) else str(value) or "none"


def add_evaluate(commands: argparse._SubParsersAction) -> None:
    """The command `evaluate`, of a split."""
    evaluate = commands.add_parser(
        "evaluate", help="recall at 1, 5 and 10 on a split"
    )
    evaluate.add_argument(
        "model",
        metavar="RUN",
        help="folder of a run, emoji, or a Hub id (openai/clip-vit-base-patch32)",
    )
    evaluate.add_argument(
        "--data", default="", help="as in train (default: what RUN was trained on)"
    )
    evaluate.add_argument(
        "--split", default="test", help="a split of the data (default: test)"
    )
    evaluate.add_argument(
        "--strict",
        action="store_true",
        help="as papers count: a caption that several pictures share is right for "
        "one at a time",
    )
    evaluate.add_argument(
        "--skip-broken",
        action="store_true",
        help="leave out pictures that cannot be decoded",
    )
    add_reading(evaluate)
    evaluate.add_argument(
        "--json", type=Path, metavar="FILE", help="write the figures here too"
    )
    evaluate.set_defaults(run=run_evaluate)


def add_search(commands: argparse._SubParsersAction, arguments: list[str]) -> None:
    """The command `search`, with words, or with a picture if --image is given."""
    search = commands.add_parser(
        "search",
        help="find pictures in a folder with words or with a picture",
        usage='%(prog)s RUN "words" FOLDER [options]\n'
        "       %(prog)s RUN FOLDER --image FILE [-q WORDS] [options]\n"
        "       %(prog)s RUN FOLDER -q WORDS -q WORDS ... [options]\n"
        "       %(prog)s RUN FOLDER --duplicates [COSINE] [options]",
        description="The pictures of a folder that are nearest to some words, "
        "to a picture, or to both; or those that are nearly the same.",
        epilog="What has been embedded is kept in ~/.cache/distilclip/indexes "
        "(or below $XDG_CACHE_HOME): the next search embeds only pictures that "
        "are new or have changed.",
        allow_abbrev=False,
    )
    search.add_argument(
        "model",
        metavar="RUN",
        help="folder of a run, emoji, or a Hub id (openai/clip-vit-base-patch32)",
    )
    options = list(itertools.takewhile(lambda word: word != "--", arguments))
    starts = {option.split("=")[0] for option in options}
    if not starts & {"--image", "--query", "--duplicates"} and not any(
        map(is_query, options)
    ):
        search.add_argument("words", metavar="words", help="what to look for")
    search.add_argument(
        "folder", metavar="FOLDER", type=Path, help="where the pictures are"
    )
    search.add_argument(
        "--image",
        type=Path,
        metavar="FILE",
        help="look for pictures like this one; with -q, like this one and like the "
        "words, each with the same weight",
    )
    search.add_argument(
        "-q",
        "--query",
        action="append",
        metavar="WORDS",
        help="what to look for, as often as you like, with the model loaded once; "
        "- reads a line each from standard input",
    )
    search.add_argument(
        "--without", metavar="WORDS", help="point the search away from these words"
    )
    search.add_argument(
        "--duplicates",
        type=float,
        nargs="?",
        const=0.95,
        metavar="COSINE",
        help="list the pairs of pictures whose cosine is at least this "
        "(default: 0.95), nearest first",
    )
    search.add_argument(
        "--captions",
        metavar="DATA",
        help="first say the words as the captions of this data set would, "
        "such as emoji",
    )
    search.add_argument(
        "-k", type=int, default=9, help="how many to show (default: 9)"
    )
    search.add_argument(
        "--min-score",
        type=float,
        metavar="COSINE",
        help="show only pictures whose cosine is at least this, from -1 to 1",
    )
    form = search.add_mutually_exclusive_group()
    form.add_argument(
        "-f", "--files", action="store_true", help="print nothing but the files"
    )
    form.add_argument(
        "--json",
        action="store_true",
        help="print a JSON object a line: query, rank, score, path",
    )
    search.add_argument(
        "--html", type=Path, metavar="FILE", help="write a page to look at"
    )
    search.add_argument(
        "--png", type=Path, metavar="FILE", help="write a contact sheet"
    )
    add_indexing(search)
    search.set_defaults(run=run_search, words=None)


def add_serve(commands: argparse._SubParsersAction) -> None:
    """The command `serve`: a page that searches."""
    serve = commands.add_parser(
        "serve",
        help="search a folder in the browser, on this machine alone",
        description="A page that searches the pictures of a folder: words, "
        "thumbnails, more like this. It answers on 127.0.0.1 alone, at an address "
        'that nobody can guess. Needs Flask: pip install "distilclip[serve]".',
    )
    serve.add_argument(
        "model",
        metavar="RUN",
        nargs="?",
        default="emoji",
        help="folder of a run, emoji, or a Hub id (default: emoji)",
    )
    serve.add_argument(
        "folder", metavar="FOLDER", type=Path, help="where the pictures are"
    )
    serve.add_argument(
        "--port",
        type=int,
        default=0,
        help="where it answers (default: any port that is free)",
    )
    serve.add_argument(
        "--open", action="store_true", help="open the page in the usual browser"
    )
    add_indexing(serve)
    serve.set_defaults(run=run_serve)


def add_indexing(parser: argparse.ArgumentParser) -> None:
    """The options that say how the index of a folder comes about."""
    parser.add_argument(
        "--skip-broken",
        action="store_true",
        help="leave out pictures that cannot be decoded",
    )
    parser.add_argument(
        "--no-cache",
        action="store_true",
        help="embed everything now and keep nothing",
    )
    parser.add_argument(
        "--rebuild", action="store_true", help="embed everything anew and keep it"
    )


def is_query(option: str) -> bool:
    """Whether an argument is -q, with its words behind it or not."""
    return option.startswith("-q")


def run_train(options: argparse.Namespace) -> int:
    """Train as the options say, and print the last recalls -> the status.

    SIGTERM and SIGHUP save the run and end it as Ctrl-C does.
    """
    quieten_libraries()
    from distilclip.runs.checkpoint import stoppable
    from distilclip.runs.settings import TrainConfig
    from distilclip.runs.watch import format_metrics
    from distilclip.training import train

    fields = {field.name for field in dataclasses.fields(TrainConfig)}
    given = {name: value for name, value in vars(options).items() if name in fields}
    with stoppable() as came:
        try:
            result = train(TrainConfig(**given))
        except KeyboardInterrupt as stopped:
            if not came:
                raise
            tell(f"\ndistilclip: {str(stopped) or 'Stopped.'}", sys.stderr)
            return 128 + came[0]
    for split, metrics in result.metrics.items():
        tell(f"{split}: {format_metrics(metrics)}")
    tell(f"The model is in {result.folder}.")
    return 0


def check_run(name: str) -> None:
    """Raise FileNotFoundError where `name` is a folder, but not that of a run."""
    if Path(name).is_dir() and not (Path(name) / "config.json").is_file():
        raise FileNotFoundError(
            f"{name} is not the folder of a run: it has no config.json."
        )


def load_run(name: str):
    """The model of a run, for a search: without what only training needs.

    Raises ValueError or FileNotFoundError where `name` is no run.
    """
    from distilclip.command.search_model import load_search_model

    check_run(name)
    return load_search_model(name)


def run_evaluate(options: argparse.Namespace) -> None:
    """Print a model's recalls on a split; with --json, write them, too."""
    quieten_libraries()
    from distilclip.data import load_pairs
    from distilclip.pretrained import load_model
    from distilclip.runs.chance import chance_metrics, warn_of_few
    from distilclip.runs.watch import format_metrics
    from distilclip.search import count_shared, evaluate_retrieval, flatten_captions
    from distilclip.sources.splits import take_split
    from distilclip.storage.files import refuse_to_replace, write_text

    check_run(options.model)
    if options.json:
        inputs = Path(options.model), Path(options.data or options.model)
        refuse_to_replace(options.json, inputs, is_evaluation)
    model = load_model(options.model)
    data, reading = data_to_evaluate(options)
    if options.json:
        refuse_to_replace(options.json, [Path(data)], is_evaluation)
    try:
        splits = load_pairs(data, **reading)
    except (ValueError, OSError) as error:
        if options.data:
            raise
        raise ValueError(
            f"{options.model} was trained on {data}, which cannot be read from "
            f"here: say what to evaluate it on, as --data. ({describe(error)})"
        ) from None
    rows = take_split(splits, options.split, data)
    if not options.data:
        warn_of_other_pairs(Path(options.model), data, splits)
    strict = options.strict
    metrics = evaluate_retrieval(model, rows, progress=True, strict=strict)
    captions = list(rows["captions"])
    chance = chance_metrics(captions, strict=strict)
    texts = flatten_captions(captions)[0]
    counts = {
        "images": len(rows),
        "captions": len(texts),
        "different_captions": len(set(texts)),
        "shared_captions": count_shared(captions),
    }
    if options.json:
        about = {"data": data, "split": options.split, "strict": strict}
        found = about | counts | metrics | {"chance": chance}
        write_text(options.json, json.dumps(found, indent=2))
    print(f"{data} {options.split}, {describe_counts(counts, strict)}:")
    print(format_metrics(metrics))
    print(f"by chance: {format_metrics(chance)}")
    warn_of_few(len(rows), options.split)


def data_to_evaluate(options: argparse.Namespace) -> tuple[str, dict]:
    """What to evaluate a model on, and how to read it: as it was trained, or asked.

    Raises ValueError where nothing is asked for, and a model has no record.
    """
    from distilclip.runs.settings import DEFAULTS, READING
    from distilclip.storage.files import read_json

    names = (*READING, "skip_broken")
    asked = {name: getattr(options, name) for name in names}
    if options.data:
        return options.data, asked
    if options.model == "emoji":
        return "emoji", asked
    record = Path(options.model) / "train_config.json"
    if not record.is_file():
        raise ValueError(
            f"There is no record of what {options.model} was trained on: say what "
            "to evaluate it on, as --data."
        )
    said = DEFAULTS | read_json(record)
    return said["data"], {name: asked[name] or said[name] for name in names}


def warn_of_other_pairs(folder: Path, data: str, splits) -> None:
    """Warn where a run was not trained on the training pairs that are there now."""
    from distilclip.runs.checkpoint import other_pairs

    if other_pairs(folder, splits):
        logging.getLogger("distilclip.evaluate").warning(
            "The training pairs of %s are not those that the run in %s was trained "
            "on: they have changed since, or it was given others.",
            *(data, folder),
        )


def is_evaluation(file: Path) -> bool:
    """Whether a file is what `evaluate --json` has written."""
    from distilclip.storage.files import read_json

    try:
        return {"data", "split", "strict", "captions"} <= read_json(file).keys()
    except ValueError:
        return False


def describe_counts(counts: dict[str, int], strict: bool) -> str:
    """How many images and captions, and what becomes of the captions shared."""
    words = f"{counts['images']:,} images, {counts['captions']:,} captions"
    if counts["different_captions"] < counts["captions"]:
        words += f", {counts['different_captions']:,} of them different"
    if not counts["shared_captions"]:
        return words + ", none shared by several pictures"
    how = "strict: right for one at a time" if strict else "right for each"
    return (
        f"{words}, {counts['shared_captions']:,} shared by several pictures ({how})"
    )


def run_search(options: argparse.Namespace) -> None:
    """Print the nearest pictures of a folder; write the galleries asked for."""
    check_search(options)
    if options.duplicates is not None:
        return list_duplicates(options)
    from distilclip.command.gallery import write_gallery

    titles, model = queries_of(options), load_run(options.model)
    picture = options.image and load_query(options.image, model)
    index = index_of(options, model)
    for title in titles:
        query = vector_of(title, picture, model, options)
        if picture and options.query:
            title += f", like {options.image.name}"
        title += f", without {options.without}" if options.without else ""
        hits = find_hits(index, query, options)
        for file in filter(None, [options.html, options.png]):
            write_gallery(title, hits, options.folder, file, options.image)
        if len(titles) > 1 and not (options.files or options.json):
            print(f"{printable(title)}:")
        print_hits(title, hits, options)
        if hits and not (picture or options.files or options.json):
            say_how_far(index, query, hits[0], options)
    for file in filter(None, [options.html, options.png]):
        tell(f"Gallery: {printable(str(file))}")


def vector_of(title: str, picture, model, options: argparse.Namespace):
    """What the index is asked with: words, a picture, or the vector (E) of both."""
    from torch.nn.functional import normalize

    words = title
    if picture and not options.query:
        return picture
    if options.captions:
        words = in_known_words(title, model, options.captions)
    if not picture:
        return words
    said = model.encode_text(words)[0] if isinstance(words, str) else words
    seen = model.encode_image(picture)[0]
    return normalize(said.cpu(), dim=0) + normalize(seen.cpu(), dim=0)


def list_duplicates(options: argparse.Namespace) -> None:
    """Print the pairs of pictures that are nearly the same, nearest first."""
    least = options.duplicates
    index = index_of(options, load_run(options.model))
    pairs = index.duplicates(least)
    for one, other, cosine in pairs:
        files = [str(options.folder / name) for name in (one, other)]
        if options.json:
            print(json.dumps({"cosine": round(cosine, 4), "paths": files}))
        elif options.files:
            print("\t".join(map(printable, files)))
        else:
            print(f"{cosine:.3f}  {'  '.join(map(printable, files))}")
    count = f"{len(pairs):,} pairs" if len(pairs) != 1 else "1 pair"
    have = f"of {len(index):,} pictures {'has' if len(pairs) == 1 else 'have'}"
    tell(f"{count} {have} a cosine of at least {least:g}.", sys.stderr)


def index_of(options: argparse.Namespace, model):
    """The index of the folder that is named; says how it came about."""
    from distilclip.command.index_cache import folder_index

    kept = folder_index(
        model,
        options.folder,
        cache=not options.no_cache,
        rebuild=options.rebuild,
        skip_broken=options.skip_broken,
    )
    tell(f"{printable(str(options.folder))}: {kept.done}.", sys.stderr)
    if kept.problem:
        tell(f"The index is not kept ({printable(kept.problem)}).", sys.stderr)
    if kept.index.skipped:
        tell(f"Skipped {len(kept.index.skipped)} that cannot be read:", sys.stderr)
        for path, reason in kept.index.skipped:
            tell(f"  {printable(f'{path}: {reason}')}", sys.stderr)
    return kept.index


def run_serve(options: argparse.Namespace) -> int:
    """Serve the page until Ctrl-C.

    Raises ValueError where Flask is missing, OSError where a port is taken.
    """
    if not 0 <= options.port < 2**16:
        raise ValueError(f"--port must be from 0 to 65535, got {options.port}.")
    if not options.folder.is_dir():
        raise FileNotFoundError(f"There is no folder {options.folder}.")
    from distilclip.command import serve

    serve.check_framework()
    index = index_of(options, load_run(options.model))
    index.model.encode_text(
        "a picture"
    )  # what reads words is loaded before the page
    server = serve.Server(index, options.folder)
    listening, address = serve.listen(server, options.port)
    tell(f"Open {address} (Ctrl-C ends it).")
    if options.open:
        import webbrowser

        webbrowser.open(address)
    with contextlib.suppress(KeyboardInterrupt):
        listening.serve_forever()
    listening.server_close()
    return 0


def queries_of(options: argparse.Namespace) -> list[str]:
    """What to look for, in words; of a picture, what it is called.

    Raises ValueError where standard input, asked with -q -, has no lines.
    """
    if options.image and not options.query:
        return [f"Like {options.image.name}"]
    queries: list[str] = []
    for words in options.query or [options.words]:
        lines = sys.stdin.read().splitlines() if words == "-" else [words]
        queries += [line for line in lines if line.strip()]
    if not queries:
        raise ValueError("Standard input has no words to look for.")
    return queries


def find_hits(index, query, options: argparse.Namespace) -> list:
    """The pictures to show: not the one asked with, and none below --min-score."""
    most = options.k + (options.image is not None)
    hits = index.search(query, most, options.without)
    if options.image:
        hits = [hit for hit in hits if not hit.path.samefile(options.image)]
    least = options.min_score
    shown = [hit for hit in hits if least is None or hit.score >= least]
    if hits and not shown:
        tell(
            f"None of {len(index):,} pictures has a cosine of {least:g}; the "
            f"nearest has {hits[0].score:.3f}.",
            sys.stderr,
        )
    return shown[: options.k]


def print_hits(query: str, hits: list, options: argparse.Namespace) -> None:
    """Print pictures found, in the form that is asked for."""
    for rank, hit in enumerate(hits, start=1):
        if options.json:
            entry = {"query": query, "rank": rank, "score": round(hit.score, 6)}
            print(json.dumps(entry | {"path": str(hit.path)}))
        elif options.files:
            print(printable(str(hit.path)))
        else:
            print(f"{rank:>3}  {hit.score:.3f}  {printable(str(hit.path))}")


def say_how_far(index, query, hit, options: argparse.Namespace) -> None:
    """Say how far the first stands out, where it is the query's own cosine."""
    from distilclip.index.standing import standing

    if not options.without:
        words = isinstance(query, str)
        vector = index.model.encode_text(query)[0].cpu() if words else query
        apart = standing(index.embeds, vector, hit.score)
        tell(
            f"The first stands {apart:.1f} standard deviations above this "
            "folder's mean cosine.",
            sys.stderr,
        )


def in_known_words(query: str, model, source: str):
    """The vector (E) of a query, said as a data set's captions would say it."""
    quieten_libraries()
    from distilclip.data import load_pairs
    from distilclip.search import caption_bank, expand_queries
    from distilclip.sources.splits import take_split

    rows = take_split(load_pairs(source), "train", source)
    bank = caption_bank(model, rows["captions"])
    return expand_queries(model.encode_text(query), bank)[0]


def check_search(options: argparse.Namespace) -> None:
    """Refuse what cannot work, before anything is loaded.

    Raises ValueError or FileNotFoundError.
    """
    from distilclip.storage.files import refuse_to_replace

    page, sheet = options.html, options.png
    if page and page.suffix.lower() not in (".html", ".htm"):
        raise ValueError(f"--html takes a file that ends in .html, got {page}.")
    if sheet and sheet.suffix.lower() != ".png":
        raise ValueError(f"--png takes a file that ends in .png, got {sheet}.")
    if options.k < 1:
        raise ValueError(f"-k must be at least 1, got {options.k}.")
    check_duplicates(options)
    for words in (options.words, options.without, *(options.query or ())):
        if words is not None and not words.strip():
            raise ValueError("The query is empty: say what to look for.")
    least = options.min_score
    if least is not None and not -1 <= least <= 1:
        raise ValueError(f"--min-score is a cosine, from -1 to 1, got {least:g}.")
    several = len(options.query or ()) > 1 or "-" in (options.query or ())
    if several and (page or sheet):
        raise ValueError("--html and --png show one query: ask one at a time.")
    if options.words and not options.folder.is_dir() and is_folder(options.words):
        options.words, options.folder = str(options.folder), Path(options.words)
    if options.image and not options.image.is_file():
        raise FileNotFoundError(f"There is no picture {options.image}.")
    if not options.folder.is_dir():
        raise FileNotFoundError(f"There is no folder {options.folder}.")
    inputs = [options.folder, Path(options.model)]
    inputs += [options.image] if options.image else []
    for option, file, most in (("--html", page, 10_000), ("--png", sheet, 1_000)):
        if file and options.k > most:
            raise ValueError(
                f"{option} shows at most {most:,} pictures, got -k {options.k}."
            )
        if file:
            refuse_to_replace(file, inputs, is_page)


def check_duplicates(options: argparse.Namespace) -> None:
    """Raise ValueError where --duplicates stands beside what it has no use for."""
    least = options.duplicates
    if least is None:
        return
    if not 0 < least <= 1:
        raise ValueError(
            f"--duplicates is a cosine, above 0 and at most 1, got {least:g}."
        )
    for name in (
        "image",
        "query",
        "without",
        "captions",
        "min_score",
        "html",
        "png",
    ):
        if getattr(options, name) is not None:
            option = "-q" if name == "query" else f"--{name.replace('_', '-')}"
            raise ValueError(f"--duplicates compares pictures: leave out {option}.")


def is_folder(words: str) -> bool:
    """Whether words are the name of a folder that is there."""
    try:
        return Path(words).is_dir()
    except (OSError, ValueError):  # no name that a file could have
        return False


def is_page(file: Path) -> bool:
    """Whether a file is no picture, nor of a model, but a page."""
    return file.suffix.lower() in (".html", ".htm")


def load_query(file: Path, model):
    """The picture to look for, read as the pictures of a folder are."""
    from distilclip.storage.pictures import read_picture, why_undecodable

    try:
        return read_picture(file, model.config.vision.image_size)
    except Exception as error:  # Pillow raises many kinds for a broken file
        reason = why_undecodable(error)
        raise ValueError(f"Cannot decode {file}: {reason}.") from None


if __name__ == "__main__":
    sys.exit(main())

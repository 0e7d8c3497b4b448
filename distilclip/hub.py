"""Finding files: a folder here, or a repository on the Hugging Face Hub.

The one place that touches the network for weights, so that every failure says the same thing:
what was tried, and what to do.
"""

import json
from pathlib import Path

from huggingface_hub import hf_hub_download
from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, LocalEntryNotFoundError


def checkpoint_files(path_or_hub_id: str | Path) -> list[Path]:
    """The files of a checkpoint: its config.json first, then its safetensors files.

    Raises FileNotFoundError with one sentence where they cannot be had.
    """
    config = find_file(path_or_hub_id, "config.json")
    try:
        return [config, find_file(path_or_hub_id, "model.safetensors")]
    except FileNotFoundError as missing:
        try:  # a large checkpoint comes in several files, with an index
            index = json.loads(
                find_file(path_or_hub_id, "model.safetensors.index.json").read_text()
            )
        except FileNotFoundError:
            raise missing from None
    names = sorted(set(index["weight_map"].values()))
    return [config, *(find_file(path_or_hub_id, name) for name in names)]


def find_file(path_or_hub_id: str | Path, name: str) -> Path:
    """The file `name` in a local folder or in a repository of the Hub."""
    folder = Path(path_or_hub_id)
    if folder.is_dir():
        if not (folder / name).is_file():
            raise FileNotFoundError(f"The folder {folder} has no file {name}.")
        return folder / name
    if not looks_like_hub_id(path_or_hub_id):
        raise FileNotFoundError(f"There is no folder {folder}, and it is no Hub id either.")
    try:
        return Path(hf_hub_download(str(path_or_hub_id), name))
    except LocalEntryNotFoundError:
        raise FileNotFoundError(unreachable(path_or_hub_id)) from None
    except EntryNotFoundError:
        raise FileNotFoundError(f"{path_or_hub_id} on the Hub has no file {name}.") from None
    except (HfHubHTTPError, OSError) as error:
        raise FileNotFoundError(unreachable(path_or_hub_id, error)) from None


def looks_like_hub_id(name: str | Path) -> bool:
    """Whether `name` could be "owner/name" or "name" on the Hub rather than a path."""
    parts = str(name).split("/")
    return len(parts) <= 2 and all(parts) and not str(name).startswith((".", "~"))


def unreachable(name: str | Path, error: Exception | None = None) -> str:
    """The sentence for something that is neither here nor on the Hub."""
    reason = f" ({type(error).__name__})" if error else ""
    return (
        f"Cannot get {str(name)!r}: there is no folder of that name here, it is not in the local "
        f"cache, and the Hugging Face Hub did not give it{reason}. Check the name and the "
        "network, or give a folder."
    )

"""Finding files: a folder here, or a repository on the Hugging Face Hub.

The one place that touches the network for weights, so that every failure says the same thing:
what was tried, and what to do.
"""

import contextlib
import json
import socket
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import datasets
import huggingface_hub
import safetensors.torch
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, LocalEntryNotFoundError
from safetensors import SafetensorError
from torch import Tensor


def checkpoint_files(path_or_hub_id: str | Path) -> list[Path]:
    """The files of a checkpoint: its config.json first, then its safetensors files.

    Raises FileNotFoundError with one sentence where they cannot be had.
    """
    config = find_file(path_or_hub_id, "config.json")
    try:
        return [config, find_file(path_or_hub_id, "model.safetensors")]
    except FileNotFoundError as missing:
        try:  # a large checkpoint comes in several files, with an index
            index_file = find_file(path_or_hub_id, "model.safetensors.index.json")
        except FileNotFoundError:
            raise missing from None
    names = read_json(index_file).get("weight_map")
    names = sorted(map(str, set(names.values()))) if isinstance(names, dict) else []
    if not names or any(Path(name).name != name for name in names):
        raise ValueError(f"{index_file} names no files of weights beside it.")
    return [config, *(find_file(path_or_hub_id, name) for name in names)]


def read_json(file: str | Path) -> dict:
    """The object in a JSON file; ValueError where it is none, or not all of one."""
    try:
        content = json.loads(Path(file).read_text(encoding="utf-8"))
    except (ValueError, RecursionError):  # not UTF-8, or not JSON
        raise ValueError(f"{file} is damaged: it is not valid JSON.") from None
    if not isinstance(content, dict):
        raise ValueError(f"{file} is damaged: it does not hold a JSON object.")
    return content


def load_file(file: str | Path) -> dict[str, Tensor]:
    """The named tensors of a safetensors file; ValueError where it is none, or not all of one."""
    try:
        return safetensors.torch.load_file(file)
    except SafetensorError as error:
        raise ValueError(f"{file} is damaged or no safetensors file: {error}.") from None


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
        with offline_without_network(path_or_hub_id):
            return Path(hf_hub_download(str(path_or_hub_id), name))
    except LocalEntryNotFoundError:
        raise FileNotFoundError(unreachable(path_or_hub_id)) from None
    except EntryNotFoundError:
        raise FileNotFoundError(f"{path_or_hub_id} on the Hub has no file {name}.") from None
    except (HfHubHTTPError, OSError) as error:
        raise FileNotFoundError(unreachable(path_or_hub_id, error)) from None


@contextlib.contextmanager
def offline_without_network(path_or_hub_id: str | Path) -> Iterator[None]:
    """Inside, the Hub's clients look into their local cache only if there is no network at all.

    Left alone, they try again and again for about 25 seconds a file before they do so. Does
    nothing for a folder, which needs no network.
    """
    before = huggingface_hub.constants.HF_HUB_OFFLINE, datasets.config.HF_HUB_OFFLINE
    if not any(before) and not Path(path_or_hub_id).is_dir() and network_is_missing():
        huggingface_hub.constants.HF_HUB_OFFLINE = datasets.config.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        huggingface_hub.constants.HF_HUB_OFFLINE, datasets.config.HF_HUB_OFFLINE = before


def network_is_missing(tries: int = 2, timeout: float = 5.0) -> bool:
    """Whether the Hub's host has no address, refuses, or cannot be routed to.

    A host that is only slow to answer is not missing, and nothing is concluded behind a proxy.
    """
    if urllib.request.getproxies():
        return False
    url = urlsplit(huggingface_hub.constants.ENDPOINT)
    port = url.port or (80 if url.scheme == "http" else 443)
    for attempt in range(tries):
        if attempt:
            time.sleep(0.5)
        try:
            socket.create_connection((url.hostname, port), timeout).close()
        except TimeoutError:
            return False
        except OSError:
            continue
        return False
    return True


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

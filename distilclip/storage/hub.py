"""Finding files: a folder here, or a repository on the Hugging Face Hub.

The one place that touches the network for weights, so that every failure says the
same thing: what was tried, and what to do.
"""

import contextlib
import re
import socket
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import huggingface_hub

from distilclip.storage.terminal import printable

SWITCH = "HF_HUB_OFFLINE"  # the name of one in `huggingface_hub`, one in `datasets`


class NoFileInPlaceError(FileNotFoundError):
    """The folder or the repository is there, but has no file of this name."""


def find_file(path_or_hub_id: str | Path, name: str) -> Path:
    """The file `name` in a local folder or in a repository of the Hub.

    Raises FileNotFoundError where it cannot be had, of the kind
    `NoFileInPlaceError` where the place itself exists.
    """
    folder = Path(path_or_hub_id)
    if folder.is_dir():
        if not (folder / name).is_file():
            raise NoFileInPlaceError(f"The folder {folder} has no file {name}.")
        return folder / name
    if not looks_like_hub_id(path_or_hub_id):
        raise FileNotFoundError(
            f"There is no folder {printable(str(folder))}, and it is no Hub id "
            "either."
        )
    from huggingface_hub import errors  # only now: a folder needs no network

    try:
        with offline_without_network(path_or_hub_id):
            file = huggingface_hub.hf_hub_download(str(path_or_hub_id), name)
            return Path(file)
    except errors.LocalEntryNotFoundError:
        raise FileNotFoundError(unreachable(path_or_hub_id)) from None
    except errors.EntryNotFoundError:
        raise NoFileInPlaceError(
            f"{path_or_hub_id} on the Hub has no file {name}."
        ) from None
    except (errors.HfHubHTTPError, OSError) as error:
        raise FileNotFoundError(unreachable(path_or_hub_id, error)) from None


# What the Hub takes as the name of an owner, a model or a data set
HUB_NAME = re.compile(
    r"(?!.*(--|\.\.))[A-Za-z0-9_]([\w.-]{0,94}[A-Za-z0-9_])?", re.ASCII
)


@contextlib.contextmanager
def offline_without_network(path_or_hub_id: str | Path) -> Iterator[None]:
    """Where there is no network, have the Hub's clients look into their cache only.

    Left alone, they try again and again for about 25 seconds a file before they do
    so. Does nothing for a folder, which needs no network. `datasets` has a switch
    of its own; whoever has not loaded it by now does not use it inside, either.
    """
    switches = [huggingface_hub.constants]
    if "datasets" in sys.modules:
        switches.append(sys.modules["datasets"].config)
    before = [getattr(switch, SWITCH) for switch in switches]
    needs_network = not any(before) and not Path(path_or_hub_id).is_dir()
    offline = needs_network and network_is_missing()
    try:
        for switch in switches if offline else ():
            setattr(switch, SWITCH, True)
        yield
    finally:
        for switch, value in zip(switches, before, strict=True):
            setattr(switch, SWITCH, value)


def network_is_missing(tries: int = 2, timeout: float = 5.0) -> bool:
    """Whether the Hub's host has no address, refuses, or cannot be routed to.

    A host that is only slow to answer is not missing, and nothing is concluded
    behind a proxy.
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
    """Whether `name` could be "owner/name" or "name" on the Hub, and is no path."""
    parts = str(name).split("/")
    return len(parts) <= 2 and all(map(HUB_NAME.fullmatch, parts))


def unreachable(name: str | Path, error: Exception | None = None) -> str:
    """The sentence for something that is neither here nor on the Hub."""
    reason = f" ({type(error).__name__})" if error else ""
    return (
        f"Cannot get {str(name)!r}: there is no folder of that name here, it is "
        "not in the local cache, and the Hugging Face Hub did not give "
        f"it{reason}. Check the name and the network, or give a folder."
    )

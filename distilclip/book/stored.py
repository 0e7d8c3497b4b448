"""Results that took longer than a reader waits: measured once, and stored here.

Each file of the folder `results` holds what one benchmark or one training run
found, with its command, date and machine. The chapters and the page of costs read
them here, so that they show the same in Colab as in the book.
"""

import json
from pathlib import Path

RESULTS = Path(__file__).with_name("results")


def stored_results(name: str) -> dict:
    """What is stored as `results/NAME.json`; an empty dictionary if nothing is.

    Raises ValueError for a name that is a path, or that has an ending.
    """
    file = RESULTS / f"{name}.json"
    if file.parent != RESULTS or "." in name:
        raise ValueError(
            "Results go by a name, such as 'ablations' for ablations.json; "
            f"got {name!r}."
        )
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}

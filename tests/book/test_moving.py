"""Figures that move: what a cell's output holds, the data that is stored, and the scripts' sums.

What needs a browser is in `tools/check_moving.py`. The scripts' functions are run by Node here.
"""

import base64
import html
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import numpy as np
import pytest
import torch
import torch.nn.functional as F

from distilclip import contrastive_loss
from distilclip.book.figures import PALETTE
from distilclip.book.moving import LIMIT, PARTS, moving_figure, part

sys.path.insert(0, str(Path(__file__).parents[2] / "tools"))

import moving_data

ROOT = Path(__file__).parents[2]
NAMESPACE = "http://www.w3.org/2000/svg"  # a name, which no browser asks for
SAY = {"alt": "two dots", "caption": "Dots."}
needs_node = pytest.mark.skipif(not shutil.which("node"), reason="scripts are run by Node")


# What a cell shows


def shown() -> dict[str, tuple[nbformat.NotebookNode, str]]:
    """The cells of the chapters that show a figure that moves, and the HTML, by its name."""
    found = {}
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        for cell in nbformat.read(path, as_version=4).cells:
            if cell.cell_type == "code" and "moving_figure(" in cell.source:
                (output,) = cell.outputs
                text = output.data["text/html"]
                found[re.search(r'data-moving="(\w+)"', text)[1]] = cell, text
    return found


SHOWN = shown()


def test_seven_figures_move():
    assert set(SHOWN) == {path.stem for path in PARTS.glob("*.png")}
    assert len(SHOWN) >= 6


@pytest.mark.parametrize("name", SHOWN)
def test_a_figure_is_whole_and_asks_for_nothing(name):
    cell, text = SHOWN[name]
    assert len(text.encode()) <= LIMIT
    assert not re.search(r"""https?:|["'(]//""", text.replace(NAMESPACE, ""))
    assert not re.search(r"\b(?:fetch|XMLHttpRequest|import)\b\s*\(|@import|url\(", text)
    assert "hide-input" in cell.metadata.tags
    assert cell.execution_count  # or nbval takes it for a cell that was never run
    alt = html.escape(cell.metadata.mystnb.image.alt)
    assert f'aria-label="{alt}"' in text and f'class="moving-still" alt="{alt}"' in text
    still = base64.b64decode(cell.outputs[0].data["image/png"])
    assert still.startswith(b"\x89PNG") and base64.b64encode(still).decode() in text


@pytest.mark.parametrize("name", SHOWN)
def test_what_is_stored_is_what_the_scripts_and_data_give_today(name):
    cell, text = SHOWN[name]
    *_, call = cell.source.partition("\nmoving_figure(")
    figure = eval(f"moving_figure({call}", {"moving_figure": moving_figure, "PALETTE": PALETTE})
    assert figure._repr_html_() == text, "run the chapter again: tools/run_notebooks.py"


def test_no_text_ends_a_script_or_opens_an_element():
    evil = '</script><img src=x onerror="alert(1)">'
    text = moving_figure("circle", {"names": [evil]}, alt=evil, caption=evil)._repr_html_()
    assert evil not in text and "<img src=x" not in text
    stored = re.search(r'<script type="application/json">(.*)</script>', text)[1]
    assert json.loads(stored) == {"names": [evil]}
    assert text.count("<script") == text.count("</script>") == 2


def test_a_figure_has_a_still_and_a_text():
    figure = moving_figure("circle", {}, **SAY)
    assert figure._repr_png_() == (PARTS / "circle.png").read_bytes()
    assert "two dots" in repr(figure)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"name": "nothing", **SAY}, "no figure 'nothing'"),
        ({"name": "circle", "data": {}, "alt": " "}, "Say in `alt`"),
        ({"name": "circle", "data": {"names": ["x" * LIMIT]}, **SAY}, "KiB; it may have 300"),
    ],
)
def test_what_cannot_be_shown_is_refused_in_a_sentence(given, said):
    with pytest.raises(ValueError, match=said):
        moving_figure(**given)


# What is stored


def stored(name: str) -> dict:
    return json.loads(part(f"{name}.json"))


def shares(text: str, *shape: int) -> np.ndarray:
    return (np.frombuffer(base64.b64decode(text), np.uint8).reshape(shape) / 255.0) ** 2


@pytest.mark.parametrize("name", ["positions", "attention_by_hand"])
def test_the_stored_data_is_what_the_models_say(name):
    assert not moving_data.differences(stored(name), moving_data.MAKERS[name]())


@pytest.mark.parametrize(
    ("now", "count"),
    [({"a": [1, 2], "b": "x"}, 0), ({"a": [3, 0], "b": "x"}, 0), ({"a": [9, 2], "b": "y"}, 2)],
)
def test_a_difference_is_found(now, count):
    assert len(moving_data.differences({"a": [1, 2], "b": "x"}, now)) == count


def test_every_row_of_attention_sums_to_one():
    trained, text = stored("attention_trained"), stored("sentence")
    tables = [
        shares(entry["weights"], trained["layers"], trained["heads"], 37, 37)
        for entry in trained["pictures"]
    ]
    for entry in text["sentences"]:
        size = len(entry["tokens"])
        tables.append(shares(entry["weights"], text["layers"], text["heads"], size, size))
    for table in tables:
        assert np.abs(table.sum(axis=-1) - 1).max() < 0.03


def test_the_chapters_say_what_the_attention_shows():
    trained, text = stored("attention_trained"), stored("sentence")
    for entry in text["sentences"]:  # chapter 4
        size = len(entry["tokens"])
        table = shares(entry["weights"], text["layers"], text["heads"], size, size)
        assert np.diagonal(table[0, 2], -1).min() > 0.98
        parked = table[1:5, :, 1:-1][..., [0, -1]].sum(axis=-1).mean(axis=(1, 2))
        assert parked.min() > 0.5
    row, column = np.divmod(np.arange(36), 6)
    away = np.hypot(row[:, None] - row, column[:, None] - column)
    for entry in trained["pictures"]:  # chapter 10
        table = shares(entry["weights"], 6, 3, 37, 37)[:, :, 1:, 1:]
        assert np.average(away, weights=table[0, 2]) < 2
        alike = [np.corrcoef(rows)[np.triu_indices(36, 1)].mean() for rows in table[5]]
        assert min(alike) > 0.6


def test_chapter_3_says_what_the_positions_show():
    cosines = np.array(stored("positions")["tables"][2]["cosines"]).reshape(36, 36) / 100
    row, column = np.divmod(np.arange(36), 6)
    away = np.hypot(row[:, None] - row, column[:, None] - column)
    lined = (row[:, None] == row) | (column[:, None] == column)
    for near in (2, 3, 4, 5):  # beside those just as far away in no common row or column
        other = cosines[~lined & (np.abs(away - near) < 0.5)].mean()
        assert cosines[lined & (away == near)].mean() > other
    assert cosines[lined & (away == 5)].mean() > cosines[lined & (away == 3)].mean()


def test_chapter_9_says_what_the_queries_show():
    data = stored("query")
    names = [picture["name"] for picture in data["pictures"]]
    best = {
        step["text"]: names[int(np.argmax(step["cosines"]))]
        for entry in data["queries"]
        for step in entry["steps"]
    }
    assert {best[text] for text in ("a", "it", "something")} == {"seal"}
    assert best["what I wear"] == "jeans" and best["what I wear when it is cold"] == "seal"
    places = np.array([[p["x"] * 580, p["y"] * 400] for p in data["pictures"]])  # as drawn
    kept = []
    for entry in data["queries"]:
        last = entry["steps"][-1]
        at = np.array([last["x"] * 580, last["y"] * 400])
        on_map = np.linalg.norm(places - at, axis=1).argsort(kind="stable")[:5]
        kept.append(len(set(on_map) & set((-np.array(last["cosines"])).argsort(kind="stable")[:5])))
    assert max(kept) == 3 and min(kept) == 0


# What the scripts compute


def by_node(script: str, expression: str):
    """The value of an expression after the kit and a script."""
    code = f"{part('kit.js')}\n{part(script)}\nconsole.log(JSON.stringify({expression}));"
    done = subprocess.run(["node", "-"], input=code, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


@needs_node
@pytest.mark.parametrize("scale", [1.0, 10.0, 100.0])
def test_the_circle_has_the_loss_and_the_gradient_of_the_package(scale):
    angles = 6.28 * torch.rand(2, 6, generator=torch.Generator().manual_seed(0)).double()
    angles.requires_grad_()
    pictures, captions = torch.stack([angles.cos(), angles.sin()], dim=-1)
    loss = contrastive_loss(pictures, captions, scale)
    loss.backward()
    given = ", ".join(json.dumps(row) for row in angles.tolist())
    found = by_node("circle.js", f"circleLoss({given}, {scale})")
    assert found["loss"] == pytest.approx(loss.item(), abs=1e-9)
    gradient = torch.tensor([found["byPicture"], found["byCaption"]])
    assert (gradient - angles.grad).abs().max() < 1e-5 * scale


@needs_node
def test_chapter_5_says_where_a_hundred_steps_lead():
    cell, _ = SHOWN["circle"]
    start = json.dumps(re.findall(r'"(?:pictures|captions)": (\[.*?\])', cell.source))
    ends = by_node(
        "circle.js",
        f"""[1, 10, 100].map((scale) => {{
          let at = {start}.map(t => JSON.parse(t).map(d => d * Math.PI / 180));
          for (let i = 0; i < 100; i += 1) at = circleStep(...at, scale, 0.6 * 6);
          const end = circleLoss(...at, scale);
          return {{ ...end, own: end.cosines.map((row, i) => row[i]),
            right: end.cosines.every((row, i) => row[i] >= Math.max(...row)) }};
        }})""",
    )
    losses = [end["loss"] for end in ends]
    assert losses[0] == pytest.approx(1.03, abs=0.005) and losses[1] == pytest.approx(
        0.01, abs=0.005
    )
    assert losses[2] < 0.001 and all(end["right"] for end in ends)
    assert min(ends[0]["own"] + ends[1]["own"]) > 0.99 > 0.95 > min(ends[2]["own"])


@needs_node
def test_the_heads_made_by_hand_are_those_of_chapter_2():
    colours = torch.tensor(stored("attention_by_hand")["pictures"][0]["colours"]).double()
    directions = F.normalize(colours - colours.mean(dim=0), dim=1)
    places = torch.cartesian_prod(torch.arange(14.0), torch.arange(14.0)).double()
    expected = {
        "colour": (20 * directions @ directions.T).softmax(dim=1)[51],
        "near": (-(torch.cdist(places, places) ** 2) / 4).softmax(dim=1)[51],
    }
    for kind, row in expected.items():
        found = by_node(
            "attention.js",
            f'weightsByHand("{kind}", 51, 14, directionsOf({colours.tolist()}), 20)',
        )
        assert (torch.tensor(found) - row).abs().max() < 1e-6


@needs_node
def test_the_costs_of_chapter_1_are_counted_right():
    fine, usual = by_node("patches.js", "[costs(224, 4, 768), costs(224, 16, 768)]")
    share = [one["square"] / (one["square"] + one["linear"]) for one in (fine, usual)]
    assert (fine["tokens"], usual["tokens"], usual["numbers"]) == (3136, 196, 768)
    assert [round(100 * one) for one in share] == [40, 4]

"""Composed drawings, the source `scenes`: two shapes, a relation, five captions.

Every scene is decided by a seed, so any number can be made, and the pairs of colour
and shape in `HELD_OUT` can be kept out of training to ask whether a model composes
what it has learned.
"""

import math
import random
import re

import datasets
from PIL import Image, ImageDraw

COLOURS = {
    "red": (214, 39, 40),
    "orange": (255, 140, 0),
    "yellow": (245, 208, 0),
    "green": (44, 160, 44),
    "blue": (31, 90, 200),
    "purple": (140, 60, 180),
    "black": (25, 25, 25),
}
SHAPES = {"triangle": 3, "square": 4, "pentagon": 5, "star": 5, "circle": 0}
SIZES = {"small": 0.11, "large": 0.2}
RELATIONS = ("left of", "above")
COLOUR_NAME = re.compile(rf"\b({'|'.join(COLOURS)})\b")
THING_NAME = re.compile(rf"\b({'|'.join(COLOURS)}) ({'|'.join(SHAPES)})\b")
HELD_OUT = {
    ("red", "star"),
    ("blue", "triangle"),
    ("green", "circle"),
    ("purple", "square"),
}
Thing = tuple[str, str, str]  # size, colour, shape


def load_scenes(
    train: int = 3000, test: int = 500, seed: int = 0
) -> datasets.DatasetDict:
    """Composed drawings: `train` scenes, and `test` for each other split."""
    features = datasets.Features(
        {
            "image": datasets.Image(),
            "captions": datasets.List(datasets.Value("string")),
            "image_id": datasets.Value("string"),
            "first": datasets.Value("string"),
            "relation": datasets.Value("string"),
            "second": datasets.Value("string"),
        }
    )
    sizes = {
        "train": train,
        "validation": test,
        "test": test,
        "test_combinations": test,
    }
    pairs = datasets.DatasetDict()
    for split, count in sizes.items():
        held_out = split == "test_combinations"
        scenes = draw_scenes(count, f"{seed}/{split}", held_out)
        pairs[split] = datasets.Dataset.from_list(scenes, features=features)
    return pairs


def draw_scenes(
    count: int, seed: str, held_out: bool = False, image_size: int = 64
) -> list[dict]:
    """`count` scenes, rows of image, captions, image_id, first, relation, second.

    Without `held_out` no object pairs a colour and a shape of `HELD_OUT`; with it,
    one does.
    """
    generator = random.Random(seed)
    scenes = []
    for number in range(count):
        first, second = draw_objects(generator, held_out)
        relation = generator.choice(RELATIONS)
        names = " ".join(first), " ".join(second)
        scenes.append(
            {
                "image": paint(first, second, relation, generator, image_size),
                "captions": describe(*names, relation),
                "image_id": f"scene/{seed}/{number}",
                "first": names[0],
                "relation": relation,
                "second": names[1],
            }
        )
    return scenes


def draw_objects(generator: random.Random, held_out: bool) -> tuple[Thing, Thing]:
    """Two different things."""
    while True:
        first, second = draw_thing(generator), draw_thing(generator)
        new = (first[1:] in HELD_OUT) + (second[1:] in HELD_OUT)
        if first != second and new == int(held_out):
            return first, second


def draw_thing(generator: random.Random) -> Thing:
    """Any size, colour and shape."""
    kinds = SIZES, COLOURS, SHAPES
    size, colour, shape = (generator.choice(list(kind)) for kind in kinds)
    return size, colour, shape


def describe(first: str, second: str, relation: str) -> list[str]:
    """Five ways to say the same, with `first` on the left or on top."""
    if relation == "left of":
        there, start, end = "to the right of", "on the left", "on the right"
        before = "to the left of"
    else:
        there, start, end = "below", "at the top", "at the bottom"
        before = "above"
    return [
        f"a {first} {relation} a {second}",
        f"a {second} {there} a {first}",
        f"a {first} {start} and a {second} {end}",
        f"{end}, a {second}; {start}, a {first}",
        f"there is a {second}, and {before} it is a {first}",
    ]


def paint(
    first: Thing,
    second: Thing,
    relation: str,
    generator: random.Random,
    image_size: int,
) -> Image.Image:
    """Draw both things at four times the size, then shrink, for smooth edges."""
    canvas = image_size * 4
    image = Image.new("RGB", (canvas, canvas), "white")
    for thing, along in ((first, 0.27), (second, 0.73)):
        along += generator.uniform(-0.05, 0.05)
        across = generator.uniform(0.27, 0.73)
        x, y = (along, across) if relation == "left of" else (across, along)
        paint_thing(ImageDraw.Draw(image), thing, x * canvas, y * canvas, canvas)
    return image.resize((image_size, image_size), Image.Resampling.LANCZOS)


def paint_thing(
    draw: ImageDraw.ImageDraw, thing: Thing, x: float, y: float, canvas: int
) -> None:
    """One shape around (x, y)."""
    size, colour, shape = thing
    radius = SIZES[size] * canvas
    if shape == "circle":
        box = (x - radius, y - radius, x + radius, y + radius)
        draw.ellipse(box, fill=COLOURS[colour])
        return
    corners = SHAPES[shape] * (2 if shape == "star" else 1)
    start = math.pi / 4 if shape == "square" else -math.pi / 2
    points = []
    for corner in range(corners):
        reach = radius * (0.45 if shape == "star" and corner % 2 else 1.1)
        angle = start + 2 * math.pi * corner / corners
        points.append((x + reach * math.cos(angle), y + reach * math.sin(angle)))
    draw.polygon(points, fill=COLOURS[colour])

"""Composed drawings for the data source `scenes`: two shapes, a relation, five captions each.

Every scene is decided by a seed, so any number can be made, and the pairs of colour and shape in
`HELD_OUT` can be kept out of training to ask whether a model composes what it has learnt.
"""

import math
import random

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
HELD_OUT = {("red", "star"), ("blue", "triangle"), ("green", "circle"), ("purple", "square")}


def draw_scenes(count: int, seed: str, held_out: bool = False, image_size: int = 64) -> list[dict]:
    """`count` scenes, each with image, captions, image_id, first, relation and second.

    Without `held_out` no object pairs a colour and a shape of `HELD_OUT`; with it, one does.
    """
    generator = random.Random(seed)
    scenes = []
    for number in range(count):
        first, second = draw_objects(generator, held_out)
        relation = generator.choice(RELATIONS)
        names = [" ".join(thing) for thing in (first, second)]
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


def draw_objects(generator: random.Random, held_out: bool) -> list[tuple[str, str, str]]:
    """Two different things, each (size, colour, shape)."""
    while True:
        things = [
            tuple(generator.choice(list(kind)) for kind in (SIZES, COLOURS, SHAPES))
            for _ in range(2)
        ]
        new = sum(thing[1:] in HELD_OUT for thing in things)
        if things[0] != things[1] and new == int(held_out):
            return things


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


def paint(first, second, relation: str, generator: random.Random, image_size: int) -> Image.Image:
    """Draw both things at four times the size, then shrink, for smooth edges."""
    canvas = image_size * 4
    image = Image.new("RGB", (canvas, canvas), "white")
    for thing, along in ((first, 0.27), (second, 0.73)):
        along += generator.uniform(-0.05, 0.05)
        across = generator.uniform(0.27, 0.73)
        x, y = (along, across) if relation == "left of" else (across, along)
        paint_thing(ImageDraw.Draw(image), thing, x * canvas, y * canvas, canvas)
    return image.resize((image_size, image_size), Image.Resampling.LANCZOS)


def paint_thing(draw: ImageDraw.ImageDraw, thing, x: float, y: float, canvas: int) -> None:
    """One shape around (x, y)."""
    size, colour, shape = thing
    radius = SIZES[size] * canvas
    if shape == "circle":
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=COLOURS[colour])
        return
    corners = SHAPES[shape] * (2 if shape == "star" else 1)
    start = math.pi / 4 if shape == "square" else -math.pi / 2
    points = []
    for corner in range(corners):
        reach = radius * (0.45 if shape == "star" and corner % 2 else 1.1)
        angle = start + 2 * math.pi * corner / corners
        points.append((x + reach * math.cos(angle), y + reach * math.sin(angle)))
    draw.polygon(points, fill=COLOURS[colour])

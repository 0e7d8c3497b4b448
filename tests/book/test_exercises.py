"""An answer to an exercise gets one sentence: right, missing, or wrong in which way."""

import math
import re

import nbformat
import pytest
import torch
import torch.nn.functional as F
from einops import rearrange
from PIL import Image, ImageOps
from torch import nn

from distilclip.book.answers import difference, seal
from distilclip.book.exercises import check
from distilclip.book.questions import QUESTIONS, distilbert
from distilclip.data import seeded
from distilclip.loss import contrastive_loss
from distilclip.storage.pictures import to_rgb


def said(capsys, question, answer, **given):
    check(question, answer, **given)
    return capsys.readouterr().out.strip()


def size_of(module):
    return sum(parameter.numel() for parameter in module.parameters())


def dots(*arguments, **options):
    return ...


@pytest.mark.parametrize(
    ("question", "answer"), [("1.1", dots), ("5.3", dots), ("7.1", ...), ("8a.1", (46, ...))]
)
def test_dots_are_no_answer(question, answer, capsys):
    assert said(capsys, question, answer) == "No answer yet: replace the dots."


def test_a_question_that_is_not_there_is_said():
    with pytest.raises(ValueError, match=r"no question '1\.9'"):
        check("1.9", 3)


def test_the_readers_own_random_numbers_stay_the_same(capsys):
    torch.manual_seed(5)
    before = torch.get_rng_state()
    said(capsys, "7.4", lambda concepts, seed, epoch: torch.randperm(len(concepts)))
    assert torch.equal(torch.get_rng_state(), before)


# Wrong answers, each with a word of what is said. All of them look right for some inputs.


def kernel_as_it_lies(images, conv):
    side = conv.kernel_size[0]
    flat = rearrange(images, "b c (h p) (w q) -> b (h w) (p q c)", p=side, q=side)
    return F.linear(flat, conv.weight.flatten(1), conv.bias)


def no_bias(images, conv):
    return F.conv2d(images, conv.weight, None, conv.stride).flatten(2).mT


def stretched_as_a_row(table, old_grid, new_grid):
    return F.interpolate(table.mT, size=1 + new_grid**2, mode="linear").mT


def ranks(images, texts, owners, rivals):
    scores = texts @ images.T
    own = scores.gather(1, torch.as_tensor(owners)[:, None])
    return float(rivals(scores, own).sum(dim=1).double().median())


def masked_late(query, key, value, real):
    weights = (query @ key.mT / query.shape[-1] ** 0.5).softmax(dim=-1)
    return (weights * real[:, None, None, :]) @ value


def plain(query, key, value, block=None):
    return (query @ key.mT / query.shape[-1] ** 0.5).softmax(dim=-1) @ value


def layer_norm(tokens, weight, eps=1e-6):
    return F.layer_norm(tokens, tokens.shape[-1:], weight, eps=eps)


def never_freezes(encoder, layers):
    all_layers = encoder.model.transformer.layer
    return sum(
        p.numel() for layer in all_layers[len(all_layers) - layers :] for p in [*layer.parameters()]
    )


def freezes_everything(encoder, layers):
    encoder.requires_grad_(False)
    return 0


def ordinary_crop(image, size):
    return ImageOps.fit(to_rgb(image), (size, size))


def squashed(image, size):
    return to_rgb(image).resize((size, size))


def in_the_corner(image, size):
    whole = Image.new("RGB", (size, size), "white")
    whole.paste(ImageOps.contain(to_rgb(image), (size, size)))
    return whole


def padded_black(image, size):
    return ImageOps.pad(to_rgb(image), (size, size))


def not_turned(image, size):
    return ImageOps.pad(image.convert("RGB"), (size, size), color="white")


def constant_order(concepts, seed, epoch):
    first = {}
    for row, concept in enumerate(concepts):
        first.setdefault(concept, row)
    return torch.tensor(list(first.values()))


def first_rows_shuffled(concepts, seed, epoch):
    rows = constant_order(concepts, seed, epoch)
    return rows[torch.randperm(len(rows), generator=seeded(seed, epoch))]


def without_epoch(concepts, seed, epoch):
    order = torch.randperm(len(concepts), generator=seeded(seed)).tolist()
    first = {}
    for row in order:
        first.setdefault(concepts[row], row)
    return torch.tensor(list(first.values()))


def all_rows(concepts, seed, epoch):
    return torch.randperm(len(concepts), generator=seeded(seed, epoch))


def whole_loss(images, texts, scale, rank, world):
    return contrastive_loss(images, texts, scale)


def own_block(images, texts, scale, rank, world):
    mine = torch.arange(len(images)).chunk(world)[rank]
    return contrastive_loss(images[mine], texts[mine], scale)


def clip_vision(side, patch, dim, depth):
    """The right answer of 14.1."""
    front = 3 * patch**2 * dim + dim + ((side // patch) ** 2 + 1) * dim
    return front + depth * (12 * dim * dim + 13 * dim) + 4 * dim


def always_eight_bits(matrix, bits):
    scale = abs(matrix).max(axis=0) / 127
    return (matrix / scale).round() * scale


def pushes_anyway(push, tries=3):
    for _ in range(tries):
        try:
            return push()
        except OSError as error:
            last = error
    raise last


WRONG = [
    ("1.1", lambda image, patch: (image // patch) ** 2, "[CLS] is a token too"),
    ("1.1", lambda image, patch: 197, "384 pixels"),
    ("1.2", lambda n, c: [m for m in (n - c, n + c, n - 1, n + 1) if 0 <= m < c * c], "A row ends"),
    ("1.3", kernel_as_it_lies, "different orders"),
    ("1.3", no_bias, "bias is missing"),
    ("1.4", stretched_as_a_row, "of the numbers are not"),
    ("2.1", lambda b, h, n, size: b * h * n * size, "every token looks at every token"),
    ("2.2", masked_late, "no longer sum to 1"),
    ("2.2", lambda q, k, v, real: plain(q, k, v), "padding is still listened to"),
    ("2.3", plain, "keys of different lengths"),
    ("2.4", plain, "50 columns of scores"),
    ("3.1", lambda: 21_665_464, "21,665,464 is not it"),
    ("3.1", lambda: 21_813_504, "pooler"),
    ("3.2", lambda dim, patch: (4 * dim, (4 * dim) ** 0.5 * patch), "no whole number of patches"),
    ("3.2", lambda dim, patch: (2 * dim, 880), "T is too small"),
    ("3.3", layer_norm, "no mean is subtracted"),
    ("3.3", lambda t, w: w * t / t.square().mean(-1, keepdim=True).sqrt(), "epsilon is missing"),
    ("3.4", lambda tensors, depth, shape: {}, "names are missing"),
    ("4.1", lambda captions, dim, size: captions * dim * size / 2**20, "10^6 bytes"),
    ("4.2", lambda v, p, d, h, n: (v + p) * d + n * (4 * d * d + 2 * d * h), "too small"),
    ("4.3", lambda h, mask: (h * mask[..., None]).amax(dim=1), "a zero beats"),
    ("4.3", lambda h, mask: h.amax(dim=1), "padding takes part"),
    ("4.4", never_freezes, "other tensors still learn"),
    ("4.4", freezes_everything, "are frozen"),
    ("5.1", lambda loss: round(2**loss), "logarithm is the natural one"),
    ("5.2", lambda n, k, b: math.comb(b, 2) * k / (n * k - 1), "no pair with itself"),
    ("5.2", lambda n, k, b: math.comb(b, 2) * (k - 1) / (n * k), "one row less"),
    ("5.3", lambda table: table.sum(dim=1).log().mean(), "columns"),
    ("5.3", lambda table: 0.310611, "too"),
    ("5.4", lambda c, s: (s * c).softmax(1) - torch.eye(len(c)), "not"),
    ("6.1", lambda batch: math.log2(batch), "natural"),
    ("6.2", lambda i, t, e, norm: (i + t) * e + 4 * e * norm, "bias of the linear map"),
    ("6.3", lambda image, text, w: (1 - w) * image + w * text, "length is not 1"),
    ("6.4", 0.001, "Do the pictures still learn?"),
    ("6.4", 3.46, "near ln 32"),
    ("7.1", 6000 * 224 * 224, "three channels"),
    ("7.1", 903_168_001, "not it"),
    ("7.2", ordinary_crop, "cut off"),
    ("7.2", squashed, "bent"),
    ("7.2", in_the_corner, "not in the middle"),
    ("7.2", padded_black, "white"),
    ("7.2", not_turned, "to_rgb"),
    ("7.3", lambda text: text.replace("left", "right").replace("right", "left"), "back"),
    ("7.4", constant_order, "same in every epoch"),
    ("7.4", first_rows_shuffled, "never drawn"),
    ("7.4", without_epoch, "Another epoch"),
    ("7.4", all_rows, "comes twice"),
    ("8a.1", (47, 1175), "left out"),
    ("8a.1", (46, 1171), "in every epoch"),
    ("8b.1", lambda i, t, frozen, average: 4 * (3 + average) * (i + t) / 1e9, "frozen"),
    ("8a.2", lambda step, total, warmup: 0.5 if step else 0.1, "too"),
    ("8b.2", (2**10, 65504 / 2**10), "a larger scale"),
    ("8b.2", (1e5, 0.65504), "no power of two"),
    ("8b.2", (2**16, 65504), "the largest gradient"),
    ("9.1", (1 / 1419, 10 / 1419), "per cent"),
    ("9.2", lambda i, t, owners: ranks(i, t, owners, torch.ge) - 1, "best rank is 1"),
    ("9.2", lambda i, t, owners: ranks(i, t, owners, torch.gt) + 1, "captions, "),
    ("9.3", lambda c, captions, k: c * k / captions, "do not add up"),
    ("9.3", lambda c, captions, k: 1 - (1 - k / captions) ** c, "not drawn again"),
    ("9.4", lambda model, rows: model.encode_image(rows).mean(dim=0), "length is not 1"),
    ("9.4", lambda model, rows: model.encode_image(rows)[0], "first picture only"),
    ("10.1", (1.0, 0.25), "half of it is the identity"),
    ("10.2", lambda maps, d: (maps[..., 1:, 1:] * d).sum(-1).mean((1, 3)), "without [CLS]"),
    ("10.3", lambda images, texts: texts, "have not moved"),
    ("10.3", lambda images, texts: texts + images.mean(0) - texts.mean(0), "no longer 1"),
    ("11.1", lambda forward, backward: forward / (forward + backward), "how much is added"),
    ("11.3", whole_loss, "this is the whole loss"),
    ("11.3", own_block, "wrong answers, too"),
    ("12.3", pushes_anyway, "too often"),
    ("13.1", lambda inputs, outputs, bits: inputs * outputs * bits // 8, "scales are missing"),
    ("13.2", always_eight_bits, "eight bits, whatever is asked for"),
    ("13.2", lambda matrix, bits: matrix, "nothing is rounded"),
    ("13.3", lambda e: size_of(e.model.embeddings) / size_of(e), "positions and norm are no words"),
    ("13.3", lambda e: size_of(e.model.embeddings.word_embeddings), "a number of parameters"),
    ("14.1", lambda s, p, d, n: clip_vision(s, p, d, n) + d, "the patches have no bias"),
    ("14.1", lambda s, p, d, n: clip_vision(s, p, d, n) - 2 * d, "before the first block"),
    ("14.2", lambda side, patch: 1 - side // patch * patch / side, "of a side, not of the square"),
    ("14.2", lambda side, patch: (side // patch * patch / side) ** 2, "what it does see"),
    ("14.3", lambda i, t, scale, bias: scale * i @ t.T + bias, "these are the logits"),
    ("14.3", lambda i, t, scale, bias: (scale * i @ t.T).sigmoid(), "the bias is missing"),
]


@pytest.mark.parametrize(
    ("question", "answer", "hint"), WRONG, ids=[f"{q}, {hint}" for q, _, hint in WRONG]
)
def test_a_wrong_answer_is_refused_and_told_which_way(question, answer, hint, capsys):
    words = said(capsys, question, answer)
    assert words.startswith("Not yet. ") and hint in words


# Wrong answers to these are given further down, with what they need of the chapter.
ASKED_BELOW = {"11.2", "11.4", "12.1", "12.2"}


def test_every_question_has_wrong_answers_that_it_refuses():
    """A check that accepts whatever it is given would pass all solutions, too."""
    assert {question for question, _, _ in WRONG} | ASKED_BELOW == set(QUESTIONS)


def test_wrong_answers_that_need_something_of_the_chapter(capsys):
    model = nn.Module()
    model.text, model.vision = distilbert(), nn.Linear(4, 5)
    model.log_logit_scale = nn.Parameter(torch.zeros(()))
    words = said(capsys, "12.1", lambda m: 4 * sum(p.numel() for p in m.parameters()), model=model)
    assert "text encoder is counted" in words
    words = said(capsys, "12.1", lambda m: 4 * 26, model=model)
    assert "a small model" in words
    given = {"per_pair": 1e11, "width": 256, "rate": 1e14}
    words = said(capsys, "11.4", lambda share, link: link * 1e11 / (24 * 256 * 1e14), **given)
    assert "too few" in words
    model.forward = lambda whole: whole
    batch = torch.eye(4, dtype=torch.float64), torch.eye(4, dtype=torch.float64)
    for gradient, hint in ((0.0, "does the loss use the bias?"), (0.5, "the gradient of the bias")):
        answer = torch.tensor(gradient, dtype=torch.float64)
        assert hint in said(capsys, "11.2", answer, model=model, whole=batch)
    assert said(capsys, "12.2", lambda mean, std: 0.97).startswith("Not yet. ImageNet's")


@pytest.mark.parametrize(
    ("found", "expected", "way"),
    [
        (21_665_464, 21_665_664, "too small, even if by little"),
        (2.0, 1.0, "too large, by a factor of 2"),
        (1.0, 1024.0 * 1024 / 1e6, "too small, by a factor of 1.05"),
        (float("nan"), 1.0, "no number"),
        (torch.ones(2, 1), torch.ones(2), "the shape is (2, 1), expected (2,)"),
        (3 * torch.arange(4.0), torch.arange(4.0), "3 times what it should be"),
        (torch.arange(4.0) - 1, torch.arange(4.0), "too small, by the same amount"),
        (1.5, torch.ones(2), "a tensor is asked for, not float"),
        ("noto", "fluent", "got 'noto'"),
    ],
)
def test_the_way_is_said_and_not_the_answer(found, expected, way):
    words = difference(found, expected)
    assert way in words and "fluent" not in words and "1,048" not in words


def test_a_seal_counts_whole_numbers_exactly_and_others_to_three_digits():
    assert seal("a", 12_345_678) != seal("a", 12_345_679)
    assert seal("a", 0.0704722) == seal("a", 0.07047) != seal("a", 0.071)
    assert seal("a", 3) == seal("a", 3.0) != seal("b", 3)


# Notebooks


def test_every_exercise_asks_by_name_and_has_a_solution(notebook_folder):
    """No expected value in a call, a solution for each exercise, all questions asked."""
    asked = []
    for path in sorted((notebook_folder / "notebooks").glob("*.ipynb")):
        chapter = nbformat.read(path, as_version=4)
        if path.stem == "00_one_evening":  # builds no module and asks nothing by name
            assert not any("## Exercises" in cell.source for cell in chapter.cells)
            continue
        solved = nbformat.read(notebook_folder / "solutions" / path.name, as_version=4)
        text = "\n".join(c.source for c in chapter.cells if c.cell_type == "markdown")
        exercises = text.partition("## Exercises")[2].partition("## Further reading")[0]
        numbers = re.findall(r"^(?:### |\*\*)(\d)\.", exercises, flags=re.M)
        links = re.findall(rf"\[Solution (\d)\]\(\.\./solutions/{path.name}\)", exercises)
        headings = [
            heading
            for c in solved.cells
            for heading in re.findall(r"^## Exercise (\d)$", c.source, flags=re.M)
        ]
        assert numbers == links == headings == [str(n + 1) for n in range(len(numbers))]
        calls = {}
        for name, notebook in (("asked", chapter), ("solved", solved)):
            code = [c.source for c in notebook.cells if c.cell_type == "code"]
            calls[name] = re.findall(r'^check\("([\w.]+)", ', "\n".join(code), flags=re.M)
        assert calls["asked"] == calls["solved"] and calls["asked"]
        asked += calls["asked"]
        assert not any("hide-cell" in c.metadata.get("tags", []) for c in chapter.cells)
        outputs = [o.get("text", "") for c in solved.cells for o in c.get("outputs", [])]
        assert "Not yet" not in "".join(outputs) and "No answer" not in "".join(outputs)
        assert "".join(outputs).count("Correct.") == len(calls["solved"])
    assert asked == list(QUESTIONS)


@pytest.fixture
def notebook_folder(pytestconfig):
    return pytestconfig.rootpath

"""What the notebooks use besides the model: checks of the exercises, and pictures in rows."""

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from PIL import Image

from distilclip.book.figures import show_images, show_table, use_book_style


@pytest.fixture(autouse=True)
def without_a_window():
    plt.switch_backend("agg")
    with plt.rc_context():
        yield
    plt.close("all")


def test_pictures_of_every_kind_are_shown_as_they_are():
    use_book_style()
    red = torch.tensor([255, 0, 0], dtype=torch.uint8).view(3, 1, 1).expand(3, 4, 4)
    images = [red, red / 255, red.permute(1, 2, 0).numpy(), Image.new("RGB", (4, 4), (255, 0, 0))]
    figure = show_images(images, [str(n) for n in range(4)], columns=3)
    assert len(figure.axes) == 6  # two rows of three
    for number, axis in enumerate(figure.axes[:4]):
        (shown,) = axis.get_images()
        top_left = np.asarray(shown.get_array())[0, 0].astype(float)
        assert (top_left / top_left.max()).tolist() == [1, 0, 0]
        assert axis.get_title() == str(number)
    assert not any(axis.get_images() for axis in figure.axes[4:])


def test_a_table_shows_its_values():
    _, axis = plt.subplots()
    values = torch.tensor([[0.5, 1.0], [2.0, -1.0]])
    show_table(axis, values, ["a", "b"], ["c", "d"])
    assert np.asarray(axis.get_images()[0].get_array()).tolist() == values.tolist()
    assert [label.get_text() for label in axis.get_yticklabels()] == ["a", "b"]
    assert [label.get_text() for label in axis.get_xticklabels()] == ["c", "d"]

"""Draw book/figures/gallery.png: what the packaged model finds for six sentences (authors only).

The candidates are the drawings of the `test` split, a style that the model never saw. The
sentences were written before anyone looked at a result.
"""

from pathlib import Path

import matplotlib.pyplot as plt

from distilclip import DistilCLIP, load_pairs
from distilclip.data import decode_pixels
from distilclip.figures import use_book_style

QUERIES = (
    "someone is laughing",
    "fresh fruit from the garden",
    "a vehicle with four wheels",
    "an animal that lives in the water",
    "it is raining",
    "a musical instrument",
)
FILE = Path(__file__).parents[1] / "book" / "figures" / "gallery.png"


def main() -> None:
    use_book_style()
    model = DistilCLIP.from_pretrained("emoji")
    test = load_pairs("emoji")["test"]
    pixels = decode_pixels(test, model.config.vision.image_size, progress=False)
    scores = model.encode_text(QUERIES) @ model.encode_image(pixels).T
    columns = 8
    figure, axes = plt.subplots(len(QUERIES), columns, figsize=(8, 7.2))
    figure.set_layout_engine("none")
    for row, query in enumerate(QUERIES):
        for column, index in enumerate(scores[row].topk(columns).indices.tolist()):
            axes[row, column].imshow(test[index]["image"])
            axes[row, column].axis("off")
        axes[row, 0].set_title(f"“{query}”", loc="left", fontsize=12)
    figure.savefig(FILE, dpi=110)
    print(FILE)


if __name__ == "__main__":
    main()

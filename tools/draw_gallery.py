"""Draw book/figures/gallery.png: what the packaged model finds for eight sentences (authors only).

The candidates are the drawings of the `test` split, a style that the model never saw. Four
sentences are captions of that split, drawn at random, with their own picture framed; the other
four were written before anyone looked at a result, and are said in the words of the training
captions first (`expand_queries`).
"""

import argparse
import random
from pathlib import Path

import matplotlib.pyplot as plt

from distilclip import DistilCLIP, load_pairs
from distilclip.book.figures import GREEN, use_book_style
from distilclip.data import decode_pixels
from distilclip.search import caption_bank, expand_queries

QUERIES = (
    "someone is laughing",
    "fresh fruit from the garden",
    "a vehicle with four wheels",
    "an animal that lives in the water",
)
FILE = Path(__file__).parents[1] / "book" / "figures" / "gallery.png"


def main() -> None:
    argparse.ArgumentParser(description=__doc__.split("\n\n")[0]).parse_args()
    use_book_style()
    model = DistilCLIP.from_pretrained("emoji")
    test = load_pairs("emoji")["test"]
    pixels = decode_pixels(test, model.config.vision.image_size, progress=False)
    drawn = random.Random(0).sample(range(len(test)), 4)
    captions = {random.Random(row).choice(test[row]["captions"]): row for row in drawn}
    queries = [*captions, *QUERIES]
    vectors = model.encode_text(queries)
    bank = caption_bank(model, load_pairs("emoji")["train"]["captions"])
    vectors[-len(QUERIES) :] = expand_queries(vectors[-len(QUERIES) :], bank)
    scores = vectors @ model.encode_image(pixels).T
    columns = 8
    figure, axes = plt.subplots(len(queries), columns, figsize=(8, 9.6))
    figure.set_layout_engine("none")
    for row, query in enumerate(queries):
        for column, index in enumerate(scores[row].topk(columns).indices.tolist()):
            axes[row, column].imshow(test[index]["image"])
            axes[row, column].set(xticks=[], yticks=[])
            for side in axes[row, column].spines.values():
                side.set(visible=index == captions.get(query), linewidth=2.5, color=GREEN)
        axes[row, 0].set_title(f"“{query}”", loc="left", fontsize=12)
    figure.savefig(FILE, dpi=110)
    print(FILE)


if __name__ == "__main__":
    main()

"""What the package tells a type checker: natural uses pass, wrong ones are found.

A type checker reads the annotations of the package and runs nothing of it. Pyright and the Node
that runs it come out of two packages of requirements.txt: nothing is downloaded when it starts.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

RIGHT = """
from pathlib import Path
from typing import assert_type

import numpy as np
import torch
from datasets import Dataset, DatasetDict
from PIL import Image

import distilclip
from distilclip import (
    DistilCLIP,
    DistilCLIPConfig,
    ImageIndex,
    MultiHeadAttention,
    PatchEmbedding,
    TextEncoder,
    TrainConfig,
    ViT,
    ViTConfig,
    augment,
    contrastive_loss,
    load_pairs,
    patchify,
    retrieval_metrics,
    sigmoid_loss,
    train,
    unpatchify,
    zero_shot_classify,
)
from distilclip.share import push_to_hub, register_with_transformers

config = TrainConfig(preset="t4", lr=1e-3)
assert_type(config, TrainConfig)
assert_type(config.lr, float)
assert_type(config.model_config(), DistilCLIPConfig)
result = train(TrainConfig("scenes", "runs/scenes", epochs=3, flip=True), progress=False)
assert_type(result.metrics, dict[str, dict[str, float]])
assert_type(result.model, DistilCLIP)
print(f"{result.metrics['test']['t2i_r10']:.1%}", result.folder / "metrics.jsonl")

assert_type(load_pairs("emoji"), DatasetDict)
rows = load_pairs(Path("pictures"), skip_broken=True)["train"]
assert_type(rows, Dataset)
print(rows["captions"][0], rows[0]["image_id"], len(rows))

model = DistilCLIP(DistilCLIPConfig(vision=ViTConfig(image_size=48, patch_size=8)))
model = DistilCLIP.from_pretrained("emoji")
assert_type(model, DistilCLIP)
picture = Image.open("cat.png")
images, texts = model.encode_image([picture, picture]), model.encode_text(["a cat", "a dog"])
images = model.encode_image(torch.zeros(2, 3, 48, 48, dtype=torch.uint8), batch_size=32)
assert_type(model.encode_image(picture), torch.Tensor)
model.encode_image(["cat.png", Path("dog.png")], progress=True)
model.encode_image([np.zeros((9, 9, 3), np.uint8), torch.zeros(3, 9, 9)])
assert_type(model.preprocess(picture).to(model.device), torch.Tensor)
assert_type(model.encode_text("a smiling cat") @ images.T, torch.Tensor)
output = model(torch.zeros(2, 3, 48, 48), **model.tokenize(["a cat", "a dog"]))
print(output.logits_per_image.softmax(dim=-1))
model.save_pretrained(Path("here"), text_weights=False)

assert_type(contrastive_loss(images, texts, model.logit_scale), torch.Tensor)
contrastive_loss(images, texts, 14.3, positives=torch.eye(2, dtype=torch.bool)).backward()
sigmoid_loss(images, texts, 10.0, -10.0).backward()
metrics = retrieval_metrics(images, texts, [0, 1], ks=(1, 2))
assert_type(metrics["i2t_r1"], float)
retrieval_metrics(images, texts, torch.arange(2))
retrieval_metrics(images.numpy(), texts.numpy(), np.arange(2))
probabilities = zero_shot_classify(model, [picture], ["cat", "dog"], ["a picture of {}"])
zero_shot_classify(model, images, ("cat", "dog"))
print(probabilities.argmax(dim=-1).tolist())

index = ImageIndex.from_folder(model, "pictures", skip_broken=True)
hit = index.search("a smiling cat", k=5, without="a dog")[0]
assert_type(hit.score, float)
assert_type(hit.path, Path | None)
index.search(picture)
index.search(images[0])
index.save("pictures.safetensors")
assert_type(ImageIndex.load(model, Path("pictures.safetensors")), ImageIndex)
ImageIndex.from_dataset(model, rows).add(["new"], [picture])

vit = ViT.from_pretrained("google/vit-base-patch16-224", image_size=384)
assert_type(vit, ViT)
assert_type(ViT(ViTConfig(depth=2)).config.patches_a_side, int)
assert_type(TextEncoder.from_pretrained("minilm").encode(["a cat"]), torch.Tensor)
pixels = torch.zeros(2, 3, 48, 48)
tokens = PatchEmbedding(48, 8, 3, 64)(pixels)
MultiHeadAttention(64, num_heads=4)(tokens).mean()
assert_type(unpatchify(patchify(pixels, 8), 8, 48, 48), torch.Tensor)
augment(pixels.byte(), torch.Generator().manual_seed(0), flip=True)
register_with_transformers()
assert_type(push_to_hub(model, "me/cats", "runs/cats", private=True), str)
assert_type(distilclip.__version__, str)
"""

# A wrong use, and the name of Pyright's rule that finds it
WRONG = {
    "from distilclip import DistilClip": "reportAttributeAccessIssue",
    "distilclip.DistilCLiP": "reportAttributeAccessIssue",
    'distilclip.TrainConfig(preset="t4", learning_rate=1e-3)': "reportCallIssue",
    'distilclip.TrainConfig(lr="high")': "reportArgumentType",
    "distilclip.TrainConfig().learning_rate": "reportAttributeAccessIssue",
    'distilclip.train("emoji")': "reportArgumentType",
    "distilclip.train(distilclip.TrainConfig()).accuracy": "reportAttributeAccessIssue",
    'distilclip.load_pairs("emoji", skip_broken="no")': "reportArgumentType",
    'distilclip.DistilCLIP.from_pretrained("emoji").encode_text(3)': "reportArgumentType",
    'distilclip.DistilCLIP.from_pretrained("emoji").encode_image(3)': "reportArgumentType",
    "distilclip.ViTConfig(image_size=48, patches=8)": "reportCallIssue",
    'distilclip.ImageIndex.from_folder("emoji", "pictures")': "reportArgumentType",
}


@pytest.fixture(scope="module")
def found(tmp_path_factory) -> dict[str, list[tuple[int, str, str]]]:
    """What Pyright says of the two files: line, rule and message of each complaint."""
    folder = tmp_path_factory.mktemp("user")
    (folder / "right.py").write_text(RIGHT)
    (folder / "wrong.py").write_text("\n".join(["import distilclip", *WRONG]))
    # No type checker follows the hook by which a package in development is installed.
    settings = {"extraPaths": [str(ROOT)], "typeCheckingMode": "basic"}
    (folder / "pyrightconfig.json").write_text(json.dumps(settings))
    command = [sys.executable, "-m", "pyright", "--outputjson", "--pythonpath", sys.executable]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    complaints = {"right.py": [], "wrong.py": []}
    for each in json.loads(done.stdout)["generalDiagnostics"]:
        line = each["range"]["start"]["line"]
        complaints[Path(each["file"]).name].append((line, each["rule"], each["message"]))
    return complaints


@pytest.mark.slow
def test_natural_uses_of_the_package_pass(found):
    assert found["right.py"] == []


@pytest.mark.slow
def test_wrong_uses_are_reported(found):
    rules = {line: rule for line, rule, _ in found["wrong.py"] if rule != "reportUnusedExpression"}
    assert rules == dict(enumerate(WRONG.values(), start=1))

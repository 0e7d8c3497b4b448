"""What leaves home computes what the model at home computes, and nothing is half shared."""

import base64
import http.server
import json
import threading

import huggingface_hub
import numpy as np
import pytest
import safetensors.torch
import torch
import transformers
from PIL import Image
from transformers import DistilBertConfig, DistilBertModel

from distilclip import (
    DistilCLIP,
    DistilCLIPConfig,
    ViTConfig,
    retrieval_metrics,
    zero_shot_classify,
)
from distilclip.share import (
    DistilCLIPModel,
    OnnxDistilCLIP,
    cut_tokens,
    export_onnx,
    model_card,
    push_to_hub,
    quantise_matrix,
    quantise_onnx,
    register_with_transformers,
)
from distilclip.text import TextEncoder

TEXTS = ["a red square", "", "something blue and rather long to say", "dog " * 300]


def pictures(count=5):
    generator = np.random.default_rng(0)
    return [
        Image.fromarray(generator.integers(0, 256, (30 + 7 * i, 41, 3), dtype=np.uint8))
        for i in range(count)
    ]


@pytest.fixture(scope="module")
def model(tokenizer):
    """The same as `small_model`; no test of this module changes it, so one export will do."""
    torch.manual_seed(0)
    text = DistilBertConfig(vocab_size=len(tokenizer), dim=32, n_layers=2, n_heads=4, hidden_dim=64)
    vision = ViTConfig(image_size=32, patch_size=8, dim=32, depth=2, num_heads=4)
    config = DistilCLIPConfig(vision=vision, text_model="random", embed_dim=16)
    encoder = TextEncoder(DistilBertModel(text).eval(), tokenizer, "mean", "random")
    return DistilCLIP(config, encoder).eval()


@pytest.fixture(scope="module")
def onnx_folder(model, tmp_path_factory):
    return export_onnx(model, tmp_path_factory.mktemp("share") / "onnx")


def test_onnx_towers_give_the_models_vectors(model, onnx_folder):
    ours = OnnxDistilCLIP(onnx_folder)
    for count in (1, 5):
        images = pictures(count)
        assert (ours.encode_image(images) - model.encode_image(images)).abs().max() < 1e-5
    for texts in (TEXTS, TEXTS[:1], TEXTS[2]):
        assert (ours.encode_text(texts) - model.encode_text(texts)).abs().max() < 1e-5
    assert ours.encode_text([]).shape == ours.encode_image([]).shape == (0, 16)
    assert torch.isclose(ours.logit_scale, model.logit_scale)


def test_onnx_files_can_be_run_with_nothing_of_ours(model, onnx_folder):
    import onnxruntime
    from tokenizers import Tokenizer

    names = ("image.onnx", "text.onnx", "preprocess.json", "tokenizer.json")
    assert all((onnx_folder / name).is_file() for name in names)
    image = onnxruntime.InferenceSession(onnx_folder / "image.onnx")
    pixels = np.random.default_rng(0).integers(0, 256, (3, 3, 32, 32), dtype=np.uint8)
    (embeds,) = image.run(["image_embeds"], {"pixel_values": pixels.astype(np.float32) / 255})
    assert np.abs(embeds - model.encode_image(torch.from_numpy(pixels)).numpy()).max() < 1e-5
    text = onnxruntime.InferenceSession(onnx_folder / "text.onnx")
    encoded = Tokenizer.from_file(str(onnx_folder / "tokenizer.json")).encode("a red square")
    inputs = {"input_ids": [encoded.ids], "attention_mask": [[1] * len(encoded.ids)]}
    (embeds,) = text.run(["text_embeds"], {k: np.array(v) for k, v in inputs.items()})
    assert np.abs(embeds - model.encode_text("a red square").numpy()).max() < 1e-5
    description = json.loads((onnx_folder / "preprocess.json").read_text())
    assert description["config"]["vision"]["image_size"] == 32


@pytest.mark.parametrize(
    "changes",
    [
        {
            "vision": {"patch_dropout": 0.5, "dropout": 0.1},
            "image_pool": "mean",
            "image_mean": (0.4, 0.5, 0.6),
            "projection_norm": True,
        },
        {
            "vision": {"cls_token": False, "final_norm": False},
            "image_std": (0.2, 0.3, 0.4),
            "pad_to_max_length": True,
        },
    ],
)
def test_onnx_holds_every_kind_of_model(small_text, tmp_path, changes):
    shape = {"image_size": 16, "patch_size": 8, "dim": 16, "depth": 1, "num_heads": 2}
    config = DistilCLIPConfig(
        **(changes | {"vision": ViTConfig(**(shape | changes.get("vision", {}))), "embed_dim": 8})
    )
    model = DistilCLIP(config, small_text).train()
    ours = OnnxDistilCLIP(export_onnx(model, tmp_path))
    assert model.training and model.vision.training
    images = pictures(3)
    assert (ours.encode_image(images) - model.encode_image(images)).abs().max() < 1e-5
    assert (ours.encode_text(TEXTS) - model.encode_text(TEXTS)).abs().max() < 1e-5


def test_a_quantised_matrix_is_off_by_half_a_step_at_most():
    matrix = np.random.default_rng(0).normal(size=(40, 30)).astype(np.float32)
    matrix[:, 3] *= 100
    matrix[:, 4] = 0
    for axis in (0, 1):
        integers, scales = quantise_matrix(matrix, axis)
        assert integers.dtype == np.int8 and scales.size == matrix.shape[axis]
        assert (np.abs(integers * scales - matrix) <= 0.5001 * scales).all()
        assert (np.abs(integers).max(axis=1 - axis)[np.abs(matrix).max(1 - axis) > 0] == 127).all()


@pytest.mark.parametrize(("activations", "cosine"), [(True, 0.98), (False, 0.9995)])
def test_eight_bits_are_a_quarter_of_the_size_and_nearly_the_same(
    model, onnx_folder, tmp_path, activations, cosine
):
    folder = quantise_onnx(onnx_folder, tmp_path / "int8", activations)
    before, after = ((f / "text.onnx").stat().st_size for f in (onnx_folder, folder))
    assert after < 0.4 * before
    ours, images = OnnxDistilCLIP(folder), pictures()
    assert (ours.encode_text(TEXTS) * model.encode_text(TEXTS)).sum(1).min() > cosine
    assert (ours.encode_image(images) * model.encode_image(images)).sum(1).min() > cosine
    metrics = retrieval_metrics(ours.encode_image(images), model.encode_image(images), range(5))
    assert metrics["t2i_r1"] == 1


def test_the_onnx_part_says_what_is_missing(model, tmp_path, onnx_folder, monkeypatch):
    with pytest.raises(FileNotFoundError, match=r"no file image\.onnx"):
        OnnxDistilCLIP(tmp_path / "nothing")
    with pytest.raises(ValueError, match="Choose another folder"):
        quantise_onnx(onnx_folder, onnx_folder)
    monkeypatch.setitem(__import__("sys").modules, "onnxscript", None)
    with pytest.raises(ImportError, match="needs the package onnxscript"):
        export_onnx(model, tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_an_export_that_fails_leaves_the_old_file(model, onnx_folder, monkeypatch):
    before = {file.name: file.read_bytes() for file in onnx_folder.iterdir()}

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch.onnx, "export", full)
    with pytest.raises(OSError, match="No space left"):
        export_onnx(model, onnx_folder)
    assert {file.name: file.read_bytes() for file in onnx_folder.iterdir()} == before


@pytest.fixture(params=["with text weights", "text by name"])
def saved(request, tiny_text, tmp_path):
    """A folder that save_pretrained wrote, with and without the text encoder in it."""
    torch.manual_seed(1)
    vision = ViTConfig(image_size=32, patch_size=8, dim=32, depth=2, num_heads=4)
    config = DistilCLIPConfig(
        vision=vision,
        text_model=str(tiny_text),
        embed_dim=16,
        image_mean=(0.4, 0.5, 0.6),
        image_pool="mean",
    )
    DistilCLIP(config).save_pretrained(tmp_path, request.param == "with text weights")
    register_with_transformers()
    return tmp_path


def test_the_auto_classes_of_transformers_give_our_numbers(saved):
    ours, images = DistilCLIP.from_pretrained(saved), pictures(4)
    theirs = transformers.AutoModel.from_pretrained(saved)
    assert isinstance(theirs, DistilCLIPModel) and not theirs.training
    inputs = [transformers.AutoProcessor.from_pretrained(saved)(images=images, text=TEXTS)]
    tokenizer = transformers.AutoTokenizer.from_pretrained(saved)
    processor = transformers.AutoImageProcessor.from_pretrained(saved)
    texts = tokenizer(TEXTS, padding=True, return_tensors="pt")
    inputs.append({**texts, **processor(images, return_tensors="pt")})
    inputs.append({**texts, **processor([np.asarray(x) for x in images], return_tensors="pt")})
    for given in inputs:
        with torch.no_grad():
            output = theirs(**given)
        assert (output.image_embeds - ours.encode_image(images)).abs().max() < 1e-5
        assert (output.text_embeds - ours.encode_text(TEXTS)).abs().max() < 1e-5
        expected = ours.logit_scale * ours.encode_image(images) @ ours.encode_text(TEXTS).T
        assert (output.logits_per_image - expected).abs().max() < 1e-4


def test_the_zero_shot_pipeline_gives_our_numbers(saved):
    classify = transformers.pipeline(
        "zero-shot-image-classification", model=str(saved), device="cpu"
    )
    names, images = ["cat", "a red heart", "a very " + "long " * 100 + "name"], pictures(3)
    templates = ["This is a photo of {}."]
    expected = zero_shot_classify(DistilCLIP.from_pretrained(saved), images, names, templates)
    for row, answers in zip(expected, classify(images, candidate_labels=names), strict=True):
        scores = {answer["label"]: answer["score"] for answer in answers}
        assert max(abs(row[i] - scores[name]) for i, name in enumerate(names)) < 1e-5


def test_what_transformers_saves_is_ours_again(saved, tmp_path):
    model = transformers.AutoModel.from_pretrained(saved)
    model.save_pretrained(tmp_path / "again")
    transformers.AutoProcessor.from_pretrained(saved).save_pretrained(tmp_path / "again")
    model.config.save_pretrained(tmp_path / "config")
    config = transformers.AutoConfig.from_pretrained(tmp_path / "config")
    assert config.to_distilclip() == DistilCLIP.from_pretrained(saved).config
    again = DistilCLIP.from_pretrained(tmp_path / "again")
    assert torch.equal(again.encode_text(TEXTS), model.model.encode_text(TEXTS))
    assert transformers.AutoProcessor.from_pretrained(tmp_path / "again").image_processor.image_mean
    half = transformers.AutoModel.from_pretrained(saved, dtype=torch.float16)
    assert half.dtype == torch.float16
    with pytest.raises(ValueError, match="does not know device_map"):
        transformers.AutoModel.from_pretrained(saved, device_map="auto")


def test_captions_are_cut_as_the_tokenizer_cuts_them(tokenizer):
    texts = ["one two three four five six", "one two", "one two three four five six seven"]
    long = tokenizer(texts, padding=True, return_tensors="pt")
    for limit in (3, 4, 5, 8, 9, 20):
        ids, mask = cut_tokens(long["input_ids"], long["attention_mask"], limit)
        short = tokenizer(
            texts, padding=True, truncation=True, max_length=limit, return_tensors="pt"
        )
        assert torch.equal(ids, short["input_ids"]) and torch.equal(mask, short["attention_mask"])


def test_the_dual_encoder_of_transformers_cannot_hold_a_distilbert(saved):
    """Their model asks a text encoder for its pooler, and DistilBERT has none.

    https://github.com/huggingface/transformers/issues/18480. Should this test fail one day,
    theirs has learnt it, and chapter 12 has to say so.
    """
    vision = transformers.ViTConfig(
        image_size=32, patch_size=8, hidden_size=16, num_hidden_layers=1, num_attention_heads=2
    )
    text = transformers.DistilBertConfig(dim=16, n_layers=1, n_heads=2, hidden_dim=32)
    theirs = transformers.VisionTextDualEncoderModel(
        vision_model=transformers.ViTModel(vision), text_model=transformers.DistilBertModel(text)
    )
    tokenizer = transformers.AutoTokenizer.from_pretrained(saved)
    inputs = tokenizer(TEXTS, padding=True, truncation=True, max_length=64, return_tensors="pt")
    inputs = {name: inputs[name] for name in ("input_ids", "attention_mask")}
    pixels = torch.zeros(2, 3, 32, 32)
    with pytest.raises(IndexError, match="tuple index out of range"):
        theirs(pixel_values=pixels, **inputs)
    ours = transformers.AutoModel.from_pretrained(saved)
    assert ours(pixel_values=pixels, **inputs).logits_per_image.shape == (2, 4)


@pytest.fixture
def run(saved):
    """A run's folder, with records that no other test or text knows."""
    settings = {"data": "emoji", "preset": "cpu", "seed": 7, "lr": 0.003, "batch_size": 12}
    lines = [
        {"kind": "epoch", "epoch": 1, "loss": 3.5, "seconds": 60.0},
        {"kind": "evaluation", "split": "validation", "t2i_r1": 0.999, "i2t_r1": 0.999},
        {"kind": "epoch", "epoch": 2, "loss": 2.125, "seconds": 90.0},
        {"kind": "final", "split": "validation", "t2i_r1": 0.25, "i2t_r1": 0.125},
        {"kind": "final", "split": "test", "t2i_r1": 0.0625, "i2t_r1": 0.3333333, "step": 9},
    ]
    (saved / "train_config.json").write_text(json.dumps(settings))
    (saved / "metrics.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n")
    return saved


def test_the_model_card_says_what_the_run_recorded_and_nothing_else(run, tmp_path):
    card = model_card(run, "someone/emoji-clip", "mit")
    (tmp_path / "README.md").write_text(card)
    metadata = huggingface_hub.metadata_load(tmp_path / "README.md")
    assert metadata["license"] == "mit"
    assert metadata["pipeline_tag"] == "zero-shot-image-classification"
    data = huggingface_hub.ModelCard(card).data
    results = {(r.dataset_split, r.metric_name): r.metric_value for r in data.eval_results}
    assert results == {
        ("validation", "text to image R@1"): 0.25,
        ("validation", "image to text R@1"): 0.125,
        ("test", "text to image R@1"): 0.0625,
        ("test", "image to text R@1"): 0.3333,
    }
    assert "| test | 6.2 % | 33.3 % |" in card and "| seed | 7 |" in card
    assert "| loss of the last epoch | 2.125 |" in card and "| minutes of training | 2.5 |" in card
    assert 'DistilCLIP.from_pretrained("someone/emoji-clip")' in card
    assert "99" not in card


def test_a_model_card_names_no_path_of_its_author(run, tmp_path):
    settings = json.loads((run / "train_config.json").read_text())
    for data in (tmp_path / "secret", "/home/someone/secret", "~/secret"):
        (run / "train_config.json").write_text(json.dumps(settings | {"data": str(data)}))
        card = model_card(run)
        assert "secret" not in card and str(tmp_path) not in card and "author's own" in card
    (run / "train_config.json").write_text(json.dumps(settings | {"data": "flickr8k"}))
    assert huggingface_hub.ModelCard(model_card(run)).data.datasets == ["jxie/flickr8k"]


def test_a_model_without_records_has_a_card_without_figures(saved):
    card = model_card(saved)
    assert "No evaluation is recorded." in card and "## Training" not in card
    data = huggingface_hub.ModelCard(card).data
    assert data.eval_results is None and data.license is None


class FakeHub(http.server.BaseHTTPRequestHandler):
    """As much of the Hub's protocol as an upload needs; it keeps what it is given."""

    status, commits, repos, blobs = 200, [], [], {}

    def log_message(self, *_):
        pass

    def answer(self, content, status=200):
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self):
        self.answer({"id": "someone/clip", "sha": "0" * 40, "siblings": []})

    def do_PUT(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.blobs[self.path.split("/")[-1]] = body
        self.answer({})

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0))).decode()
        address = f"http://{self.headers['Host']}"
        if self.path == "/api/validate-yaml":
            self.answer({"errors": [], "warnings": []})
        elif self.path == "/api/repos/create":
            if self.status == 200:
                self.repos.append(json.loads(body))
            self.answer({"url": f"{address}/someone/clip"}, self.status)
        elif self.status != 200:
            self.answer({"error": "no"}, self.status)
        elif "/preupload/" in self.path:
            files = [
                {
                    "path": file["path"],
                    "uploadMode": "lfs" if file["path"].endswith("safetensors") else "regular",
                    "shouldIgnore": False,
                }
                for file in json.loads(body)["files"]
            ]
            self.answer({"files": files})
        elif self.path.endswith("/info/lfs/objects/batch"):
            objects = [
                {**item, "actions": {"upload": {"href": f"{address}/blob/{item['oid']}"}}}
                for item in json.loads(body)["objects"]
            ]
            self.answer({"transfer": "basic", "objects": objects})
        elif "/commit/" in self.path:
            self.commits.append([json.loads(line) for line in body.splitlines()])
            self.answer({"commitUrl": f"{address}/someone/clip/commit/1", "commitOid": "1"})


@pytest.fixture
def hub(monkeypatch):
    """A Hub on this machine, and the client pointed at it."""
    FakeHub.status, FakeHub.commits, FakeHub.repos, FakeHub.blobs = 200, [], [], {}
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), FakeHub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(
        "huggingface_hub.constants.ENDPOINT", f"http://127.0.0.1:{server.server_port}"
    )
    yield FakeHub
    server.shutdown()
    server.server_close()


def test_a_model_is_pushed_whole_in_one_commit(model, run, hub):
    address = push_to_hub(model, "someone/clip", run, private=True, license="mit", token="secret")
    assert address.endswith("/someone/clip/commit/1")
    assert len(hub.repos) == 1 and len(hub.commits) == 1
    (commit,) = hub.commits
    files = {line["value"]["path"]: line["value"] for line in commit if line["key"] == "file"}
    large = {line["value"]["path"]: line["value"] for line in commit if line["key"] == "lfsFile"}
    assert set(large) == {"model.safetensors"}
    assert {"README.md", "config.json", "preprocessor_config.json", "tokenizer.json"} <= set(files)
    card = base64.b64decode(files["README.md"]["content"]).decode()
    assert card == model_card(run, "someone/clip", "mit") + "\n"
    weights = hub.blobs[large["model.safetensors"]["oid"]]
    assert torch.equal(
        safetensors.torch.load(weights)["log_logit_scale"], model.log_logit_scale.detach()
    )


@pytest.mark.parametrize(
    ("status", "error", "message"),
    [
        (401, PermissionError, "log in with 'hf auth login'"),
        (403, PermissionError, "log in with 'hf auth login'"),
        (400, ConnectionError, "answered 400"),
    ],
)
def test_a_refused_upload_gives_one_sentence_and_uploads_nothing(
    model, hub, status, error, message
):
    hub.status = status
    with pytest.raises(error, match=message):
        push_to_hub(model, "someone/clip", token="secret")
    assert not hub.commits and not hub.blobs


def test_a_name_that_the_hub_does_not_allow_is_refused(model, hub):
    with pytest.raises(ValueError, match="is no name for a repository"):
        push_to_hub(model, "some one/clip/too many", token="secret")
    assert not hub.repos and not hub.commits


def test_no_network_gives_one_sentence(model, monkeypatch):
    with pytest.raises(ConnectionError, match="cannot be reached"):
        push_to_hub(model, "someone/clip", token="secret")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(ConnectionError, match=r"cannot be reached .* Nothing was uploaded"):
        push_to_hub(model, "someone/clip", token="secret")

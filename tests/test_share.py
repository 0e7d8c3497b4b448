"""What leaves home computes what the model at home computes, and nothing is half shared."""

import base64
import http.server
import json
import threading

import numpy as np
import pytest
import safetensors.torch
import torch
import transformers
from samples import TEXTS, noise_pictures

from distilclip import DistilCLIP, zero_shot_classify
from distilclip.runs.card import model_card
from distilclip.share import DistilCLIPModel, cut_tokens, push_to_hub, register_with_transformers


@pytest.fixture(autouse=True, scope="module")
def registered():
    """`transformers` knows our classes."""
    register_with_transformers()


def test_the_auto_classes_of_transformers_give_our_numbers(saved):
    ours, images = DistilCLIP.from_pretrained(saved), noise_pictures(4)
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
    names, images = ["cat", "a red heart", "a very " + "long " * 100 + "name"], noise_pictures(3)
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
    theirs has learned it, and chapter 12 has to say so.
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


def test_a_model_is_pushed_whole_in_one_commit(small_model, recorded_run, hub):
    address = push_to_hub(
        small_model, "someone/clip", recorded_run, private=True, license="mit", token="secret"
    )
    assert address.endswith("/someone/clip/commit/1")
    assert len(hub.repos) == 1 and len(hub.commits) == 1
    (commit,) = hub.commits
    files = {line["value"]["path"]: line["value"] for line in commit if line["key"] == "file"}
    large = {line["value"]["path"]: line["value"] for line in commit if line["key"] == "lfsFile"}
    assert set(large) == {"model.safetensors"}
    assert {"README.md", "config.json", "preprocessor_config.json", "tokenizer.json"} <= set(files)
    card = base64.b64decode(files["README.md"]["content"]).decode()
    assert card == model_card(recorded_run, "someone/clip", "mit") + "\n"
    weights = hub.blobs[large["model.safetensors"]["oid"]]
    assert torch.equal(
        safetensors.torch.load(weights)["log_logit_scale"], small_model.log_logit_scale.detach()
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
    small_model, hub, status, error, message
):
    hub.status = status
    with pytest.raises(error, match=message):
        push_to_hub(small_model, "someone/clip", token="secret")
    assert not hub.commits and not hub.blobs


def test_a_name_that_the_hub_does_not_allow_is_refused(small_model, hub):
    with pytest.raises(ValueError, match="is no name for a repository"):
        push_to_hub(small_model, "some one/clip/too many", token="secret")
    assert not hub.repos and not hub.commits


def test_no_network_gives_one_sentence(small_model, monkeypatch):
    with pytest.raises(ConnectionError, match="cannot be reached"):
        push_to_hub(small_model, "someone/clip", token="secret")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(ConnectionError, match=r"cannot be reached .* Nothing was uploaded"):
        push_to_hub(small_model, "someone/clip", token="secret")

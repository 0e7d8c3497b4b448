"""A model's card says what its run recorded, and nothing else."""

import json

import huggingface_hub

from distilclip.runs.card import model_card


def test_the_model_card_says_what_the_run_recorded_and_nothing_else(recorded_run, tmp_path):
    card = model_card(recorded_run, "someone/emoji-clip", "mit")
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


def test_a_model_card_names_no_path_of_its_author(recorded_run, tmp_path):
    settings = json.loads((recorded_run / "train_config.json").read_text())
    for data in (tmp_path / "secret", "/home/someone/secret", "~/secret"):
        (recorded_run / "train_config.json").write_text(json.dumps(settings | {"data": str(data)}))
        card = model_card(recorded_run)
        assert "secret" not in card and str(tmp_path) not in card and "author's own" in card
    (recorded_run / "train_config.json").write_text(json.dumps(settings | {"data": "flickr8k"}))
    assert huggingface_hub.ModelCard(model_card(recorded_run)).data.datasets == ["jxie/flickr8k"]


def test_a_model_without_records_has_a_card_without_figures(saved):
    card = model_card(saved)
    assert "No evaluation is recorded." in card and "## Training" not in card
    data = huggingface_hub.ModelCard(card).data
    assert data.eval_results is None and data.license is None


def test_a_model_that_went_on_says_from_which(recorded_run):
    file = recorded_run / "train_config.json"
    settings = json.loads(file.read_text())
    assert "goes on from" not in model_card(recorded_run) and "from scratch" in model_card(
        recorded_run
    )
    for start, shown in (("emoji", "emoji"), (str(recorded_run), "a model of the author's own")):
        file.write_text(json.dumps(settings | {"start_from": start}))
        card = model_card(recorded_run)
        assert f"| goes on from | {shown} |" in card
        assert "from scratch" not in card and str(recorded_run) not in card
        assert "emoji beside" not in card
    file.write_text(json.dumps(settings | {"start_from": "emoji", "replay": 1.0}))
    assert "| drawings of emoji beside | up to 1 a picture |" in model_card(recorded_run)

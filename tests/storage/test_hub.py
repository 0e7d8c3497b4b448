"""Names on the Hub, and what is none."""

import pytest

from distilclip.storage.hub import find_file, looks_like_hub_id


@pytest.mark.parametrize("name", ["a\nb", "a b", "-x", "x..y", "a--b", "a/b/c", "é", "x" * 97])
def test_what_no_model_of_the_hub_is_called_is_no_hub_id(name):
    assert not looks_like_hub_id(name)
    with pytest.raises(FileNotFoundError, match="There is no folder") as refused:
        find_file(name, "config.json")
    assert str(refused.value).isprintable()


@pytest.mark.parametrize("name", ["bert", "owner/name-1.2", "a", "sentence-transformers/all_mini"])
def test_what_a_model_of_the_hub_may_be_called_is_a_hub_id(name):
    assert looks_like_hub_id(name)

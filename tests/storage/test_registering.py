"""`import distilclip` is enough for `transformers` to read folders of ours."""

import subprocess
import sys

import pytest

from distilclip.storage.registering import AskedFor, Waiting, prepare

READ = """
import sys
{before}
import transformers
{after}
assert "distilclip.share" not in sys.modules and "distilclip.model" not in sys.modules
transformers.AutoConfig.for_model("bert")
assert "distilclip.share" not in sys.modules, "somebody else's model does not need ours"
print(type(transformers.{name}.from_pretrained(sys.argv[1])).__name__)
print(type(transformers.AutoModel.from_pretrained(sys.argv[1])).__name__)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("before", "after", "name", "expected"),
    [
        ("import distilclip", "", "AutoProcessor", "DistilCLIPProcessor"),
        ("", "import distilclip", "AutoImageProcessor", "DistilCLIPImageProcessor"),
        ("", "transformers.AutoModel; import distilclip", "AutoConfig", "DistilCLIPModelConfig"),
    ],
)
def test_transformers_reads_ours_after_an_import(
    tmp_path, small_model, before, after, name, expected
):
    small_model.save_pretrained(tmp_path)
    code = READ.format(before=before, after=after, name=name)
    command = [sys.executable, "-c", code, str(tmp_path)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.split() == [expected, "DistilCLIPModel"]


def test_a_table_that_is_built_otherwise_is_left_alone():
    module = type(sys)("transformers.models.auto.configuration_auto")
    prepare(module)
    module.CONFIG_MAPPING = {"bert": 1}
    prepare(module)
    assert module.CONFIG_MAPPING == {"bert": 1}


def test_classes_that_somebody_registers_stay(monkeypatch):
    monkeypatch.setattr(AskedFor, "is_filled", False)
    table = AskedFor()
    table["distilclip"] = str
    assert "distilclip" in table and list(table.values()) == [str]
    assert table["distilclip"] is str and len(table) == 1


def test_other_modules_are_found_by_others():
    assert Waiting().find_spec("json", None) is None
    assert AskedFor.is_filled or "bert" not in AskedFor()
    assert AskedFor(bert=1)["bert"] == 1

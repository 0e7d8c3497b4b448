"""The benchmark of large tables finds as many pictures and captions as it wrote."""

from argparse import Namespace

import million_rows
import pytest


@pytest.mark.slow
def test_small_tables_are_measured_in_processes_of_their_own(capsys):
    results = million_rows.measure(Namespace(small=True))
    assert results["rows"] == 2_000 and results["tables"].keys() == {"10", "400"}
    for line in results["tables"].values():
        assert line["seconds"] > 0 and line["peak_gib"] > 0.1 and line["captions"] == 2_000
    assert len(results["bars"]) == 4

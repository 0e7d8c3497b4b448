"""How cost grows is measured point by point, and a power law is found again."""

import json
from argparse import Namespace
from concurrent.futures import ProcessPoolExecutor

import growth
import pytest
import systems


def test_a_power_law_is_found_again():
    sizes = [16, 32, 64, 128]
    law = growth.power_law(sizes, [3e-4 * size**2.5 for size in sizes])
    assert law == {"factor": pytest.approx(3e-4), "exponent": 2.5}


@pytest.mark.parametrize("exponent", [2, -2])
def test_the_second_fit_is_that_of_the_largest_costs(exponent):
    """A floor that every size pays hides the power; the half that costs most shows it."""
    points = [{"size": s, "seconds": 1 + (s / 64) ** exponent} for s in (4, 16, 64, 256, 1024)]
    laws = growth.fits(points, "seconds")
    assert abs(laws["all"]["exponent"]) < 1.5
    assert laws["last_half"]["exponent"] == pytest.approx(exponent, abs=0.25)


@pytest.mark.parametrize("seconds, rounds", [(0.01, 50), (0.2, 5), (5.0, 2), (9.0, 1)])
def test_short_rounds_are_many_and_long_ones_few(monkeypatch, seconds, rounds):
    now = [0.0]
    monkeypatch.setattr(growth.time, "perf_counter", lambda: now[0])

    def action():
        now[0] += seconds

    assert len(growth.seconds_of(action, rounds=5)) == pytest.approx(rounds, abs=1)
    assert now[0] == pytest.approx((rounds + 1) * seconds, abs=1.01 * seconds)


@pytest.mark.slow
def test_memory_is_that_of_the_point_alone(tmp_path):
    """32 MiB of vectors, and little else: not Python, not the libraries, not another point."""
    systems.save_random_text(tmp_path / "tiny", systems.SMALL)
    with ProcessPoolExecutor(1, mp_context=growth.PROCESSES) as process:
        arguments = ("index_size", 2**15, tmp_path, True, 2, 1)
        point = process.submit(growth.measure_point, *arguments).result()
    assert 32 <= point["peak_mib"] < 64
    assert 0 < point["fastest"] <= point["seconds"] <= point["slowest"]


@pytest.mark.slow
def test_growth_measures_six_curves():
    results = growth.measure(Namespace(small=True, rounds=1, threads=1))
    assert list(results["curves"]) == list(growth.CURVES) and len(growth.CURVES) == 6
    for name, curve in results["curves"].items():
        assert [point["size"] for point in curve["points"]] == list(growth.CURVES[name].small)
        assert all(point["seconds"] > 0 < point["peak_mib"] for point in curve["points"])
        assert set(curve["fits"]) == {"seconds", "peak_mib"}
    assert json.loads(json.dumps(results)) == results


def test_full_sizes_double():
    for curve in growth.CURVES.values():
        assert 4 <= len(curve.sizes) <= 6
        assert all(b == 2 * a for a, b in zip(curve.sizes, curve.sizes[1:], strict=False))

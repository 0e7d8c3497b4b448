"""Actions are timed in turn, and rates are of the median."""

from functools import partial

import timing


def test_every_round_runs_every_action_once_and_turns_their_order_round():
    ran = []
    actions = {name: partial(ran.append, name) for name in "abc"}
    seconds = timing.in_turn(actions, rounds=2, warm_up=1)
    assert "".join(ran) in ("abccbaabc", "cbaabccba")
    assert {name: len(times) for name, times in seconds.items()} == {"a": 2, "b": 2, "c": 2}


def test_rates_are_of_the_median_time():
    line = timing.rates({"it": [1.0, 4.0, 2.0]}, items=8)["it"]
    assert line == {"per_second": 4.0, "slowest": 2.0, "fastest": 8.0}

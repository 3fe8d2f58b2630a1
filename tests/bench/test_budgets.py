"""The figures of the proxy with token budgets are computed as bench/README.md says."""

from __future__ import annotations

from bench.budget_proxy import KEYS, Numbers
from bench.budgets import Call, Calls, most_in_a_window, needless

ANN, BOB, *_ = KEYS
#: 10,000 tokens for the model, 5,000 for a team, and 1,000 for a key, in two seconds.
NUMBERS = Numbers(minute=2.0, tokens=10_000, streams=200, pause=0.1, each=20)


def test_a_window_ends_before_it_is_a_minute_long() -> None:
    calls = [Call(0.0, ANN, 5), Call(1.0, BOB, 3), Call(2.0, ANN, 4), Call(2.5, ANN, 2)]

    assert most_in_a_window(calls, 2.0) == 9
    assert most_in_a_window(calls, 2.1) == 12
    assert most_in_a_window([], 2.0) == 0


def test_a_denial_is_without_need_if_each_subject_had_room() -> None:
    admitted = [Call(0.0, ANN, 900), Call(1.0, BOB, 100)]

    def count(*denied: Call) -> int:
        return needless(Calls(admitted, list(denied)), NUMBERS)

    assert count(Call(1.5, ANN, 100)) == 1
    assert count(Call(1.5, ANN, 101), Call(1.5, BOB, 901)) == 0
    assert count(Call(2.0, ANN, 1_000)) == 1
    full = [Call(1.0, key, 1_000) for key, team in KEYS.items() if team == KEYS[ANN]]
    assert len(full) == 5
    assert needless(Calls(full[1:], [Call(2.0, ANN, 1_000)]), NUMBERS) == 1
    assert needless(Calls(full[1:], [Call(2.0, ANN, 1_001)]), NUMBERS) == 0

"""Each planted fault is found among the seeds of ``test_schedules``."""

from __future__ import annotations

import pytest

from tests.simulation import plans
from tests.simulation.checks import broken
from tests.simulation.faults import FAULTS, Fault, planted
from tests.simulation.runs import run
from tests.simulation.support import COUNT


@pytest.mark.slow
@pytest.mark.parametrize("fault", FAULTS, ids=[fault.name for fault in FAULTS])
def test_a_planted_fault_is_found(fault: Fault) -> None:
    """It is found among the seeds that run here."""
    with planted(fault):
        for seed in range(COUNT):
            plan = plans.draw(seed)
            if fault.may_show(plan) and broken(run(seed, plan)):
                return
    pytest.fail(f"no seed below {COUNT} finds it")


def test_a_fault_whose_lines_are_missing_is_an_error() -> None:
    """After a change of the library, a fault that changes nothing must not pass for a fault."""
    (edit,) = FAULTS[0].edits
    stale = FAULTS[0]._replace(edits=((edit[0], "lines that are not there", ""),))
    with pytest.raises(AssertionError, match="change the fault"), planted(stale):
        pass

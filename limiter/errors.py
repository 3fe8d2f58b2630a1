"""Everything this package raises.

* LimiterError
  * InvalidPolicy      a limit that makes no sense, raised when it is built; a ValueError
  * InvalidCost        a cost that can never pass, raised before Redis is asked; a ValueError
  * InvalidKey         a subject that names nobody; a ValueError
  * InvalidSetting     a wrong store, name, timeout ... or variable; a ValueError
  * StoreUnavailable   the store did not decide within the deadline
  * StoreRefused       the store answered, but not with a decision: somebody must look
  * RateLimited        a call that waits or reserves was denied; carries the decision
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from limiter.decision import Decision


def shown(value: object) -> str:
    """A wrong value, for a message: its repr, where Python prints one."""
    try:
        return repr(value)
    except ValueError:  # an int of more digits than Python prints
        return f"an {type(value).__name__} of too many digits"


class LimiterError(Exception):
    """The base of every error of this package."""


class InvalidPolicy(LimiterError, ValueError):
    """A limit makes no sense; the message names its values and what is accepted."""


class InvalidCost(LimiterError, ValueError):
    """A cost is no whole number, negative, or more than the smallest limit could ever admit."""


class InvalidKey(LimiterError, ValueError):
    """A key is of the wrong type, empty, or not UTF-8."""


class InvalidSetting(LimiterError, ValueError):
    """A setting of a limiter, or a variable of the environment, has a value nobody can use."""


class StoreUnavailable(LimiterError):
    """The store refused, could not be reached, or did not answer within the deadline.

    The only error that a failure policy (``on_error``) may turn into a decision.
    """


class StoreRefused(LimiterError):
    """The store answered with something other than a decision.

    Wrong credentials, missing rights, a key of another type, a broken script: waiting mends none
    of these, and admitting everybody would hide them. Never subject to ``on_error``.
    """


class RateLimited(LimiterError):
    """A call was denied; ``decision`` says by which policy and for how long."""

    def __init__(self, decision: Decision) -> None:
        policy = decision.policy
        super().__init__(f"denied by {policy}: retry after {decision.retry_after:.6f} s")
        self.decision = decision

    def __reduce__(self) -> tuple[type[RateLimited], tuple[Decision]]:
        return type(self), (self.decision,)

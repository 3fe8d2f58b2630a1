"""Everything this package raises.

* LimiterError
  * Invalid            a caller's mistake; a ValueError, with ``setting``, ``value`` and ``expected``
    * InvalidPolicy    a limit that makes no sense, raised when it is built; a ValueError
    * InvalidCost      a cost that can never pass, raised before Redis is asked; a ValueError
    * InvalidKey       a subject that names nobody; a ValueError
    * InvalidSetting   a wrong store, name, timeout ... or variable; a ValueError
  * StoreUnavailable   the store did not decide within the deadline
  * StoreRefused       the store answered, but not with a decision: somebody must look
  * RateLimited        a call that waits or reserves was denied; see ``limiter.decision``
"""

from __future__ import annotations

from typing import TypeVar

_Own = TypeVar("_Own", bound="Invalid")

_PLURALS = ("limits", "methods")


def shown(value: object) -> str:
    """A wrong value, for a message: its repr, where Python prints one."""
    try:
        return repr(value)
    except ValueError:  # an int of more digits than Python prints
        return f"an {type(value).__name__} of too many digits"


class LimiterError(Exception):
    """The base of every error of this package."""


class Invalid(LimiterError, ValueError):
    """Something that a caller gave is of no use.

    Attributes:
        setting: What it was given as: an argument, a variable, a key of a file; None where the mistake
            is not one value's.
        value: The value, as the message shows it: a text, in which secrets are masked.
        expected: What is accepted, and what to do.

    """

    setting: str | None = None
    value: str | None = None
    expected: str | None = None

    @classmethod
    def of(cls: type[_Own], setting: str, value: str, expected: str, owner: str = "") -> _Own:
        """The error of one value: ``<setting> is <value>: <expected>``; ``owner`` is what has it."""
        verb = "are" if setting in _PLURALS else "is"
        before = f"{owner}: " if owner else ""
        error = cls(f"{before}{setting} {verb} {value}: {expected}")
        error.setting, error.value, error.expected = setting, value, expected
        return error

    @property
    def predicate(self) -> str:
        """The message without the setting's name, for a caller that knows it by another one."""
        return str(self) if self.setting is None else f"is {self.value}: {self.expected}"


class InvalidPolicy(Invalid):
    """A limit makes no sense; the message names its values and what is accepted."""


class InvalidCost(Invalid):
    """A cost is no whole number, negative, or more than the smallest limit could ever admit."""


class InvalidKey(Invalid):
    """A key is of the wrong type, empty, or not UTF-8."""


class InvalidSetting(Invalid):
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


_Any = TypeVar("_Any", bound=LimiterError)


def anew(failure: _Any) -> _Any:
    """The same failure for one more caller, with a traceback of its own."""
    another = type(failure)(*failure.args)
    another.__cause__ = failure.__cause__
    return another

"""Every error that this package raises.

* LimiterError
  * Invalid            a caller's mistake; a ValueError, with ``setting``, ``value`` and ``expected``
    * InvalidPolicy    a limit that makes no sense, raised when it is built; a ValueError
    * InvalidCost      a cost that can never pass, raised before the store is called; a ValueError
    * InvalidKey       a key of a wrong type, or empty; a ValueError
    * InvalidSetting   a wrong store, name, timeout ... or variable; a ValueError
  * StoreUnavailable   the store did not decide within the deadline
  * StoreRefused       the store replied with an error that an operator must fix
  * RateLimited        a call that waits or reserves was denied; see ``limiter.decision``
"""

from __future__ import annotations

from typing import TypeVar

_Own = TypeVar("_Own", bound="Invalid")

_PLURALS = ("limits", "methods")


def shown(value: object) -> str:
    """Return a wrong value's repr for a message, or its type if Python prints no repr."""
    try:
        return repr(value)
    except ValueError:  # an int of more digits than Python prints
        return f"an {type(value).__name__} of too many digits"


class LimiterError(Exception):
    """The base of every error of this package."""


class Invalid(LimiterError, ValueError):
    """A value that the caller passed is wrong.

    Attributes:
        setting: The name of the argument, variable or key of a file; None if several values are wrong
            together.
        value: The value as the message shows it, with secrets masked.
        expected: What is accepted, and what to do.

    """

    setting: str | None = None
    value: str | None = None
    expected: str | None = None

    @classmethod
    def of(cls: type[_Own], setting: str, value: str, expected: str, owner: str = "") -> _Own:
        """Build the error of one value: ``<setting> is <value>: <expected>``, after ``owner`` if given."""
        verb = "are" if setting in _PLURALS else "is"
        before = f"{owner}: " if owner else ""
        error = cls(f"{before}{setting} {verb} {value}: {expected}")
        error.setting, error.value, error.expected = setting, value, expected
        return error

    @property
    def predicate(self) -> str:
        """The message without the setting's name, for a caller that uses another name."""
        return str(self) if self.setting is None else f"is {self.value}: {self.expected}"


class InvalidPolicy(Invalid):
    """A limit makes no sense; the message names its values and what is accepted."""


class InvalidCost(Invalid):
    """A cost is no whole number, negative, more than a limit could ever admit, or of another form."""


class InvalidKey(Invalid):
    """A key is of the wrong type, empty, or not UTF-8."""


class InvalidSetting(Invalid):
    """A setting of a limiter, or a variable of the environment, has a wrong value."""


class StoreUnavailable(LimiterError):
    """The store cannot serve, could not be reached, or did not answer within the deadline.

    ``on_error`` may turn this error into a decision, and no other error.
    """


class StoreRefused(LimiterError):
    """The store replied with an error that waiting does not solve.

    Examples are wrong credentials, missing rights, a key of another type, and a broken script.
    ``on_error`` does not apply: a fallback that admits all calls would hide the mistake.
    """


_Any = TypeVar("_Any", bound=LimiterError)


def anew(failure: _Any) -> _Any:
    """Copy a failure for another caller, with a traceback of its own."""
    copy = type(failure)(*failure.args)
    copy.__cause__ = failure.__cause__
    return copy

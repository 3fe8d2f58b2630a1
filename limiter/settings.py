"""The only module that reads the environment, and what every setting may be."""

from __future__ import annotations

import logging
import os
import re
from collections import ChainMap
from collections.abc import Collection, Mapping
from difflib import get_close_matches
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Any

from limiter.errors import Invalid, InvalidPolicy, InvalidSetting, shown

log = logging.getLogger("limiter")

ON_ERROR = ("raise", "allow", "deny", "local")

_TRUSTED_PROXIES = "127.0.0.0/8,::1/128"

#: The proxies that come by a Unix socket, and so have no address; a network that nobody else is in.
UNIX_PEERS = IPv4Network("0.0.0.0/32")

#: Setting of a Limiter, and the variable that gives it.
VARIABLES = {
    "store": "LIMITER_STORE",
    "algorithm": "LIMITER_ALGORITHM",
    "limits": "LIMITER_LIMITS",
    "name": "LIMITER_NAME",
    "prefix": "LIMITER_PREFIX",
    "key_secret": "LIMITER_KEY_SECRET",
    "on_error": "LIMITER_ON_ERROR",
    "local_share": "LIMITER_LOCAL_SHARE",
    "timeout": "LIMITER_TIMEOUT",
}

POLICIES = "LIMITER_POLICIES"
ADMIN_TOKEN = "LIMITER_ADMIN_TOKEN"  # noqa: S105 (the variable's name)
API_TOKEN = "LIMITER_API_TOKEN"  # noqa: S105 (the variable's name)
TRUSTED_PROXIES = "LIMITER_TRUSTED_PROXIES"

_OURS = "LIMITER_"
_KNOWN = (*VARIABLES.values(), POLICIES, ADMIN_TOKEN, API_TOKEN, TRUSTED_PROXIES)
#: What Kubernetes and Docker set in every container beside a service that is called ``limiter``.
_OF_A_SERVICE = re.compile(
    r"\w+_SERVICE_(HOST|PORT)\w*|LIMITER_(\w+_)?PORT(_\d+_(TCP|UDP|SCTP)\w*)?"
)
#: Those that were said to be unknown, each once.
_unknown: set[str] = set()

#: A shorter one could be guessed.
_SHORTEST_TOKEN = 16


def from_environment(
    environ: Mapping[str, str] | None = None, defaults: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """The settings of a Limiter that the environment gives; ``defaults`` fill what it leaves open.

    An empty variable counts as unset. One that begins like ours and is none is warned of.

    Raises:
        InvalidSetting: A variable that must be there is not, or holds a number nobody can read.

    """
    environ = os.environ if environ is None else environ
    _warn_of_unknown(environ)
    found: dict[str, Any] = dict(defaults or {})
    for setting, variable in VARIABLES.items():
        if environ.get(variable):
            found[setting] = environ[variable]
    for setting in ("store", "limits"):
        if setting not in found:
            file = environ.get(POLICIES) if setting == "limits" else None
            raise InvalidSetting(
                f"{VARIABLES[setting]} is not set: give it, for example "
                f"{'redis://127.0.0.1:6379/0' if setting == 'store' else '100/minute'}"
                + (
                    f"; {POLICIES}, which is {file!r}, is read by Policies.from_env()"
                    if file
                    else ""
                )
            )
    for setting, number in (("local_share", int), ("timeout", float)):
        if isinstance(found.get(setting), str):
            found[setting] = _number(number, VARIABLES[setting], found[setting])
    return found


def with_config(config: Mapping[str, Any], without: Collection[str] = ()) -> Mapping[str, Any]:
    """What an application's configuration says of LIMITER_*, and behind it the environment.

    ``without`` are settings that neither is asked for.
    """
    hidden = {VARIABLES[setting]: "" for setting in without}
    ours = {
        name: value
        for name, value in config.items()
        if name.startswith("LIMITER_") and value not in (None, "")
    }
    return ChainMap(hidden, ours, dict(os.environ))


def for_policies(
    environ: Mapping[str, str] | None = None, defaults: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """``path``, the policy file of ``LIMITER_POLICIES``, and the settings that hold for its policies.

    Raises:
        InvalidSetting: There is none; or a variable that it excludes is set as well, or is wrong.

    """
    environ = os.environ if environ is None else environ
    path = policies_path(environ) or (defaults or {}).get("path")
    if not path:
        raise InvalidSetting(f"{POLICIES} is not set: give it, for example policies.toml")
    # Limits and names stand in the file.
    found = from_environment(environ, {**(defaults or {}), "limits": path, "path": path})
    for setting in ("limits", "name", "algorithm"):
        found.pop(setting, None)
    return found


def policies_path(environ: Mapping[str, str] | None = None) -> str | None:
    """The policy file that ``LIMITER_POLICIES`` names, or None.

    Raises:
        InvalidSetting: A variable that it excludes is set as well.

    """
    environ = os.environ if environ is None else environ
    path = environ.get(POLICIES)
    for setting in ("algorithm", "limits"):
        if path and (value := environ.get(VARIABLES[setting])):
            raise InvalidSetting(
                f"{VARIABLES[setting]} is {value!r} beside {POLICIES}, which is {path!r}: accepted is "
                f"one of them, since the file says the limits and their algorithms"
            )
    return path or None


def is_in_process(environ: Mapping[str, str] | None = None) -> bool:
    """Whether ``LIMITER_STORE`` is the memory of each process, which counts by itself."""
    environ = os.environ if environ is None else environ
    return environ.get(VARIABLES["store"]) == "memory://"


def named(error: Invalid, environ: Mapping[str, str] | None = None) -> Invalid:
    """The error of a setting or policy, with the variable that it came from in front."""
    environ = os.environ if environ is None else environ
    variable = VARIABLES.get(error.setting or "")
    if variable is not None and environ.get(variable):
        return InvalidSetting(f"{variable}: {error}")
    if isinstance(error, InvalidPolicy) and (text := environ.get(VARIABLES["limits"])):
        # One of several limits, or a policy that was made of one, does not show the whole text.
        whole = "" if repr(text.strip()) in (error.value or "") else f" is {text!r}"
        return InvalidSetting(f"{VARIABLES['limits']}{whole}: {error}")
    return error


def trusted_proxies(
    environ: Mapping[str, str] | None = None,
) -> tuple[IPv4Network | IPv6Network, ...]:
    """The networks of ``LIMITER_TRUSTED_PROXIES``, whose forwarded headers count.

    Raises:
        InvalidSetting: One of them is no network.

    """
    environ = os.environ if environ is None else environ
    _warn_of_unknown(environ)
    text = environ.get(TRUSTED_PROXIES) or _TRUSTED_PROXIES
    networks = []
    for part in text.split(","):
        try:
            networks.append(network(part))
        except ValueError as error:
            raise InvalidSetting.of(
                TRUSTED_PROXIES,
                repr(text),
                f"{error}; accepted are networks with a comma "
                f"between, for example {_TRUSTED_PROXIES}, and unix for proxies on a Unix socket",
            ) from None
    return tuple(networks)


def network(text: str) -> IPv4Network | IPv6Network:
    """A network of proxies; ``unix`` are those that come by a Unix socket.

    Raises:
        ValueError: It is none.

    """
    text = text.strip()
    found = UNIX_PEERS if text == "unix" else ip_network(text)
    if isinstance(found, IPv6Network) and (first := found[0].ipv4_mapped) is not None:
        # Addresses are looked at as what they are, and no IPv4 address is in a network of IPv6.
        return ip_network(f"{first}/{found.prefixlen - 96}")
    return found


def admin_token(environ: Mapping[str, str] | None = None) -> str | None:
    """The token that operators show to the service, or None: then there is nothing for operators.

    Raises:
        InvalidSetting: It could be guessed, or cannot be sent; the message does not show it.

    """
    return _token(ADMIN_TOKEN, os.environ if environ is None else environ)


def api_token(environ: Mapping[str, str] | None = None) -> str | None:
    """The token by which the service answers callers outside its trusted networks, too; None: none.

    Raises:
        InvalidSetting: It could be guessed, cannot be sent, or is that of the operators; the message does
            not show it.

    """
    environ = os.environ if environ is None else environ
    token = _token(API_TOKEN, environ)
    if token is not None and token == environ.get(ADMIN_TOKEN):
        raise InvalidSetting.of(
            API_TOKEN,
            f"the same as {ADMIN_TOKEN}",
            "accepted is another token, since its holders may not do what operators do",
        )
    return token


def _token(variable: str, environ: Mapping[str, str]) -> str | None:
    token = environ.get(variable) or None
    if token is not None and not (
        len(token) >= _SHORTEST_TOKEN
        and token.isascii()
        and token.isprintable()
        and " " not in token
    ):
        raise InvalidSetting.of(
            variable,
            f"set to {len(token)} characters",
            f"accepted are {_SHORTEST_TOKEN} or more, printable ASCII without blanks",
        )
    return token


def of_uvicorn() -> dict[str, str]:
    """The variables that say for which proxies uvicorn replaces a request's peer."""
    names = ("UVICORN_PROXY_HEADERS", "UVICORN_FORWARDED_ALLOW_IPS", "FORWARDED_ALLOW_IPS")
    return {name: os.environ[name] for name in names if name in os.environ}


def check_on_error(value: object) -> str:
    """What to do while the store does not decide."""
    if isinstance(value, str) and value in ON_ERROR:
        return value
    raise InvalidSetting.of("on_error", repr(value), f"accepted are {', '.join(ON_ERROR)}")


def check_share(value: object) -> int:
    """How many limiters share a quota while the store does not decide."""
    if isinstance(value, int) and not isinstance(value, bool) and value >= 1:
        return value
    raise InvalidSetting.of("local_share", repr(value), "accepted is a whole number from 1")


#: Seconds that nobody waits; a whole number beyond is too large for a float.
_FOR_EVER = 10**12


def check_wait(value: object) -> float | None:
    """How long a call may wait for its turn."""
    if value is None:
        return None
    if isinstance(value, (int, float)) and not isinstance(value, bool) and value >= 0:
        return float(min(value, _FOR_EVER))
    raise InvalidSetting.of(
        "timeout", shown(value), "accepted are seconds from 0, and None for as long as it takes"
    )


def check_seconds(name: str, value: object) -> float:
    """A time-out."""
    if isinstance(value, (int, float)) and not isinstance(value, bool) and 0.001 <= value <= 3600:
        return float(value)
    raise InvalidSetting.of(name, shown(value), "accepted are seconds from 0.001 to 3600")


def _warn_of_unknown(environ: Mapping[str, str]) -> None:
    """Say which variables begin like ours and are none, and which one may be meant; never a value."""
    for name in sorted(set(environ) - _unknown):
        if not name.startswith(_OURS) or name in _KNOWN or _OF_A_SERVICE.fullmatch(name):
            continue
        _unknown.add(name)
        # Without what all of them begin with, which would make all of them near.
        rests = {known.removeprefix(_OURS): known for known in _KNOWN}
        near = get_close_matches(name.removeprefix(_OURS), rests, 1)
        meant = f"is {rests[near[0]]} meant?" if near else f"known are {', '.join(_KNOWN)}"
        log.warning("%s is set, and no variable of ours: %s", name, meant)


def _number(kind: type[int] | type[float], variable: str, text: str) -> int | float:
    try:
        return kind(text)
    except ValueError:
        what = "a whole number" if kind is int else "seconds, like 0.1"
        raise InvalidSetting.of(variable, repr(text), f"accepted is {what}") from None

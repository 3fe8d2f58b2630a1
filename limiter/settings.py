"""Read settings from the environment, which no other module reads, and check their values."""

from __future__ import annotations

import logging
import os
import re
from collections import ChainMap
from collections.abc import Collection, Mapping
from difflib import get_close_matches
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Any
from urllib.parse import urlencode

from limiter.errors import Invalid, InvalidPolicy, InvalidSetting, shown

log = logging.getLogger("limiter")

ON_ERROR = ("raise", "allow", "deny", "local")

_TRUSTED_PROXIES = "127.0.0.0/8,::1/128"

#: Stands for proxies that connect through a Unix socket and have no address; no client has this one.
UNIX_PEERS = IPv4Network("0.0.0.0/32")

#: Settings of a Limiter, and the variable of each.
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
    "denial_cache": "LIMITER_DENIAL_CACHE",
    "prepaid": "LIMITER_PREPAID",
    "prepaid_hold": "LIMITER_PREPAID_HOLD",
}

_NUMBERS: dict[str, type[int] | type[float]] = {
    "local_share": int,
    "timeout": float,
    "denial_cache": float,
    "prepaid": int,
    "prepaid_hold": float,
}

_REQUIRED = {"store": "redis://127.0.0.1:6379/0", "limits": "100/minute"}

#: Parts of the store's URL that are kept apart from it, and the parameter of the URL for each.
STORE_PARTS = {
    "username": "LIMITER_STORE_USERNAME",
    "password_file": "LIMITER_STORE_PASSWORD_FILE",  # the file's name, and no password
}
POLICIES = "LIMITER_POLICIES"
ADMIN_TOKEN = "LIMITER_ADMIN_TOKEN"  # noqa: S105 (the variable's name)
API_TOKEN = "LIMITER_API_TOKEN"  # noqa: S105 (the variable's name)
TRUSTED_PROXIES = "LIMITER_TRUSTED_PROXIES"
#: ``prometheus_client`` has chosen this name.
METRICS_FOLDER = "PROMETHEUS_MULTIPROC_DIR"

_PREFIX = "LIMITER_"
_KNOWN = (
    *VARIABLES.values(),
    *STORE_PARTS.values(),
    POLICIES,
    ADMIN_TOKEN,
    API_TOKEN,
    TRUSTED_PROXIES,
)
#: What Kubernetes and Docker set in every container beside a service that is called ``limiter``.
_SET_BY_CONTAINERS = re.compile(
    r"\w+_SERVICE_(HOST|PORT)\w*|LIMITER_(\w+_)?PORT(_\d+_(TCP|UDP|SCTP)\w*)?"
)
#: Unknown variables that were logged: each is logged once.
_unknown: set[str] = set()

#: Characters of a token; a shorter one could be guessed.
_SHORTEST_TOKEN = 16


def from_environment(
    environ: Mapping[str, str] | None = None, defaults: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Read the settings of a Limiter from the environment; ``defaults`` hold for variables not set.

    An empty variable counts as unset. Unknown variables that begin with LIMITER_ are logged.

    Raises:
        InvalidSetting: A required variable is missing, or one that must be a number is not.

    """
    environ = os.environ if environ is None else environ
    _warn_of_unknown(environ)
    values: dict[str, Any] = dict(defaults or {})
    for setting, variable in VARIABLES.items():
        if environ.get(variable):
            values[setting] = environ[variable]
    if environ.get(VARIABLES["store"]):
        values["store"] = _whole_store(environ)
    for setting, example in _REQUIRED.items():
        if setting not in values:
            text = f"{VARIABLES[setting]} is not set: give it, for example {example}"
            if setting == "limits" and (file := environ.get(POLICIES)):
                text += f"; {POLICIES}, which is {file!r}, is read by Policies.from_env()"
            raise InvalidSetting(text)
    for setting, number in _NUMBERS.items():
        if isinstance(values.get(setting), str):
            values[setting] = _number(number, VARIABLES[setting], values[setting])
    return values


def _whole_store(environ: Mapping[str, str]) -> str:
    """The store's URL, with the parts that have variables of their own."""
    url = environ[VARIABLES["store"]]
    parts = {
        name: environ[variable] for name, variable in STORE_PARTS.items() if environ.get(variable)
    }
    if not parts:
        return url
    if "://" not in url or is_in_process(environ):
        name = STORE_PARTS[next(iter(parts))]
        raise InvalidSetting.of(
            name,
            "set",
            f"{VARIABLES['store']} is no server with users: expected a URL of a server",
        )
    return url + ("&" if "?" in url else "?") + urlencode(parts, safe="/")


def with_config(config: Mapping[str, Any], without: Collection[str] = ()) -> Mapping[str, Any]:
    """The LIMITER_* keys of an application's configuration, then those of the environment.

    ``without`` names settings that are read from neither.
    """
    hidden = {VARIABLES[setting]: "" for setting in without}
    configured = {
        name: value
        for name, value in config.items()
        if name.startswith("LIMITER_") and value not in (None, "")
    }
    return ChainMap(hidden, configured, dict(os.environ))


def for_policies(
    environ: Mapping[str, str] | None = None, defaults: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """The ``path`` of the policy file (``LIMITER_POLICIES``), and the settings of all its policies.

    Raises:
        InvalidSetting: No file is named, a variable is wrong, or it cannot be combined with the file.

    """
    environ = os.environ if environ is None else environ
    path = policies_path(environ) or (defaults or {}).get("path")
    if not path:
        raise InvalidSetting(f"{POLICIES} is not set: give it, for example policies.toml")
    # The file contains limits and names.
    values = from_environment(environ, {**(defaults or {}), "limits": path, "path": path})
    for setting in ("limits", "name", "algorithm"):
        values.pop(setting, None)
    return values


def policies_path(environ: Mapping[str, str] | None = None) -> str | None:
    """The policy file that ``LIMITER_POLICIES`` names, or None.

    Raises:
        InvalidSetting: A variable is set that cannot be combined with the file.

    """
    environ = os.environ if environ is None else environ
    path = environ.get(POLICIES)
    for setting in ("algorithm", "limits"):
        if path and (value := environ.get(VARIABLES[setting])):
            raise InvalidSetting(
                f"{VARIABLES[setting]} is {value!r} beside {POLICIES}, which is {path!r}: expected "
                f"one of them, since the file contains the limits and their algorithms"
            )
    return path or None


def is_in_process(environ: Mapping[str, str] | None = None) -> bool:
    """Whether ``LIMITER_STORE`` is ``memory://``, where each process counts for itself."""
    environ = os.environ if environ is None else environ
    return environ.get(VARIABLES["store"]) == "memory://"


def named(error: Invalid, environ: Mapping[str, str] | None = None) -> Invalid:
    """The same error, beginning with the variable that held the wrong value."""
    environ = os.environ if environ is None else environ
    variable = VARIABLES.get(error.setting or "")
    if variable is not None and environ.get(variable):
        return InvalidSetting(f"{variable}: {error}")
    if isinstance(error, InvalidPolicy) and (text := environ.get(VARIABLES["limits"])):
        # The error may show one limit of several: then add the whole variable.
        whole = "" if repr(text.strip()) in (error.value or "") else f" is {text!r}"
        return InvalidSetting(f"{VARIABLES['limits']}{whole}: {error}")
    return error


def trusted_proxies(
    environ: Mapping[str, str] | None = None,
) -> tuple[IPv4Network | IPv6Network, ...]:
    """The networks of ``LIMITER_TRUSTED_PROXIES``, whose forwarded headers count.

    Raises:
        InvalidSetting: One of them is not a network.

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
                f"{error}; expected networks with a comma "
                f"between, for example {_TRUSTED_PROXIES}, and unix for proxies on a Unix socket",
            ) from None
    return tuple(networks)


def network(text: str) -> IPv4Network | IPv6Network:
    """Read a network of proxies; ``unix`` means proxies that connect through a Unix socket.

    Raises:
        ValueError: The text is not a network.

    """
    text = text.strip()
    result = UNIX_PEERS if text == "unix" else ip_network(text)
    if isinstance(result, IPv6Network) and (first := result[0].ipv4_mapped) is not None:
        # ::ffff:10.0.0.1 is compared as IPv4, and no IPv4 address is in a network of IPv6.
        return ip_network(f"{first}/{result.prefixlen - 96}")
    return result


def tokens(environ: Mapping[str, str] | None = None) -> tuple[str | None, str | None]:
    """The service's tokens: of operators, and of callers outside the trusted networks.

    Without its token, the service answers no operators, or no such callers.

    Raises:
        InvalidSetting: A token is too short, a header field cannot hold it, or the two are the same. The
            message does not show it.

    """
    environ = os.environ if environ is None else environ
    admin, api = _token(ADMIN_TOKEN, environ), _token(API_TOKEN, environ)
    if api is not None and api == admin:
        raise InvalidSetting.of(
            API_TOKEN,
            f"the same as {ADMIN_TOKEN}",
            "expected another token, since its holders may not do what operators do",
        )
    return admin, api


def metrics_folder() -> str | None:
    """The folder in which the workers of one instance share their counters; None for a single process."""
    return os.environ.get(METRICS_FOLDER) or None


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
            f"expected {_SHORTEST_TOKEN} or more, printable ASCII without blanks",
        )
    return token


def of_uvicorn() -> dict[str, str]:
    """The variables by which uvicorn decides for which proxies it replaces a request's peer."""
    names = ("UVICORN_PROXY_HEADERS", "UVICORN_FORWARDED_ALLOW_IPS", "FORWARDED_ALLOW_IPS")
    return {name: os.environ[name] for name in names if name in os.environ}


def check_on_error(value: object) -> str:
    """Check ``on_error``: what calls do while the store does not decide."""
    if isinstance(value, str) and value in ON_ERROR:
        return value
    raise InvalidSetting.of("on_error", repr(value), f"expected {', '.join(ON_ERROR)}")


def check_share(value: object) -> int:
    """Check ``local_share``: how many processes share each limit in the fallback ``local``."""
    if isinstance(value, int) and not isinstance(value, bool) and value >= 1:
        return value
    raise InvalidSetting.of("local_share", repr(value), "expected a whole number from 1")


def check_denial_cache(value: object) -> float:
    """Check ``denial_cache``: how many seconds a denial is repeated without a call to the store."""
    if isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value <= 3600:
        return float(value)
    raise InvalidSetting.of(
        "denial_cache", shown(value), "expected seconds from 0 to 3600, and 0 is no cache"
    )


def check_denial_cache_size(value: object) -> int:
    """Check ``denial_cache_size``: how many calls stay prepared, in each of two generations."""
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    raise InvalidSetting.of(
        "denial_cache_size", shown(value), "expected a whole number from 0, and 0 keeps no call"
    )


#: Units; each that is not spent takes 8 bytes for each subject.
_MOST_PREPAID = 10_000


def check_prepaid(value: object) -> int:
    """Check ``prepaid``: how many units of a subject are taken in advance, at most."""
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _MOST_PREPAID:
        return int(value)
    raise InvalidSetting.of(
        "prepaid",
        shown(value),
        f"expected a whole number from 0 to {_MOST_PREPAID:,}, and 0 takes none in advance",
    )


def check_join(value: object, default: bool) -> bool:
    """Check ``join``: whether equal hits are joined. ``default`` is False for a class that never does."""
    if value is None:
        return default
    if not default:
        expected = "it is a setting of AsyncLimiter alone; leave it out"
        raise InvalidSetting.of("join", shown(value), expected)
    return check_switch("join", value)


def check_switch(setting: str, value: object) -> bool:
    """Check a setting that is True or False."""
    if isinstance(value, bool):
        return value
    raise InvalidSetting.of(setting, shown(value), "expected True or False")


#: Seconds; a longer wait is cut to this, since a larger int may not fit into a float.
_LONGEST_WAIT = 10**12


def check_wait(value: object) -> float | None:
    """Check ``timeout``: how many seconds a call may wait until it is allowed."""
    if value is None:
        return None
    if isinstance(value, (int, float)) and not isinstance(value, bool) and value >= 0:
        return float(min(value, _LONGEST_WAIT))
    raise InvalidSetting.of(
        "timeout", shown(value), "expected seconds from 0, or None for as long as it takes"
    )


def check_seconds(name: str, value: object) -> float:
    """Check a timeout in seconds."""
    if isinstance(value, (int, float)) and not isinstance(value, bool) and 0.001 <= value <= 3600:
        return float(value)
    raise InvalidSetting.of(name, shown(value), "expected seconds from 0.001 to 3600")


def _warn_of_unknown(environ: Mapping[str, str]) -> None:
    """Log unknown variables that begin with LIMITER_, and which one may be meant; never a value."""
    for name in sorted(set(environ) - _unknown):
        if not name.startswith(_PREFIX) or name in _KNOWN or _SET_BY_CONTAINERS.fullmatch(name):
            continue
        _unknown.add(name)
        # Compare without the common prefix, which would make all names similar.
        suffixes = {known.removeprefix(_PREFIX): known for known in _KNOWN}
        near = get_close_matches(name.removeprefix(_PREFIX), suffixes, 1)
        meant = f"is {suffixes[near[0]]} meant?" if near else f"known are {', '.join(_KNOWN)}"
        log.warning("%s is set, and is not a variable of the limiter: %s", name, meant)


def _number(kind: type[int] | type[float], variable: str, text: str) -> int | float:
    try:
        return kind(text)
    except ValueError:
        what = "a whole number" if kind is int else "seconds, like 0.1"
        raise InvalidSetting.of(variable, repr(text), f"expected {what}") from None

"""The error of a wrong setting names the setting, its value, and what is accepted."""

from __future__ import annotations

from collections.abc import Callable
from inspect import signature
from typing import Any

import pytest

from limiter import (
    AsyncLimiter,
    FixedWindow,
    InvalidPolicy,
    InvalidSetting,
    Limiter,
    SlidingLog,
    TokenBucket,
    settings,
)
from limiter.policies import ALGORITHMS
from limiter.settings import VARIABLES, for_policies, policies_path, trusted_proxies

STORE = "redis://127.0.0.1:6379/0"
ENVIRONMENT = {"LIMITER_STORE": STORE, "LIMITER_LIMITS": "5/minute"}

Warned = Callable[..., list[str]]


def wrong(limits: Any = "5/minute", **settings: Any) -> str:
    """The message of the InvalidSetting that making a limiter raises."""
    with pytest.raises(InvalidSetting) as raised:
        Limiter(limits, **{"store": STORE, **settings})
    assert isinstance(raised.value, ValueError)
    return str(raised.value)


@pytest.mark.parametrize(
    ("setting", "value", "accepted"),
    [
        ("name", "a b", "expected 1 to 64 of A-Z a-z 0-9 _ . -"),
        ("prefix", "", "expected 1 to 64 of A-Z a-z 0-9 _ . -"),
        ("algorithm", "x", f"expected {', '.join(ALGORITHMS)}"),
        ("on_error", "ignore", "expected raise, allow, deny, local"),
        ("on_error", None, "expected raise, allow, deny, local"),
        ("local_share", 0, "expected a whole number from 1"),
        ("local_share", True, "expected a whole number from 1"),
        ("local_share", 1.0, "expected a whole number from 1"),
        ("timeout", 0, "expected seconds from 0.001 to 3600"),
        ("timeout", float("nan"), "expected seconds from 0.001 to 3600"),
        ("timeout", "0.1", "expected seconds from 0.001 to 3600"),
        ("timeout", True, "expected seconds from 0.001 to 3600"),
        ("connect_timeout", 3601, "expected seconds from 0.001 to 3600"),
        ("denial_cache", -0.1, "expected seconds from 0 to 3600, and 0 is no cache"),
        ("denial_cache", float("nan"), "expected seconds from 0 to 3600, and 0 is no cache"),
        ("denial_cache", True, "expected seconds from 0 to 3600, and 0 is no cache"),
        ("denial_cache", None, "expected seconds from 0 to 3600, and 0 is no cache"),
        ("denial_cache_size", -1, "expected a whole number from 0, and 0 keeps no call"),
        ("denial_cache_size", 1.0, "expected a whole number from 0, and 0 keeps no call"),
        ("denial_cache_size", True, "expected a whole number from 0, and 0 keeps no call"),
    ],
)
def test_a_wrong_setting(setting: str, value: Any, accepted: str) -> None:
    """Each message has all three."""
    assert wrong(**{setting: value}) == f"{setting} is {value!r}: {accepted}"


@pytest.mark.parametrize("value", [1, 0, "yes", []])
def test_join_is_true_or_false(value: Any) -> None:
    """Of an ``AsyncLimiter``; without it, the limiter joins calls."""
    with pytest.raises(InvalidSetting) as raised:
        AsyncLimiter("5/minute", store=STORE, join=value)
    assert str(raised.value) == f"join is {value!r}: expected True or False"
    assert AsyncLimiter("5/minute", store=STORE)._core.plan.join
    assert not AsyncLimiter("5/minute", store=STORE, join=False)._core.plan.join


@pytest.mark.parametrize("value", [True, False, 1])
def test_only_coroutines_are_joined(value: Any) -> None:
    """A ``Limiter`` refuses the setting, rather than ignore it."""
    message = f"join is {value!r}: it is a setting of AsyncLimiter alone; leave it out"
    assert wrong(join=value) == message


@pytest.mark.parametrize("kind", [Limiter, AsyncLimiter])
@pytest.mark.parametrize(
    ("given", "named", "message"),
    [
        (["5/minute"], {}, "missing a required .*'store'"),
        ([], {"store": STORE}, "missing a required .*'limits'"),
        (["5/minute", STORE], {}, "too many positional arguments"),
        (["5/minute"], {"store": STORE, "burst": 3}, "got an unexpected keyword argument 'burst'"),
    ],
)
def test_a_wrong_call_names_the_class_that_was_called(
    kind: Any, given: list[str], named: dict[str, Any], message: str
) -> None:
    """Not the base class, which is not public; and it names what is accepted."""
    with pytest.raises(TypeError, match=f"^{kind.__name__}: {message}") as raised:
        kind(*given, **named)
    assert "expected limits and, by name, store (redis://" in str(raised.value)
    assert f"{kind.__name__}.from_env()" in str(raised.value)
    assert list(signature(kind).parameters)[:3] == ["limits", "store", "name"]


def test_a_wrong_secret_stays_secret() -> None:
    """The message has only its type."""
    assert wrong(key_secret=5).startswith("key_secret is an unusable int: expected")


@pytest.mark.parametrize(
    "limits",
    [5, None, b"5/s", ["5/minute"], [SlidingLog(5, 60), "5/s"], [None], {"limit": 5}, SlidingLog],
    ids=repr,
)
def test_limits_are_a_string_or_policies(limits: Any) -> None:
    """Anything else is an InvalidPolicy."""
    with pytest.raises(InvalidPolicy, match="expected a limit string, a policy, or several"):
        Limiter(limits, store=STORE)


def test_a_limiter_needs_a_limit() -> None:
    """At least one policy."""
    with pytest.raises(InvalidPolicy, match="limits are empty: expected at least one policy"):
        Limiter([], store=STORE)


def test_two_policies_need_two_fields() -> None:
    """Two policies that would share their state are refused; different names are accepted."""
    with pytest.raises(InvalidPolicy, match=r"two policies .* name one of them"):
        Limiter("5/minute; 9/minute", store=STORE)
    Limiter([SlidingLog(5, 60), SlidingLog(9, 60, name="more")], store=STORE)


def test_an_algorithm_belongs_to_a_string() -> None:
    """A policy has its own algorithm."""
    assert "accepted only with a limit string" in wrong(SlidingLog(5, 60), algorithm="sliding_log")
    assert "expected fixed_window" in wrong(SlidingLog(5, 60), algorithm="nonsense")


def test_what_limits_may_be() -> None:
    """A string, one policy, or any iterable of them."""
    policy = SlidingLog(5, 60)
    for limits in ("5/minute", policy, [policy], (policy,), iter([policy])):
        assert Limiter(limits, store=STORE).policies == (policy,)
    assert repr(Limiter(policy, store=STORE, name="x")) == (
        "Limiter([SlidingLog(5, per=60)], name='x')"
    )


def test_from_the_environment() -> None:
    """Each variable reaches its setting."""
    limiter = Limiter.from_env(
        {
            **ENVIRONMENT,
            "LIMITER_ALGORITHM": "token_bucket",
            "LIMITER_LIMITS": "5/minute; 9/hour",
            "LIMITER_NAME": "n",
            "LIMITER_PREFIX": "p",
            "LIMITER_KEY_SECRET": "hush",
            "LIMITER_ON_ERROR": "deny",
            "LIMITER_LOCAL_SHARE": "4",
            "LIMITER_TIMEOUT": "0.25",
            "LIMITER_DENIAL_CACHE": "0.5",
        }
    )
    assert limiter.policies == (TokenBucket(5, 60), TokenBucket(9, 3600))
    assert limiter.name == "n"
    assert limiter.on_error == "deny"
    assert limiter._core.transport._timeout == 0.25
    assert limiter._core.denials is not None
    assert limiter._core.denials.seconds == 0.5
    assert limiter._core.plan.call("hit", "u", 1).keys[0].startswith(b"p:{~")


def test_the_processs_own_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is read if no other one is given."""
    for variable in VARIABLES.values():
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("LIMITER_STORE", STORE)
    monkeypatch.setenv("LIMITER_LIMITS", "7/s")
    assert Limiter.from_env().policies == (SlidingLog(7, 1),)


def test_defaults_fill_what_the_environment_leaves_open() -> None:
    """A variable that is set overrides them; an empty one counts as unset."""
    given = {"LIMITER_LIMITS": "", "LIMITER_NAME": "theirs"}
    limiter = Limiter.from_env(
        given, store=STORE, limits=FixedWindow(3, 1), name="ours", connect_timeout=1
    )
    assert limiter.policies == (FixedWindow(3, 1),)
    assert limiter.name == "theirs"


@pytest.mark.parametrize(
    ("missing", "example"), [("LIMITER_STORE", STORE), ("LIMITER_LIMITS", "1")]
)
@pytest.mark.parametrize("empty", [{}, {"LIMITER_STORE": "", "LIMITER_LIMITS": ""}])
def test_required_variables(missing: str, example: str, empty: dict[str, str]) -> None:
    """Store and limits; an empty one counts as unset."""
    given = {**ENVIRONMENT, missing: empty.get(missing, "")}
    with pytest.raises(
        InvalidSetting, match=f"{missing} is not set: give it, for example {example}"
    ):
        Limiter.from_env(given)


@pytest.mark.parametrize(
    ("variable", "value", "accepted"),
    [
        ("LIMITER_STORE", "http://x", "expected redis://"),
        ("LIMITER_ALGORITHM", "leaky", f"expected {', '.join(ALGORITHMS)}"),
        ("LIMITER_LIMITS", "5/x", "expected N/unit"),
        ("LIMITER_LIMITS", "5/s; 6/s", "name one of them"),
        ("LIMITER_LIMITS", "20000/s", "choose an algorithm"),
        ("LIMITER_NAME", "a b", "expected 1 to 64"),
        ("LIMITER_PREFIX", "a b", "expected 1 to 64"),
        ("LIMITER_ON_ERROR", "ignore", "expected raise, allow, deny, local"),
        ("LIMITER_LOCAL_SHARE", "1.5", "expected a whole number"),
        ("LIMITER_LOCAL_SHARE", "0", "expected a whole number from 1"),
        ("LIMITER_TIMEOUT", "fast", "expected seconds, like 0.1"),
        ("LIMITER_TIMEOUT", "-1", "expected seconds from 0.001"),
        ("LIMITER_DENIAL_CACHE", "1s", "expected seconds, like 0.1"),
        ("LIMITER_DENIAL_CACHE", "3601", "expected seconds from 0 to 3600"),
    ],
)
def test_a_wrong_variable(variable: str, value: str, accepted: str) -> None:
    """The message names variable, value and what is accepted."""
    with pytest.raises(InvalidSetting) as raised:
        Limiter.from_env({**ENVIRONMENT, variable: value})
    message = str(raised.value)
    assert message.startswith(variable)
    assert value in message
    assert accepted in message


def test_a_wrong_default_is_not_blamed_on_a_variable() -> None:
    """The error names the argument, if the value is not from the environment."""
    with pytest.raises(InvalidSetting) as raised:
        Limiter.from_env(ENVIRONMENT, on_error="ignore")
    assert str(raised.value).startswith("on_error is 'ignore'")


@pytest.mark.parametrize(
    ("text", "networks"),
    [
        (None, ["127.0.0.0/8", "::1/128"]),
        ("", ["127.0.0.0/8", "::1/128"]),
        ("10.0.0.0/8, 192.168.1.1", ["10.0.0.0/8", "192.168.1.1/32"]),
    ],
)
def test_trusted_proxies(text: str | None, networks: list[str]) -> None:
    """Networks with commas between; this machine if the variable is not set."""
    given = {} if text is None else {"LIMITER_TRUSTED_PROXIES": text}
    assert [str(network) for network in trusted_proxies(given)] == networks


@pytest.mark.parametrize("text", ["10.0.0.1/8", "all", "10.0.0.0/8,,::1"])
def test_wrong_trusted_proxies(text: str) -> None:
    """The variable, the value, and what is accepted."""
    with pytest.raises(InvalidSetting, match=r"LIMITER_TRUSTED_PROXIES is .*expected networks"):
        trusted_proxies({"LIMITER_TRUSTED_PROXIES": text})


def test_a_policy_file() -> None:
    """Its path, and the settings that the file does not have; an empty variable names no file."""
    given = {
        "LIMITER_STORE": STORE,
        "LIMITER_POLICIES": "p.toml",
        "LIMITER_NAME": "n",
        "LIMITER_TIMEOUT": "0.5",
        "LIMITER_LIMITS": "",
    }
    assert policies_path(given) == "p.toml"
    assert policies_path({"LIMITER_POLICIES": "", "LIMITER_LIMITS": "5/s"}) is None
    assert for_policies(given, {"on_error": "local"}) == {
        "path": "p.toml",
        "store": STORE,
        "timeout": 0.5,
        "on_error": "local",
    }


@pytest.mark.parametrize("variable", ["LIMITER_LIMITS", "LIMITER_ALGORITHM"])
def test_a_policy_file_excludes_limits(variable: str) -> None:
    """Only one of them can hold; the message names both."""
    with pytest.raises(InvalidSetting) as raised:
        policies_path({"LIMITER_POLICIES": "p.toml", variable: "x"})
    assert str(raised.value).startswith(
        f"{variable} is 'x' beside LIMITER_POLICIES, which is 'p.toml'"
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("5/x", "LIMITER_LIMITS: limit is '5/x': "),
        (" 5/x ", "LIMITER_LIMITS: limit is '5/x': "),
        ("5/s; 5/x", "LIMITER_LIMITS: limit is '5/x' in '5/s; 5/x': "),
        ("5/s; 6/s", "LIMITER_LIMITS is '5/s; 6/s': two policies "),
    ],
)
def test_a_wrong_limit_is_shown_once(text: str, message: str) -> None:
    """The message shows the variable's text, and shows it once."""
    with pytest.raises(InvalidSetting) as raised:
        Limiter.from_env({**ENVIRONMENT, "LIMITER_LIMITS": text})
    assert str(raised.value).startswith(message)
    assert str(raised.value).count(repr(text.strip())) == 1


@pytest.fixture
def warned(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> Warned:
    """The warnings about an environment in a process that has logged none yet."""
    monkeypatch.setattr(settings, "_unknown", set())

    def read(environ: dict[str, str], times: int = 1) -> list[str]:
        caplog.clear()
        for _ in range(times):
            Limiter.from_env({**ENVIRONMENT, **environ})
            trusted_proxies(environ)
        return [record.getMessage() for record in caplog.records]

    return read


@pytest.mark.parametrize(
    ("misspelt", "meant"),
    [
        ("LIMITER_STROE", "LIMITER_STORE"),
        ("LIMITER_LIMIT", "LIMITER_LIMITS"),
        ("LIMITER_ONERROR", "LIMITER_ON_ERROR"),
        ("LIMITER_KEYSECRET", "LIMITER_KEY_SECRET"),
        ("LIMITER_TRUSTED_PROXY", "LIMITER_TRUSTED_PROXIES"),
        ("LIMITER_POLICY", "LIMITER_POLICIES"),
    ],
)
def test_a_misspelt_variable_is_logged(warned: Warned, misspelt: str, meant: str) -> None:
    """Once, with the most similar name and without its value, which may be a secret."""
    assert warned({misspelt: "hush"}, times=3) == [
        f"{misspelt} is set, and is not a variable of the limiter: is {meant} meant?"
    ]


def test_an_unknown_variable_is_logged_with_all_known_names(warned: Warned) -> None:
    (message,) = warned({"LIMITER_XYZ": "1"})
    assert (
        "LIMITER_XYZ is set, and is not a variable of the limiter: known are LIMITER_STORE, "
        in message
    )
    assert "LIMITER_ADMIN_TOKEN" in message


def test_known_variables_are_not_logged(warned: Warned) -> None:
    """Those of this package, and those that Kubernetes and Docker set for a service called limiter."""
    token = {"LIMITER_ADMIN_TOKEN": "a" * 16, "LIMITER_POLICIES": "", "LIMITER_NAME": "x"}
    others = {"LIMITERS": "1", "PATH": "/bin", "_LIMITER_COMPLETE": ""}
    service = ["SERVICE_HOST", "SERVICE_PORT", "SERVICE_PORT_HTTP", "PORT", "PORT_8000_TCP"]
    service += ["PORT_8000_TCP_ADDR", "DEMO_SERVICE_HOST", "DEMO_PORT_9000_TCP_PROTO"]
    assert warned(token | others | {f"LIMITER_{name}": "1" for name in service}) == []

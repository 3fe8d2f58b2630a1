"""``limiter hit``, ``peek``, ``refund`` and ``reset`` on a real server."""

from __future__ import annotations

import json
import secrets
import shlex
import signal
import time

import pytest
import redis

from limiter import Limiter
from service.demo.servers import HOST, Cluster, free_port
from tests.cli.support import run, shell


def printed(line: str, **environ: str) -> tuple[int, str, str]:
    """The exit code, standard output and standard error of a command."""
    result = run(line, **environ)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.stdout, result.stderr


def test_allowed_is_0_and_denied_is_1(store: str, subject: str) -> None:
    """Each decision is one line; the last unit passes."""
    line = f"hit 3/hour {subject} --store {store}"
    assert printed(f"{line} --cost 2") == (0, "allowed: took 2, 1 of 3 left\n", "")
    assert printed(line) == (0, "allowed: took 1, 0 of 3 left\n", "")
    code, out, err = printed(line)
    assert (code, err) == (1, "")
    assert out.startswith("denied: 0 of 3 left, retry after 3")
    assert out.endswith(" s\n")


def test_it_prints_the_library_s_decision(store: str, subject: str) -> None:
    """The same state, and all fields as JSON."""
    line = f"100/minute {subject} --store {store} --json"
    code, out, _ = printed(f"hit {line} --cost 7")
    assert code == 0
    with Limiter("100/minute", store=store) as limiter:
        ours = limiter.peek(subject).to_dict()
    theirs = json.loads(printed(f"peek {line}")[1])
    assert theirs.keys() == ours.keys()
    assert theirs["remaining"] == ours["remaining"] == json.loads(out)["remaining"] == 93
    assert theirs["policy"] == ours["policy"]
    assert len(theirs["each"]) == 1


def test_several_limits_need_no_quotes(store: str, subject: str) -> None:
    """Arguments before the key are limits, in one argument or in several."""
    code, out, _ = printed(f"hit 5/second 2/hour {subject} --store {store} --json")
    assert code == 0
    assert [one["limit"] for one in json.loads(out)["each"]] == [5, 2]
    code, out, _ = printed(f"hit '5/second; 2/hour' {subject} --store {store}")
    assert (code, out) == (0, "allowed: took 1, 0 of 2 left\n")


def test_the_environment_gives_missing_options(store: str, subject: str) -> None:
    """Options override it."""
    environ = {
        "LIMITER_STORE": store,
        "LIMITER_LIMITS": "2/minute",
        "LIMITER_ALGORITHM": "fixed_window",
        "LIMITER_NAME": f"n-{subject}",
    }
    assert printed(f"hit {subject}", **environ)[:2] == (0, "allowed: took 1, 1 of 2 left\n")
    _, out, _ = printed(f"hit 9/minute {subject} --algorithm gcra --name other --json", **environ)
    decision = json.loads(out)
    assert (decision["remaining"], decision["policy"]["algorithm"]) == (8, "gcra")
    with Limiter("2/minute", store=store, algorithm="fixed_window", name=f"n-{subject}") as limiter:
        assert limiter.peek(subject).remaining == 1
    wrong = {"LIMITER_STORE": "http://nowhere", "LIMITER_ALGORITHM": "nonsense"}
    assert printed(f"peek 2/hour {subject} --store {store} --algorithm gcra", **wrong)[0] == 0


def test_taking_the_units_that_are_left(store: str, subject: str) -> None:
    """``--at-least``, down to a denial."""
    line = f"hit 10/hour {subject} --store {store} --cost 8 --at-least 1"
    assert [printed(line)[:2] for _ in range(2)] == [
        (0, "allowed: took 8, 2 of 10 left\n"),
        (0, "allowed: took 2, 0 of 10 left\n"),
    ]
    assert printed(line)[0] == 1


def test_waiting(store: str, subject: str) -> None:
    """Until it is allowed; if that would take too long, it is denied at once."""
    line = f"hit '1 per 3s' {subject} --store {store}"
    began = time.monotonic()
    assert printed(line)[0] == 0
    assert printed(f"{line} --wait 0.1")[0] == 1
    assert printed(f"{line} --wait 30")[:2] == (0, "allowed: took 1, 0 of 1 left\n")
    assert 3 <= time.monotonic() - began < 25


def test_a_leaky_bucket_prints_its_delay(store: str, subject: str) -> None:
    """Rounded up to milliseconds, for ``sleep``."""
    line = f"hit '1/minute burst 3' {subject} --store {store} --algorithm leaky_bucket"
    assert printed(line)[1] == "allowed: took 1, 2 of 3 left\n"
    out = printed(line)[1]
    assert out.startswith("allowed: took 1, 1 of 3 left, go on after ")
    assert 50 < float(out.split()[-2]) <= 60


def test_peeking_takes_nothing_and_has_hit_s_codes(store: str, subject: str) -> None:
    """For ``if limiter peek``."""
    line = f"2/hour {subject} --store {store}"
    for _ in range(3):
        assert printed(f"peek {line}") == (0, "allowed: 2 of 2 left\n", "")
    assert printed(f"hit {line} --cost 2")[0] == 0
    assert printed(f"peek {line}")[0] == 1
    assert printed(f"peek {line} --cost 0")[0] == 0


def test_refund_and_reset(store: str, subject: str) -> None:
    """Each prints what it did; neither is ever denied."""
    line = f"5/hour {subject} --store {store}"
    printed(f"hit {line} --cost 5")
    assert printed(f"refund {line} --cost 2") == (0, "refunded 2, or what was used\n", "")
    assert printed(f"peek {line}")[1] == "allowed: 2 of 5 left\n"
    assert printed(f"reset {line}") == (0, "forgotten: 2 of 5 were left\n", "")
    assert printed(f"peek {line}")[1] == "allowed: 5 of 5 left\n"
    assert json.loads(printed(f"refund {line} --json")[1]) == {"cost": 1}
    assert json.loads(printed(f"reset {line} --json")[1])["remaining"] == 5


@pytest.mark.parametrize("command", ["hit", "peek", "reset", "refund"])
def test_quiet_prints_only_errors(command: str, store: str, subject: str) -> None:
    assert printed(f"{command} -q 5/hour {subject} --store {store}") == (0, "", "")
    code, out, err = printed(f"{command} -q 5/hour {subject} --store redis://{HOST}:1")
    assert (code, out) == (3, "")
    assert err


def test_a_tag_on_a_cluster(cluster: Cluster, new_subject) -> None:
    """Subjects with one tag share a slot, and keep their own state."""
    tag, subject = new_subject(), new_subject()
    line = f"{subject} --store {cluster.url} --tag {tag}"
    assert printed(f"hit 3/hour {line} --timeout 10")[:2] == (0, "allowed: took 1, 2 of 3 left\n")
    with cluster.client() as client:
        assert client.exists(f"rl:{{{tag}}}:{subject}|default:v1:sliding_log:3600000000")


def test_any_bytes_are_a_key(store: str, subject: str) -> None:
    """A file name that is not UTF-8 becomes the same bytes as in the library."""
    key = subject.encode() + b"\xff {"
    line = f"hit 3/hour {shlex.quote(key.decode(errors='surrogateescape'))} --store {store}"
    assert printed(line)[0] == 0
    with Limiter("3/hour", store=store) as limiter:
        assert limiter.peek(key).remaining == 2


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("hit", "Missing argument 'KEY'"),
        ("hit user:42", "no store: give --store"),
        ("hit user:42 --store S", "no limit: give it before KEY, as in 100/minute"),
        ("hit 5/minute --store S", "'5/minute' is a limit: the last argument is KEY"),
        ("hit 5/minute 9/hour --store S", "'9/hour' is a limit: the last argument is KEY"),
        ("hit user:42 5/minute --store S", "'5/minute' is a limit: the last argument is KEY"),
        ("hit 5/x user:42 --store S", "Error: limit is '5/x': expected"),
        ("hit '' user:42 --store S", "no limit: give it"),
        ("hit 5/minute '' --store S", "key is"),
        ("hit 5/minute user:42 --store http://x", "store is 'http://x': expected"),
        ("hit 5/minute user:42 --store memory://", "which ends with this command"),
        ("hit 5/minute user:42 --store S --cost 6", "cost is 6"),
        ("hit 5/minute user:42 --store S --cost -1", "cost is -1"),
        ("hit 5/minute user:42 --store S --cost 2 --at-least 3", "at_least is 3"),
        ("hit 5/minute user:42 --store S --at-least 1 --wait 3", "cannot be combined with --wait"),
        ("hit 5/minute user:42 --store S --wait -1", "Invalid value for '--wait'"),
        ("hit 5/minute user:42 --store S --wait nan", "'--wait': nan: expected seconds from 0"),
        (
            "hold 1 user:42 --store S --wait nan -- true",
            "'--wait': nan: expected seconds from 0",
        ),
        ("hit 5/minute user:42 --store S --algorithm x", "Invalid value for '--algorithm'"),
        ("hit 5/minute user:42 --store S --name 'a b'", "name is 'a b': expected"),
        ("hit 5/minute user:42 --store S --timeout 0", "timeout is 0.0: expected"),
        ("hit 5/minute user:42 --store S --tag ''", "tag is"),
        ("refund 5/minute user:42 --store S --cost 0", "cost is 0"),
    ],
)
def test_a_mistake_is_2(line: str, message: str, store: str) -> None:
    """With a line that names what is accepted."""
    code, out, err = printed(line.replace("--store S", f"--store {store}"))
    assert (code, out) == (2, "")
    assert message in err
    assert "Usage: limiter" in err


def test_a_wrong_variable_is_named(store: str) -> None:
    """Once, as in every other program."""
    environ = {"LIMITER_STORE": store, "LIMITER_LIMITS": "5/x"}
    code, _, err = printed("hit user:42", **environ)
    assert code == 2
    assert "Error: LIMITER_LIMITS: limit is '5/x': expected" in err
    assert "LIMITER_TIMEOUT is 'x'" in printed("hit 1/s u", **environ, LIMITER_TIMEOUT="x")[2]


def test_no_error_shows_a_password(subject: str) -> None:
    for url in (f"redis://:hush@{HOST}:1", "redis://:hush@host:x"):
        code, out, err = printed(f"hit 5/minute {subject} --store {url}")
        assert code in (2, 3)
        assert "hush" not in out + err


def test_no_decision_is_3(subject: str) -> None:
    """No server listens, or none answers in time; or LIMITER_ON_ERROR decides."""
    line = f"5/minute {subject} --store redis://{HOST}:{free_port()}"
    for command in ("hit", "peek", "reset", "refund", "hit --wait 1"):
        code, out, err = printed(f"{command} {line}")
        assert (code, out) == (3, ""), command
        assert err.startswith("limiter: store ")
        assert err.count("\n") == 1
    by_policy = "the store did not decide, LIMITER_ON_ERROR did\n"
    assert printed(f"hit {line}", LIMITER_ON_ERROR="allow") == (0, f"allowed: {by_policy}", "")
    assert printed(f"hit {line}", LIMITER_ON_ERROR="deny") == (1, f"denied: {by_policy}", "")
    assert printed(f"reset {line}", LIMITER_ON_ERROR="allow")[0] == 3
    decision = json.loads(printed(f"hit {line} --json", LIMITER_ON_ERROR="deny")[1])
    assert decision["degraded"] is True


def test_a_refusal_is_4(store: str, subject: str) -> None:
    """A wrong password, or a key of another type: an operator must act."""
    with redis.Redis.from_url(store) as client:
        client.set(f"rl:{{{subject}}}:default:v1", "theirs", ex=60)
    code, out, err = printed(f"hit 5/minute {subject} --algorithm gcra --store {store}")
    assert (code, out) == (4, "")
    assert "WRONGTYPE" in err
    name = f"user-{secrets.token_hex(4)}"
    address = store.replace("redis://", f"redis://{name}:wrong@")
    assert printed(f"hit 5/minute {subject} --store {address}")[0] == 4


def test_as_a_condition_of_a_shell(store: str, subject: str) -> None:
    """With the store of the environment."""
    line = f"limiter hit -q 1/hour {subject} && echo once; echo $?"
    assert [shell(line, LIMITER_STORE=store).stdout for _ in range(2)] == ["once\n0\n", "1\n"]


def test_a_misspelt_variable_prints_a_warning(store: str, subject: str) -> None:
    """On standard error; the decision does not change."""
    done = shell(f"limiter peek 1/hour {subject}", LIMITER_STORE=store, LIMITER_NAEM="x")
    assert done.stdout == "allowed: 1 of 1 left\n"
    assert done.stderr == (
        "limiter: LIMITER_NAEM is set, and is not a variable of the limiter: is LIMITER_NAME meant?\n"
    )
    assert done.returncode == 0


def test_ctrl_c_while_waiting_is_not_a_denial(store: str, subject: str) -> None:
    """The exit code is 130, as in shells."""
    line = f"hit 1/minute {subject} --store {store}"
    assert printed(line)[0] == 0
    before = signal.signal(signal.SIGALRM, signal.default_int_handler)
    signal.setitimer(signal.ITIMER_REAL, 0.3)
    try:
        assert printed(f"{line} --wait 100") == (130, "", "")
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)

"""Policy files: a text is refused with faults that an operator finds, or its policies decide.

An input is a whole file, or the numbers of lines of a file, since texts at random are hardly ever TOML.
"""

from __future__ import annotations

import json
from ipaddress import ip_network

from limiter.policyfile.explain import explain
from limiter.policyfile.faults import InvalidPolicyFile
from limiter.policyfile.reading import PolicyFile, read
from limiter.web.guard import Guard
from limiter.web.identity import TrustedNetworks
from limiter.web.request import Request
from tests.fuzz.source import Source

#: A subject that no message may show.
_SUBJECT = "sk_live_hunter2"
_LINES = f"""\
[policies.p]
limits = '5/s'
[policies.q]
limits = '2/s; 9/min burst 3'
[defaults]
key = 'api-key'
key = ['path:a', 'address']
key = 'global'
key = 'cookie:c'
[policies]
algorithm = 'gcra'
algorithm = 'fixed_window'
unidentified = 'address'
shadow = true
unidentified = 'skip'
match.paths = ['/{{a}}']
match.paths = ['/**']
match.methods = ['get']
match.hosts = ['*.h']
match.ignore_case = true
cost = 3
cost = {{header = 'X-Cost'}}
cost = {{body = '1KiB'}}
refund_unless = ['2xx']
true_cost = {{header = 'X-C'}}
cap = true
plan = {{header = 'X-Plan'}}
class = {{header = 'X-P', low = 0.5, high = 1}}
percent = 50
[policies.p.plans.gold]
limits = '7/s'
keys = ['{_SUBJECT}']
key_prefix = 'acme'
[policies.p.overrides]
{_SUBJECT} = '6/s'
exempt.keys = ['{_SUBJECT}']
preflights = true
exempt.networks = ['10.0.0.0/8']
exempt.paths = ['/free']
new_subjects = '9/hour'
limits = {{algorithm = 'concurrency', limit = 2, lease = 9}}
prepaid = 4
denial_cache = 0
limits = [{{algorithm = 'leaky_bucket', limit = 4, per = 's', burst = 2, name = 'b'}}]
cost = 10
headers = 'none'
on_error = 'deny'
timeout = 0.5
default = 'p'
address_from = 'forwarded'
limits = '10001/s'
limits = 5
key = 'path:x'
exempt = {{}}
[policies.r]
x = 1
= 2
[
""".splitlines()
WORDS = (
    *_LINES,
    "[[policies]]",
    "true",
    "'''",
    '"""',
    "\\u00e9",
    "1979-05-27",
    "nan",
    "inf",
    "#",
    "{",
    "}",
)

_TRUSTED = TrustedNetworks([ip_network("127.0.0.1")])
_FIELDS = {
    "x-forwarded-for": "203.0.113.9",
    "x-api-key": "a",
    "x-cost": "2",
    "x-plan": "gold",
    "x-p": "low",
}
_REQUESTS = (
    Request("GET", "h", "/", {}, "203.0.113.9"),
    Request("GET", "x.h", "/free", _FIELDS, "127.0.0.1", target="/free"),
    Request("POST", "x.h", "/a", {**_FIELDS, "cookie": "c=1", "content-length": "9"}, "10.0.0.1"),
    Request("OPTIONS", "h", "/a", {"origin": "o", "access-control-request-method": "PUT"}, None),
    Request(
        "GET", "h", "//a/../b;c%2F", {"forwarded": "for=_x", "cookie": "c=1; c=2"}, "127.0.0.1"
    ),
)
_STATUSES = frozenset({200, 400, 413, 429})


def check(data: bytes) -> None:
    """Check a file's text, or the lines that the input's bytes choose."""
    source = Source(data)
    if source.pick((False, True)):
        text = "\n".join(source.pick(_LINES) for _ in range(min(len(data) - 1, 24)))
        subject = _SUBJECT
    else:
        text, subject = source.rest().decode(errors="replace"), "\0"
    try:
        file = read(text, "policies.toml")
    except InvalidPolicyFile as error:
        _check_faults(error, text, subject)
    else:
        _check_use(file, text, subject)


def _check_faults(error: InvalidPolicyFile, text: str, subject: str) -> None:
    """Check that each fault has a line of the file, and a message that an operator can read."""
    assert error.faults
    for fault in error.faults:
        assert 1 <= fault.line <= text.count("\n") + 1, fault
        assert len(str(fault)) < 2_000, "the message is too long"
        # A text in the place of a limit is shown, since it is mostly a limit.
        assert subject not in str(fault) or "limit is" in str(fault), f"a subject is shown: {fault}"
    json.dumps([fault.to_dict() for fault in error.faults])


def _check_use(file: PolicyFile, text: str, subject: str) -> None:
    """Check that the policies decide about requests, and that their description is complete."""
    described = json.dumps([policy.description for policy in file.policies.values()])
    again = read(text, "policies.toml")
    assert described == json.dumps([policy.description for policy in again.policies.values()])
    assert subject not in described, "the description shows a subject"
    for warning in (*file.warnings, *file.forward_auth_warnings):
        assert subject not in str(warning), "a warning shows a subject"
    rules = [policy.rule for policy in file.policies.values()]
    guard = Guard(rules, _TRUSTED, address_from=file.address_from)
    for request in _REQUESTS:
        entries = explain(file, request, _TRUSTED)
        assert [entry["policy"] for entry in entries] == list(file.policies)
        json.dumps(entries)
        verdict = guard.enter(request)
        guard.leave(verdict)
        assert verdict.status in _STATUSES, verdict.error
        applies = {entry["policy"] for entry in entries if entry.get("applies")}
        assert {result.rule.name for result in verdict.results} <= applies
        if verdict.status == 200:
            shadowed = {rule.name for rule, _ in verdict.shadowed}
            assert applies - shadowed <= {result.rule.name for result in verdict.results}

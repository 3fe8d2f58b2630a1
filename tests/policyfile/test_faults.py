# ruff: noqa: E501 (messages stand whole)
"""Faults of a policy file: each has file, line, key, value and what is accepted."""

from __future__ import annotations

import pickle
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from limiter import LimiterError
from limiter.policies import ALGORITHMS
from limiter.policyfile import Fault, InvalidPolicyFile
from limiter.policyfile.reading import read
from limiter.policyfile.text import text_of
from limiter.web.subjects import hashed

IDENTITIES = (
    "expected address (or address/N: IPv6 by N bits, 32 to 128), header:NAME, cookie:NAME, api-key "
    "(or api-key:HEADER), path:NAME, host, global, and a list of these"
)
UNITS = (
    "expected N/unit or N per K unit, followed by ' burst B' for a bucket, and several of them with ; "
    "between; units are ms s sec second m min minute h hour d day w week month year"
)
LIMITS = (
    "expected a limit string as in '100/minute', a table as in {algorithm = 'token_bucket', limit = 100, "
    "per = 'minute', burst = 20}, and a list of these"
)
RATES = ", ".join(ALGORITHMS)
POLICY = (
    "expected limits, algorithm, key, match, cost, refund_unless, true_cost, cap, on_error, timeout, "
    "local_share, denial_cache, prepaid, prepaid_hold, headers, shadow, percent, exempt, overrides, plan, plans, class, unidentified, preflights, new_subjects"
)
DEFAULTS = (
    "expected algorithm, key, cost, refund_unless, true_cost, cap, on_error, timeout, local_share, "
    "denial_cache, prepaid, prepaid_hold, headers, shadow, percent, exempt, plan, class, unidentified, preflights, new_subjects"
)
NAMES = "is not a name of a policy: expected 1 to 64 of A-Z a-z 0-9 _ . -, not with a dot first"
NEW = "expected one limit of 1 to 1,000 new subjects, as in '20/hour'"
NOT_FOUND = "is not a subject that key ="
ONE = "[policies.p]\nlimits = '5/s'\n"

#: A file, and every line of its message (without the file's name).
WRONG: list[tuple[str, list[str]]] = [
    # Never "no limits".
    ("", ["1: policies has no policy: expected at least one [policies.NAME]"]),
    (
        "policies = 5",
        [
            "1: policies is 5: expected a table",
            "1: policies has no policy: expected at least one [policies.NAME]",
        ],
    ),
    (
        "[policies]\np = 5",
        [
            "2: policies.p is a int: expected a table",
            "2: policies.p.limits is missing: expected a limit, as in limits = '100/minute'",
        ],
    ),
    (
        "[policies.p]",
        ["1: policies.p.limits is missing: expected a limit, as in limits = '100/minute'"],
    ),
    # No TOML at all.
    (
        ONE + "a b",
        ["3: is not TOML: Expected '=' after a key in a key/value pair (at line 3, column 3)"],
    ),
    (ONE + "[policies.p]\n", ["3: is not TOML: a table is declared twice (at line 3, column 12)"]),
    (ONE + "limits = '6/s'", ["3: is not TOML: Cannot overwrite a value (at end of document)"]),
    # Unknown keys, in every table.
    (
        "defult = 'p'\n" + ONE + "limit = 5\n",
        [
            "1: defult is not a key of this table: did you mean default? expected default, address_from, defaults, "
            "policies",
            f"4: policies.p.limit is not a key of this table: did you mean limits? {POLICY}",
        ],
    ),
    (
        "[defaults]\nlimits = '5/s'\nzzz = 1\n" + ONE,
        [
            f"2: defaults.limits is not a key of this table: {DEFAULTS}",
            f"3: defaults.zzz is not a key of this table: {DEFAULTS}",
        ],
    ),
    (
        ONE + "match = { ignore_case = 'yes' }",
        ["3: policies.p.match.ignore_case is 'yes': expected true or false"],
    ),
    (
        ONE + "match = { path = ['/'] }\nexempt = { key = ['a'] }",
        [
            "3: policies.p.match.path is not a key of this table: did you mean paths? expected paths, methods, hosts, ignore_case",
            "4: policies.p.exempt.key is not a key of this table: did you mean keys? expected networks, keys, paths",
        ],
    ),
    # The top.
    (
        "default = 'q'\naddress_from = 'cf-connecting-ip'\n" + ONE,
        [
            "1: default is 'q': expected one of p",
            "2: address_from is 'cf-connecting-ip': expected x-forwarded-for, forwarded, x-real-ip",
        ],
    ),
    ("defaults = 5\n" + ONE, ["1: defaults is 5: expected a table"]),
    # Names.
    ("[policies.'a b']\nlimits = '5/s'", [f'1: policies."a b" {NAMES}']),
    # Names of the service's own.
    ("[policies.'.page']\nlimits = '5/s'", [f'1: policies.".page" {NAMES}']),
    # Limits.
    (
        "[policies.p]\nlimits = '5/fortnight'",
        [f"2: policies.p.limits: limit is '5/fortnight': {UNITS}"],
    ),
    ("[policies.p]\nlimits = 5", [f"2: policies.p.limits is 5: {LIMITS}"]),
    ("[policies.p]\nlimits = []", ["2: policies.p.limits is []: expected at least one limit"]),
    (
        "[policies.p]\nlimits = [\n  '5/x',\n  true,\n]",
        [
            f"3: policies.p.limits[0]: limit is '5/x': {UNITS}",
            f"4: policies.p.limits[1] is true: {LIMITS}",
        ],
    ),
    (
        "[policies.p]\nlimits = { limit = 5, per = 60 }",
        [f"2: policies.p.limits.algorithm is missing: expected {RATES}, concurrency"],
    ),
    (
        "[policies.p]\nlimits = { algorithm = 'gcra', limit = 0, per = 60, lease = 5 }",
        [
            "2: policies.p.limits.lease is not a key of this table: expected algorithm, limit, name, per, burst",
            "2: policies.p.limits.limit is 0: expected a whole number from 1 to 1,000,000,000,000",
        ],
    ),
    (
        "[policies.p]\nlimits = { algorithm = 'gcra' }",
        [
            "2: policies.p.limits.limit is missing: expected algorithm, limit, name, per, burst",
            "2: policies.p.limits.per is missing: expected algorithm, limit, name, per, burst",
        ],
    ),
    # Everything else, in one file.
    (
        ONE
        + "algorithm = 'concurrency'\n"
        + "key = 'adress'\n"
        + "cost = 0\n"
        + "on_error = 'ignore'\n"
        + "timeout = 0\n"
        + "local_share = true\n"
        + "headers = 'draft-12'\n"
        + "shadow = 1\n"
        + "percent = 100.5\n"
        + "unidentified = 'share'\n"
        + "preflights = 'no'\n"
        + "match.paths = ['api', '/{a}/{a}']\n"
        + "match.methods = []\n"
        + "match.hosts = ['a:80', 5]\n"
        + "exempt.networks = ['10.0.0.1/8', 7]\n"
        + "exempt.keys = ['', 5]\n"
        + "exempt.paths = '/healthz'\n"
        + "denial_cache = -1\n"
        + "prepaid = 1.5\n"
        + "prepaid_hold = 0\n",
        [
            f"3: policies.p.algorithm is 'concurrency': expected {RATES}",
            f"4: policies.p.key is 'adress': {IDENTITIES}",
            "5: policies.p.cost is 0: expected a whole number from 1, {header = 'X-Cost'} and "
            "{body = '1KiB'}",
            "6: policies.p.on_error is 'ignore': expected raise, allow, deny, local",
            "7: policies.p.timeout is 0: expected seconds from 0.001 to 3600",
            "8: policies.p.local_share is True: expected a whole number from 1",
            "9: policies.p.headers is 'draft-12': expected draft-11, draft-06, x-ratelimit, none",
            "10: policies.p.shadow is 1: expected true or false",
            "11: policies.p.percent is 100.5: expected a number from 0 to 100",
            "12: policies.p.unidentified is 'share': expected refuse, skip, address",
            "13: policies.p.preflights is 'no': expected 'apart', true or false",
            "14: policies.p.match.paths[0] is 'api': expected a pattern that begins with /",
            "14: policies.p.match.paths[1] is '/{a}/{a}': expected up to 40 wildcards, and parts in braces that are names, each "
            "once, as in /orgs/{org}",
            "15: policies.p.match.methods is []: expected a list of at least one",
            "16: policies.p.match.hosts[0] is 'a:80': expected a host without a port, as in "
            "'api.example.com' or '*.example.com'",
            "16: policies.p.match.hosts[1] is 5: expected a host without a port, as in 'api.example.com' or "
            "'*.example.com'",
            "17: policies.p.exempt.networks[0] is '10.0.0.1/8' (10.0.0.1/8 has host bits set): expected a "
            "network, as in '10.0.0.0/8', or an address",
            "17: policies.p.exempt.networks[1] is 7: expected a network, as in '10.0.0.0/8', or an address",
            "18: policies.p.exempt.keys[0] is a str that names no subject: expected a text",
            "18: policies.p.exempt.keys[1] is a int that names no subject: expected a text",
            "19: policies.p.exempt.paths is '/healthz': expected a list",
            "20: policies.p.denial_cache is -1: expected seconds from 0 to 3600, and 0 is no cache",
            "21: policies.p.prepaid is 1.5: expected a whole number from 0 to 10,000, and 0 takes none in "
            "advance",
            "22: policies.p.prepaid_hold is 0: expected seconds from 0.001 to 3600",
        ],
    ),
    (ONE + "key = 'address/16'", [f"3: policies.p.key is 'address/16': {IDENTITIES}"]),
    (
        ONE + "match.methods = ['G T']",
        ["3: policies.p.match.methods[0] is 'G T': expected a method, as in 'GET'"],
    ),
    # Costs.
    (
        ONE + "cost = { header = 'a b' }",
        ["3: policies.p.cost.header is 'a b': expected the name of a header field (without _)"],
    ),
    (
        ONE + "cost = { body = '1 parsec' }",
        [
            "3: policies.p.cost.body is '1 parsec': expected bytes from 1, as a whole number or as in 512, "
            "1KiB, 64KB"
        ],
    ),
    (
        "[policies.p]\nlimits = '50/s'\ncost = 6\noverrides = { a = '5/s' }",
        [
            "3: policies.p.cost is 6: expected a whole number from 1 to 5, the most that these limits ever admit at once"
        ],
    ),
    # Overrides: the subject is not shown.
    (
        ONE
        + "[policies.p.overrides]\nsk_live_1 = '5/minute'\nsk_live_2 = 7\nsk_live_3 = { a = 1 }",
        [
            "4: policies.p.overrides.*: limits are '5/minute': expected those of [SlidingLog(5, per=1)] "
            "with other numbers, since algorithm, period and name decide which state is used",
            f"5: policies.p.overrides.* is 7: {LIMITS}",
            f"6: policies.p.overrides.*.algorithm is missing: expected {RATES}, concurrency",
        ],
    ),
    # Nor if the list or the table is missing.
    (
        ONE + "exempt.keys = 'sk_live_1'\noverrides = 'sk_live_2'",
        [
            "3: policies.p.exempt.keys is a str: expected a list",
            "4: policies.p.overrides is a str: expected a table",
        ],
    ),
    # Plans and classes.
    (
        ONE + "plan = 'X-Plan'\nclass = { low = 0, b = 1.5, 'a b' = true }\ncap = 1\n",
        [
            "3: policies.p.plan is 'X-Plan': expected {header = 'X-Plan'}",
            "3: policies.p.plan has no effect without plans: expected also a table plans",
            "4: policies.p.class.header is missing: expected the name of a header field",
            "4: policies.p.class.low is 0: expected a number above 0, up to 1",
            "4: policies.p.class.b is 1.5: expected a number above 0, up to 1",
            '4: policies.p.class."a b" is not a name of a class: expected 1 to 64 of A-Z a-z 0-9 _ . -',
            '4: policies.p.class."a b" is true: expected a number above 0, up to 1',
            "5: policies.p.cap is 1: expected true or false",
        ],
    ),
    (
        ONE + "class = { header = 'a b' }\n[policies.q]\nlimits = '5/s'\n"
        "class = { header = 'a_b', low = 0.5 }\nplan.header = 7\n[policies.q.plans]\n",
        [
            "3: policies.p.class is {'header': 'a b'}: expected a header field, and 1 to 16 classes with their "
            "shares of the limits, as in {header = 'X-Priority', low = 0.8, critical = 1.0}",
            "6: policies.q.class.header is 'a_b': expected the name of a header field (without _)",
            "7: policies.q.plan.header is 7: expected the name of a header field (without _)",
        ],
    ),
    (
        ONE
        + "key = 'api-key'\nexempt.keys = ['sk_live_1']\n[policies.p.plans]\n'sk live' = {}\nsk_live_2 = '6/s'\n"
        "[policies.p.plans.gold]\nlimit = '6/s'\nkey_prefix = ''\n"
        "[policies.p.plans.iron]\nlimits = '6/minute'\nkeys = 'sk_live_3'\nkey_prefix = 5\n"
        "[policies.p.plans.lead]\nlimits = '6/s'\nkeys = ['sk_live_4', '', 'sk_live_1', 'a,b']\nkey_prefix = 'sk_'\n"
        "[policies.p.plans.zinc]\nlimits = '7/s'\nkeys = ['sk_live_4']\nkey_prefix = 'sk_'\n",
        [
            "6: policies.p.plans.* is not a name of a plan: expected 1 to 64 of A-Z a-z 0-9 _ . -",
            "7: policies.p.plans.* is a str: expected a table with limits",
            "8: policies.p.plans.gold.limits is missing: expected the limits of the policy with other numbers",
            "9: policies.p.plans.gold.limit is not a key of this table: did you mean limits? expected limits, "
            "keys, key_prefix",
            "10: policies.p.plans.gold.key_prefix is a str that begins no subject: expected a text",
            "12: policies.p.plans.iron.limits is '6/minute': expected those of [SlidingLog(5, per=1)] "
            "with other numbers, since algorithm, period and name decide which state is used",
            "13: policies.p.plans.iron.keys is a str: expected a list",
            "14: policies.p.plans.iron.key_prefix is a int that begins no subject: expected a text",
            "17: policies.p.plans.lead.keys[1] is a str that names no subject: expected a text",
            f"17: policies.p.plans.lead.keys[3] {NOT_FOUND} 'api-key' finds: expected one like 'VALUE' (a comma in a "
            "subject is written \\,)",
            "17: policies.p.plans.lead.keys[2] is for a subject that exempt.keys names, too: expected one of the two",
            "21: policies.p.plans.zinc.keys[0] is for a subject that has another plan in line 17: expected one "
            "plan for each",
            "22: policies.p.plans.zinc.key_prefix is that of another plan, too: expected one plan for each",
        ],
    ),
    (
        "[policies.p]\nlimits = '50/s'\ncost = 6\nclass = { header = 'X-Class', low = 0.1, high = 1 }\n",
        [
            "3: policies.p.cost is 6: expected a whole number from 1 to 5, the most that these limits ever admit at once"
        ],
    ),
    # Several at once: one fault does not hide another.
    (
        "[policies.p]\nlimits = '0/hour; 3/fortnight'\nkey = 'path:org'\ncost = -1\n"
        "overrides = { a = 7 }\n",
        [
            "2: policies.p.limits: limit is '0/hour': 0 is not a whole number from 1",
            f"2: policies.p.limits: limit is '3/fortnight': {UNITS}",
            "3: policies.p.key is 'path:org': expected a part that each pattern of match.paths has, like {org}",
            "4: policies.p.cost is -1: expected a whole number from 1, {header = 'X-Cost'} and "
            "{body = '1KiB'}",
            f"5: policies.p.overrides.* is 7: {LIMITS}",
        ],
    ),
    # Texts that Python's parser does not survive.
    ("x = " + "[" * 3_000, ["1: is nested deeper than 16: expected less"]),
    # A key that no request can have.
    (
        ONE + "key = ['address', 'path:org']\nmatch.paths = ['/{org}', '/all']",
        [
            "3: policies.p.key is 'path:org': expected a part that each pattern of match.paths has, like {org}"
        ],
    ),
    # Subjects that no request can have.
    (
        ONE
        + "key = 'address'\nexempt.keys = ['203.0.113.9', '2001:db8::1', '2001:db8:1::/64', '10.0.0.0/8']\n"
        + "[policies.p.overrides]\n'10.0.0.0/9' = '6/s'\n'a.example' = 8\n'203.0.113.8:80' = '7/s'\n"
        + "'2001:db8:2::/56' = '6/s'",
        [
            f"4: policies.p.exempt.keys[3] {NOT_FOUND} 'address' finds: expected one like '203.0.113.9' "
            "(networks: exempt.networks)",
            f"6: policies.p.overrides.* {NOT_FOUND} 'address' finds: expected one like '203.0.113.9'",
            f"7: policies.p.overrides.* is 8: {LIMITS}",
            f"7: policies.p.overrides.* {NOT_FOUND} 'address' finds: expected one like '203.0.113.9'",
            f"9: policies.p.overrides.* {NOT_FOUND} 'address' finds: expected one like '203.0.113.9'",
        ],
    ),
    (
        ONE + "key = ['address', 'host', 'global']\n"
        "exempt.keys = ['203.0.113.9', '203.0.113.9,a', '203.0.113.9,a,global', '203.0.113.9,,global']",
        [
            f"4: policies.p.exempt.keys[{place}] {NOT_FOUND} ['address', 'host', 'global'] finds: expected one "
            "like '203.0.113.9,VALUE,global' (networks: exempt.networks)"
            for place in (0, 1, 3)
        ],
    ),
    (
        ONE + "key = 'global'\noverrides = { x = '6/s', global = '7/s' }",
        [f"4: policies.p.overrides.* {NOT_FOUND} 'global' finds: expected one like 'global'"],
    ),
    (
        ONE
        + "key = ['path:org', 'cookie:id']\nunidentified = 'address'\nmatch.paths = ['/{org}']\n"
        "exempt.keys = ['203.0.113.9', '2001:db8::/64', '10.0.0.0/8']",
        [
            f"6: policies.p.exempt.keys[2] {NOT_FOUND} ['path:org', 'cookie:id'] finds: expected one like "
            "'VALUE,VALUE' or '203.0.113.9' (networks: exempt.networks)"
        ],
    ),
    # Two spellings of one subject.
    (
        ONE + "[policies.p.overrides]\n'2001:db8::1' = '6/s'\n'2001:db8:1::1' = '6/s'\n"
        "'2001:db8::2' = '7/s'\n'2001:db8:1::2' = '6/s'",
        [
            "6: policies.p.overrides.* is for a subject that has other limits in line 4: expected one "
            "override for each"
        ],
    ),
    (
        ONE + "key = 'api-key'\n[policies.p.overrides]\nsk_live_1 = '6/s'\n"
        f"'{hashed('api-key', 'sk_live_1')}' = '7/s'\n' sk_live_1' = '8/s'",
        [
            f"{line}: policies.p.overrides.* is for a subject that has other limits in line {before}: expected "
            "one override for each"
            for line, before in ((6, 5), (7, 5))
        ],
    ),
    (
        ONE + f"key = 'api-key'\nexempt.keys = ['{hashed('api-key', 'sk_live_1')}']\n"
        "overrides = { sk_live_1 = '6/s' }",
        [
            "5: policies.p.overrides.* is for a subject that exempt.keys names, too: expected one of the two"
        ],
    ),
    # A comma separates parts, unless it is written as part of one.
    (
        ONE + "key = 'header:Referer'\n[policies.p.overrides]\n'a,b' = '6/s'\n'a\\,b' = '7/s'",
        [
            f"5: policies.p.overrides.* {NOT_FOUND} 'header:Referer' finds: expected one like 'VALUE' (a comma in "
            "a subject is written \\,)"
        ],
    ),
    (
        ONE + "new_subjects = '20/hour'\n[policies.q]\nlimits = '5/s'\nkey = 'cookie:id'\n"
        "new_subjects = '2000/hour'\n[policies.r]\nlimits = '5/s'\nkey = 'cookie:id'\n"
        "new_subjects = '20/hour; 30/day'\n[policies.s]\nlimits = '5/s'\nkey = 'cookie:id'\nnew_subjects = 5",
        [
            "3: policies.p.new_subjects has no effect with key = 'address': expected a key that clients choose",
            f"7: policies.q.new_subjects is '2000/hour': {NEW}",
            f"11: policies.r.new_subjects is '20/hour; 30/day': {NEW}",
            f"15: policies.s.new_subjects is 5: {NEW}",
        ],
    ),
    # A fault of the defaults is listed once, for any number of policies.
    (
        "[defaults]\npercent = 101\n[policies.a]\nlimits = '5/s'\n[policies.b]\nlimits = 'x'",
        [
            "2: defaults.percent is 101: expected a number from 0 to 100",
            f"6: policies.b.limits: limit is 'x': {UNITS}",
        ],
    ),
]


@pytest.mark.parametrize(("text", "expected"), WRONG, ids=range(len(WRONG)))
def test_every_fault_is_listed(text: str, expected: list[str]) -> None:
    with pytest.raises(InvalidPolicyFile) as raised:
        read(text, "policies.toml")

    assert str(raised.value).splitlines() == [f"policies.toml:{line}" for line in expected]
    assert isinstance(raised.value, LimiterError)
    assert len(raised.value.faults) == len(expected)
    assert "sk_live" not in str(raised.value)
    assert str(pickle.loads(pickle.dumps(raised.value))) == str(raised.value)  # noqa: S301 (ours)


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    """Missing, a folder, not text, or far too long."""
    path = tmp_path / "policies.toml"

    def message() -> str:
        with pytest.raises(InvalidPolicyFile) as raised:
            text_of(str(path))
        return str(raised.value).removeprefix(f"{path}:1: ")

    assert message() == "cannot be read: No such file or directory"
    path.write_bytes(b"\xff\xfe")
    assert message() == "is not UTF-8 (byte 0): expected TOML in UTF-8"
    path.write_bytes(b"#" * (2**19 + 1))
    assert message() == "is longer than 524,288 bytes: expected a shorter file"
    path.unlink()
    path.mkdir()
    assert message() == "cannot be read: Is a directory"


EXAMPLE = Path(__file__).parent.parent.parent / "docs" / "policies.example.toml"
LINES = [line for line in EXAMPLE.read_text().splitlines() if re.match(r"[^#\n]*=", line)]
VALUES = (
    '"x"', "5", "[]", "{}", "true", "-1", "1.5", "{ a = 1 }", '["/a"]', "inf", "nan", "1979-05-27",
    '"100/minute"', "{ header = 1 }", "[[]]", "[{}]", '""', "9999999999999999999999",
)  # fmt: skip


@given(st.lists(st.tuples(st.sampled_from(LINES), st.sampled_from(VALUES)), min_size=1, max_size=4))
def test_any_file_is_valid_or_has_faults(changes: list[tuple[str, str]]) -> None:
    """Any value in place of any other: no other error, and each fault has an existing line."""
    text = EXAMPLE.read_text()
    for line, value in changes:
        text = text.replace(line, f"{line.partition('=')[0]}= {value}", 1)
    faults: tuple[Fault, ...] = ()
    try:
        read(text, "f")
    except InvalidPolicyFile as error:
        faults = error.faults
    assert all(1 <= fault.line <= text.count("\n") + 1 for fault in faults)


@pytest.mark.parametrize("number", ["1" * 5_000, "0x" + "F" * 5_000])
def test_a_number_longer_than_python_prints(number: str) -> None:
    """It is a fault like any other, in every notation."""
    for key in ("percent", "timeout", "cost", "limits", "key", "shadow"):
        with pytest.raises(InvalidPolicyFile):
            read(
                f"{ONE.replace('limits', 'limits' if key != 'limits' else '#')}{key} = {number}",
                "f",
            )


def test_a_byte_order_mark_is_ignored(tmp_path: Path) -> None:
    """Some editors write one."""
    path = tmp_path / "policies.toml"
    path.write_bytes(b"\xef\xbb\xbf" + ONE.encode())
    assert list(read(text_of(str(path)), str(path)).policies) == ["p"]

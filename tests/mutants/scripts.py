"""Broken scripts: each is a small change of a fragment or template, and the check that catches it."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import NamedTuple

from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from limiter import scripts as loader
from tests import lives as expiries
from tests import scripts
from tests.contract import calls, checks, vectors
from tests.contract import test_reservations as large_logs
from tests.contract.source import SRC, load_module
from tests.machines.support import POLICIES
from tests.machines.test_single import SingleMachine
from tests.machines.test_small_worlds import (
    FEW_WORLDS,
    test_few_and_the_models_agree_on_every_short_history,
)

#: Takes the address of a server; raises if the scripts in use are broken.
Check = Callable[[str], None]


class Mutant(NamedTuple):
    """A change that breaks a file of ``lua/src``, and the check that must find it."""

    name: str
    hazard: str
    file: str
    old: str
    new: str
    check: Check


def shows(names: str) -> Check:
    """Return a check that runs the test vectors whose names contain ``names``."""
    return partial(vectors.check_all, names=names)


def reads(script: str) -> Check:
    """Return a check of a script's text."""
    return lambda _: checks.check_text(script, scripts.source(script))


def agrees(algorithm: str) -> Check:
    """Return a check that runs an algorithm's state machine for a short search, always the same."""

    def check(url: str) -> None:
        machine = type("Machine", (SingleMachine,), {"url": url, "policies": POLICIES[algorithm]})
        run_state_machine_as_test(
            machine,
            settings=settings(
                max_examples=12,
                stateful_step_count=25,
                derandomize=True,
                report_multiple_bugs=False,
                database=None,
                deadline=None,
                phases=[Phase.generate],
                suppress_health_check=list(HealthCheck),
            ),
        )

    return check


def lives(url: str) -> None:
    """Check the expiry of keys by the server's clock, for a few hundred lives."""
    expiries.check(url, 300)


def agrees_few(url: str) -> None:
    """Check that ``few`` agrees with the models on short histories of three policies."""
    test_few_and_the_models_agree_on_every_short_history(url, FEW_WORLDS[-3])


SINGLE, SEVERAL, PARTS = "templates/rate.lua", "templates/several.lua", "templates/parts.lua"
RESERVATION, LIST = "templates/reservation.lua", "templates/list.lua"
FEW = "templates/few.lua"
#: The command that sets an expiry, in its two ways.
SETTING = """if call("PEXPIRE", key, ttl_ms, first) == 0 then
  call("PEXPIRE", key, ttl_ms, second)
end"""
WINDOW, LOG, BUCKET = "fixed_window.lua", "sliding_log.lua", "token_bucket.lua"
SLIDING, LEASES = "sliding_window.lua", "concurrency.lua"

MUTANTS = [
    Mutant(
        "no expiry", "H01", SINGLE, "if later or heal then", "if false then",
        lambda url: calls.check_charge_gives_life(url, "fixed_window"),
    ),
    Mutant(
        "an expiry that ends before the bucket is full", "H06", PARTS,
        "math.floor(reset_us / 1000) + slack_ms + 1000", "2000",
        lambda url: calls.check_charge_gives_life(url, "token_bucket"),
    ),
    Mutant(
        "an expiry that is rounded down to nothing", "H07", PARTS,
        "math.floor(reset_us / 1000) + slack_ms + 1000", "math.floor(reset_us / 1000)",
        shows("token_bucket: thirds"),
    ),
    Mutant(
        "a key without an expiry does not get one", "H03", PARTS,
        'first, second = "GT", "NX"', 'first, second = "GT", "GT"',
        shows("token_bucket: settle sets the expiry of a key that has none"),
    ),
    Mutant(
        "a decision shortens the life of another policy's state", "H06", PARTS,
        SETTING, 'call("PEXPIRE", key, ttl_ms)', lives,
    ),
    Mutant(
        "an expiry is set only where there is none", "H06", PARTS,
        'call("PEXPIRE", key, ttl_ms, second)', 'call("PEXPIRE", key, ttl_ms, "NX")', lives,
    ),
    Mutant(
        "an expiry is set only where there is one", "H01", PARTS,
        'call("PEXPIRE", key, ttl_ms, second)', 'call("PEXPIRE", key, ttl_ms, "GT")', lives,
    ),
    Mutant(
        "a window that opens sets no expiry", "H01", WINDOW,
        "later = reset_us == 0", "later = false", lives,
    ),
    Mutant(
        "the first charge of a sliding window sets no expiry", "H06", SLIDING,
        "later = current == 0", "later = false", lives,
    ),
    Mutant(
        "the first charge of the next sliding window sets no expiry", "H06", SLIDING,
        "later = current == 0", "later = current == 0 and previous == 0",
        shows("sliding_window: the first hit of the next window moves the expiry"),
    ),
    Mutant(
        "a bucket's expiry is that of its first charge", "H06", BUCKET,
        " or before_us % 500000 + full_us - before_us >= 500000", "", lives,
    ),
    Mutant(
        "a bucket whose small charges never set an expiry", "H06", BUCKET,
        "before_us % 500000 + full_us - before_us >= 500000", "full_us - before_us >= 500000",
        shows("token_bucket: a debt that ends in another half second"),
    ),
    Mutant(
        "a log's expiry is that of its first entry", "H06", LOG,
        " or before_us % 500000 + newest_us - before_us >= 500000", "",
        shows("sliding_log: an entry in another half second sets the expiry"),
    ),
    Mutant(
        "a repair without an expiry", "H03", SINGLE, "if later or heal then", "if later then",
        shows("fixed_window: a hit that repairs a start moves an earlier expiry to later"),
    ),
    Mutant(
        "several: a repair without an expiry", "H03", PARTS,
        "local moves = later or (heal and cost > 0) or", "local moves = later or",
        shows("several: a denied hit repairs three policies"),
    ),
    Mutant(
        "few: an expiry that follows the first policy", "H06", FEW,
        "math.max(reset1, reset2, reset3)", "reset1", lives,
    ),
    Mutant(
        "few: the third policy sets no expiry", "H06", FEW,
        "later1 or later2 or later3 or", "later1 or later2 or",
        shows("the end of the third policy alone"),
    ),
    Mutant(
        "a lease that is taken sets no expiry", "H107", LEASES,
        "later = true\n", "later = false\n", lives,
    ),
    Mutant(
        "a lease that is renewed sets no expiry", "H107", LEASES,
        "granted, later = cost, true", "granted = cost",
        shows("concurrency: an expiry too early for the lease is moved to later"),
    ),
    Mutant(
        "trimming comes first, and deletes an emptied log with its expiry", "H04", LOG,
        "if entries == 1 then",
        'if dead > 0 then\n  call("LTRIM", key, dead, -1)\n  dead = 0\nend\nif entries == 1 then',
        shows("sliding_log: a hit after all entries have left"),
    ),
    Mutant(
        "a denied hit spends", "H08", WINDOW,
        "retry_us = start_us + period_us - now_us",
        "retry_us = start_us + period_us - now_us\nused, heal = used + at_least, true",
        lambda url: calls.check_nothing_written(url, "fixed_window"),
    ),
    Mutant(
        "peek charges", "H12b", SINGLE,
        'local takes = mode == "hit"', 'local takes = mode == "hit" or mode == "peek"',
        lambda url: calls.check_nothing_written(url, "sliding_log"),
    ),
    Mutant(
        "cost 0 writes", "H12b", SINGLE,
        "if granted > 0 or (heal and cost > 0 and", "if granted > 0 or takes or (heal and cost > 0 and",
        shows("cost 0"),
    ),
    Mutant(
        "the cost is ignored", "H21", SINGLE, "granted = cost\n", "granted = 1\n",
        shows("fixed_window: a later hit counts"),
    ),
    Mutant(
        "half a unit is taken", "H21", SINGLE,
        " and now_us % 1 + step % 1 + cost % step + at_least % step == 0) then", ") then",
        shows("half a unit is an error"),
    ),
    Mutant(
        "a cost that is nan denies nothing", "H18", SINGLE,
        "at_least >= 0 and at_least <= cost and cost <= limit\n  {{checked}}\n"
        "  and step >= 1 and now_us % 1 + step % 1 + cost % step + at_least % step == 0) then",
        "not (at_least < 0 or at_least > cost or cost > limit)\n  {{checked}}) then",
        shows("a cost that is nan"),
    ),
    Mutant(
        "at_least is ignored", "H21", SINGLE,
        "(ARGV[{{last}}] or cost) + 0", "cost", shows("at_least takes what is free"),
    ),
    Mutant(
        "one more than the limit", "H10", WINDOW,
        "room = limit - used", "room = limit - used + 1",
        shows("fixed_window: beyond the limit is denied"),
    ),
    Mutant(
        "a window that counts at its end", "H10", WINDOW,
        "if stored_us + period_us > now_us and", "if stored_us + period_us >= now_us and",
        shows("fixed_window: at its end a window is over"),
    ),
    Mutant(
        "every hit begins a new window", "H10", WINDOW,
        "used, reset_us = used + granted,", "start_us = now_us\nused, reset_us = used + granted,",
        shows("fixed_window: a later hit counts"),
    ),
    Mutant(
        "an entry that counts a microsecond too long", "H10", LOG,
        "if entry_us + period_us > now_us", "if entry_us + period_us >= now_us",
        shows("sliding_log: at its end a unit no longer counts"),
    ),
    Mutant(
        "two hits of one microsecond are one entry", "H14", LOG,
        'if entries == 1 then\n  call("RPUSH", key, newest_us)',
        "if entries == 1 then\n"
        '  if tonumber(call("LINDEX", key, -1) or 0) ~= newest_us then\n'
        '    call("RPUSH", key, newest_us)\n  end',
        shows("sliding_log: two hits in one microsecond are two"),
    ),
    Mutant(
        "times of the log in whole seconds", "H13", LOG,
        "newest_us = now_us + hold_us", "newest_us = now_us + hold_us - now_us % 1000000",
        agrees("sliding_log"),
    ),
    Mutant(
        "fractions in floating point", "H19", BUCKET,
        "full_us, part = full_us + granted * t_us, part + granted * t_part",
        "full_us, part = math.floor(full_us + granted * (t_us + t_part / parts)), 0",
        agrees("token_bucket"),
    ),
    Mutant(
        "retry_after is rounded down", "H92", BUCKET,
        "if rest % parts > empty_part then\n  retry_us = retry_us + 1\nend\n", "",
        shows("token_bucket: thirds"),
    ),
    Mutant(
        "idle time is credited beyond the burst", "H12", BUCKET,
        "if stored_us >= now_us and stored_us < 2^53", "if stored_us < 2^53",
        shows("after any time without calls"),
    ),
    Mutant(
        "a clock in whole seconds", "H28", PARTS,
        "now_us = time[1] * 1000000 + time[2]", "now_us = time[1] * 1000000",
        lambda url: calls.check_server_clock(url, "fixed_window"),
    ),
    Mutant(
        "a clock that steps back makes a log's times decrease", "H24", LOG,
        "if newest_us < now_us + hold_us then", "if true then",
        shows("sliding_log: a clock that stepped back logs"),
    ),
    Mutant(
        "a clock that steps back ends a window", "H26", WINDOW,
        "if stored_us - now_us > period_us and", "if stored_us - now_us > 0 and",
        shows("fixed_window: a clock that stepped back"),
    ),
    Mutant(
        "an impossible debt is kept", "H26", BUCKET,
        "if stored_us - now_us > most_us then", "if false then",
        shows("token_bucket: a denied hit cuts"),
    ),
    Mutant(
        "a smaller burst cuts the debt of a larger one", "H98", BUCKET,
        "if stored_s > reach_s then", "if false then",
        shows("token_bucket: the debt of a larger burst"),
    ),
    Mutant(
        "a smaller burst drops the reach of a larger one", "H98", BUCKET,
        "full_us - now_us > empty_us and reach_s or own_s", "own_s",
        shows("token_bucket: and is remembered"),
    ),
    Mutant(
        "a stored time without end is kept", "H18", BUCKET,
        "stored_us < 2^53 and stored_us % 1 == 0 and stored_s", "stored_us % 1 == 0 and stored_s",
        shows("token_bucket: a value whose time is beyond"),
    ),
    Mutant(
        "a script that builds a key", "H36", SINGLE,
        "local ARGV, key, call = ARGV, KEYS[1],", 'local ARGV, key, call = ARGV, KEYS[1] .. ":current",',
        reads("fixed_window"),
    ),
    Mutant(
        "a script that catches an error, and admits", "H40", SINGLE,
        "-- 6. Reply.", 'redis.pcall("PTTL", key)\n\n-- 6. Reply.', reads("token_bucket"),
    ),
    Mutant(
        "a header in another order than the arguments", "H97", SINGLE,
        "now_us, mode, cost = ARGV[1] + 0, ARGV[2], ARGV[3] + 0",
        "now_us, cost, mode = ARGV[1] + 0, ARGV[2] + 0, ARGV[3]", reads("sliding_log"),
    ),
    Mutant(
        "several: a hash is charged, though another policy denies", "H09", SEVERAL,
        "saves = takes and not charges", "saves = takes",
        shows("several: one policy denies, none is charged"),
    ),
    Mutant(
        "several: logs are charged, though another policy denies", "H09", SEVERAL,
        "elseif saves then", "elseif saves or tails then",
        lambda url: calls.check_nothing_written(url, "several"),
    ),
    Mutant(
        "several: a key's expiry follows its first policy", "H06", PARTS,
        "if reset_us > life_us then", "if life_us == 0 then", lives,
    ),
    Mutant(
        "several: reset deletes the hash, not the logs", "H51", SEVERAL,
        'if mode == "reset" then\n    call("DEL", key)',
        'if mode == "reset" then\n    call("DEL", KEYS[1])', shows("several: reset reports"),
    ),
    Mutant(
        "several: at_least charges each policy another number", "H09", SEVERAL,
        "until not again", "until true", shows("several: at_least: the policy with the least"),
    ),
    Mutant(
        "several: a policy in shadow mode denies", "H09", SEVERAL,
        'fits = fits and shadow == "1"', "fits = false", shows("several: a policy in shadow mode without"),
    ),
    Mutant(
        "a debt without end", "H21", PARTS,
        "granted = math.max(0, math.min(cost, room + limit))", "granted = cost",
        shows("settle makes no more debt"),
    ),
    Mutant(
        "a refund of more than was used", "H21", WINDOW,
        "if cost < granted then\n  granted = cost\nend", "granted = cost",
        shows("fixed_window: refund returns no more"),
    ),
    Mutant(
        "a refund of more than the debt", "H21", BUCKET,
        "if cost < granted then\n  granted = cost\n", "if true then\n  granted = cost\n",
        shows("token_bucket: refund leaves no debt below zero"),
    ),
    Mutant(
        "a refund removes the newest entries of a log", "H10", LOG,
        'if dead > 0 then\n  call("LTRIM", key, dead, -1)',
        'if mode == "refund" then\n  call("LTRIM", key, 0, -granted - 1)',
        shows("sliding_log: refund removes the oldest"),
    ),
    Mutant(
        "the share of the previous window is rounded down", "H11", SLIDING,
        "local weight = previous * covered + width - 1", "local weight = previous * covered",
        shows("sliding_window: the share of the previous count is rounded up"),
    ),
    Mutant(
        "the count of the previous window is lost", "H11", SLIDING,
        "stored_us, newer, older = stored_us + period_us, 0, newer",
        "stored_us, newer, older = stored_us + period_us, 0, 0",
        shows("sliding_window: after exactly retry_after"),
    ),
    Mutant(
        "a delay without the fraction of a microsecond", "H92", BUCKET,
        "    delay_us = reset_us\n", "    delay_us = full_us - now_us\n",
        shows("token_bucket: thirds"),
    ),
    Mutant(
        "a delay that includes the call itself", "H92", BUCKET,
        "    delay_us = reset_us\n", "    delay_us = reset_us + t_us\n",
        shows("token_bucket: a later hit's delay"),
    ),
    Mutant(
        "a lease that is held is taken again", "H106", LEASES,
        "held = held + 1", "held = 0", shows("concurrency: the same id again is the same lease"),
    ),
    Mutant(
        "several: a lease that is held is charged again", "H106", SEVERAL,
        "same = holding > 0 and holding == leases", "same = false",
        shows("several: acquire: what is held already is not charged again"),
    ),
    Mutant(
        "a release of the unit that expires first", "H104", LEASES,
        'call("ZREM", key, string.format("%s:%d", id, unit))', 'call("ZPOPMIN", key)',
        shows("concurrency: release"),
    ),
    Mutant(
        "a second release that reports units", "H104", LEASES,
        "granted, room = held, room + held", "granted, room = cost, room + cost",
        shows("concurrency: release again"),
    ),
    Mutant(
        "a renewal of an expired lease", "H105", LEASES,
        "if held > 0 and held == cost then", "if true then",
        shows("concurrency: renew of a lease that has expired"),
    ),
    Mutant(
        "a renewal of a lease that lost a unit", "H105", LEASES,
        "if held > 0 and held == cost then", "if held > 0 then",
        shows("concurrency: renew of a lease of which a unit has expired"),
    ),
    Mutant(
        "a lease that still counts at its end", "H103", LEASES,
        'live = call("ZCOUNT", key, now_us + 1, far_us)', 'live = call("ZCOUNT", key, now_us, far_us)',
        shows("concurrency: at its end a lease has expired"),
    ),
    Mutant(
        "leases without expiry", "H107", LEASES, "if later then", "if false then",
        lambda url: calls.check_charge_gives_life(url, "concurrency"),
    ),
    Mutant(
        "a set whose expiry follows the last lease taken", "H107", LEASES,
        "if later then\n    {{live}}",
        'if later then\n    call("PEXPIRE", key, lease_us / 1000 + slack_ms + 1000)',
        shows("concurrency: renew makes nothing shorter"),
    ),
    Mutant(
        "a part of the cost is no multiple of step", "H21", SINGLE,
        "granted = room - room % step", "granted = room", shows("fixed_window: step: less than the cost"),
    ),
    Mutant(
        "several: a part of the cost is no multiple of step", "H21", SEVERAL,
        "take, again = common - common % step,", "take, again = common,",
        shows("several: step: all grant the same multiple"),
    ),
    Mutant(
        "few: a part of the cost is no multiple of step", "H21", FEW,
        "take, again = take - take % step, true", "again = true", agrees_few,
    ),
    Mutant(
        "prepaid units count from the call, not from the end of their hold", "H10", LOG,
        "newest_us = now_us + hold_us", "newest_us = now_us",
        shows("sliding_log: units taken in advance"),
    ),
    Mutant(
        "a hold advances the time by which older entries leave", "H10", LOG,
        "if entry_us + period_us > now_us", "if entry_us + period_us > now_us + hold_us",
        shows("sliding_log: older entries leave by the time of the call"),
    ),
    Mutant(
        "a hold moves units that were there before", "H10", LOG,
        "entry > old and newest_us or now_us", "newest_us",
        shows("sliding_log: only the units of such a hit"),
    ),
    Mutant(
        "a log is emptied by a clock that steps back", "H26", LOG,
        "newest_us, oldest_us, reset_us, heal = now_us, now_us, period_us, true",
        "dead, newest_us = size, now_us", shows("sliding_log: a newest entry farther ahead"),
    ),
    Mutant(
        "a packed call in another order than its header", "H97", SINGLE,
        "now_us, cost, at_least, limit, {{names}}, step = struct.unpack",
        "now_us, at_least, cost, limit, {{names}}, step = struct.unpack", agrees("fixed_window"),
    ),
    Mutant(
        "a packed reply in another order than its header", "H97", SINGLE,
        'pack("<dddddd", granted, room, retry_us, reset_us,',
        'pack("<dddddd", granted, room, reset_us, retry_us,', agrees("fixed_window"),
    ),
    Mutant(
        "a packed call without a mode is no hit", "H97", SINGLE,
        'ARGV[2], ARGV[3] or "hit"', "ARGV[2], ARGV[3]", agrees("fixed_window"),
    ),
    Mutant(
        "few: the first policy is charged, though another denies", "H09", FEW,
        "heal1, heal2, heal3 = heal1 and cost > 0,", "heal1, heal2, heal3 = saved1 and cost > 0,",
        agrees_few,
    ),
    Mutant(
        "few: at_least takes more than the third policy has", "H09", FEW,
        "take = math.min(room1, room2, room3)", "take = math.min(room1, room2)", agrees_few,
    ),
    Mutant(
        "few: a denied call repairs nothing", "H26", FEW,
        "take, again = 0, heal1 or heal2 or heal3", "take = 0", agrees_few,
    ),
    Mutant(
        "reservation: a repeated call charges again", "H56", RESERVATION,
        "elseif record then", "elseif record and not reserves then",
        shows("reservation: reserve again charges nothing, and"),
    ),
    Mutant(
        "reservation: a repeated call does not note that it relies on the record", "H56", RESERVATION,
        "elseif status == 2 and not found then", "elseif not status then",
        shows("reservation: reserve again charges nothing, and"),
    ),
    Mutant(
        "reservation: a charge that another call relies on is refunded", "H56", RESERVATION,
        "if found and not reserves and life_ms == 0 then", "if not status then",
        shows("reservation: settle with a life of 0 refunds nothing"),
    ),
    Mutant(
        "reservation: a settlement leaves no mark", "H56", RESERVATION,
        'call("SET", key, "-1", "PX", life_ms + slack_ms)', 'call("DEL", key)',
        shows("reservation: settle of what was reserved"),
    ),
    Mutant(
        "reservation: a settlement before its reservation leaves no mark", "H56", RESERVATION,
        "elseif status ~= 3 then", "elseif status == 2 then",
        shows("reservation: settle without a record"),
    ),
    Mutant(
        "reservation: a settlement without a record charges", "H56", RESERVATION,
        "had and cost - had or 0", "cost - (had or 0)", shows("reservation: settle without a record"),
    ),
    Mutant(
        "reservation: a denied call is recorded", "H09", RESERVATION,
        "if charges and fits then", "if charges then", shows("reservation: if one policy denies"),
    ),
    Mutant(
        "reservation: a policy that had no room is refunded", "H21", RESERVATION,
        'short and "-" or string.format("%.0f", granted)', 'string.format("%.0f", cost)',
        shows("reservation: reserve: a policy in shadow mode without room"),
    ),
    Mutant(
        "reservation: a record of 14 digits", "H18", RESERVATION,
        'short and "-" or string.format("%.0f", granted)', 'short and "-" or granted',
        shows("reservation: a record has all digits"),
    ),
    Mutant(
        "reservation: a record of other policies is used", "H21", RESERVATION,
        "if recorded and #recorded ~= number then", "if false then",
        shows("reservation: a record of fewer policies is an error to settle"),
    ),
    Mutant(
        "reservation: a record that expires early under a given time", "H06", RESERVATION,
        'call("SET", key, table.concat(units, " "), "PX", life_ms + slack_ms)',
        'call("SET", key, table.concat(units, " "), "PX", life_ms)',
        shows("reservation: the record lives for life_ms"),
    ),
    Mutant(
        "reservation: the rest of a large cost is dropped", "H21", LIST,
        "cost, partly = 4000, true", "cost, partly = 4000, false",
        large_logs.test_a_log_moves_4000_units_at_a_time,
    ),
    Mutant(
        "reservation: a refund after a lowered limit forgives the whole debt", "H98", BUCKET,
        "lowest = -math.max(limit, cost)", "lowest = -limit",
        shows("reservation: settle refunds a bucket whose limit was lowered"),
    ),
]  # fmt: skip


@contextmanager
def in_use(folder: Path) -> Iterator[None]:
    """Make tests and library use the scripts of another folder."""

    def forget() -> None:
        scripts.source.cache_clear()
        scripts.sha1.cache_clear()
        scripts.argument_names.cache_clear()
        scripts.packed_names.cache_clear()
        loader.script.cache_clear()

    loader_folder, tests_folder = loader.folder, scripts.V1
    loader.folder, scripts.V1 = (lambda: folder), folder
    forget()
    try:
        yield
    finally:
        loader.folder, scripts.V1 = loader_folder, tests_folder
        forget()


def joined(folder: Path, mutant: Mutant | None = None) -> Path:
    """Join the fragments into ``folder``, with one change if there is a mutant.

    Raises:
        AssertionError: The text that the mutant replaces is missing, or occurs twice.

    """
    source, v1 = folder / "src", folder / "v1"
    shutil.copytree(SRC, source, ignore=shutil.ignore_patterns("__pycache__"))
    v1.mkdir()
    if mutant is not None:
        path = source / mutant.file
        text = path.read_text()
        assert text.count(mutant.old) == 1, (
            f"{mutant.name}: {mutant.file} has {mutant.old!r} {text.count(mutant.old)} times: "
            f"the file has changed, so change the mutant too"
        )
        path.write_text(text.replace(mutant.old, mutant.new))
    for name, text in load_module("join", source).scripts().items():
        (v1 / name).write_text(text)
    shutil.copy(scripts.V1 / "vectors.json", v1)
    return v1

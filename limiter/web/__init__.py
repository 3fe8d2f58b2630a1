"""Limits of HTTP requests, for programs that write rules, keys and costs of their own.

The modules here are shared by all web adapters: which rules apply to a request, and how the verdict is
written over HTTP.
"""

from limiter.web.identity import Unidentified
from limiter.web.match import Match, pattern
from limiter.web.new_subjects import NewSubjects
from limiter.web.plans import Classes, CustomerPlan, Plans
from limiter.web.request import Request
from limiter.web.rules import Rule
from limiter.web.subjects import by_address, hashed
from limiter.web.trusted_field import TrustedField
from limiter.web.verdict import Result, Verdict

__all__ = [
    "Classes",
    "CustomerPlan",
    "Match",
    "NewSubjects",
    "Plans",
    "Request",
    "Result",
    "Rule",
    "TrustedField",
    "Unidentified",
    "Verdict",
    "by_address",
    "hashed",
    "pattern",
]

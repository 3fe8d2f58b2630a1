"""Policies from a TOML file, which is read again when it changes."""

from limiter.policyfile.faults import Fault, InvalidPolicyFile
from limiter.policyfile.watch import AsyncPolicies, Policies, hand_on

__all__ = ["AsyncPolicies", "Fault", "InvalidPolicyFile", "Policies", "hand_on"]

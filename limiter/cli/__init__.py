"""Commands of ``limiter`` that are not the policy files'; imported when they run."""

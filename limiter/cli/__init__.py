"""Commands of ``limiter`` that are neither the demo's nor the policy files'; imported when they run."""

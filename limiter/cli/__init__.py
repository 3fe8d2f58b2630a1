"""Commands of ``limiter`` that need no policy file; each is imported when it runs."""

"""What every web adapter shares: who calls, and how a decision is told over HTTP."""

"""The benchmarks themselves: that they run, not how fast anything is."""

"""Benchmarks: `make bench`. Each compares ours with a reference within one run; never part of the tests."""

"""One module per attack; the package `bench.attack` says how to add one."""

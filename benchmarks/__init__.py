"""The benchmark suite: the same workloads on nbray and on what else people use, in one run.

``python -m benchmarks --help`` tells how to run it; docs/benchmarks.md how to read it.
"""

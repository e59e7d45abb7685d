"""Benchmarks of the service, compared with a hand-written baseline: see docs/performance.md.

``python -m bench --help`` lists the commands.
"""

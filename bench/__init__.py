"""How fast the service is, against a floor measured beside it: see docs/performance.md.

``python -m bench --help`` lists what can be measured.
"""

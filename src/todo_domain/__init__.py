"""The domain: tasks, their rules, who may use them, and the use cases.

It imports the standard library only and contains nothing about HTTP, SQL or token formats.
"""

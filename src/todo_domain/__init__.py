"""The heart of the service: tasks, who owns them, and what can be done with them.

Nothing here knows of HTTP, SQL or tokens' formats; it needs the standard library alone.
"""

"""Dialects for existing frontends: ``/compat/OPTIONS`` in front of every path.

``middleware`` translates requests to the canonical API, and ``exchanges`` the responses back. The
facts are tables: ``dialects`` (options), ``paths``, ``requests`` (members and parameters),
``responses`` (envelopes and members), ``orders``. ``hints`` names the base path that understands a
path which the canonical API does not have.
"""

"""Verifies bearer tokens: signed JWTs of Better Auth or of a frontend, checked with python-jose."""

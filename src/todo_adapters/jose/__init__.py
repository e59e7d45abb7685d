"""Who is asking: Better Auth's tokens verified through python-jose, and the keys that takes."""

"""Finds environment variables that look like a setting but have no effect."""

import os
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from typing import Final

from pydantic_settings import DotEnvSettingsSource

from todo_api.server.settings import Settings

_SIMILARITY: Final = 0.88  # CORS_ORIGIN and CORS_ORIGINS have 0.96, DATABASE_HOST and …_URL 0.75
_PREFIXES: Final = ("TODO_API_", "TODO_", "UVICORN_", "GRANIAN_")
_SERVICE_LINK: Final = "tcp://"  # Kubernetes sets TODO_API_PORT to a URL for a service "todo-api"
_OTHER_NAMES: Final = {
    "CORS_ORIGINS": "ALLOWED_ORIGINS ALLOW_ORIGINS CORS_ALLOWED_ORIGINS CORS_ALLOW_ORIGINS "
    "BACKEND_CORS_ORIGINS",
    "DATABASE_URL": "DB_URL PG_URL PGURL POSTGRES_URL POSTGRESQL_URL NEON_DATABASE_URL",
    "DATABASE_URL_DIRECT": "DIRECT_URL DIRECT_DATABASE_URL",
    "BETTER_AUTH_URL": "AUTH_URL AUTH_SERVER_URL NEXT_PUBLIC_BETTER_AUTH_URL",
    "AUTH_JWKS_URL": "JWKS_URL JWKS_URI BETTER_AUTH_JWKS_URL",
    "AUTH_ISSUER": "JWT_ISSUER TOKEN_ISSUER",
    "AUTH_AUDIENCE": "JWT_AUDIENCE TOKEN_AUDIENCE",
    "AUTH_ALGORITHMS": "JWT_ALGORITHM JWT_ALGORITHMS",
    "FORWARDED_ALLOW_IPS": "TRUSTED_PROXIES TRUSTED_PROXY PROXY_IPS",
    "WORKERS": "WEB_CONCURRENCY",
    "LOG_LEVEL": "LOGGING_LEVEL",
}
_ALIASES: Final = {
    alias: name for name, aliases in _OTHER_NAMES.items() for alias in aliases.split()
}


def misspelled_variables() -> Iterator[tuple[str, str]]:
    """The variables of the environment and the ``.env`` file, each with the setting it may mean.

    A setting that has a value is not suggested: the variable can belong to another program.
    """
    dotenv = DotEnvSettingsSource(Settings).env_vars
    variables = {
        name.upper(): value or "" for name, value in (*dotenv.items(), *os.environ.items())
    }
    settings = {name.upper() for name in Settings.model_fields}
    for name in sorted(variables.keys() - settings):
        setting = _setting(name, variables, settings)
        if setting and not variables.get(setting):
            yield name, setting


def _setting(name: str, variables: Mapping[str, str], settings: set[str]) -> str | None:
    if alias := _ALIASES.get(name):
        return alias
    for prefix in _PREFIXES:
        setting = name.removeprefix(prefix)
        if setting != name and setting in settings:
            return None if variables[name].startswith(_SERVICE_LINK) else setting
    return next(iter(get_close_matches(name, settings, n=1, cutoff=_SIMILARITY)), None)

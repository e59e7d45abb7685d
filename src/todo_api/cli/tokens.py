"""Tokens of the development issuer."""

from datetime import UTC, datetime, timedelta

from todo_adapters.jose.development import DevelopmentIssuer
from todo_api.server.settings import ConfigurationError, Settings, translate_value_errors


def development_token(settings: Settings, user_id: str, lifetime: timedelta) -> str:
    """A token for the user. Raises ConfigurationError if the service would not accept the token."""
    if settings.configures_auth:
        raise ConfigurationError(
            "this service does not accept development tokens, because BETTER_AUTH_URL, "
            "AUTH_JWKS_URL or AUTH_MODE is set: get a token from your auth server or frontend, or "
            "unset these variables"
        )
    with translate_value_errors():
        issuer = DevelopmentIssuer(settings.issuer_dir)
        return issuer.token(user_id, datetime.now(UTC), lifetime=lifetime)

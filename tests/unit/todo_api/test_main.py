"""What the composition root refuses in production."""

from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Final

import pytest

from todo_api.main import validate_for_production
from todo_api.server.settings import ConfigurationError, Settings

PUBLIC: Final = "postgresql://ada:hunter2@db.example.com/todo?sslmode="
PRIVATE: Final = "postgresql://ada:hunter2@my-db.flycast/todo?sslmode="


@pytest.mark.parametrize(
    ("variables", "is_refused"),
    [
        ({"DATABASE_URL": f"{PUBLIC}require"}, True),
        ({"DATABASE_URL": f"{PUBLIC}disable"}, True),
        ({"DATABASE_URL": f"{PUBLIC}verify-full"}, False),
        ({"DATABASE_URL": f"{PRIVATE}disable"}, False),
        ({"DATABASE_URL": f"{PUBLIC}disable", "DATABASE_NETWORK": "private"}, False),
        ({"DATABASE_URL": f"{PRIVATE}disable", "DATABASE_NETWORK": "public"}, True),
        ({"DATABASE_URL": f"{PRIVATE}verify-full", "DATABASE_NETWORK": "public"}, False),
    ],
    ids=str,
)
def test_a_database_on_a_public_network_needs_verified_tls(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    variables: Mapping[str, str],
    *,
    is_refused: bool,
) -> None:
    monkeypatch.chdir(tmp_path)  # without a .env file
    for name, value in {"BETTER_AUTH_URL": "https://app.example.com", **variables}.items():
        monkeypatch.setenv(name, value)
    refusal = pytest.raises(ConfigurationError, match="or set DATABASE_NETWORK=private")
    with refusal if is_refused else nullcontext():
        validate_for_production(Settings.read())

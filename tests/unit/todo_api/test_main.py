"""What the composition root refuses in production."""

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Final

import pytest

from todo_api.main import validate_for_production
from todo_api.server.settings import ConfigurationError, Settings

PUBLIC: Final = "postgresql://ada:hunter2@db.example.com/todo?sslmode="
PRIVATE: Final = "postgresql://ada:hunter2@my-db.flycast/todo?sslmode="


def refused() -> AbstractContextManager[object]:
    return pytest.raises(ConfigurationError, match="or set DATABASE_NETWORK=private")


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"DATABASE_URL": f"{PUBLIC}require"}, refused()),
        ({"DATABASE_URL": f"{PUBLIC}disable"}, refused()),
        ({"DATABASE_URL": f"{PUBLIC}verify-full"}, nullcontext()),
        ({"DATABASE_URL": f"{PRIVATE}disable"}, nullcontext()),
        ({"DATABASE_URL": f"{PUBLIC}disable", "DATABASE_NETWORK": "private"}, nullcontext()),
        ({"DATABASE_URL": f"{PRIVATE}disable", "DATABASE_NETWORK": "public"}, refused()),
        ({"DATABASE_URL": f"{PRIVATE}verify-full", "DATABASE_NETWORK": "public"}, nullcontext()),
    ],
    ids=str,
)
def test_a_database_on_a_public_network_needs_verified_tls(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    variables: Mapping[str, str],
    expected: AbstractContextManager[object],
) -> None:
    monkeypatch.chdir(tmp_path)  # without a .env file
    for name, value in {"BETTER_AUTH_URL": "https://app.example.com", **variables}.items():
        monkeypatch.setenv(name, value)
    with expected:
        validate_for_production(Settings.read())

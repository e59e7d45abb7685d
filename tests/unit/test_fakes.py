"""The fakes keep the contracts that the real adapters keep."""

import pytest

from contracts import RateLimiterContract, TaskRepositoryContract, TokenVerifierContract
from fakes import FakeTokenVerifier, InMemoryRateLimiter, InMemoryTaskRepository
from todo_api.rate_limits import RateLimiter
from todo_domain.ports import TaskRepository, TokenVerifier
from todo_domain.sync import Change


class TestInMemoryTaskRepository(TaskRepositoryContract):
    @pytest.fixture
    def tasks(self, reported: list[Change]) -> TaskRepository:
        return InMemoryTaskRepository(reported.append)


class TestFakeTokenVerifier(TokenVerifierContract):
    @pytest.fixture
    def verifier(self) -> TokenVerifier:
        return FakeTokenVerifier("ada", "eve")

    @pytest.fixture
    def keyless_verifier(self) -> TokenVerifier:
        return FakeTokenVerifier("ada", has_keys=False)

    @pytest.fixture
    def token(self) -> str:
        return "ada"

    @pytest.fixture
    def user_id(self) -> str:
        return "ada"


class TestInMemoryRateLimiter(RateLimiterContract):
    @pytest.fixture
    def limiter(self) -> RateLimiter:
        return InMemoryRateLimiter({"few": {3600: 5}, "both": {60: 2, 3600: 5}})

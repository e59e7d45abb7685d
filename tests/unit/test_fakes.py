"""The fakes keep the contracts that the real adapters keep."""

import pytest

from contracts import TaskRepositoryContract, TokenVerifierContract
from fakes import FakeTokenVerifier, InMemoryTaskRepository
from todo_domain.ports import TaskRepository, TokenVerifier


class TestInMemoryTaskRepository(TaskRepositoryContract):
    @pytest.fixture
    def tasks(self) -> TaskRepository:
        return InMemoryTaskRepository()


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

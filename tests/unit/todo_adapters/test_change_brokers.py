from collections.abc import Sequence

import pytest

from change_broker_contract import ChangeBrokerContract, Recorder
from todo_adapters import change_brokers
from todo_adapters.change_brokers import NUMBERS_MAX, InProcessChangeBroker
from todo_api.change_streams import ChangeBroker


class TestInProcessChangeBroker(ChangeBrokerContract):
    @pytest.fixture
    def brokers(self) -> Sequence[ChangeBroker]:
        return [InProcessChangeBroker(overlap=0)]

    async def test_reports_a_loss_when_the_process_that_it_replaces_has_ended(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(change_brokers, "SPREAD", 0)
        broker, recorder = InProcessChangeBroker(overlap=0.01), Recorder()
        with broker.subscription("ada", recorder):
            assert await recorder.next() is None
            broker.publish("ada", 1, b"{}")
        with broker.subscription("ada", Recorder()) as number:
            assert number == 1

    async def test_knows_no_number_while_a_process_that_it_replaces_may_write(self) -> None:
        broker = InProcessChangeBroker()
        broker.publish("ada", 1, b"{}")
        with broker.subscription("ada", Recorder()) as number:
            assert number is None

    def test_forgets_the_user_without_a_change_for_the_longest_time(self) -> None:
        broker = InProcessChangeBroker(overlap=0)
        for user in ("ada", "eve", "ada", *map(str, range(NUMBERS_MAX - 1))):
            broker.publish(user, 1, b"{}")
        known = {}
        for user in ("ada", "eve"):
            with broker.subscription(user, Recorder()) as known[user]:
                pass
        assert known == {"ada": 1, "eve": None}

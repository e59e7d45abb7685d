"""The HTTP contract of tasks: what each request is answered, and what it leaves behind.

A module that imports all of this runs it over the app that its fixtures provide: ``tasks``, an
empty repository; the clients ``ada`` and ``eve`` of two users; and ``stranger``, without a token.
"""

from http_contract.batch import TestBatch, TestEveryTaskThatMatches
from http_contract.frontends import (
    TestFrontend,
    TestTodoBackend,
    test_a_frontend_reads_its_totals,
    test_frontend_09_whose_token_is_in_a_cookie_gets_a_readable_401,
    test_frontend_13_reads_the_health,
    test_orders_sort_as_numbers,
    test_the_next_task_of_a_series_is_in_the_dialect,
)
from http_contract.idempotency_key import TestAKey, TestARepeatedRequest, TestTheForm
from http_contract.preconditions import (
    TestIfMatch,
    TestIfMatchOfAnEdit,
    TestIfNoneMatchOfAList,
    TestIfNoneMatchOfAnEdit,
    TestIfNoneMatchOfATask,
)
from http_contract.repeating import (
    TestCompletionOfARepeatingTask,
    TestRepeat,
    TestRepeatingTasksInBatches,
    TestSuccessor,
)
from http_contract.sync import TestChanges, TestIdsOfClients
from http_contract.tasks import (
    TestClearCompleted,
    TestComplete,
    TestCreate,
    TestDelete,
    TestEdit,
    TestGet,
    TestList,
    TestPages,
    TestRestore,
    TestTotal,
    TestWhatIsNotThere,
    task,
    test_a_list_without_a_limit_holds_a_thousand,
)
from http_contract.user_data import (
    TestErase,
    TestExport,
    TestImport,
    stored,
    test_the_data_of_a_user_needs_the_users_token,
)

__all__ = [
    "TestAKey",
    "TestARepeatedRequest",
    "TestBatch",
    "TestChanges",
    "TestClearCompleted",
    "TestComplete",
    "TestCompletionOfARepeatingTask",
    "TestCreate",
    "TestDelete",
    "TestEdit",
    "TestErase",
    "TestEveryTaskThatMatches",
    "TestExport",
    "TestFrontend",
    "TestGet",
    "TestIdsOfClients",
    "TestIfMatch",
    "TestIfMatchOfAnEdit",
    "TestIfNoneMatchOfAList",
    "TestIfNoneMatchOfATask",
    "TestIfNoneMatchOfAnEdit",
    "TestImport",
    "TestList",
    "TestPages",
    "TestRepeat",
    "TestRepeatingTasksInBatches",
    "TestRestore",
    "TestSuccessor",
    "TestTheForm",
    "TestTodoBackend",
    "TestTotal",
    "TestWhatIsNotThere",
    "stored",
    "task",
    "test_a_frontend_reads_its_totals",
    "test_a_list_without_a_limit_holds_a_thousand",
    "test_frontend_09_whose_token_is_in_a_cookie_gets_a_readable_401",
    "test_frontend_13_reads_the_health",
    "test_orders_sort_as_numbers",
    "test_the_data_of_a_user_needs_the_users_token",
    "test_the_next_task_of_a_series_is_in_the_dialect",
]

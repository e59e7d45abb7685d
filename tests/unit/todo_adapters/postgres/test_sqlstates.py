"""What each SQLSTATE means for a statement."""

from typing import Any, Final

import asyncpg
import pytest

from todo_adapters.postgres.sqlstates import OUTCOMES, Outcome, invalid_text, outcome_of


def conditions() -> dict[str, type[asyncpg.PostgresError]]:
    """Every SQLSTATE for which asyncpg has a class."""
    found: list[type[Any]] = [
        kind
        for kind in vars(asyncpg.exceptions).values()
        if isinstance(kind, type) and issubclass(kind, asyncpg.PostgresError)
    ]
    return {kind.sqlstate: kind for kind in found if getattr(kind, "sqlstate", None)}


CONDITIONS: Final = conditions()
# Conditions by what this service does. Every other one is expected to be a bug.
EXPECTED: Final = {
    Outcome.INPUT: ("22021", "22P05"),
    Outcome.RETRY: ("40001", "40P01"),
    Outcome.POOLED: ("26000", "42P05"),
    Outcome.UNAVAILABLE: (
        *("08000", "08001", "08003", "08004", "08006", "08007", "08P01"),
        *("09000", "38001", "39P01", "HV000", "P0001"),
        *("25006", "25P02", "25P03", "25P04", "28000", "28P01", "3D000", "3F000", "40003"),
        *("42501", "42703", "42704", "42883", "42P01", "42P10"),
        *("53000", "53100", "53200", "53300", "53400", "54000", "54001", "55006", "55P03"),
        *("57014", "57P01", "57P02", "57P03", "57P05", "58000", "58030", "72000", "F0000"),
        *("XX000", "XX001", "XX002"),
    ),
    Outcome.BUG: (
        *("0A000", "20000", "21000", "22001", "22003", "22008", "22012", "23502", "23503"),
        *("23505", "23514", "2F002", "34000", "3B001", "42601", "42702", "42804", "44000"),
    ),
}


def test_the_conditions_of_asyncpg_are_found() -> None:
    assert {"08006", "40001", "XX002"} <= CONDITIONS.keys()


@pytest.mark.parametrize("state", sorted(CONDITIONS))
def test_each_condition_of_postgresql_has_an_outcome(state: str) -> None:
    assert state in OUTCOMES or state[:2] in OUTCOMES


@pytest.mark.parametrize(
    ("state", "outcome"),
    [(state, outcome) for outcome, states in EXPECTED.items() for state in states],
)
def test_a_condition_has_the_outcome_of_its_condition_or_class(
    state: str, outcome: Outcome
) -> None:
    assert outcome_of(error(state)) is outcome


def test_an_unknown_condition_is_of_its_class() -> None:
    assert outcome_of(error("57ZZZ")) is Outcome.UNAVAILABLE
    assert outcome_of(error("42ZZZ")) is Outcome.BUG


def test_an_unknown_class_is_not_a_bug_of_this_service() -> None:
    assert outcome_of(error("ZZ001")) is Outcome.UNAVAILABLE


def test_an_outdated_plan_is_distinct_from_a_missing_feature() -> None:
    outdated = error("0A000", R="RevalidateCachedQuery")
    assert outcome_of(outdated) is Outcome.PREPARE_AGAIN


def test_a_row_for_another_owner_is_a_bug() -> None:
    violation = error("42501", R="ExecWithCheckOptions")
    assert outcome_of(violation) is Outcome.BUG


@pytest.mark.parametrize(
    ("message", "fields"),
    [
        ("character with byte sequence 0xf0 0x9f 0x9a 0x86 in encoding …", ["tags", "title"]),
        ("Zeichen mit Byte-Folge 0xc2 0xb5 in Kodierung …", ["description"]),
        ("character with byte sequence 0xe2 0x82 0xac in encoding …", ["body"]),
        ("invalid byte sequence", ["body"]),
    ],
)
def test_a_text_that_cannot_be_stored_names_the_fields_that_contain_it(
    message: str, fields: list[str]
) -> None:
    values = {"title": "By 🚆", "description": "1 µm", "tags": ["🚆"], "due_at": None}
    found = invalid_text(error("22P05", message), values)
    assert [violation.field for violation in found.violations] == fields


def error(state: str, message: str = "text", **fields: str) -> asyncpg.PostgresError:
    """The error as asyncpg makes it from the fields of an ErrorResponse message."""
    made = asyncpg.PostgresError.new(
        {"S": "ERROR", "V": "ERROR", "C": state, "M": message} | fields
    )
    assert isinstance(made, asyncpg.PostgresError)
    return made

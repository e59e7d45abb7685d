"""Whole numbers as keys of the order by hand."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from todo_api.compat.orders import ORDER_MAX, ORDER_MIN, decode_order, encode_order
from todo_domain.task import clean_position

orders = st.integers(ORDER_MIN, ORDER_MAX)
EDGES = [ORDER_MIN, -(62**2), -62, -61, -1, 0, 1, 61, 62, 62**2, 2**53, ORDER_MAX]


@given(orders)
def test_the_position_of_an_order_is_valid_and_has_its_number(order: int) -> None:
    assert decode_order(clean_position(encode_order(order))) == order


@given(orders, orders)
def test_positions_compare_as_their_orders(one: int, other: int) -> None:
    assert (encode_order(one) < encode_order(other)) == (one < other)


@pytest.mark.parametrize("order", EDGES)
def test_the_edges_of_the_encoding_have_their_numbers(order: int) -> None:
    assert decode_order(clean_position(encode_order(order))) == order


def test_the_edges_of_the_encoding_compare_as_numbers() -> None:
    assert sorted(map(encode_order, EDGES)) == list(map(encode_order, EDGES))


@given(st.from_regex(r"[0-9A-Za-z]{0,63}[1-9A-Za-z]", fullmatch=True))
def test_a_position_has_a_number_only_if_it_is_the_position_of_this_number(position: str) -> None:
    order = decode_order(position)
    assert order is None or encode_order(order) == position


@pytest.mark.parametrize("position", ["1", "a", "a1", "Zz", "a0V", "a002", "b011", "k" + "z" * 12])
def test_a_position_of_another_client_has_no_number(position: str) -> None:
    assert decode_order(position) is None

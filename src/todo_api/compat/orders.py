"""Whole numbers as keys of the order by hand.

A key has a digit count, the digits in base 62, and a last character that is not 0, because no
position ends in 0: 5 is ``a51``. Of a negative number the digits are complemented, so that the keys
compare byte by byte as the numbers compare.
"""

from typing import Final

ORDER_MIN: Final = -(2**63)
ORDER_MAX: Final = 2**63 - 1  # the largest number that every JSON library here can write

_DIGITS: Final = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_BASE: Final = len(_DIGITS)
_END: Final = "1"
_COMPLEMENT: Final = str.maketrans(_DIGITS, _DIGITS[::-1])


def encode_order(number: int) -> str:
    """The position of a whole number from ORDER_MIN to ORDER_MAX."""
    digits = _digits(abs(number))
    if number < 0:
        return chr(ord("Z") + 1 - len(digits)) + digits.translate(_COMPLEMENT) + _END
    return chr(ord("a") - 1 + len(digits)) + digits + _END


def decode_order(position: str) -> int | None:
    """The number of a position; None for a position that another client has made."""
    digits = position[1:-1]
    if not digits:
        return None
    number = _number(digits if position >= "a" else digits.translate(_COMPLEMENT))
    number = number if position >= "a" else -number
    is_ours = ORDER_MIN <= number <= ORDER_MAX and encode_order(number) == position
    return number if is_ours else None


def _digits(number: int) -> str:
    digits = _DIGITS[number % _BASE]
    while number >= _BASE:
        number //= _BASE
        digits = _DIGITS[number % _BASE] + digits
    return digits


def _number(digits: str) -> int:
    number = 0
    for digit in digits:
        number = number * _BASE + _DIGITS.index(digit)
    return number

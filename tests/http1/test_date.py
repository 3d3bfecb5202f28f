"""The date of replies."""

from orchd.http1.date import format_date


def test_a_second_is_formatted_once() -> None:
    # The example of RFC 9110, section 5.6.7.
    assert format_date(784111777) == b"Sun, 06 Nov 1994 08:49:37 GMT"
    format_date.cache_clear()
    for second in (1, 1, 1, 2, 2, 3):
        format_date(second)
    assert format_date.cache_info().misses == 3
    assert format_date.cache_info().currsize == 1

"""Personal data by its form, and what only looks like it."""

import random
import string
from collections.abc import Callable

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tamis.scoring.text import identifiers
from tamis.scoring.text.pii import Pii


def found(text: str) -> dict[str, int]:
    counts = dict(zip(identifiers.FINDERS, identifiers.count(text), strict=True))
    return {name: count for name, count in counts.items() if count}


def token(length: int, letters: str = string.ascii_letters + string.digits) -> str:
    """What a key is made of; drawn here, so that no key stands in this file."""
    return "".join(random.Random(length).choices(letters, k=length))


UPPER = string.ascii_uppercase + string.digits


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Write to Anna.Smith+news@mail.uni-koeln.de.", {"mails": 1}),
        ("<a@b.io>, (c_d@e.co.uk); mailto:f@g.museum", {"mails": 3}),
        ("Ring +44 20 7946 0958 or +1 (212) 555-7890.", {"phones": 2}),
        ("+4915112345678 and 00", {"phones": 1}),
        ("Call (415) 867-5309 now, 415-867-5309, 415.867.5309.", {"phones": 3}),
        ("My phone number: 030 1234 5678", {"phones": 1}),
        ("call me at 0151-1234-5678!", {"phones": 1}),
        ("请拨打电话 13812345678 联系我", {"phones": 1}),
        ("138 1234 5678", {"phones": 1}),
        ("Card 4539 5787 6362 1486 runs out.", {"cards": 1}),
        ("4012888888881881", {"cards": 1}),
        ("Amex 3782 822463 10005", {"cards": 1}),
        ("IBAN DE89 3704 0044 0532 0130 00, GB29NWBK60161331926819.", {"ibans": 2}),
        ("from 203.0.114.77 port 22, host 91.198.174.192:443", {"ips": 2}),
        ("at 2a00:1450:4001:81b::200e today", {"ips": 1}),
        ("-----BEGIN RSA PRIVATE KEY-----\nMII", {"keys": 1}),
    ],
)
def test_what_is_found(text: str, expected: dict[str, int]) -> None:
    assert found(text) == expected


@pytest.mark.parametrize(
    "secret",
    [
        "AKIA" + token(16, UPPER),
        "ghp_" + token(36),
        "sk-" + token(48),
        "sk-proj-" + token(40),
        "sk_live_" + token(24),
        "xoxb-" + token(30),
        "hf_" + token(34),
        "AIza" + token(35),
        f"eyJ{token(30)}.eyJ{token(60)}.{token(43)}",
    ],
)
def test_keys(secret: str) -> None:
    assert found(f'api_key = "{secret}"') == {"keys": 1}
    assert found(f"see {secret}, then") == {"keys": 1}
    # Part of a longer word it is none.
    assert found(f"x{secret}") == {}


@pytest.mark.parametrize(
    "text",
    [
        "Version 1.2.3.4 of 10.0.26100.1742, Chrome/120.0.6099.109, numpy==91.45.200.3",
        "release 77.88.99.100, v45.67.89.123 and 1.3.6.1.4.1.311.21.10",
        "192.168.0.1, 127.0.0.1, 10.20.30.40, 999.1.1.300 and 198.51.100.7",
        "commit da39a3ee5e6b4b0d3255bfef95601890afd80709",
        "sha256 e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
        "uuid 123e4567-e89b-12d3-a456-426614174000",
        "ISBN 978-3-16-148410-0, ISBN 9783161484100, ISBN 0-306-40615-2",
        "4539578763621487 and 1234 5678 9012 3456",
        "0000 0000 0000 0000, 4444444444444444, 4111 1111 1111 1111",
        "pi is 3.14159265358979, e is 2.7182818284590452353",
        "6.4539578763621486 and 4539578763621486.25",
        "2024-01-15 12:30:45, 20240115123045, 1700000000000, 1699999999",
        "The years 1914-1918, 2001-2010, pages 212-555, 100-200-3000",
        "write to user@example.com, me@company.com, root@localhost, x@y",
        "git clone git@github.com:team/code.git; y = x@w.sum(axis=0); @app.route",
        "npm i @types/node@18.2.1 pkg@1.2.3",
        "DE89370400440532013001 and DE8937040044053201300",
        "ORDER AB12 CDEF 3456 GHIJ 7890",
        "Dial (212) 555-0142 in the film.",
        "AKIAIOSFODNN7EXAMPLE, sk-your-api-key-goes-here-please, sk-" + "x" * 40,
        "hf_" + "a" * 34,
        "sk-learn-contrib-and-other-names-that-go-on",
        "mac aa:bb:cc:dd:ee:ff, std::vector, 12:30:45, a::b",
        "call f(123456789), phone(1), phone model 123456789",
        "3 + 4912345 = x+491234567890",
        "x = [1234567890, 2147483647, 9007199254740991]",
    ],
)
def test_what_only_looks_like_it(text: str) -> None:
    assert found(text) == {}


def test_a_place_counts_once() -> None:
    assert found("phone: +1 212-867-5309") == {"phones": 1}
    assert found("tel 4539 5787 6362 1486") == {"cards": 1}


@given(st.integers(10**14, 10**15 - 1))
def test_one_wrong_digit_fails_the_check_of_a_card(number: int) -> None:
    right = [d for d in range(10) if identifiers.luhn(f"{number}{d}")]
    assert len(right) == 1
    digits = f"{number}{right[0]}"
    for place in range(len(digits)):
        for other in {*range(10)} - {int(digits[place])}:
            assert not identifiers.luhn(f"{digits[:place]}{other}{digits[place + 1 :]}")


@given(st.text(UPPER, min_size=18, max_size=18))
def test_check_digits_of_an_account(account: str) -> None:
    """ISO 13616: 98 less the remainder with 00 in their place."""
    check = 98 - identifiers.mod97(f"GB00{account}")
    assert identifiers.mod97(f"GB{check:02d}{account}") == 1
    assert identifiers.mod97(f"GB{(check + 1) % 97:02d}{account}") != 1


def test_columns(batch: Callable[..., pa.RecordBatch]) -> None:
    mail = "anna@uni-koeln.de"
    rows = [
        [{"role": "user", "content": f"I am {mail}"}, {"role": "assistant", "content": "Hi"}],
        [{"role": "system", "content": mail}, {"role": "user", "content": "Hi"}],
        [{"role": "user", "content": ""}],
    ]
    tools = [None, None, [{"name": f"ask {mail}"}]]
    told: list[int] = []
    counts = Pii().score(batch(rows, tools), advance=told.append)
    assert sum(told) == 3
    assert tuple(counts) == Pii.fields
    assert counts["mails"].tolist() == [1, 1, 1]
    assert counts["any"].tolist() == [True, True, True]
    counts = Pii(context=False).score(batch(rows, tools), advance=told.append)
    assert counts["any"].tolist() == [True, False, False]
    counts = Pii(view="answer", context=False).score(batch(rows, tools), advance=told.append)
    assert counts["any"].tolist() == [False, False, False]


def test_patterns_take_linear_time() -> None:
    """A pattern that backtracked would not come back from these before the tests time out."""
    for text in ("a." * 50_000 + "@", "1 " * 50_000, "+1" * 50_000, "A1" * 50_000, "a@a." * 25_000):
        identifiers.count(text)
        identifiers.count(f"phone {text}")

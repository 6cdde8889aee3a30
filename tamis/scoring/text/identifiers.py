"""The forms of mail addresses, phone numbers, card numbers, IBANs, keys and IP addresses."""

from __future__ import annotations

import ipaddress
import math
import re
from collections import Counter
from collections.abc import Callable, Iterator

Span = tuple[int, int]

_KEY = re.compile(
    r"(?<![\w-])(?:"
    r"(?:AKIA|ASIA)[0-9A-Z]{16}"
    r"|gh[opusr]_[A-Za-z0-9]{36,}|github_pat_\w{40,}|glpat-[\w-]{20,}"
    r"|sk-(?:[a-z]{2,8}-(?:[a-z0-9]{2,8}-)?)?[A-Za-z0-9_-]{20,}|[srp]k_(?:live|test)_[A-Za-z0-9]{20,}"
    r"|xox[abeprs]-[A-Za-z0-9-]{20,}|AIza[\w-]{35}|hf_[A-Za-z0-9]{30,}|npm_[A-Za-z0-9]{36}"
    r"|pypi-[\w-]{50,}|SG\.[\w-]{20,}\.[\w-]{40,}|eyJ[\w-]{10,}\.eyJ[\w-]{10,}\.[\w-]{20,}"
    r")(?![\w-])"
    r"|-----BEGIN (?:[A-Z]+ ){0,2}PRIVATE KEY-----"
)
# What stands in documentation in a key's place.
_PLACEHOLDER = re.compile(r"example|your|xxxx|secret|placeholder|1234567890|abcdef", re.IGNORECASE)
_MAIL = re.compile(
    r"(?<![\w.+%/-])[A-Za-z0-9](?:[\w+%-]|\.(?=[\w+%-])){0,63}"
    r"@((?:[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.)+[A-Za-z]{2,24})"
    # Neither a call (`x@w.sum()`) nor the address of a repository (`git@host.org:team/code`).
    r"(?![\w@(-]|\.\w|:[\w~/])"
)
# Domains that stand for any (RFC 2606, RFC 6761), and what people write in their place.
_NOBODY = re.compile(
    r"(?:^|\.)(?:example\.(?:com|org|net|edu)|example|invalid|test|localhost|local"
    r"|(?:your)?(?:domain|company|email)\.(?:com|org|net))$",
    re.IGNORECASE,
)
_CARD = re.compile(
    r"(?<![\w.,+-])(?:\d{13,19}|\d{4}([ -])\d{4}\1\d{4}\1\d{1,7}|\d{4}([ -])\d{6}\2\d{4,5})"
    r"(?![\w-]|[.,]\d)"
)
# Visa, Mastercard, American Express, Discover, JCB, Diners, UnionPay, by first digits and length.
_ISSUER = re.compile(
    r"4(?:\d{12}|\d{15}|\d{18})|5[1-5]\d{14}|2(?:22[1-9]|2[3-9]\d|[3-6]\d\d|7[01]\d|720)\d{12}"
    r"|3[47]\d{13}|6(?:011|4[4-9]\d|5\d\d)\d{12}|35(?:2[89]|[3-8]\d)\d{12}|3(?:0[0-5]|[68]\d)\d{11}"
    r"|62\d{14,17}"
)
_IBAN = re.compile(r"(?<![\w-])([A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,3})?)(?![\w-])")
_IBAN_LENGTHS = dict(
    re.findall(
        r"([A-Z]{2})(\d\d)",
        "AD24 AE23 AL28 AT20 AZ28 BA20 BE16 BG22 BH22 BR29 BY28 CH21 CR22 CY28 CZ24 DE22 DK18 DO28 "
        "EE20 EG29 ES24 FI18 FO18 FR27 GB22 GE22 GI23 GL18 GR27 GT28 HR21 HU28 IE22 IL23 IQ23 IS26 "
        "IT27 JO30 KW30 KZ20 LB28 LC32 LI21 LT20 LU20 LV21 MC27 MD24 ME22 MK19 MR27 MT31 MU30 NL18 "
        "NO15 PK24 PL28 PS29 PT25 QA29 RO24 RS22 SA24 SC31 SE24 SI19 SK24 SM27 ST25 SV28 TL23 TN24 "
        "TR26 UA29 VA22 VG24 XK20",
    )
)
_IP4 = re.compile(r"(?<![\w.-])(?<![^/]/)\d{1,3}(?:\.\d{1,3}){3}(?![\w-]|\.\d)")
# Global unicast, written with three groups or more.
_IP6 = re.compile(r"(?<![\w:.])[23][0-9a-fA-F]{3}(?::{1,2}[0-9a-fA-F]{1,4}){2,7}(?![\w:])")
_VERSION = re.compile(r"(?:\bv|\bver\.?|versions?|release|build|[=<>~]=|\^)\s*$", re.IGNORECASE)
_PHONE = re.compile(
    r"(?<![\w.+-])(?:"
    # With the country: +44 20 7946 0018.
    r"\+[1-9]\d{0,2}(?:[ .-]?\(?\d{1,5}\)?){1,6}"
    # North America: (212) 555-7890, 212-555-7890.
    r"|(?:1[ .-])?(?:\([2-9]\d{2}\) ?|[2-9]\d{2}([ .-]))[2-9]\d{2}(?(1)\1|[ .-])\d{4}"
    # China: 138 1234 5678.
    r"|1[3-9]\d([ -])\d{4}\2\d{4}"
    r")(?![\w-]|\.\d)"
)
# After a word that tells, numbers of any form.
_CALLED = re.compile(
    r"(?:\b(?:tel|phone|mobile|cell|call|fax|whatsapp)\b\.?|电话|手机|联系|致电|热线)[ \t]*"
    r"(?:me|us|him|her|now|number|no\.?|号码|号)?[ \t]*(?:at|on|is|[:：=#]|是|为)?[ \t]*"
    r"((?<!\d)\(?\d[\d ().-]{7,16}\d)(?![\w-]|\.\d)",
    re.IGNORECASE,
)
# Numbers that films use: they ring nowhere.
_FICTION = re.compile(r"55501\d\d$")


def keys(text: str) -> Iterator[Span]:
    """Tokens of known services, of high entropy, and private keys."""
    for match in _KEY.finditer(text):
        token = match.group()
        private = token.startswith("-----")
        # Random letters and digits hold a digit; a name with hyphens need not.
        drawn = any(map(str.isdigit, token)) and entropy(token) >= 3.2
        if private or (drawn and not _PLACEHOLDER.search(token)):
            yield match.span()


def mails(text: str) -> Iterator[Span]:
    """Mail addresses whose domain may exist."""
    if "@" in text:
        for match in _MAIL.finditer(text):
            if not _NOBODY.search(match.group(1)):
                yield match.span()


def ibans(text: str) -> Iterator[Span]:
    """International bank account numbers, by country, length and check digits."""
    for match in _IBAN.finditer(text):
        number = match.group().replace(" ", "")
        if _IBAN_LENGTHS.get(number[:2]) == str(len(number)) and mod97(number) == 1:
            yield match.span()


def cards(text: str) -> Iterator[Span]:
    """Payment card numbers, by issuer, length and check digit."""
    for match in _CARD.finditer(text):
        number = re.sub(r"\D", "", match.group())
        if _ISSUER.fullmatch(number) and luhn(number) and len(set(number)) > 3:
            yield match.span()


def ips(text: str) -> Iterator[Span]:
    """Public IP addresses. A dotted number after a word such as "version", or with no part above
    31, is one of a version."""
    for pattern in (_IP4, _IP6):
        for match in pattern.finditer(text):
            try:
                address = ipaddress.ip_address(match.group())
            except ValueError:
                continue
            high = address.version == 6 or max(address.packed) > 31
            before = text[max(0, match.start() - 12) : match.start()]
            if address.is_global and high and not _VERSION.search(before):
                yield match.span()


def phones(text: str) -> Iterator[Span]:
    """Phone numbers: with a country code, in the forms of North America and China, or after a word
    such as "phone"."""
    for match in _PHONE.finditer(text):
        if _rings(match.group()):
            yield match.span()
    for match in _CALLED.finditer(text):
        if _rings(match.group(1)):
            yield match.span(1)


def _rings(number: str) -> bool:
    digits = re.sub(r"\D", "", number)
    return 9 <= len(digits) <= 15 and not _FICTION.search(digits) and len(set(digits)) > 2


FINDERS: dict[str, Callable[[str], Iterator[Span]]] = {
    "mails": mails,
    "phones": phones,
    "cards": cards,
    "ibans": ibans,
    "keys": keys,
    "ips": ips,
}
# What one has found is hidden from the next: a card number may hold a phone number.
_ORDER = ("keys", "mails", "ibans", "cards", "ips", "phones")


def count(text: str) -> list[int]:
    """How many of each there are, in the order of `FINDERS`; a place counts once."""
    found = dict.fromkeys(FINDERS, 0)
    for name in _ORDER:
        spans = sorted(set(FINDERS[name](text)))
        last = -1
        for start, end in spans:
            if start >= last:
                found[name] += 1
                last = end
            text = f"{text[:start]}{'#' * (end - start)}{text[end:]}"
    return list(found.values())


def luhn(number: str) -> bool:
    """Whether the last digit is the check digit of the others (ISO/IEC 7812)."""
    doubled = [sum(divmod(2 * int(d), 10)) for d in number[-2::-2]]
    return (sum(doubled) + sum(int(d) for d in number[-1::-2])) % 10 == 0


def mod97(number: str) -> int:
    """The remainder of an IBAN, 1 if its check digits are right (ISO 7064)."""
    return int("".join(str(int(c, 36)) for c in number[4:] + number[:4])) % 97


def entropy(token: str) -> float:
    """Bits a character of a token, by how often each occurs in it."""
    return -sum(c / len(token) * math.log2(c / len(token)) for c in Counter(token).values())

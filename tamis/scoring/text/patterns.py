"""Phrases that mark an answer as a refusal, or as the set phrases of an assistant.

English and Chinese. Written to be right rather than complete: a story in which somebody says "I
cannot help you" is no refusal, so refusals are looked for where a turn begins.
"""

from __future__ import annotations

import re

# Where a turn begins: so many characters.
OPENING = 200

_CANNOT = (
    r"(?:can(?:not|['’]?t)|could ?n['’]t|won['’]?t|will not|must decline to|have to decline to"
    r"|(?:am|['’]m) (?:not able|unable|not allowed|not permitted|not going) to)"
)
_DO = (
    r"(?:help|assist|comply|fulfil+|provide|answer|respond|do (?:that|this)|create|generate|write"
    r"|engage|participate|support|continue|discuss|share|offer|complete|process|give|make"
    r"|carry out|proceed)"
)
_SORRY = r"(?:i['’]?m|i am)? ?(?:very |really |so )?sorry|my apologies|i apologi[sz]e|unfortunately"

# Each stands at the start of a turn, or after the first words of it.
_REFUSALS = (
    rf"^(?:{_SORRY})[^.!?\n]{{0,60}}\bi ?{_CANNOT}\b",
    rf"^(?:{_SORRY})[.,!]? (?:but )?i ?{_CANNOT}\b",
    rf"^(?:no[,.] )?(?:as an? [^.\n]{{0,60}}, )?i ?{_CANNOT} (?:\w+ ){{0,2}}?{_DO}\b",
    r"^(?:i am|i['’]m) (?:sorry|afraid)[^.!?\n]{0,40}\b(?:against my|violates? my|not something i)",
    r"^it (?:is|would be|['’]s) (?:not (?:appropriate|ethical|legal|possible) for me|against my)",
    r"^(?:很|非常)?(?:抱歉|对不起)[，,。 ]?[^。！？\n]{0,20}(?:无法|不能|没有办法|不会)",
    r"^(?:作为[^，。\n]{0,20}[，,])?我(?:无法|不能)(?:为您|为你|帮助|协助|提供|回答|满足|完成|生成)",
)
_BOILERPLATE = (
    r"\bas an? (?:\w+ ){0,3}(?:ai|artificial intelligence)\b(?: (?:language )?model| assistant)?",
    r"\bas an? (?:large )?language model\b",
    r"\bi(?:['’]m| am) (?:just |only |merely )?an? (?:\w+ ){0,2}(?:ai|language model)\b",
    r"\bi (?:do not|don['’]t) have (?:any )?(?:personal|real[- ]time|access to (?:real|current))",
    r"\bmy (?:knowledge|training)(?: data)? (?:cut-?off|ends|was last updated|only goes)",
    r"\bas of my (?:last|latest|most recent) (?:\w+ )?(?:update|training|knowledge)",
    r"\bi(?:['’]m| am| was) (?:chatgpt|(?:trained|created|developed) by (?:openai|google|meta))",
    r"作为(?:一个|一名|一款)?(?:大型)?(?:人工智能|ai|语言模型)",
    r"我(?:只)?是(?:一个|一名|一款)?(?:大型)?(?:人工智能|ai|语言模型)",
    r"我的知识(?:库)?(?:只)?(?:截止|更新)",
)

# Every text with such a phrase holds one of these; looking for them first is twenty times as fast.
_TOLD_BY = (
    *("language model", "artificial", " ai", "chatgpt", "by openai", "by google", "by meta"),
    *("have personal", "any personal", "have real", "any real", "real-time", "real time"),
    *("have access", "any access", "my knowledge", "my training", "as of my"),
    *("人工智能", "语言模型", "作为", "我是", "我的知识"),
)

REFUSAL = re.compile("|".join(_REFUSALS), re.IGNORECASE)
_PHRASES = re.compile("|".join(_BOILERPLATE))

FENCE = re.compile(r"^ {0,3}(?:```|~~~)", re.MULTILINE)
BULLET = re.compile(r"^\s*(?:[-*+•▪◦‣–]|\d{1,3}[.)]|[a-zA-Z][.)])\s")
# What may follow the last sentence of a text.
CLOSING = "\"'”’»›)]}】」』*_`~ \t\n"
ENDS = re.compile(r"[.!?…。！？।؟](?=[\s\"'”’»)\]】」』*_]|[\u3000-\uffef]|$)")
DANGLING_MARKS = tuple(",;:(-–—，、；：（")
# Words that hardly a sentence ends with.
DANGLING_WORDS = frozenset(
    re.findall(
        r"\w+",
        "a an the and or but nor of to in on at for with by from as that which who whose is are "
        "was were be been has have had will would can could because if when while although than "
        "into his her their its my your our these those such very",
    )
)


def boilerplate(text: str) -> bool:
    """Whether a text holds a set phrase of an assistant."""
    lowered = text.lower()
    return any(part in lowered for part in _TOLD_BY) and bool(_PHRASES.search(lowered))

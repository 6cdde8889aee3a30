"""Rendering against definitions that share no code with it: byte positions, markers, plain text."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tamis.errors import TamisError
from tamis.language.render import (
    RenderError,
    cut,
    neutral_template,
    prompt,
    render,
    renderings,
    special_ids,
)

END = "<|end|>"
MARKED = (
    "{% for m in messages %}{% if m['role']=='user' %}<|user|>\n{{ m['content'] }}<|end|>\n"
    "{% elif m['role']=='assistant' %}<|assistant|>\n"
    "{% generation %}{{ m['content'] }}<|end|>{% endgeneration %}\n"
    "{% else %}{{ m['content'] }}\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
UNMARKED = MARKED.replace("{% generation %}", "{% if true %}").replace(
    "{% endgeneration %}", "{% endif %}"
)
# As ChatML has it: BOS from the template, and a line break behind the end of the turn.
BREAKS = (
    "{{ bos_token }}{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|end|>{{ '\n' }}"
    "{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
CALLS = (
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content or '' }}"
    "{% for c in m.tool_calls or [] %}<|call|>{{ c | tojson }}{% endfor %}<|end|>"
    "{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
TEMPLATES = {
    "marked": MARKED,
    "unmarked": UNMARKED,
    "breaks": BREAKS,
    "calls": CALLS,
    "neutral": neutral_template(),
}
WORDS = "the quick brown fox answers yes or no, 12 + 30 = 42. Grüße 你好 user: <b>bold</b>\n\n x"


@cache
def tokenizer(template: str, *, trim_offsets: bool = True, bos: bool = True) -> Any:
    """A byte-level BPE of a few hundred entries."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    special = ["<eos>", "<pad>", "<bos>", END, "<|user|>", "<|assistant|>", "<|tool|>", "<|call|>"]
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    core.post_processor = processors.ByteLevel(trim_offsets=trim_offsets)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=340, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    core.train_from_iterator([WORDS] * 3, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        eos_token="<eos>",
        pad_token="<pad>",
        bos_token="<bos>" if bos else None,
        additional_special_tokens=special[3:],
        chat_template=TEMPLATES.get(template, template),
    )


def talk(*contents: str, system: str | None = None) -> list[dict[str, Any]]:
    """A conversation, user first."""
    roles = ("user", "assistant")
    turns = [{"role": roles[i % 2], "content": c} for i, c in enumerate(contents)]
    return [{"role": "system", "content": system}, *turns] if system else turns


def byte_ends(tok: Any, ids: Sequence[int]) -> list[int]:
    """Where each token ends in the UTF-8 text, from the vocabulary alone."""
    ends, total = [], 0
    for i in ids:
        token = tok.convert_ids_to_tokens(i)
        # A byte-level token has one character a byte; special tokens here are ASCII.
        total += len(token)
        ends.append(total)
    return ends


def by_definition(
    tok: Any, messages: list[dict[str, Any]], end: str
) -> tuple[list[int], list[bool]]:
    """Every token that holds a byte between the generation prompt and the end of the turn."""

    def text(upto: int, generate: bool = False) -> str:
        if upto == 0 and not generate:
            return ""
        return tok.apply_chat_template(
            messages[:upto], tokenize=False, add_generation_prompt=generate
        )

    whole = text(len(messages))
    ids = tok(whole, add_special_tokens=False)["input_ids"]
    ends = byte_ends(tok, ids)
    assert ends[-1] == len(whole.encode())
    labelled = [False] * len(ids)
    for j, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        start = len(text(j, True).encode())
        stop = len(text(j + 1).rstrip().encode())
        assert text(j + 1).rstrip().endswith(end)
        for i, token_end in enumerate(ends):
            token_start = ends[i - 1] if i else 0
            labelled[i] = labelled[i] or (token_start < stop and token_end > start)
    return ids, labelled


# What templates and BPE trip over: leading and trailing space, breaks, wide characters.
texts = st.text(alphabet=" \n\tab,.12:ü你😀-", max_size=12)
answers = texts.filter(lambda t: t.strip())


@st.composite
def talks(draw: Any) -> list[dict[str, Any]]:
    pairs = draw(st.lists(st.tuples(texts, answers), min_size=1, max_size=3))
    system = draw(st.none() | answers)
    return talk(*[text for pair in pairs for text in pair], system=system)


@pytest.mark.parametrize("trim", [True, False], ids=["trimmed", "whole"])
@pytest.mark.parametrize("name", ["marked", "unmarked", "breaks", "neutral"])
@settings(max_examples=60, deadline=None)
@given(messages=talks())
def test_labels_follow_the_definition_in_bytes(
    name: str, trim: bool, messages: list[dict[str, Any]]
) -> None:
    tok = tokenizer(name, trim_offsets=trim)
    end = "<eos>" if name == "neutral" else END
    rendered = render(messages, None, tok, prompt_style="chat")
    assert (rendered.ids, rendered.labelled) == by_definition(tok, messages, end)


@pytest.mark.parametrize("name", ["marked", "neutral"])
@settings(max_examples=60, deadline=None)
@given(messages=talks())
def test_labels_equal_those_of_the_markers(name: str, messages: list[dict[str, Any]]) -> None:
    tok = tokenizer(name, trim_offsets=False)
    theirs = tok.apply_chat_template(messages, return_dict=True, return_assistant_tokens_mask=True)
    ours = render(messages, None, tok, prompt_style="chat")
    assert ours.ids == theirs["input_ids"]
    assert ours.labelled == [bool(x) for x in theirs["assistant_masks"]]


@pytest.mark.parametrize("name", list(TEMPLATES))
@settings(max_examples=30, deadline=None)
@given(messages=talks())
def test_what_carries_loss_is_the_answers_and_their_ends(
    name: str, messages: list[dict[str, Any]]
) -> None:
    # Word tokens that swallow the character before an answer are tested above; here every answer
    # starts anew behind a letter.
    messages = [{**m, "content": "a" + m["content"] + "a"} for m in messages]
    tok = tokenizer(name)
    end = "<eos>" if name == "neutral" else END
    rendered = render(messages, None, tok, prompt_style="chat")
    wanted = [m["content"] + end for m in messages if m["role"] == "assistant"]
    assert [tok.decode(rendered.ids[a:b]) for a, b in rendered.spans] == wanted
    inside = [any(a <= i < b for a, b in rendered.spans) for i in range(len(rendered.ids))]
    assert rendered.labelled == inside
    assert [messages[t]["role"] for t in rendered.turns] == ["assistant"] * len(wanted)


def test_template_writes_bos_once() -> None:
    tok = tokenizer("breaks")
    ids = render(talk("a", "b"), None, tok, prompt_style="chat").ids
    assert ids.count(tok.bos_token_id) == 1 and ids[0] == tok.bos_token_id


def test_content_that_spells_the_end_does_not_end_the_turn() -> None:
    tok = tokenizer("unmarked")
    rendered = render(talk("a", f"say {END}"), None, tok, prompt_style="chat")
    (start, stop) = rendered.spans[0]
    assert tok.decode(rendered.ids[start:stop]) == f"say {END}{END}"


def test_of_two_ends_the_first_carries_loss_and_the_second_does_not() -> None:
    tok = tokenizer(BREAKS.replace("<|end|>{{ '\n' }}", "<|end|>{{ '\n' }}{{ eos_token }}"))
    rendered = render(talk("a", "b"), None, tok, prompt_style="chat")
    (start, stop) = rendered.spans[0]
    assert tok.decode(rendered.ids[start:stop]) == f"b{END}"
    assert tok.decode(rendered.ids[stop:]).strip() == "<eos>"


@pytest.mark.parametrize("name", ["marked", "unmarked"])
@pytest.mark.parametrize("style", ["chat", "plain"])
def test_turns_marked_as_not_trained_carry_no_loss(name: str, style: str) -> None:
    tok = tokenizer(name)
    messages = talk("a", "b", "c", "d")
    every = render(messages, None, tok, prompt_style=style)
    messages[1]["train"] = False
    one = render(messages, None, tok, prompt_style=style)
    assert one.ids == every.ids
    assert (one.turns, one.spans) == ([3], every.spans[1:])
    assert [i for i, on in enumerate(one.labelled) if on] == list(range(*every.spans[1]))
    messages[3]["train"] = False
    assert render(messages, None, tok, prompt_style=style).spans == []


def test_train_on_other_turns_means_nothing() -> None:
    messages = talk("a", "b")
    messages[0]["train"] = True
    rendered = render(messages, None, tokenizer("marked"), prompt_style="chat")
    assert rendered == render(talk("a", "b"), None, tokenizer("marked"), prompt_style="chat")


CALL = [{"type": "function", "function": {"name": "add", "arguments": {"a": 1}}}]


@pytest.mark.parametrize("name", ["calls", "neutral"])
def test_tool_calls_carry_loss_and_results_do_not(name: str) -> None:
    tok = tokenizer(name)
    messages = [
        {"role": "user", "content": "1+2?"},
        {"role": "assistant", "content": None, "tool_calls": CALL},
        {"role": "tool", "content": "result three", "tool_call_id": "c1"},
        {"role": "assistant", "content": "3"},
    ]
    rendered = render(messages, None, tok, prompt_style="chat")
    trained = [tok.decode(rendered.ids[a:b]) for a, b in rendered.spans]
    assert '"name": "add"' in trained[0] and trained[1].startswith("3")
    assert not any("result" in text for text in trained)
    assert "result three" in tok.decode(rendered.ids)


def test_several_marked_blocks_of_one_turn_belong_together() -> None:
    template = (
        "{% for m in messages %}<|{{ m.role }}|>{% if m.role == 'assistant' %}"
        "{% generation %}{{ m.content or '' }}{% endgeneration %}:"
        "{% generation %}{{ m.tool_calls | tojson if m.tool_calls }}<|end|>{% endgeneration %}"
        "{% else %}{{ m.content }}<|end|>{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}<|assistant|>{% endif %}"
    )
    tok = tokenizer(template)
    messages = [*talk("a", "b😀"), {"role": "user", "content": "c"}]
    messages.append({"role": "assistant", "content": "d", "tool_calls": CALL, "train": False})
    rendered = render(messages, None, tok, prompt_style="chat")
    assert rendered.turns == [1]
    (start, stop) = rendered.spans[0]
    assert tok.decode(rendered.ids[start:stop]) == f"b😀:{END}"
    trained = [i for i, on in zip(rendered.ids, rendered.labelled, strict=True) if on]
    assert tok.decode(trained) == f"b😀{END}"


@pytest.mark.parametrize(
    ("template", "messages", "reason"),
    [
        ("marked", talk("a", " \n"), "empty_answer"),
        ("{{ raise_exception('roles must alternate') }}", talk("a", "b"), "template_failed"),
        ("{{ messages[0].content + missing }}", talk("a", "b"), "template_failed"),
        (
            "{% for m in messages %}<|{{ m.role }}|>{% if loop.last %}{{ m.content }}{% endif %}"
            "<|end|>{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}",
            talk("a", "b", "c", "d"),
            "rewritten_turns",
        ),
        (  # as templates do that leave earlier reasoning out
            CALLS.replace(
                "{{ m.content or '' }}",
                "{{ m.content if loop.last or m.role == 'user' else 'x' }}",
            ),
            talk("a", "b", "c", "d"),
            "rewritten_turns",
        ),
        (
            "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
            "{% if add_generation_prompt %}assistant: {% endif %}",
            talk("a", "b"),
            "no_end_of_turn",
        ),
        (MARKED.replace("<|end|>{% endgen", "{% endgen"), talk("a", "b"), "no_end_of_turn"),
        (
            "marked",
            [*talk("a", "b"), {"role": "assistant", "content": "see", "tool_calls": CALL}],
            "drops_tool_calls",
        ),
        (
            MARKED.replace("{% else %}", "{% elif m.role == 'system' %}"),
            [*talk("a"), {"role": "tool", "content": "7"}, {"role": "assistant", "content": "b"}],
            "drops_tool_results",
        ),
    ],
)
def test_rows_that_would_train_something_else_are_refused(
    template: str, messages: list[dict[str, Any]], reason: str
) -> None:
    with pytest.raises(RenderError) as caught:
        render(messages, None, tokenizer(template), prompt_style="chat")
    assert caught.value.reason == reason
    assert "\n" not in str(caught.value)


def test_unknown_style_is_refused() -> None:
    with pytest.raises(TamisError, match="chat or plain"):
        render(talk("a", "b"), None, tokenizer("marked"), prompt_style="alpaca")


def test_plain_style_joins_by_blank_lines_and_ends_answers_with_eos() -> None:
    tok = tokenizer("marked")
    messages = [*talk("q1", "r1", "q2", "r2", system="be kind"), {"role": "user", "content": "z"}]
    messages[4]["tool_calls"] = CALL
    rendered = render(messages, [{"name": "add"}], tok, prompt_style="plain")
    text = tok.decode(rendered.ids)
    call = '[{"type":"function","function":{"name":"add","arguments":{"a":1}}}]'
    assert text == (
        f'[{{"name":"add"}}]\n\nbe kind\n\nq1\n\nr1<eos>\n\nq2\n\nr2\n\n{call}<eos>\n\nz\n\n'
    )
    assert [tok.decode(rendered.ids[a:b]) for a, b in rendered.spans] == [
        "r1<eos>",
        f"r2\n\n{call}<eos>",
    ]


@settings(max_examples=40, deadline=None)
@given(question=texts, other=texts, answer=answers)
def test_plain_answers_have_the_same_ids_whatever_stands_before(
    question: str, other: str, answer: str
) -> None:
    tok = tokenizer("marked")
    found = []
    for text in (question, other):
        rendered = render(talk(text, answer), None, tok, prompt_style="plain")
        found.append(rendered.ids[slice(*rendered.spans[0])])
    alone = tok(answer, add_special_tokens=False)["input_ids"]
    assert found == [[*alone, tok.eos_token_id]] * 2


@pytest.mark.parametrize("style", ["chat", "plain"])
@settings(max_examples=30, deadline=None)
@given(messages=talks())
def test_the_prompt_is_what_stands_before_the_answer(
    style: str, messages: list[dict[str, Any]]
) -> None:
    messages = [{**m, "content": "a" + m["content"] + "a"} for m in messages]
    tok = tokenizer("unmarked")
    rendered = render(messages, None, tok, prompt_style=style)
    before = prompt(messages[:-1], None, tok, prompt_style=style)
    assert before == rendered.ids[: rendered.spans[-1][0]]


@settings(max_examples=40, deadline=None)
@given(messages=talks(), limit=st.integers(1, 60))
def test_cutting_keeps_the_start(messages: list[dict[str, Any]], limit: int) -> None:
    whole = render(messages, None, tokenizer("marked"), prompt_style="chat")
    kept, truncated = cut(whole, limit)
    assert truncated == (len(whole.ids) > limit)
    assert kept.ids == whole.ids[:limit] and kept.labelled == whole.labelled[:limit]
    wanted = [
        (t, (a, min(b, limit)))
        for t, (a, b) in zip(whole.turns, whole.spans, strict=True)
        if a < limit
    ]
    assert list(zip(kept.turns, kept.spans, strict=True)) == wanted


def test_special_ids_count_unnamed_ones_too() -> None:
    tok = tokenizer("marked")
    assert tok.convert_tokens_to_ids(END) in special_ids(tok)
    assert tok.convert_tokens_to_ids("a") not in special_ids(tok)


@pytest.mark.model
def test_real_rows_of_both_paths_and_of_transformers_agree(base_model: Any, real_data: Any) -> None:
    import pyarrow.parquet as pq
    from transformers import AutoTokenizer

    marked = AutoTokenizer.from_pretrained(base_model)
    unmarked = AutoTokenizer.from_pretrained(base_model)
    unmarked.chat_template = marked.chat_template.replace("{% generation %}", "{% if true %}")
    unmarked.chat_template = unmarked.chat_template.replace("{% endgeneration %}", "{% endif %}")
    table = pq.read_table(real_data / "t0_pool.parquet", columns=["instruction", "output"])
    rows = [(r["instruction"], r["output"]) for r in table.to_pylist()[::85]]
    for one, other in zip(rows, [*rows[1:], rows[0]], strict=True):
        messages = talk(*one, *other)
        ours = render(messages, None, marked, prompt_style="chat")
        assert ours == render(messages, None, unmarked, prompt_style="chat")
        theirs = marked.apply_chat_template(
            messages, return_dict=True, return_assistant_tokens_mask=True
        )
        assert ours.ids == theirs["input_ids"]
        assert ours.labelled == [bool(x) for x in theirs["assistant_masks"]]


# As reasoning models have it: the last answer shows its reasoning, an empty one too; once the next
# question follows, it is left out. Tool results do not count as a question.
REASONING = (
    "{% set last = namespace(user=-1) %}"
    "{% for m in messages %}{% if m.role == 'user' %}{% set last.user = loop.index0 %}{% endif %}"
    "{% endfor %}{% for m in messages %}<|{{ m.role }}|>"
    "{% if m.role == 'assistant' and loop.index0 > last.user %}"
    "<think>{{ m.reasoning_content or '' }}</think>{% endif %}{{ m.content or '' }}"
    "{% for c in m.tool_calls or [] %}<|call|>{{ c | tojson }}{% endfor %}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
said = st.text("ab <c>:é你", min_size=1, max_size=6).filter(str.strip)


@given(
    turns=st.lists(st.tuples(said, st.none() | said, st.booleans(), said), min_size=1, max_size=5),
    ends_with_question=st.booleans(),
)
@settings(max_examples=60)
def test_a_rewritten_turn_is_trained_as_the_model_writes_it(
    turns: list[tuple[str, str | None, bool, str]], ends_with_question: bool
) -> None:
    messages: list[dict[str, Any]] = []
    wanted = {}
    for question, reasoning, trained, answer in turns:
        messages.append({"role": "user", "content": question})
        if trained:
            wanted[len(messages)] = f"<think>{reasoning or ''}</think>{answer}{END}"
        messages.append({"role": "assistant", "content": answer, "train": trained})
        messages[-1] |= {"reasoning_content": reasoning} if reasoning else {}
    if ends_with_question:
        messages.append({"role": "user", "content": "and then?"})
    tok = tokenizer(REASONING)
    parts = renderings(messages, None, tok, prompt_style="chat")
    found = {}
    for part in parts:
        labelled = [i for i, on in zip(part.ids, part.labelled, strict=True) if on]
        texts = [tok.decode(part.ids[start:stop]) for start, stop in part.spans]
        assert tok.decode(labelled) == "".join(texts)
        for turn, text, (start, _) in zip(part.turns, texts, part.spans, strict=True):
            assert turn not in found
            found[turn] = text
            # What stands before the answer is what the model is given to write it.
            assert part.ids[:start] == prompt(messages[:turn], None, tok, prompt_style="chat")
    assert found == wanted or not wanted
    assert [part.turns[-1] for part in parts if part.turns] == sorted(wanted)


def test_answers_that_stand_together_are_one_part() -> None:
    tok = tokenizer(REASONING)
    call = {"role": "assistant", "content": None, "tool_calls": CALL, "reasoning_content": "look"}
    messages: list[dict[str, Any]] = [
        {"role": "user", "content": "a"},
        call,
        {"role": "tool", "content": "4"},
        {"role": "assistant", "content": "b", "reasoning_content": "so"},
        {"role": "user", "content": "c"},
        {"role": "assistant", "content": "d"},
    ]
    first, second = renderings(messages, None, tok, prompt_style="chat")
    assert (first.turns, second.turns) == ([1, 3], [5])
    assert tok.decode(first.ids).endswith(f"<think>so</think>b{END}")
    assert "so" not in tok.decode(second.ids)


def test_a_template_that_holds_is_rendered_once() -> None:
    tok = tokenizer(UNMARKED)
    messages = talk("a", "b", "c", "d")
    assert renderings(messages, None, tok, prompt_style="chat") == [
        render(messages, None, tok, prompt_style="chat")
    ]


def test_a_turn_that_is_rewritten_at_once_is_refused() -> None:
    template = (
        "{% for m in messages %}<|{{ m.role }}|>{{ loop.revindex }}{{ m.content }}<|end|>"
        "{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
    )
    with pytest.raises(RenderError) as error:
        renderings(talk("a", "b", "c", "d"), None, tokenizer(template), prompt_style="chat")
    assert error.value.reason == "rewritten_turns"

"""The confidence of a language model that the given answer is right."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar, Literal

import numpy as np
import pyarrow as pa

from tamis.errors import RecipeError
from tamis.language import load
from tamis.language.exchange import Exchange, exchange
from tamis.language.forward import LOGPROB, Engine
from tamis.language.question import TRIAL, ask, check_answers
from tamis.recipe import Model
from tamis.samples import decode_messages, decode_tools
from tamis.scoring import answers
from tamis.scoring.base import Advance, Columns
from tamis.scoring.clear import prompts, similarity
from tamis.scoring.clear.confidence import confidence, consistency, mean_of_known
from tamis.scoring.clear.sampling import Comparison, draw

TOO_LONG = "answer_too_long"
NO_LETTER = "no_letter"
NOT_RENDERED = "not_rendered"
Row = tuple[Exchange, Any]


@dataclass(frozen=True)
class Clear:
    """confidence = beta O + (1 - beta) S of the last answer of each conversation.

    O, `consistency`, is how well `samples` answers that the model gives itself agree with the given
    one, by `similarity`: `nli` (the paper's; `comparer` is a classifier for inference), `embedding`
    (`comparer` is a sentence encoder) or `jaccard`. `logprob` with samples 0 takes the geometric
    mean of the token probabilities of the given answer instead, which is cheap and not of the
    paper. S, `reflection`, is what the model says when it is asked whether the answer is right, by
    the probabilities of the option letters, two wordings, each in both orders of the options
    (`both_orders`). samples 0 without similarity is reflection alone, and beta 1 with a similarity
    consistency alone: then the model is not asked.

    Sources: Chen and Mueller, 2024 (arXiv 2403.12776); 2023 (arXiv 2308.16175). No code was
    published; theirs parses a written letter, this reads its probability, and an answer that cannot
    be read is null and never 0.5. Cost: a sampled row is k answers of decoding; reflection is one
    forward of request and answer and four of a question.
    """

    model: Model
    device: str
    samples: int = 5
    similarity: Literal["nli", "embedding", "jaccard", "logprob"] | None = None
    comparer: str | None = None
    alpha: float = 0.8
    beta: float = 0.7
    both_orders: bool = True
    hard: bool = False
    temperature: float = 1.0
    top_p: float = 1.0
    max_new_tokens: int = 256
    seed: int = 0

    name: ClassVar[str] = "clear"
    version: ClassVar[int] = 2
    about: ClassVar[Mapping[str, str]] = {
        "sentence": "How much a language model believes the answer a row came with.",
        "needs": "a causal language model; to compare sampled answers, a model for inference or an "
        "encoder",
        "view": "the last answer, given all before it",
        "cost": "samples 0: about two forward passes a row; else that and 5 answers of decoding",
        "avoid": "with models below some 3 B parameters, whose reflection is near chance: look at "
        "option_mass and try it on planted errors first",
    }
    fields = (
        "confidence",
        "consistency",
        "reflection",
        "option_mass",
        "samples",
        "unfinished",
        "cut",
        "cut_compared",
        "reason",
    )

    def identity(self) -> Mapping[str, Any]:
        """Model, comparer, options and the version of the prompts."""
        own = ("samples", "similarity", "alpha", "beta", "both_orders", "hard")
        drawn = ("temperature", "top_p", "max_new_tokens", "seed") if self.samples else ()
        return {
            "model": load.identity(self.model),
            "comparer": self._comparison.identity() if self._comparison else None,
            "prompts": prompts.VERSION,
            **{name: getattr(self, name) for name in (*own, *drawn)},
        }

    def check(self) -> None:
        """Raise if options do not fit together or a model is missing; loads no weights."""
        for name in ("alpha", "beta"):
            if not 0 <= getattr(self, name) <= 1:
                raise RecipeError(f"clear.{name} must lie in 0..1, got {getattr(self, name)}")
        if self.samples < 0 or self.temperature <= 0 or not 0 < self.top_p <= 1:
            raise RecipeError("clear needs samples >= 0, temperature > 0 and top_p in (0, 1]")
        if self.samples and self.similarity in (None, "logprob"):
            raise RecipeError(
                "clear compares sampled answers: set similarity to nli, embedding or jaccard, or "
                "samples: 0 to ask the model alone"
            )
        if not self.samples and self.similarity not in (None, "logprob"):
            raise RecipeError(f"clear: similarity {self.similarity} needs samples of 1 or more")
        if (self.comparer is None) == (self.similarity == "nli"):
            if self.similarity == "nli":
                raise RecipeError(
                    "clear: similarity nli needs comparer, the folder or hub id of a classifier "
                    "with the classes contradiction, neutral and entailment"
                )
            if self.similarity != "embedding":
                raise RecipeError(f"clear: similarity {self.similarity} takes no comparer")
        load.check(self.model)
        if self.samples and not 0 < self.max_new_tokens < load.max_length(self.model):
            raise RecipeError(
                f"clear.max_new_tokens must lie below the {load.max_length(self.model)} tokens of "
                f"the model, got {self.max_new_tokens}"
            )
        if self._comparison is not None:
            self._comparison.check()

    @property
    def warnings(self) -> list[str]:
        """That letters were missing, answers unfinished, or the encoder is the default."""
        return [*self._tally.warnings(), *(self._comparison.warnings if self._comparison else ())]

    def score(self, batch: pa.RecordBatch, *, advance: Advance) -> Columns:
        """The `fields`, in the order of the rows; NaN, an empty list or None where undefined.

        `option_mass` is the mean probability of the letters, `unfinished` counts sampled answers
        that were cut, `cut` is the share of the request that reflection could not read,
        `cut_compared` the mean share of both texts that a comparison could not.
        """
        n = batch.num_rows
        conversations = decode_messages(batch.column("messages"))
        tools = decode_tools(batch.column("tools"))
        pairs = [exchange(m, t) for m, t in zip(conversations, tools, strict=True)]
        known = {i: pair for i, pair in enumerate(pairs) if isinstance(pair, Exchange)}
        at = np.array(list(known), dtype=np.int64)
        rows = [(pair, tools[i]) for i, pair in known.items()]
        found = _empty(n)
        found["reason"][:] = [p if isinstance(p, str) else None for p in pairs]
        advance(n - len(at))
        names = batch.column("content_key").to_pylist()
        # The first rows tell whether it is worth going on; cut alike in every run.
        for part in (slice(TRIAL), slice(TRIAL, None)):
            if rows[part] and self._reflects:
                self._reflect(rows[part], at[part], found)
        if self.samples:
            self._compare(rows, [names[i] for i in at], at, found, advance)
        elif self.similarity == "logprob":
            self._probable(rows, at, found, advance)
        else:
            advance(len(at))
        found["confidence"] = confidence(found["consistency"], found["reflection"], self.beta)
        # Where nobody is asked, what cannot be rendered has no value either.
        unknown = np.isnan(found["confidence"]) & np.array([r is None for r in found["reason"]])
        found["reason"][unknown] = NOT_RENDERED
        return found

    def _reflect(self, rows: Sequence[Row], at: np.ndarray, found: dict[str, np.ndarray]) -> None:
        asked = ask(
            self._engine,
            [prompts.case(pair) for pair, _ in rows],
            prompts.questions(both=self.both_orders),
        )
        if not self._tally.asked:
            check_answers(asked.answers, self._engine)
        each = (asked.answers.hard if self.hard else asked.answers.soft)(prompts.VALUES)
        value = mean_of_known(each)
        found["reflection"][at] = value
        found["option_mass"][at] = mean_of_known(asked.answers.mass)
        found["cut"][at] = asked.cut
        found["reason"][at[np.isnan(value)]] = NO_LETTER
        found["reason"][at[~asked.fits]] = TOO_LONG
        self._tally.asked += len(rows)
        self._tally.unread += int(np.isnan(value).sum())

    def _compare(
        self,
        rows: Sequence[Row],
        names: Sequence[str],
        at: np.ndarray,
        found: dict[str, np.ndarray],
        advance: Advance,
    ) -> None:
        drawn = draw(
            self._engine,
            rows,
            names,
            count=self.samples,
            temperature=self.temperature,
            top_p=self.top_p,
            max_new_tokens=self.max_new_tokens,
            seed=self.seed,
            advance=advance,
        )
        some = [i for i, texts in enumerate(drawn.texts) if texts]
        given = [rows[i][0].answer for i in some for _ in drawn.texts[i]]
        texts = [text for i in some for text in drawn.texts[i]]
        comparison = self._comparison
        if comparison is None or not some:
            return
        alike, cut = (v.reshape(len(some), -1) for v in comparison.of(given, texts))
        equal = np.array([similarity.same(*pair) for pair in zip(given, texts, strict=True)])
        found["consistency"][at[some]] = consistency(alike, equal.reshape(alike.shape), self.alpha)
        found["cut_compared"][at[some]] = cut.mean(axis=1)
        found["unfinished"][at] = drawn.unfinished
        for i in some:
            found["samples"][at[i]] = drawn.texts[i]
        self._tally.drawn += len(texts)
        self._tally.unfinished += int(drawn.unfinished.sum())

    def _probable(
        self,
        rows: Sequence[Row],
        at: np.ndarray,
        found: dict[str, np.ndarray],
        advance: Advance,
    ) -> None:
        """O from the token probabilities of the given answer."""
        given = [[*({**m, "train": False} for m in p.before), p.message] for p, _ in rows]
        tools = [offered for _, offered in rows]
        prepared = answers.prepare(self._engine, given, tools, alone=False)
        got = answers.score(self._engine, prepared, LOGPROB, alone=False, advance=advance)
        found["consistency"][at] = similarity.probability(-got.nll(), got.tokens)

    @property
    def _reflects(self) -> bool:
        """Whether the model is asked: not where consistency is all that counts."""
        return self.beta < 1 or self.similarity is None

    @cached_property
    def _engine(self) -> Engine:
        return Engine(self.model, self.device)

    @cached_property
    def _comparison(self) -> Comparison | None:
        if self.similarity is None or self.similarity == "logprob":
            return None
        return Comparison(self.similarity, self.comparer, self.device)

    @cached_property
    def _tally(self) -> Tally:
        return Tally()


@dataclass
class Tally:
    """What became of the rows and answers so far."""

    asked: int = field(default=0)
    unread: int = 0
    drawn: int = 0
    unfinished: int = 0

    def warnings(self) -> list[str]:
        """Sentences on what is more than a tenth."""
        said = []
        if self.unread > self.asked / 10:
            said.append(
                f"clear: {self.unread} of {self.asked} rows gave no letter to any question, so "
                "their reflection is null; check prompt_style"
            )
        if self.unfinished > self.drawn / 10:
            said.append(
                f"clear: {self.unfinished} of {self.drawn} sampled answers were cut at "
                "max_new_tokens; raise it where answers are long"
            )
        return said


def _empty(n: int) -> dict[str, np.ndarray]:
    """Columns of n rows without a value."""
    floats = ("confidence", "consistency", "reflection", "option_mass", "cut", "cut_compared")
    found = {name: np.full(n, np.nan) for name in floats}
    unfinished = np.zeros(n, dtype=np.int64)
    texts = np.empty(n, dtype=object)
    texts[:] = [[] for _ in range(n)]
    reason = np.full(n, None, dtype=object)
    return {**found, "unfinished": unfinished, "samples": texts, "reason": reason}

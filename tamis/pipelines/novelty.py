"""What is new in the data a model was tuned on: texts it likes much more than its base.

The artefact `novelty/<key>/` holds `novelty.json`:
    settings  base, tuned, start, rule, iterative, seed, rows (how many were compared with)
    texts     [{step, text, tokens, score, tuned, base, tags, language, theme}]
    themes    [{theme, size, first_step, score, examples, rows: [{id, text, similarity}],
                supported}], the largest first
    coverage  share of the clusters of the rows that the first 1, 2, ... texts lie in
    stopped   asked, or nothing_new
    warnings  lines for people
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tamis import samples
from tamis.errors import DataError, MissingPackage, RecipeError
from tamis.language import load
from tamis.language.contrast import Contrast, Drawn, Rule
from tamis.language.forward import Engine
from tamis.language.render import prompt
from tamis.language.sample import stops
from tamis.pipelines.context import Context
from tamis.pipelines.pool import Snapshot, snapshot
from tamis.pipelines.themes import coverage, tags, themes
from tamis.pipelines.tune import left_in
from tamis.recipe import Model
from tamis.scoring.encoder import Encoder
from tamis.scoring.text.lang import Lang
from tamis.scoring.views import text as view_text
from tamis.storage.artifact import Artifact, Maker

# Raise by hand when the same models and seed give another account.
VERSION = 1
# Rows that texts are compared with: ids are hashes, so the first of them are a random sample.
_ROWS = 5000
# Nothing is new any more when so many texts in a row score below this share of the first five.
_PATIENCE, _SHARE = 10, 0.1
# Whether the base forgets while it learns is seen on a text that is not of the data.
_PROBE = "The train to the coast was late again, so we sat on our bags and shared an orange."
_FORGOTTEN = 1.2


@dataclass(frozen=True, slots=True)
class Novelty:
    """How many texts, the rule they are drawn by, and how the base learns from them.

    `start` is an instruction that all texts answer; without one the tuned model begins by itself.
    `together` texts are drawn before the base learns from them; `learning_rate` 0 keeps the base as
    it is (static mode).
    """

    texts: int = 100
    start: str = ""
    rule: Rule = field(default_factory=Rule)
    together: int = 4
    learning_rate: float = 1e-3

    def __post_init__(self) -> None:
        if self.texts < 1 or self.together < 1 or self.learning_rate < 0:
            raise RecipeError(
                "novelty: texts and together must be at least 1, and learning_rate at least 0"
            )


def novelty(
    ctx: Context, base: Model, tuned: Model, sources: Mapping[str, str], options: Novelty
) -> tuple[Artifact, bool]:
    """Draw the texts and say what they are about; returns the artefact and whether it was there.

    `sources` (name to key) are the samples that themes are compared with; none is fine. Every batch
    of texts is on disk before the base learns from it, and a run that was killed lets its base
    learn them again, in order, and goes on.

    Cost: texts x tokens steps of both models, and a step of training a batch.
    Source: Isonuma and Titov, 2024 (arXiv 2410.14765); themes, tags and coverage are ours.
    """
    for model in (base, tuned):
        load.check(model)
    encoder = Encoder(None, ctx.device, "novelty")
    encoder.check()
    pool = snapshot(ctx.store, sources) if sources else None
    inputs = {
        "version": VERSION,
        "base": load.identity(base),
        "tuned": load.identity(tuned),
        "samples": dict(sources),
        "encoder": encoder.identity(),
        "options": asdict(options),
        "seed": ctx.recipe.seed,
    }

    def make(maker: Maker) -> Mapping[str, Any]:
        drawn = _Drawing(ctx, base, tuned, options, maker)
        drawn.run()
        told = {
            "settings": _settings(base, tuned, options, ctx.recipe.seed, pool),
            **_account(drawn, encoder, pool, ctx),
            "stopped": drawn.stopped,
            "warnings": drawn.warnings,
        }
        maker.write_json("novelty.json", told)
        for part in maker.folder.glob("texts-*.parquet"):
            part.unlink()
        return {"texts": len(told["texts"]), "themes": len(told["themes"])}

    return ctx.store.ensure("novelty", inputs, make, say=ctx.say)


def tuned_from(base: Model, place: str) -> Model:
    """The model in `place`: an adapter on `base`, or weights of its own. Its `model` folder is
    found where `place` is what training left."""
    folder = Path(place)
    inner = folder / "model"
    return left_in(inner if inner.is_dir() else folder, base)


class _Drawing:
    """The texts so far, and the two models they come from."""

    def __init__(
        self, ctx: Context, base: Model, tuned: Model, options: Novelty, maker: Maker
    ) -> None:
        engine = Engine(tuned, ctx.device)
        self.texts: list[Drawn] = []
        self.steps: list[int] = []
        self.stopped, self.warnings = "asked", list[str]()
        self.tokenizer = engine.tokenizer
        self._ctx, self._options, self._maker = ctx, options, maker
        self._stops = stops(engine)
        self._start = _start(options.start, self.tokenizer, tuned.prompt_style)
        rate = options.learning_rate
        other = Engine(base, ctx.device)
        self._models = Contrast(engine, other, learning_rate=rate, seed=ctx.recipe.seed)
        room = min(engine.max_length, other.max_length) - len(self._start)
        if room < options.rule.most:
            raise RecipeError(
                f"novelty: {options.rule.most} tokens behind a start of {len(self._start)} are "
                f"more than the models take; ask for at most {room}"
            )

    def run(self) -> None:
        """Draw until there are enough, or nothing is new any more."""
        options = self._options
        before = self._probed() if options.learning_rate > 0 else None
        with self._ctx.progress("draw texts", options.texts) as advance:
            for step, first in enumerate(range(0, options.texts, options.together)):
                numbers = range(first, min(first + options.together, options.texts))
                batch = self._batch(step, numbers)
                self.texts += batch
                self.steps += [step] * len(batch)
                advance(len(batch))
                if options.learning_rate > 0:
                    if nothing_new([t.score for t in self.texts]):
                        self.stopped = "nothing_new"
                        break
                    self._models.learn(self._start, batch)
        grown = 1.0 if before is None else float(np.exp(self._probed() - before))
        if grown > _FORGOTTEN:
            self.warnings.append(
                f"while it learnt, the base's perplexity of a plain sentence grew to {grown:.2f} "
                "times: it forgets, and old themes may look new; lower the learning rate"
            )

    def _probed(self) -> float:
        """What the base pays for a sentence that is not of the data."""
        ids = self.tokenizer(_PROBE, add_special_tokens=False)["input_ids"]
        return self._models.base_nll(ids)

    def _batch(self, step: int, numbers: Sequence[int]) -> list[Drawn]:
        """Drawn now, or by a run that was killed."""
        name = f"texts-{step:05d}.parquet"
        if self._maker.has(name):
            rows = pq.read_table(self._maker.folder / name).to_pylist()
            return [Drawn(row["ids"], row["tuned"], row["base"]) for row in rows]
        found = self._models.draw(self._start, numbers, self._stops, self._options.rule)
        self._maker.write_parquet(name, pa.Table.from_pylist([asdict(t) for t in found]))
        return found


def nothing_new(scores: Sequence[float]) -> bool:
    """Whether the last ten texts all score below a tenth of the first five's mean."""
    if len(scores) < _PATIENCE + 5:
        return False
    return max(scores[-_PATIENCE:]) < _SHARE * float(np.mean(scores[:5]))


def _start(instruction: str, tokenizer: Any, style: str) -> list[int]:
    """What every text stands behind: the prompt of the instruction, or of an empty turn."""
    ids = prompt([{"role": "user", "content": instruction}], None, tokenizer, prompt_style=style)
    if not ids:
        ids = [i for i in (tokenizer.bos_token_id, tokenizer.eos_token_id) if i is not None][:1]
    if not ids:
        raise RecipeError(
            "novelty: the tokenizer has neither BOS nor EOS to start a text from; give --start"
        )
    return ids


def _account(
    drawing: _Drawing, encoder: Encoder, pool: Snapshot | None, ctx: Context
) -> dict[str, Any]:
    """The texts with their tags, their themes, and how much of the data they cover."""
    texts = [
        drawing.tokenizer.decode(t.ids, skip_special_tokens=True).strip() for t in drawing.texts
    ]
    rows = _rows(pool)
    with ctx.progress("compare texts and rows", len(texts) + len(rows)) as advance:
        found, _ = encoder.encode(
            [*texts, *(row["text"] for row in rows)], done=lambda k: advance(len(k))
        )
    vectors, row_vectors = found[: len(texts)], found[len(texts) :]
    scores = [t.score for t in drawing.texts]
    grouped, theme = themes(texts, drawing.steps, scores, vectors, rows, row_vectors)
    told = [
        {
            "step": step,
            "text": text,
            "tokens": len(drawn.ids),
            "score": drawn.score,
            "tuned": drawn.tuned,
            "base": drawn.base,
            "tags": tags(text),
            "language": language,
            "theme": number,
        }
        for step, text, drawn, language, number in zip(
            drawing.steps, texts, drawing.texts, _languages(texts), theme, strict=True
        )
    ]
    return {
        "texts": told,
        "themes": grouped,
        "coverage": coverage(vectors, row_vectors, ctx.recipe.seed),
    }


def _rows(pool: Snapshot | None) -> list[dict[str, str]]:
    if pool is None:
        return []
    table = pool.rows(pool.ids[:_ROWS], ["id", "messages"])
    messages = samples.decode_messages(table.column("messages"))
    return [
        {"id": name, "text": view_text(turns, "all")}
        for name, turns in zip(table.column("id").to_pylist(), messages, strict=True)
    ]


def _languages(texts: Sequence[str]) -> list[str | None]:
    """By the scorer `lang`; None where its extra is missing or a text says too little."""
    scorer = Lang(view="answer")
    try:
        scorer.check()
    except MissingPackage:
        return [None] * len(texts)
    turns = [[samples.encode_message({"role": "assistant", "content": t})] for t in texts]
    batch = pa.RecordBatch.from_pydict({"messages": turns})
    codes: list[str | None] = scorer.score(batch, advance=lambda _: None)["code"].tolist()
    return codes


def _settings(
    base: Model, tuned: Model, options: Novelty, seed: int, pool: Snapshot | None
) -> dict[str, Any]:
    return {
        "base": base.adapter or base.location,
        "tuned": tuned.adapter or tuned.location,
        "start": options.start,
        "rule": asdict(options.rule),
        "iterative": options.learning_rate > 0,
        "learning_rate": options.learning_rate,
        "together": options.together,
        "seed": seed,
        "rows": min(len(pool), _ROWS) if pool else 0,
    }


def source_keys(ctx: Context) -> dict[str, str]:
    """The keys of the recipe's sources, all ingested before."""
    known = ctx.store.latest("samples")
    missing = sorted(set(ctx.recipe.sources) - set(known))
    if missing:
        raise DataError(f"the store has no source {missing[0]!r}; run tamis ingest first")
    return {name: known[name] for name in ctx.recipe.sources}


def markdown(told: Mapping[str, Any]) -> str:
    """The account as a page for people."""
    s = told["settings"]
    mode = "iterative" if s["iterative"] else "static"
    lines = [
        "# What is new in this data",
        "",
        f"{len(told['texts'])} texts that {s['tuned']} likes more than {s['base']} ({mode}, seed "
        f"{s['seed']}, alpha {s['rule']['alpha']:g}, gamma {s['rule']['gamma']:g}). Models wrote "
        "them; they may repeat private training text.",
        *(f"\n**{warning}**" for warning in told["warnings"]),
    ]
    if told["coverage"]:
        lines.append(f"\nThey lie in {told['coverage'][-1]:.0%} of the clusters of the data.")
    for theme in told["themes"]:
        doubt = " (no row comes near: probably made up)" if theme["supported"] is False else ""
        lines += [
            "",
            f"## Theme {theme['theme'] + 1}: {theme['size']} texts, {theme['score']:.2f} nats a "
            f"token above the base, first in step {theme['first_step'] + 1}{doubt}",
            *(f"- {_line(text)}" for text in theme["examples"]),
            *(
                f"- nearest row {row['id'][:12]} ({row['similarity']:.2f}): {_line(row['text'])}"
                for row in theme["rows"][:2]
            ),
        ]
    return "\n".join(lines) + "\n"


def _line(text: str) -> str:
    flat = " ".join(text.split())
    return flat if len(flat) <= 160 else flat[:159] + "…"

"""The recipe's structure, and how one is read.

This checks structure and types. What needs the data, the methods or the machine is checked by
`pipelines.plan`, before any work begins.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

from tamis.errors import RecipeError
from tamis.settings import changed

Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")]


class _Strict(BaseModel):
    """Unknown keys are errors and nothing changes after reading."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Source(_Strict):
    """Where rows come from: files, a Hugging Face dataset, or what the store holds already."""

    path: str | list[str] | None = Field(None, description="files, folders, globs or fsspec URLs")
    hf: str | None = Field(None, description="NAME or NAME@revision, read through datasets")
    stored: bool = Field(False, description="ingested before under this name; read nothing")
    split: str = Field("train", description="split of a Hugging Face dataset")
    licence: str | None = Field(None, description="licence of rows that do not carry one")
    limit: int | None = Field(None, ge=1, description="take only the first rows")

    @model_validator(mode="after")
    def _one_origin(self) -> Source:
        if [self.path is not None, self.hf is not None, self.stored].count(True) != 1:
            raise ValueError("a source needs exactly one of path, hf and stored: true")
        return self

    @property
    def paths(self) -> list[str]:
        """The paths as a list."""
        return [self.path] if isinstance(self.path, str) else list(self.path or [])


class Endpoint(_Strict):
    """A language model behind an OpenAI-compatible server (vLLM and the like)."""

    url: str = Field(pattern=r"^https?://", description="base URL: http://localhost:8000/v1")
    model: str = Field(description="the name the server knows it by")
    key_env: str | None = Field(None, description="environment variable that holds the key")
    concurrency: int = Field(8, ge=1, description="requests under way at once")
    timeout: float = Field(120.0, gt=0, description="seconds for one reply")
    retries: int = Field(5, ge=0, description="after 429, 5xx, timeouts and unreadable replies")
    most_requests: int | None = Field(None, ge=0, description="cap of a run; cached ones are free")
    most_tokens: int | None = Field(None, ge=0, description="cap of a run, prompt and reply")
    cache: str | None = Field(None, description="folder of replies; default in the store")


class Model(_Strict):
    """A causal language model. The prompt style has no default: it is never deduced."""

    path: str | None = Field(None, description="a local folder")
    hub: str | None = Field(None, description="a hub id")
    endpoint: Endpoint | None = Field(None, description="a server, for what asks in words")
    revision: str | None = Field(None, description="commit of the hub id")
    adapter: str | None = Field(None, description="a PEFT adapter folder on top")
    prompt_style: Literal["chat", "plain"]
    dtype: Literal["float32", "bfloat16"] = "float32"
    max_length: int | None = Field(None, ge=8, description="tokens; default the model's own limit")
    trust_remote_code: bool = False

    @model_validator(mode="after")
    def _one_origin(self) -> Model:
        if [self.path, self.hub, self.endpoint].count(None) != 2:
            raise ValueError("a model needs exactly one of path, hub and endpoint")
        if self.endpoint is not None and (self.adapter or self.revision):
            raise ValueError("an endpoint takes no adapter and no revision: the server knows them")
        return self

    @property
    def location(self) -> str:
        """What `from_pretrained` is given; of an endpoint its URL."""
        return self.path or self.hub or (self.endpoint.url if self.endpoint else "")


class Score(_Strict):
    """One signal column. `scorer` defaults to the name of the entry."""

    scorer: str | None = None
    model: str | None = Field(None, description="name of an entry of models, or an encoder")
    options: dict[str, Any] = Field(default_factory=dict)


class Filter(_Strict):
    """Keep rows whose column lies in the given range or list, or among the lowest or highest of
    the rows still left, all together or `within` their source, language and the like. Rows without
    a value are dropped and counted."""

    column: str
    min: float | None = None
    max: float | None = None
    lowest_percent: float | None = Field(None, ge=0, le=100, description="of the rows still left")
    highest_percent: float | None = Field(None, ge=0, le=100, description="of the rows still left")
    within: list[str] = Field(
        default_factory=list, description="columns; per cents are taken of rows alike in them"
    )
    is_in: list[str | int | float | bool] | None = None

    @model_validator(mode="after")
    def _some_rule(self) -> Filter:
        if self.lowest_percent is not None and self.highest_percent is not None:
            raise ValueError("a filter takes one of lowest_percent and highest_percent")
        if self.within and self.percent is None:
            raise ValueError("within is for lowest_percent and highest_percent")
        if all(given is None for given in (self.min, self.max, self.percent, self.is_in)):
            raise ValueError("a filter needs min, max, lowest_percent, highest_percent or is_in")
        return self

    @property
    def percent(self) -> float | None:
        """How many per cent of the rows are kept, from whichever end."""
        return self.highest_percent if self.lowest_percent is None else self.lowest_percent

    @property
    def columns(self) -> list[str]:
        """All columns it reads."""
        return [self.column, *self.within]


class Refine(_Strict):
    """Better answers for some rows: a new version of the samples, with what was changed and why."""

    method: Literal["clear_correct", "s3ft"]
    model: str = Field(description="who writes answers: an entry of models, or one of tuned")
    judge: str | None = Field(
        None, description="who compares: an entry of models; default the model before any tuning"
    )
    options: dict[str, Any] = Field(default_factory=dict)


class Budget(_Strict):
    """How much may be selected, in exactly one unit."""

    rows: int | None = Field(None, ge=0)
    percent: float | None = Field(None, ge=0, le=100)
    tokens: int | None = Field(None, ge=0, description="total tokens after truncation")
    supervised_tokens: int | None = Field(None, ge=0, description="tokens that carry loss")

    @model_validator(mode="after")
    def _one_unit(self) -> Budget:
        given = [n for n in ("rows", "percent", "tokens", "supervised_tokens") if self.value(n)]
        if len(given) != 1:
            raise ValueError(
                "a budget needs exactly one of rows, percent, tokens, supervised_tokens"
            )
        return self

    def value(self, unit: str) -> bool:
        """Whether the unit is given."""
        return getattr(self, unit) is not None

    @property
    def unit(self) -> str:
        """What is counted: rows, tokens or supervised tokens."""
        if self.supervised_tokens is not None:
            return "supervised tokens"
        return "rows" if self.tokens is None else "tokens"

    @property
    def limit(self) -> float:
        """The number that was given, whatever its unit."""
        given = (self.rows, self.percent, self.tokens, self.supervised_tokens)
        return next(value for value in given if value is not None)


class Select(_Strict):
    """Which method picks the subset, and how much of it."""

    method: str
    options: dict[str, Any] = Field(default_factory=dict)
    budget: Budget
    drop_duplicates: bool = Field(False, description="leave exact duplicates out of the pool")


class Export(_Strict):
    """The training manifest."""

    name: Name | None = None
    folder: str | None = Field(None, description="also copy the manifest here (path or fsspec URL)")
    shard_rows: int = Field(50_000, ge=1)


class Chosen(_Strict):
    """A method by its name, and its own options."""

    method: str
    options: dict[str, Any] = Field(default_factory=dict)


class Online(Chosen):
    """Which rows of each step are trained on, chosen while the model is trained."""

    keep: float = Field(0.25, gt=0, le=1, description="share of a step's rows that is trained on")
    group: int | None = Field(
        None, ge=1, description="rows that compete for their share; default all of a step"
    )
    safe: str | list[str] | None = Field(None, description="files of trusted rows: bds, greats")
    reference: str | None = Field(None, description="entry of models that rho_loss compares with")


class Diagnose(_Strict):
    """Columns of a run's log that tell how the model changes; they change nothing."""

    every: int = Field(
        500, ge=1, description="steps between looks; also before the first and after the last"
    )
    lid: bool = Field(True, description="local intrinsic dimension of the hidden states")
    intruders: bool = Field(True, description="leading directions of the weights that are new")
    texts: int = Field(2000, ge=1, description="rows at most whose tokens are looked at")
    points: int = Field(3000, ge=20, description="tokens at most; compare equal numbers only")
    neighbours: int = Field(64, ge=10, description="of each token, in which its dimension is told")


class Tune(_Strict):
    """Fine-tuning by the bundled trainer, or by a command that gets the manifest folder."""

    model: str | None = Field(None, description="name of an entry of models")
    method: str = Field("lora", description="of `tamis methods --trainer`")
    options: dict[str, Any] = Field(default_factory=dict, description="the method's own")
    objective: Chosen = Chosen(method="sft")
    online: Online | None = None
    optimizer: str = "adamw"
    optimizer_options: dict[str, Any] = Field(default_factory=dict)
    epochs: float = Field(1.0, gt=0)
    max_steps: int | None = Field(None, ge=1, description="stop after so many optimizer steps")
    batch_tokens: int = Field(4096, ge=64, description="tokens of a packed or padded batch")
    rows_per_step: int = Field(32, ge=1, description="samples of an optimizer step, on average")
    packing: Literal["best_fit", "dynamic", "none"] = "best_fit"
    max_length: int | None = Field(None, ge=8, description="cut-off in tokens; default the model's")
    learning_rate: float | None = Field(None, gt=0, description="default the method's")
    scheduler: Literal["cosine", "linear", "constant"] = "cosine"
    warmup: float = Field(0.03, ge=0, lt=1, description="fraction of the steps")
    weight_decay: float = Field(0.0, ge=0)
    max_grad_norm: float = Field(1.0, gt=0)
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        "auto", description="auto: bfloat16 autocast on a GPU, float32 on a CPU"
    )
    noise: float = Field(0.0, ge=0, description="NEFTune's alpha: noise on the embeddings")
    save_every: int | None = Field(None, ge=1, description="steps; default a tenth of the run")
    evaluate_every: int | None = Field(
        None, ge=1, description="steps between looks at the held-out rows; the best model is kept"
    )
    diagnose: Diagnose | None = None
    command: str | None = Field(None, description="own trainer; {manifest} and {out} are replaced")


class Tuned(Tune):
    """A model that is tuned on the pool before the pool is scored with it."""

    folds: int = Field(
        1, ge=1, le=20, description="above 1, rows are scored by a model that has not seen them"
    )
    filters: list[Filter] = Field(
        default_factory=list, description="which rows it is tuned on, if it writes for refine"
    )

    @model_validator(mode="after")
    def _ours(self) -> Tuned:
        if self.model is None or self.command is not None:
            raise ValueError("a tuned model needs model, the entry to start from, and no command")
        return self


class Evaluate(_Strict):
    """Held-out evaluation, by the bundled evaluator or by a command that gets the model folder."""

    path: str | list[str] | None = Field(
        None, description="held-out rows; default: split off the pool"
    )
    limit: int | None = Field(None, ge=1)
    holdout_percent: float = Field(
        5.0, gt=0, lt=50, description="share split off when no path is given"
    )
    max_new_tokens: int = Field(256, ge=0, description="0 leaves generation out")
    group_by: str = Field("source", description="column for the figures per group")
    bootstrap: int = Field(1000, ge=100)
    baseline: Literal["random"] | None = Field(
        "random", description="what the subset is held against"
    )
    command: str | None = Field(None, description="own evaluator; {model} and {out} are replaced")


# What every comparison holds its methods against, and so no method may be called.
BASELINES = ("random", "stratified", "length", "full")


class Contestant(_Strict):
    """A method to compare, or a list of ids from elsewhere."""

    method: str | None = None
    options: dict[str, Any] = Field(default_factory=dict)
    filters: list[Filter] | None = Field(None, description="default: the filters of the recipe")
    drop_duplicates: bool = Field(False, description="leave exact duplicates out of the pool")
    ids: str | list[str] | None = Field(
        None, description="ids in their order: a list, or a file with one a line"
    )
    by: str = Field("id", description="column of the pool whose values are listed")

    @model_validator(mode="after")
    def _one_origin(self) -> Contestant:
        if (self.method is None) == (self.ids is None):
            raise ValueError("a method to compare needs exactly one of method and ids")
        if self.ids is not None and self.options:
            raise ValueError("a list of ids takes no options")
        return self


class Compare(_Strict):
    """Many methods at equal budgets and several seeds, on the same held-out rows."""

    methods: dict[Name, Contestant] = Field(min_length=1)
    budgets: list[Budget] = Field(min_length=1, description="a plain number is tokens")
    seeds: list[int] = Field(default=[0, 1, 2], min_length=1)
    jobs: int = Field(1, ge=1, description="cells under way at once, each in a process")
    metric: str | None = Field(None, description="default exact_match, nll without generation")
    better: Literal["higher", "lower"] | None = Field(
        None, description="of a metric that evaluate.command writes"
    )

    @field_validator("budgets", mode="before")
    @classmethod
    def _numbers_are_tokens(cls, given: Any) -> Any:
        if not isinstance(given, list):
            return given
        return [{"tokens": one} if type(one) is int else one for one in given]

    @model_validator(mode="after")
    def _comparable(self) -> Compare:
        taken = sorted(set(self.methods) & set(BASELINES))
        if taken:
            raise ValueError(f"{taken[0]} is compared always: give your method another name")
        if any(budget.percent is not None for budget in self.budgets):
            raise ValueError(
                "budgets: per cents are of what filters leave, which differs; use tokens"
            )
        if len({budget.unit for budget in self.budgets}) > 1:
            raise ValueError("budgets: all must be in one unit")
        if any(budget.limit == 0 for budget in self.budgets):
            raise ValueError("budgets: nothing can be trained on a budget of 0")
        for name, given in (("seeds", self.seeds), ("budgets", self.budgets)):
            if any(one in given[:i] for i, one in enumerate(given)):
                raise ValueError(f"{name}: one is given twice")
        return self


class Engine(_Strict):
    """Where rows are scored. It changes no value and no id."""

    name: Literal["local", "ray"] = Field(
        "local", description="this machine, or the Ray cluster that RAY_ADDRESS names"
    )
    workers: int = Field(1, ge=1, description="processes or actors, each with the models loaded")
    gpus: int = Field(0, ge=0, description="so many workers, each with a GPU of its own")

    @property
    def count(self) -> int:
        """How many workers there are."""
        return self.gpus or self.workers


class Recipe(_Strict):
    """The whole recipe. Only `sources` is needed; a stage runs if its block is there."""

    name: Name = "run"
    seed: int = 0
    store: str = "tamis-store"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    engine: Engine = Engine(name="local", workers=1, gpus=0)
    sources: dict[Name, Source] = Field(min_length=1)
    models: dict[Name, Model] = Field(default_factory=dict)
    tuned: dict[Name, Tuned] = Field(default_factory=dict)
    scores: dict[Name, Score] = Field(default_factory=dict)
    refine: Refine | None = None
    filters: list[Filter] = Field(default_factory=list)
    target: Source | None = Field(None, description="rows the selection should come to resemble")
    licences: list[str] | None = Field(
        None, min_length=1, description="only rows of these may be chosen or held out"
    )
    select: Select | None = None
    export: Export = Export(name=None, folder=None, shard_rows=50_000)
    tune: Tune | None = None
    evaluate: Evaluate | None = None
    compare: Compare | None = None


class _Once(yaml.SafeLoader):
    """A safe loader that takes each name of a mapping once: YAML itself lets the last one win."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"{key.value!r} stands twice", key.start_mark
                )
            seen.add(str(key.value))
        return super().construct_mapping(node, deep)


def load(path: str | Path, settings: Sequence[str] = ()) -> Recipe:
    """Read a recipe and apply `a.b=c` settings over it. Raises `RecipeError` with one line for
    people."""
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise RecipeError(f"cannot read the recipe {path}: {error.strerror}") from error
    try:
        content = yaml.load(text, _Once)
    except yaml.YAMLError as error:
        detail = " ".join(str(error).split())
        raise RecipeError(f"{path} is not valid YAML: {detail}") from error
    if not isinstance(content, dict):
        raise RecipeError(f"{path} must hold a mapping (sources:, select:, ...)")
    return build(content, settings, where=str(path))


def build(content: Mapping[str, Any], settings: Sequence[str] = (), *, where: str) -> Recipe:
    """Make a recipe from plain values. `where` names it in errors."""
    try:
        return Recipe.model_validate(changed(content, settings))
    except ValidationError as error:
        problems = [f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()]
        raise RecipeError(f"{where}: {'; '.join(problems)}") from error

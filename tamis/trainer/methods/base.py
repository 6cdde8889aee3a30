"""What every tuning method takes and gives back."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol

from tamis.selectors.base import About

# Tensors by name, and plain values: what a method keeps in a checkpoint.
State = tuple[dict[str, Any], dict[str, Any]]


class Batches(Protocol):
    """The first `rows` rows that the run trains on, in its order, `at_once` of them a batch.

    Padded batches on the device of the run, as `pack.padded` lays them out: `lm(**batch)["nll"]`
    are the losses of their tokens.
    """

    def __call__(self, rows: int, at_once: int) -> Iterator[dict[str, Any]]:
        """Yield the batches; fewer rows where the run has fewer."""
        ...


@dataclass(frozen=True, slots=True)
class Context:
    """What a method may want to know of a run before it begins.

    `steps` optimizer steps, the first `warmup` of them with a rising rate, at most `rate`. `device`
    is cpu or cuda. Draw from a generator of your own made from `seed`. `longest` tokens have the
    rows at most. `epoch` tells in which epoch a step begins, both from 0.
    """

    steps: int
    warmup: int
    rate: float
    seed: int
    device: str
    batches: Batches
    longest: int
    epoch: Callable[[int], int] = lambda step: 0


class Method:
    """What of a model is trained, and how: a dataclass whose fields are its options.

    One object serves one run: `prepare` first, and what it wants to remember are attributes set
    there (never fields, those are options). `kind` says what it leaves: an adapter for plain peft
    or full weights for plain transformers. `packable` is False where rows behind each other would
    see each other. `exact_start` is False where the first step does not start at the model as it
    came. `steps_itself` says that `training_step` takes the place of backpropagation,
    `checkpointing` that activations may be computed again for the backward pass (on a GPU they
    are), `rests` that some of what is trained has no gradient in some steps. `version` is raised
    by hand when the same options train another model. `example` holds options for those that have
    no default.
    """

    name: ClassVar[str]
    about: ClassVar[About]
    source: ClassVar[str]
    kind: Literal["adapter", "full"]
    learning_rate: float
    packable: ClassVar[bool] = True
    exact_start: ClassVar[bool] = True
    steps_itself: ClassVar[bool] = False
    checkpointing: ClassVar[bool] = True
    rests: bool = False
    version: ClassVar[int] = 1
    example: ClassVar[Mapping[str, Any]] = {}

    def check(self) -> None:
        """Raise `RecipeError` for options that do not fit each other. Called before any work
        begins; imports nothing heavy."""

    def check_device(self, device: str) -> None:
        """Raise `RecipeError` where the method cannot run on `device`, cpu or cuda, and
        `MissingPackage` for what it needs there and is not installed; called as `check` is."""

    def prepare(self, lm: Any, context: Context) -> Any:
        """The model to be trained: `lm` itself or what wraps it, `requires_grad` set.

        `lm` comes frozen, with the loss as its forward. All that is ever trained requires grad when
        this returns: the optimizer takes no parameter later. To freeze some for a while, do so in
        `step_begin`.
        """
        raise NotImplementedError

    def parameters(self, trained: Any, rate: float, decay: float) -> list[dict[str, Any]] | None:
        """Groups for the optimizer; None for all that require grad, norms and biases undecayed."""
        return None

    def optimizer(self, trained: Any, rate: float, decay: float) -> Any | None:
        """An optimizer of the method's own; None for that of the recipe."""
        return None

    def step_begin(self, step: int, optimizer: Any) -> None:
        """Called before optimizer step `step` (from 0), after a resume too."""

    def step_end(self, step: int) -> None:
        """Called after optimizer step `step` (from 0), while its gradients are still there."""

    def training_step(self, loss: Callable[[], Any], step: int, rate: float) -> Any:
        """Change the parameters without gradients and return the loss to log.

        Called where `steps_itself`, in the place of the backward pass and the optimizer's step.
        `loss()` is that of the whole step at the parameters as they stand, a tensor without
        gradient, dropout off.
        """
        raise NotImplementedError

    def penalty(self) -> Any | None:
        """A term of the trained parameters to add to the loss of a step; None for none."""
        return None

    def state_dict(self) -> State:
        """What a resumed run needs beside the trained parameters and the optimizer's state.

        Tensors go to safetensors, plain values to JSON.
        """
        return {}, {}

    def load_state_dict(self, tensors: Mapping[str, Any], values: Mapping[str, Any]) -> None:
        """Take up what `state_dict` gave; called after `prepare`, before the first step."""

    def save(self, lm: Any, trained: Any, folder: Path) -> None:
        """Write what plain peft or plain transformers reload, with equal logits.

        `lm` has its own forward again. Tokenizer and generation config are not a method's business.
        """
        if trained is lm:
            lm.save_pretrained(folder)
        else:
            trained.save_pretrained(folder, save_embedding_layers=False)

    def trainable(self, trained: Any) -> int:
        """Numbers that a step trains."""
        return sum(p.numel() for p in trained.parameters() if p.requires_grad)

    def facts(self) -> dict[str, Any]:
        """What to report of the run: chosen layers and the like, plain values."""
        return {}

"""The simple rules that every other has to beat: chance, loss, gradient norm, excess loss."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from tamis.selectors.base import About
from tamis.selectors.online.base import BatchPicker, Scores, numbers


@dataclass
class Random(BatchPicker):
    """Every subset of size k of a batch is equally likely. No paper.

    The draw hangs on seed and step alone, so a resumed run picks the same rows.
    """

    name: ClassVar[str] = "random"
    about: ClassVar[About] = About(
        sentence="Keeps random rows of each batch.",
        needs="nothing, not even a scoring pass",
        cost="none",
        avoid="as the final word: it is the baseline to compare with",
    )

    def needs(self) -> frozenset[str]:
        """How many rows there are: any column would do; it reads the trained tokens of a row."""
        return frozenset({"tokens"})

    def score(self, batch: Mapping[str, Any]) -> Scores:
        """A uniform number for each row."""
        return {"total": self.generator().random(len(numbers(batch, "tokens", self.name)))}


@dataclass
class MaxLoss(BatchPicker):
    """Keep the rows of highest mean loss over their trained tokens. O(B).

    A baseline of arXiv 2510.16882.
    """

    name: ClassVar[str] = "max_loss"
    about: ClassVar[About] = About(
        sentence="Keeps the rows of each batch that the model finds hardest.",
        needs="the mean loss of each row, from one forward pass",
        cost="one forward pass a candidate",
        avoid="when the data hold noise or wrong answers: they have the highest loss",
    )

    def needs(self) -> frozenset[str]:
        """The loss."""
        return frozenset({"loss"})

    def score(self, batch: Mapping[str, Any]) -> Scores:
        """The loss itself."""
        return {"total": numbers(batch, "loss", self.name)}


@dataclass
class MaxGradNorm(BatchPicker):
    """Keep the rows whose gradient over the trained parameters is longest. O(B).

    `gradient_norm` may be the norm or its square: the order is the same. A baseline of arXiv
    2510.16882.
    """

    name: ClassVar[str] = "max_gradnorm"
    about: ClassVar[About] = About(
        sentence="Keeps the rows of each batch that would move the model most.",
        needs="the norm of each row's own gradient",
        cost="a forward and a backward pass a candidate",
        avoid="when speed is the aim: it saves no backward pass",
    )

    def needs(self) -> frozenset[str]:
        """The gradient norm."""
        return frozenset({"gradient_norm"})

    def score(self, batch: Mapping[str, Any]) -> Scores:
        """The norm itself."""
        return {"total": numbers(batch, "gradient_norm", self.name)}


@dataclass
class RhoLoss(BatchPicker):
    """Keep the rows of highest excess loss: loss now less the loss of a reference model. O(B).

    Source: Mindermann et al., "Prioritized training", 2022 (arXiv 2206.07137). The reference loss
    does not change in training and is scored once, beforehand.
    """

    name: ClassVar[str] = "rho_loss"
    about: ClassVar[About] = About(
        sentence="Keeps what can still be learned: high loss now, low for a reference.",
        needs="the loss of each row, now and of a reference model",
        cost="one forward pass a candidate, and one of the reference over the pool beforehand",
        avoid="without a reference model that is good at the task",
    )

    def needs(self) -> frozenset[str]:
        """Both losses."""
        return frozenset({"loss", "reference_loss"})

    def score(self, batch: Mapping[str, Any]) -> Scores:
        """Loss less reference loss; NaN where either is."""
        loss = numbers(batch, "loss", self.name)
        reference = numbers(batch, "reference_loss", self.name)
        return {"total": loss - reference, "loss": loss, "reference_loss": reference}

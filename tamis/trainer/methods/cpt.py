"""CPT: real examples before every row, whose embeddings are trained a little."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tamis.errors import RecipeError
from tamis.selectors.base import About
from tamis.trainer.methods.base import Context
from tamis.trainer.methods.prompts import VIRTUAL_AVOID, Virtual

# What peft calls the parts of an example; each next example counts from four further on.
_INPUT, _LABEL, _PARTS = 2, 4, 4


@dataclass
class Cpt(Virtual):
    """The first `examples` rows of the run stand before each row as embeddings; those of all tokens
    but the answers' are trained, within a ball around where they began (arXiv 2410.17222), by peft.

    The radius is `epsilon` sqrt(width / 2048), and every pass begins by drawing what has left the
    ball back to it. The loss adds sum_k decay^k L_k, with L_k the mean -log p of the answer of the
    k-th example before the row. The examples do not see the row, so this is a term of the trained
    embeddings alone and is added once a step.

    peft's own loss needs whole logits, draws the mean over the tokens of row and examples together
    (the same up to a factor where answers are one token), and computes the examples anew for every
    row. It also tells the tokens of a template from the input's; one radius serves both here. What
    is saved are the embeddings as they ended. The default rate is ours.
    """

    name = "cpt"
    about = About(
        sentence="Some training rows before each row, their embeddings trained within bounds.",
        needs="packing: none; examples that fit the model's limit beside the longest row",
        cost="a number a token and dimension of the examples; each row is so much longer",
        avoid=VIRTUAL_AVOID,
    )
    source = "arXiv 2410.17222"
    learning_rate = 1e-3

    examples: int = 4
    epsilon: float = 0.1
    decay: float = 0.95

    def check(self) -> None:
        """See `Method`."""
        if self.examples < 1 or self.epsilon <= 0 or not 0 <= self.decay <= 1:
            raise RecipeError(
                "cpt: examples must be at least 1, epsilon above 0, decay from 0 to 1"
            )

    def config(self, lm: Any, context: Context) -> Any:
        """See `Adapter`."""
        from peft import CPTConfig, TaskType

        ids, kinds = self.shown
        return CPTConfig(
            task_type=TaskType.CAUSAL_LM,
            cpt_token_ids=ids,
            cpt_mask=[1] * len(ids),
            cpt_tokens_type_mask=kinds,
            opt_projection_epsilon=self.epsilon,
            opt_projection_format_epsilon=self.epsilon,
        )

    def prepare(self, lm: Any, context: Context) -> Any:
        """See `Method`."""
        ids, kinds, weights = _laid_out(list(context.batches(self.examples, 1)), self.decay)
        self.shown = ids, kinds
        self.trained = super().prepare(lm, context)
        self.trained.forward = _forward(self.trained, lm)
        self.lm, self.ids, self.weights = lm, ids, weights
        return self.trained

    def penalty(self) -> Any:
        """See `Method`: the loss of the examples themselves."""
        import torch

        embedded = self.trained.get_prompt(batch_size=1)
        labels = torch.tensor([self.ids], device=embedded.device)
        weights = torch.tensor([self.weights], device=embedded.device)
        labels = labels.masked_fill(weights == 0, -100)
        terms = self.lm(inputs_embeds=embedded, labels=labels, loss_weights=weights)
        return (terms["nll"] * terms["weights"]).sum()

    def trainable(self, trained: Any) -> int:
        """See `Method`: the answers of the examples stay as they are."""
        width = int(trained.prompt_encoder["default"].delta_embedding.weight.shape[1])
        return width * sum(kind % _PARTS == _INPUT for kind in self.shown[1])

    def facts(self) -> dict[str, Any]:
        """How many tokens stand before each row."""
        return {"virtual_tokens": len(self.ids)}


def _laid_out(batches: list[dict[str, Any]], decay: float) -> tuple[list[int], list[int], Any]:
    """Of the examples behind each other: the tokens, peft's number for the part each belongs to,
    and what each weighs in the loss of the examples."""
    ids: list[int] = []
    kinds: list[int] = []
    weights: list[float] = []
    for at, batch in enumerate(batches):
        row, labels = (batch[name][0].tolist() for name in ("input_ids", "labels"))
        answer = [label != -100 for label in labels]
        share = decay ** (len(batches) - at) / max(1, sum(answer))
        ids += row
        kinds += [at * _PARTS + (_LABEL if a else _INPUT) for a in answer]
        weights += [share if a else 0.0 for a in answer]
    weights[0] = 0.0  # nothing predicts the first token
    return ids, kinds, weights


def _forward(trained: Any, lm: Any) -> Callable[..., Any]:
    """The forward pass of a model with this adapter whose own loss is `loss.terms_forward`; peft's
    where no labels are given."""
    import torch

    def forward(
        input_ids: Any = None, labels: Any = None, loss_weights: Any = None, **given: Any
    ) -> Any:
        if labels is None:
            return type(trained).forward(trained, input_ids=input_ids, **given)
        before = trained.get_prompt(batch_size=len(input_ids))
        embedded = torch.cat([before, trained.word_embeddings(input_ids)], dim=1)
        unlabelled = labels.new_full(before.shape[:2], -100)
        return lm(
            inputs_embeds=embedded,
            labels=torch.cat([unlabelled, labels], dim=1),
            loss_weights=loss_weights,
        )

    return forward

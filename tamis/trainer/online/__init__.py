"""Online selection in the trainer: each step's rows are scored, and the best of them trained on."""

from __future__ import annotations

from tamis.trainer.online.check import check
from tamis.trainer.online.given import Beside
from tamis.trainer.online.hook import OnlineSteps
from tamis.trainer.online.picking import Picking
from tamis.trainer.online.picks import NAME as PICKS
from tamis.trainer.online.report import ROWS, facts, write_rows
from tamis.trainer.online.safe import joined
from tamis.trainer.online.start import beside, picking, reference_losses

__all__ = [
    "PICKS",
    "ROWS",
    "Beside",
    "OnlineSteps",
    "Picking",
    "beside",
    "check",
    "facts",
    "joined",
    "picking",
    "reference_losses",
    "write_rows",
]

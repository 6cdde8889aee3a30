"""Training throughput against TRL's SFTTrainer with packing, on the same rows.

    python -m benchmarks.throughput [--model FOLDER] [--size NAME] [--data ROWS.parquet]
        [--device auto] [--rows-per-step 64] [--steps 4] [--rounds 3] [--tokens N] [--out FILE]

Both train the same LoRA (rank 16 on all linear layers) with AdamW on the same tokens and labels,
whole rows packed; tokens are those of rows. TRL packs by its default (best fit, `max_length` 1,024)
and takes `--tokens` of packed rows a forward, as many forwards a step as hold about as many rows as
ours, which takes `--tokens` at most a forward. They take turns; the first step of each turn
is left out, and the median of all others counts. Rows are made into tokens beforehand. Rows: T0's
with --data; else generated, as long as T0's. Prints one JSON line.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from benchmarks._record import record, surroundings, times
from benchmarks._tuning import command_line, middle, prepared, timed_run
from tamis.language.load import load_model, load_tokenizer
from tamis.numerics.device import resolve
from tamis.recipe import Model
from tamis.trainer.data import Examples

LONGEST = 1024
DEFAULTS = {"cpu": (None, 1024), "cuda": ("half_billion", 8192)}


def main() -> None:
    """Measure and print."""
    parser = command_line(__doc__, steps=4)
    parser.add_argument("--tokens", type=int, help="tokens of a forward pass")
    options = parser.parse_args()
    device = resolve(options.device)
    size, tokens = options.size or DEFAULTS[device][0], options.tokens or DEFAULTS[device][1]
    result: dict[str, Any] = {
        "benchmark": "throughput",
        **surroundings(device),
        "steps": options.steps,
        "rounds": options.rounds,
        "tokens_a_forward": tokens,
        "rows_per_step": options.rows_per_step,
    }
    with TemporaryDirectory() as folder:
        per_step = options.rows_per_step
        count = (options.steps + 1) * per_step
        model, rows, told = prepared(options, size, Path(folder), count, LONGEST)
        ways: dict[str, list[np.ndarray]] = {"trl": [], "tamis": []}
        chosen = {"method": "lora", "rows_per_step": per_step, "batch_tokens": tokens}
        for _ in range(options.rounds):
            ways["trl"].append(trl_rates(rows, model, device, tokens, options.steps, per_step))
            ways["tamis"].append(timed_run(rows, model, chosen, device).rates)
    result |= told
    for way, rates in ways.items():
        result[f"{way}_tokens_a_second"] = round(middle(rates))
    line = times(
        f"training, {told['rows']}, {told['model']}, {device}",
        1e6 / result["tamis_tokens_a_second"],
        "TRL SFTTrainer, packing",
        1e6 / result["trl_tokens_a_second"],
        at_least=1,
        unit="s / 1e6 tokens",
    )
    record({**result, "lines": [line]}, options.out)


def trl_rates(
    rows: Examples, model: Model, device: str, tokens: int, steps: int, rows_per_step: int
) -> np.ndarray:
    """Tokens a second of every step but the first, of an SFTTrainer."""
    from transformers import TrainerCallback

    ends: list[tuple[float, int]] = []
    trained = 0

    class Clock(TrainerCallback):
        """Notes when a step ends."""

        def on_step_end(self, *_: Any, **__: Any) -> None:
            ends.append((time.perf_counter(), trained))

    with TemporaryDirectory() as folder:
        trainer = sft_trainer(rows, model, device, tokens, rows_per_step, Path(folder), steps + 1)
        loss = trainer.compute_loss

        def counted(model: Any, inputs: dict[str, Any], *given: Any, **named: Any) -> Any:
            nonlocal trained
            trained += inputs["input_ids"].numel()  # one row of whole rows, without padding
            return loss(model, inputs, *given, **named)

        trainer.compute_loss = counted
        trainer.add_callback(Clock())
        trainer.train()
    times_, totals = (np.array(column) for column in zip(*ends, strict=True))
    return np.diff(totals) / np.diff(times_)


def sft_trainer(
    rows: Examples,
    model: Model,
    device: str,
    tokens: int,
    rows_per_step: int,
    folder: Path,
    steps: int,
) -> Any:
    """TRL's trainer as a user of it would set it up: packing, LoRA, its other defaults."""
    try:
        from trl import SFTConfig, SFTTrainer
    except ImportError:
        sys.exit("the rival is not installed: pip install 'tamis[bench]'")
    import datasets
    from peft import LoraConfig
    from transformers import PrinterCallback

    datasets.disable_progress_bars()
    made = [rows.row(i) for i in range(len(rows))]
    data = datasets.Dataset.from_dict(
        {"input_ids": [ids.tolist() for ids, _ in made], "labels": [l.tolist() for _, l in made]}
    )
    cuda = device == "cuda"
    packed_rows = max(1, tokens // LONGEST)
    per_step = float(rows.lengths.mean()) * rows_per_step
    config = SFTConfig(
        output_dir=str(folder),
        packing=True,
        max_length=LONGEST,
        per_device_train_batch_size=packed_rows,
        gradient_accumulation_steps=max(1, round(per_step / LONGEST / packed_rows)),
        max_steps=steps,
        learning_rate=2e-4,
        bf16=cuda,
        gradient_checkpointing=cuda,
        use_cpu=not cuda,
        save_strategy="no",
        logging_steps=1,
        report_to="none",
        disable_tqdm=True,
        dataloader_pin_memory=cuda,
    )
    trainer = SFTTrainer(
        model=load_model(model.model_copy(update={"dtype": "float32"}), device),
        args=config,
        train_dataset=data,
        processing_class=load_tokenizer(model),
        peft_config=LoraConfig(
            r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM"
        ),
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


if __name__ == "__main__":
    main()

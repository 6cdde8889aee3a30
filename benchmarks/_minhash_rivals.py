"""The MinHash of other projects on a file of texts, run by the Python they are installed in.

PYTHON benchmarks/_minhash_rivals.py datatrove|data-juicer FILE.jsonl THRESHOLD. Prints one JSON
line: the seconds of the processor and the numbers of the rows that would be dropped.
"""

from __future__ import annotations

import json
import logging
import sys
import tempfile
import time
from pathlib import Path


def datatrove(path: Path, threshold: float) -> tuple[float, list[int]]:
    """Its four stages, one after another in this process, at its defaults (14 bands of 8); it has
    no threshold."""
    from datatrove.data import Document
    from datatrove.pipeline.dedup import (
        MinhashDedupBuckets,
        MinhashDedupCluster,
        MinhashDedupFilter,
        MinhashDedupSignature,
    )
    from datatrove.pipeline.dedup.minhash import MinhashConfig
    from loguru import logger

    logger.remove()
    lines = path.read_text(encoding="utf-8").splitlines()
    documents = [Document(json.loads(line)["text"], str(i)) for i, line in enumerate(lines)]
    config = MinhashConfig()
    with tempfile.TemporaryDirectory() as folder:
        parts = {name: f"{folder}/{name}" for name in ("signatures", "buckets", "removed")}
        start = time.process_time()
        MinhashDedupSignature(parts["signatures"], config=config).run(iter(documents), 0, 1)
        for bucket in range(config.num_buckets):
            MinhashDedupBuckets(parts["signatures"], parts["buckets"], config=config).run(
                None, bucket, config.num_buckets
            )
        MinhashDedupCluster(parts["buckets"], parts["removed"], config=config).run(None, 0, 1)
        kept = {d.id for d in MinhashDedupFilter(parts["removed"]).run(iter(documents), 0, 1)}
        seconds = time.process_time() - start
    return seconds, [i for i in range(len(documents)) if str(i) not in kept]


def data_juicer(path: Path, threshold: float) -> tuple[float, list[int]]:
    """Its operator with runs of five words, 256 permutations and balanced bands, its defaults."""
    from data_juicer.ops.deduplicator.document_minhash_deduplicator import (
        DocumentMinhashDeduplicator,
    )
    from datasets import Dataset

    lines = path.read_text(encoding="utf-8").splitlines()
    texts = [json.loads(line)["text"] for line in lines]
    rows = Dataset.from_dict({"text": texts, "row": list(range(len(texts)))})
    operator = DocumentMinhashDeduplicator(jaccard_threshold=threshold)
    start = time.process_time()
    if operator.is_batched_op():
        hashed = rows.map(operator.compute_hash, batched=True)
    else:
        hashed = rows.map(operator.compute_hash)
    kept, _ = operator.process(hashed)
    seconds = time.process_time() - start
    return seconds, sorted(set(range(len(texts))) - set(kept["row"]))


def main() -> None:
    name, path, threshold = sys.argv[1:]
    logging.disable(logging.WARNING)
    run = {"datatrove": datatrove, "data-juicer": data_juicer}[name]
    seconds, dropped = run(Path(path), float(threshold))
    print(json.dumps({"seconds": seconds, "dropped": dropped}))


if __name__ == "__main__":
    main()

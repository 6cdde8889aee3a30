"""Every file of these folders of vectors is read: a new one fails until a test reads it."""

from __future__ import annotations

from collections.abc import Callable
from fnmatch import fnmatch
from pathlib import Path

import pytest

# Which test reads which files.
READ = {
    "clear": {
        "*.json": "scoring/clear/test_clear_vectors.py",
        "*.npz": "scoring/clear/test_clear_vectors.py",
    },
    "signals": {
        "ability_budget*.json": "numerics/test_contrast.py",
        "contrastive_*.npz": "numerics/test_contrast.py",
        "dedup*.json": "scoring/duplicates/test_minhash.py",
        "el2n.npz": "numerics/test_logits.py",
        "jaccard_ngram*.npz": "scoring/duplicates/test_minhash.py",
        "lsh_params*.json": "numerics/test_minhash.py",
        "minhash_legacy_ngram*.npz": "numerics/test_minhash.py",
        "perplexity.npz": "scoring/test_perplexity.py",
        "semantic_dedup*.npz": "scoring/duplicates/test_semantic.py",
        "textdedup_ngrams*.json": "scoring/test_shingles.py",
    },
    "deconfound": {"*.npz": "scoring/test_transforms.py"},
    "codeact": {
        "cdas_select*.npz": "selectors/test_score_methods.py",
        "dynamic_pack*": "trainer/test_pack.py",
        "ifd.json": "scoring/test_ifd.py",
        "ifd_logprobs.npz": "scoring/test_ifd.py",
    },
    "dealrec": {
        "influence_*.npz": "numerics/test_influence.py",
        "select_*.npz": "selectors/test_dealrec.py",
    },
    "adapt_inf": {
        "ccs.*": "selectors/test_adapt_inf.py",
        "cluster_budget.json": "selectors/test_adapt_inf.py",
        "expert_*": "selectors/test_adapt_inf.py",
        "prune_*.npz": "selectors/test_adapt_inf.py",
        "token_scores.npz": "scoring/test_token_scores.py",
    },
    "trainer": {
        "grad_accum.npz": "trainer/test_loss.py",
        "lift.npz": "trainer/methods/test_lift.py",
        "lines.npz": "trainer/after/test_after.py",
        "lora_sb_init.npz": "trainer/methods/test_lora_sb.py",
        "losses*.npz": "trainer/objectives/test_vectors.py",
        "mezo.npz": "trainer/methods/test_mezo.py",
        "neuroada_masks.npz": "trainer/methods/test_neuroada.py",
        "soups.npz": "trainer/after/test_after.py",
        "taid_schedule.npz": "trainer/objectives/test_taid.py",
    },
    "uds": {
        "greats_greedy.json": "selectors/online/test_rules.py",
        "hidden_route.npz": "selectors/online/test_uds.py",
        "nuclear.npz": "selectors/online/test_uds.py",
        "projection.npz": "selectors/online/test_uds.py",
        "sequence_*.npz": "selectors/online/test_uds.py",
    },
    "bds": {
        "one_step_oracle.npz": "selectors/online/test_bds.py",
        "per_sample_ce.npz": "selectors/online/test_bds.py",
        "scalar_*.npz": "selectors/online/test_bds.py",
    },
    "lid": {"*.npz": "numerics/test_lid.py"},
    "middo": {"*.npz": "scoring/test_middo.py", "*.json": "scoring/test_middo.py"},
}


@pytest.mark.parametrize("folder", sorted(READ))
def test_every_file_has_a_test_that_reads_it(vectors: Callable[[str], Path], folder: str) -> None:
    here = Path(__file__).parent
    there = [p.name for p in vectors(folder).iterdir() if p.suffix in (".npz", ".json")]
    for pattern, test in READ[folder].items():
        assert any(fnmatch(name, pattern) for name in there), f"{pattern} matches nothing"
        assert f'vectors("{folder}")' in (here / test).read_text("utf-8")
    strange = [n for n in there if not any(fnmatch(n, p) for p in READ[folder])]
    assert not strange, f"no test reads {strange}"

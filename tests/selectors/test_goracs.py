"""goracs: exact values, scores and bounds of the stored cases; groups no worse than stored ones."""

import itertools
import json

import numpy as np
import pytest

from tamis.errors import DataError, RecipeError
from tamis.numerics import exchange
from tamis.selectors import Goracs, Pool


def rng(seed=0):
    return np.random.default_rng(seed)


def problem_of(z, prefix="", lam=None):
    x, y = (z[f"{prefix}emb_{n}"].astype(np.float64) for n in ("train", "target"))
    distance = np.linalg.norm(x[:, None] - y[None], axis=2)
    norm = z[f"{prefix}grad_norm"].astype(np.float64)
    lam = float(z[f"{prefix}lam"]) if lam is None else lam
    return exchange.Problem(distance / distance.max(), lam * norm / norm.max())


def pool_of(z, prefix="", **more):
    x, y = z[f"{prefix}emb_train"], z[f"{prefix}emb_target"]
    columns = {"v": x, "g": z[f"{prefix}grad_norm"], **more}
    return Pool(len(x), columns, target=Pool(len(y), {"v": y}))


def method(z, prefix="", **options):
    base = {"embedding": "v", "gradient": "g", "normalize": False}
    if f"{prefix}lam" in z:
        base["weight"] = float(z[f"{prefix}lam"])
    return Goracs(**{**base, **options})


def cases(vectors):
    files = sorted(vectors("goracs").glob("case_*.npz"))
    assert files
    return [(path.name, np.load(path)) for path in files]


def stored(vectors, stem):
    """The files of one kind; a folder of other vectors need not hold every kind."""
    files = sorted(vectors("goracs").glob(f"{stem}*.npz"))
    if not files:
        pytest.skip(f"no {stem} among these vectors")
    return [np.load(path) for path in files]


def parts(vectors):
    """(file, prefix) of each problem whose subsets are all known."""
    files = stored(vectors, "bruteforce")
    return [(z, p) for z in files for p in sorted({f"{n.split('_')[0]}_" for n in z.files})]


def test_final_groups_of_stored_cases(vectors):
    told = json.loads((vectors("goracs") / "summary.json").read_text())["cases"]
    for (name, z), case in zip(cases(vectors), told, strict=True):
        k = int(z["k"])
        chosen = method(z, cut=int(z["cut_num"]), exchanges=int(z["max_iters"]))
        found = chosen.select(pool_of(z), k, rng=rng())
        value = problem_of(z).solve(found.index).value
        assert value == pytest.approx(found.facts["objective"], abs=1e-9)
        assert value <= z["poo"][1] + 1e-6, name
        room = 0.05 * (case["poo_random_mean"] - z["poo"][2])
        assert value <= z["poo"][2] + room, name
        trace = found.curves["objective"]
        assert (np.diff(trace) < 0).all() and trace[0] == found.facts["start"]


def test_against_all_subsets(vectors):
    for z, prefix in parts(vectors):
        problem = problem_of(z, prefix)
        n, k = len(problem.distance), int(z[f"{prefix}k"])
        values = z[f"{prefix}all_values"]
        some = rng(1).choice(len(values), 20, replace=False)
        subsets = list(itertools.combinations(range(n), k))
        for at in some:
            rows = np.array(subsets[at])
            assert problem.solve(rows).value == pytest.approx(values[at], abs=1e-6)
        found = method(z, prefix, cut=30).select(pool_of(z, prefix), k, rng=rng())
        best = values.min()
        assert found.facts["objective"] - best <= 0.05 * (np.median(values) - best)


def test_stored_edge_cases(vectors):
    for z in stored(vectors, "edge"):
        few = method(z, "few_").select(pool_of(z, "few_"), int(z["few_k"]), rng=rng())
        assert few.facts["objective"] <= float(z["few_poo_final"]) + 1e-6
        everything = problem_of(z, "few_")
        whole = everything.solve(np.arange(len(everything.distance)))
        assert whole.value == pytest.approx(float(z["full_poo"]), abs=1e-6)
        copies = Pool(
            len(z["dup_emb_train"]),
            {"v": z["dup_emb_train"], "g": z["dup_grad_norm"]},
            target=Pool(len(z["few_emb_target"]), {"v": z["few_emb_target"]}),
        )
        found = Goracs(embedding="v", normalize=False).select(copies, int(z["dup_k"]), rng=rng())
        assert found.facts["objective"] <= float(z["dup_poo_final"]) + 1e-6


def test_groups_follow_the_target(vectors):
    for z in stored(vectors, "label_enhanced"):
        pool = labelled(z)
        labels = pool.columns["label"]
        chosen = method(z, group="label", cut=3, exchanges=20)
        found = chosen.select(pool, int(z["k"]), rng=rng())
        picked = labels[found.index]
        assert (picked == "yes").sum() == int(z["n_pos"])
        assert (picked == "no").sum() == int(z["n_neg"])
        assert len(found.curves["objective"]) == found.facts["exchanges"] + 1
        with pytest.raises(DataError, match="group 'yes' and the pool has none"):
            chosen.select(
                Pool(5, {n: c[labels == "no"][:5] for n, c in pool.columns.items()}, pool.target),
                2,
                rng=rng(),
            )


def test_every_stored_file_is_known(vectors):
    """A file that no test here or of the exchanges reads would be a case left out."""
    kinds = ("case_", "bruteforce", "edge", "label_enhanced", "mi_scores", "summary")
    assert all(path.name.startswith(kinds) for path in vectors("goracs").glob("*.[nj]*"))


def test_official_reproduces_the_authors_groups(vectors):
    told = json.loads((vectors("goracs") / "summary.json").read_text())["cases"]
    for (name, z), case in zip(cases(vectors), told, strict=True):
        if not case["greedy_same"]:  # then their start is decided by rounding
            continue
        chosen = method(z, cut=int(z["cut_num"]), exchanges=int(z["max_iters"]), official=True)
        found = chosen.select(pool_of(z), int(z["k"]), rng=rng())
        assert found.index.tolist() == z["final_official"].tolist(), name
        assert found.facts["objective"] == pytest.approx(z["poo"][1], abs=1e-6)
        assert found.facts["start"] == pytest.approx(z["poo"][0], abs=1e-6)


def test_official_reproduces_the_authors_small_groups(vectors):
    for z, prefix in parts(vectors):
        k, problem = int(z[f"{prefix}k"]), problem_of(z, prefix)
        if len(np.unique(problem.costs(slice(None)).argmin(axis=0))) < k:
            continue  # rounding decides the start
        found = method(z, prefix, official=True).select(pool_of(z, prefix), k, rng=rng())
        assert sorted(found.index.tolist()) == sorted(z[f"{prefix}official"].tolist())


def labelled(z):
    names = {n: np.where(z[f"label_{n}"], "yes", "no").astype(object) for n in ("train", "target")}
    target = Pool(len(z["emb_target"]), {"v": z["emb_target"], "label": names["target"]})
    columns = {"v": z["emb_train"], "g": z["grad_norm"], "label": names["train"]}
    return Pool(len(z["emb_train"]), columns, target=target)


def test_official_groups_of_labels(vectors):
    for z in stored(vectors, "label_enhanced"):
        options = {"cut": int(z["cut_num"]), "exchanges": int(z["max_iters"]), "official": True}
        found = method(z, group="label", **options).select(labelled(z), int(z["k"]), rng=rng())
        # The authors put the positive class first, this the groups in the order of their names.
        yes = z["label_train"][found.index]
        order = np.concatenate([found.index[yes], found.index[~yes]])
        assert order.tolist() == z["final_official"].tolist()
        assert found.facts["longest_distance"] == 1.0


def test_properties():
    r = rng(5)
    x, y = r.normal(size=(60, 4)), r.normal(size=(25, 4)) + 0.5
    norm = r.gamma(2, size=60)
    pool = Pool(60, {"v": x, "g": norm}, target=Pool(25, {"v": y}))
    plain = Goracs(embedding="v", normalize=False)
    found = plain.select(pool, 6, rng=rng())
    # Bounds spare solves: never more than one start and the tries of each round.
    assert found.facts["solves"] <= 2 + 20 * (found.facts["exchanges"] + 1)
    moved = Pool(60, {"v": 3 * x + 1}, target=Pool(25, {"v": 3 * y + 1}))
    other = plain.select(moved, 6, rng=rng())
    assert other.facts["objective"] == pytest.approx(found.facts["objective"], abs=1e-5)
    heavy = Goracs(embedding="v", gradient="g", weight=1000.0, cut=60).select(pool, 6, rng=rng())
    assert sorted(heavy.index.tolist()) == sorted(np.argsort(-norm)[:6].tolist())
    one = plain.select(pool, 1, rng=rng())
    gap = np.linalg.norm(x[:, None].astype(np.float32) - y[None].astype(np.float32), axis=2)
    assert one.index.tolist() == [int(gap.mean(axis=1).argmin())]
    itself = Pool(12, {"v": x[:12]}, target=Pool(12, {"v": x[:12]}))
    assert plain.select(itself, 11, rng=rng()).facts["objective"] < 0.05


def test_pool_as_its_own_target():
    x = rng(6).normal(size=(80, 3))
    found = Goracs(embedding="v", sample=20, exchanges=5).select(Pool(80, {"v": x}), 8, rng=rng())
    worse = [
        problem.solve(rng(s).choice(80, 8, replace=False)).value
        for problem in [_own(x, 20)]
        for s in range(5)
    ]
    assert found.facts["objective"] < min(worse)


def _own(x, size):
    rows = np.sort(rng().choice(80, size, replace=False))
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    distance = np.linalg.norm(unit[:, None] - unit[rows][None], axis=2)
    return exchange.Problem(distance / distance.max(), np.zeros(80))


def test_refuses_nonsense(monkeypatch):
    x = rng().normal(size=(6, 3))
    with pytest.raises(DataError, match="3 numbers a row in the pool and 2"):
        Goracs(embedding="v").select(Pool(6, {"v": x}, Pool(2, {"v": x[:2, :2]})), 2, rng=rng())
    with pytest.raises(DataError, match="norms"):
        Goracs(embedding="v", gradient="g").select(
            Pool(6, {"v": x, "g": -np.ones(6)}), 2, rng=rng()
        )
    monkeypatch.setattr("tamis.selectors.goracs._CELLS", 5)
    with pytest.raises(DataError, match="select a smaller pool"):
        Goracs(embedding="v").select(Pool(6, {"v": x}), 2, rng=rng())
    for bad in (np.nan, np.inf):
        y = x.copy()
        y[3, 1] = bad
        with pytest.raises(DataError, match="column v has NaN or infinity"):
            Goracs(embedding="v").select(Pool(6, {"v": x}, Pool(6, {"v": y})), 2, rng=rng())
    with pytest.raises(DataError, match="at least one row"):
        Goracs(embedding="v").select(Pool(6, {"v": x}, Pool(0, {"v": x[:0]})), 2, rng=rng())
    for wrong in ({"weight": -1.0}, {"cut": 0}, {"sample": 0}):
        with pytest.raises(RecipeError, match="goracs"):
            Goracs(**wrong)


def test_says_what_it_needs_of_the_target():
    assert Goracs.target == "optional"
    plain = Goracs(embedding="v", gradient="g")
    assert plain.target_needs() == {"v"} and plain.needs() == {"v", "g"}
    assert Goracs(embedding="v", group="c").target_needs() == {"v", "c"}

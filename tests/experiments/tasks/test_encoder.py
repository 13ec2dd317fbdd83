"""Depths as encoders: the numbers of Hugging Face, and mteb's own scores, offline."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from families import eager
from hugging_face_oracle import record

import mcr_lens as mcr
from mcr_lens.errors import InputError
from mcr_lens.experiments.tasks import DepthEncoder, TextStates, embedding_tasks
from mcr_lens.hooks.observers.pooled_states import PooledStates

mteb = pytest.importorskip("mteb", reason="needs mteb, of the extra [tasks]")

TEXTS = ["w1 w2 w3", "w4", "w5 w6 w7 w8 w9 w10 w11", "w4", "w12 w13"]


def batches(texts: list[str], size: int = 2) -> list[dict[str, list[str]]]:
    """What mteb's data loader gives."""
    return [{"text": texts[start : start + size]} for start in range(0, len(texts), size)]


def metadata(kind: str, name: str, score: str) -> Any:
    return mteb.TaskMetadata(
        type=kind,
        name=name,
        main_score=score,
        description="Made up for a test.",
        reference=None,
        dataset={"path": "none", "revision": "none"},
        eval_splits=["test"],
        eval_langs=["eng-Latn"],
        date=None,
        domains=None,
        task_subtypes=None,
        license=None,
        annotations_creators=None,
        dialect=None,
        sample_creation=None,
        bibtex_citation=None,
    )


def sentences(n: int, seed: int) -> tuple[list[str], list[int]]:
    """Random words, and the label's own word among them."""
    rng = np.random.default_rng(seed)
    labels = [number % 2 for number in range(n)]
    rows = [[*rng.integers(0, 40, 4), 50 + label, 50 + label] for label in labels]
    return [" ".join(f"w{word}" for word in rng.permutation(row)) for row in rows], labels


def classification_task(name: str = "MadeUpClassification") -> Any:
    """A local task that counts how often its data are loaded."""
    from datasets import Dataset, DatasetDict
    from mteb.abstasks.classification import AbsTaskClassification

    class MadeUp(AbsTaskClassification):
        metadata = globals()["metadata"]("Classification", name, "accuracy")
        n_experiments = 3
        loads = 0

        def load_data(self, num_proc: int | None = None, **_: Any) -> None:
            type(self).loads += 1
            parts = {"train": sentences(60, 0), "test": sentences(40, 1)}
            made: Any = DatasetDict(
                {part: Dataset.from_dict({"text": x, "label": y}) for part, (x, y) in parts.items()}
            )
            self.dataset = made
            self.data_loaded = True

    return MadeUp()


def similarity_task() -> Any:
    from datasets import Dataset, DatasetDict
    from mteb.abstasks.sts import AbsTaskSTS

    class MadeUp(AbsTaskSTS):
        metadata = globals()["metadata"]("STS", "MadeUpSTS", "cosine_spearman")

        def load_data(self, num_proc: int | None = None, **_: Any) -> None:
            rng = np.random.default_rng(2)
            pairs: dict[str, list[Any]] = {"sentence1": [], "sentence2": [], "score": []}
            for shared in [*range(5)] * 6:
                words = rng.permutation(60)[: 10 - shared]
                first, own = words[:5], words[5:]
                pairs["sentence1"].append(" ".join(f"w{word}" for word in first))
                pairs["sentence2"].append(" ".join(f"w{word}" for word in [*first[:shared], *own]))
                pairs["score"].append(float(shared))
            made: Any = DatasetDict({"test": Dataset.from_dict(pairs)})
            self.dataset = made
            self.data_loaded = True

    return MadeUp()


@pytest.mark.parametrize("family", ["llama", "gpt2", "gpt_neox"])
def test_embeddings_are_those_of_pooled_states_and_of_hugging_face(
    family_folder: Callable[[str], Path], family: str
) -> None:
    folder = family_folder(family)
    model, reference = mcr.load_model(folder), eager(folder)
    prompts = mcr.Prompts.from_texts(TEXTS, model, prepend_bos=True)
    pooled = mcr.measure(model, prompts, [PooledStates(model)], progress=False).pooled_state
    states = [np.stack(record(reference, ids)["states"]) for ids in prompts.tokens]
    for depth in range(4):
        expected = {
            "mean": [state[depth].mean(0) for state in states],
            "last": [state[depth][-1] for state in states],
            "mean_without_sink": [state[depth][1:].mean(0) for state in states],
        }
        for pooling, vectors in expected.items():
            found = DepthEncoder(model, depth, pooling, prepend_bos=True).encode(batches(TEXTS))
            assert found.dtype == np.float32
            np.testing.assert_allclose(found, np.stack(vectors), rtol=2e-5, atol=2e-5)
            np.testing.assert_allclose(found, pooled.sel(depth=depth, pooling=pooling), rtol=2e-5, atol=2e-5)


def test_each_text_is_run_once_for_all_depths(llama: Any) -> None:
    ran: list[int] = []
    watched = [("blocks.0.hook_resid_pre", lambda state, hook: ran.append(len(state)))]
    states = TextStates(llama, pooling=["mean", "last"], interventions=watched)
    for depth in range(4):
        for pooling in ("mean", "last"):
            DepthEncoder(llama, depth, pooling, states=states).encode(batches(TEXTS))
    assert sum(ran) == 4  # five texts, two of them equal
    states.forget()
    DepthEncoder(llama, 0, states=states).encode(batches(TEXTS[:2]))
    assert sum(ran) == 6


def test_the_order_and_the_company_of_texts_change_nothing(llama: Any) -> None:
    encoder = DepthEncoder(llama, 2)
    together = encoder.encode(batches(TEXTS))
    np.testing.assert_array_equal(together[1], together[3])
    alone = np.concatenate([encoder.encode(batches([text])) for text in TEXTS])
    np.testing.assert_allclose(together, alone, rtol=1e-5, atol=1e-5)
    assert encoder.encode([]).shape == (0, 32)


def test_long_texts_are_cut_to_the_context(llama: Any) -> None:
    long = " ".join(["w1"] * 400)
    cut = " ".join(["w1"] * (llama.cfg.n_ctx - 1))
    first, second = DepthEncoder(llama, 3, "last").encode(batches([long, cut]))
    np.testing.assert_array_equal(first, second)


def test_mteb_takes_it_for_an_encoder_and_knows_one_from_another(
    llama: Any, family_folder: Callable[[str], Path]
) -> None:
    assert isinstance(DepthEncoder(llama, 1), mteb.EncoderProtocol)
    halved = [("blocks.0.hook_resid_pre", lambda state, hook: state / 2)]
    given: list[tuple[Any, int, str, dict[str, Any]]] = [
        (llama, 1, "mean", {}),
        (llama, 2, "mean", {}),
        (llama, 1, "last", {}),
        (llama, 1, "mean", {"interventions": halved}),
        (llama, 1, "mean", {"max_tokens": 9}),
        (mcr.load_model(family_folder("qwen2")), 1, "mean", {}),
    ]
    metas = [
        DepthEncoder(model, depth, pooling, **rest).mteb_model_meta for model, depth, pooling, rest in given
    ]
    known = {(meta.name, meta.revision, meta.experiment_name) for meta in metas}
    assert len(known) == len({meta.revision for meta in metas}) == len(given)
    again = DepthEncoder(llama, 1).mteb_model_meta
    assert (again.name, again.revision) == (metas[0].name, metas[0].revision)
    shared = DepthEncoder(llama, 1, states=TextStates(llama)).mteb_model_meta
    assert (shared.name, shared.revision) == (metas[0].name, metas[0].revision)
    assert again.experiment_kwargs == {"depth": 1, "pooling": "mean"} and again.embed_dim == 32


def test_similarity_is_the_cosine(llama: Any) -> None:
    encoder = DepthEncoder(llama, 2)
    x = encoder.encode(batches(TEXTS)).astype(np.float64)
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    np.testing.assert_allclose(encoder.similarity(x, x[:2]), unit @ unit[:2].T, atol=1e-6)
    np.testing.assert_allclose(
        encoder.similarity_pairwise(x[1:], x[:-1]), (unit[1:] * unit[:-1]).sum(1), atol=1e-6
    )


def test_scores_by_depth_are_mtebs_own(llama: Any) -> None:
    tasks = [classification_task(), similarity_task()]
    data = embedding_tasks(llama, tasks, pooling=["mean", "last"], progress=False).data
    assert data.main_score.dims == ("task", "depth", "pooling") and data.main_score.shape == (2, 4, 2)
    assert data.task.values.tolist() == ["MadeUpClassification", "MadeUpSTS"]
    assert data.metric.values.tolist() == ["accuracy", "cosine_spearman"]
    assert not any(task.data_loaded for task in tasks) and tasks[0].loads == 1
    for depth, pooling in ((0, "mean"), (3, "last"), (2, "mean")):
        for task in (classification_task(), similarity_task()):
            encoder: Any = DepthEncoder(llama, depth, pooling)
            found = mteb.evaluate(encoder, task, cache=None, co2_tracker=False, show_progress_bar=False)
            score = found.task_results[0].get_score()
            place = data.main_score.sel(task=task.metadata.name, depth=depth, pooling=pooling)
            np.testing.assert_allclose(place, score, atol=1e-6)
    # The label's word is in the mean of the embeddings, and shared words make sentences alike.
    assert data.main_score.sel(task="MadeUpClassification", depth=0, pooling="mean") > 0.9
    assert data.main_score.sel(task="MadeUpSTS", depth=0, pooling="mean") > 0.8
    assert data.main_score.sel(task="MadeUpClassification", pooling="last", depth=0) < 0.8


def test_similarity_scores_are_spearmans_of_the_cosines(llama: Any) -> None:
    from scipy.stats import spearmanr

    task = similarity_task()
    data = embedding_tasks(llama, task, depths=[2], progress=False).data
    task.load_data()
    rows = task.dataset["test"]
    pairs = [DepthEncoder(llama, 2).encode(batches(rows[name])) for name in ("sentence1", "sentence2")]
    cosines = torch.nn.functional.cosine_similarity(torch.tensor(pairs[0]), torch.tensor(pairs[1]))
    expected: Any = spearmanr(cosines, rows["score"])
    np.testing.assert_allclose(data.main_score[0, 0, 0], expected.statistic, atol=1e-9)


def test_what_cannot_be_encoded_is_refused(llama: Any) -> None:
    with pytest.raises(InputError, match="text '' has fewer than 2 tokens"):
        DepthEncoder(llama, 1).encode(batches(["w1 w2", ""]))
    with pytest.raises(InputError, match="depths"):
        DepthEncoder(llama, 4)
    with pytest.raises(InputError, match="not held"):
        DepthEncoder(llama, 2, states=TextStates(llama, [1]))
    with pytest.raises(InputError, match="no tasks"):
        embedding_tasks(llama, [], progress=False)
    with pytest.raises(InputError, match="mteb has no task 'NoSuchTask'"):
        embedding_tasks(llama, "NoSuchTask", progress=False)
    for no_task in (3, [None]):
        with pytest.raises(InputError, match="mteb has no task"):
            embedding_tasks(llama, no_task, progress=False)


def test_a_task_whose_data_are_not_there_is_named(llama: Any) -> None:
    task = classification_task("Broken")

    def fail(**_: Any) -> None:
        raise OSError("no network")

    task.load_data = fail
    with pytest.raises(InputError, match=r"Broken: its data cannot be loaded \(OSError: no network\)"):
        embedding_tasks(llama, [task], progress=False)


def test_without_mteb_the_way_out_is_named(llama: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mteb", None)
    with pytest.raises(InputError, match=r"pip install \"mcr-lens\[tasks\]\""):
        embedding_tasks(llama, [], progress=False)

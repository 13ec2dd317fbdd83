"""Multiple choice by depth against lm_eval's own Hugging Face model and against NumPy, on local tasks."""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from backends import BACKENDS
from families import eager, tiny_folder
from transformers import AutoTokenizer

import mcr_lens as mcr
from mcr_lens.errors import InputError
from mcr_lens.experiments.tasks import ChoiceResult, lens_language_model, multiple_choice
from mcr_lens.experiments.tasks.lens_language_model import LensLanguageModel
from mcr_lens.hooks.lenses.continuation import Answer, AnswerLens
from mcr_lens.prompts.sample_texts import word_problem
from mcr_lens.tiny import weights_folder

YAML = """\
task: {name}
dataset_path: json
dataset_kwargs:
  data_files:
    train: {folder}/train.json
    test: {folder}/test.json
  cache_dir: {folder}/cache
output_type: {output_type}
{splits}
doc_to_text: "{{{{question}}}}"
doc_to_target: {target}
{more}
metric_list:
{metrics}
"""
MEAN = "  - metric: {}\n    aggregation: mean\n    higher_is_better: true\n"

# Tasks whose examples are the documents that are asked, and one that leaves out the one that is asked.
SAME_DOCUMENTS = {
    "test_only": "test_split: test",
    "validation_only": "validation_split: test",
    "validation_named": "training_split: train\nvalidation_split: test\nfewshot_split: test",
    "others": "test_split: test\nfewshot_split: test",
}


def write_task(
    folder: Path, name: str, *, metrics: tuple[str, ...] = ("acc", "acc_norm"), **fields: Any
) -> Path:
    text = YAML.format(
        name=name,
        folder=folder,
        output_type=fields.get("output_type", "multiple_choice"),
        splits=fields.get("splits", "training_split: train\nfewshot_split: train\ntest_split: test"),
        target=fields.get("target", "gold"),
        more=fields.get("more", "doc_to_choice: choices"),
        metrics="".join(MEAN.format(metric) for metric in metrics),
    )
    (folder / f"{name}.yaml").write_text(text)
    return folder / f"{name}.yaml"


def arithmetic(n: int, seed: int) -> list[dict[str, Any]]:
    """Made-up word problems, each with its worked answer's first line and three others of any length."""
    rng = random.Random(seed)
    documents = []
    for _ in range(n):
        question, *steps, answer = word_problem(rng).split("\n")
        number = int(answer.removeprefix("#### "))
        choices = [steps[0], str(number), f"{number + rng.randint(1, 9)} or so", str(number * 1000 + 7)]
        rng.shuffle(choices)
        documents.append({"question": question, "choices": choices, "gold": choices.index(str(number))})
    return documents


def words(n: int, seed: int) -> list[dict[str, Any]]:
    """Questions in the words that the tiny random models know, choices of one to three words."""
    rng = random.Random(seed)

    def some(count: int) -> str:
        return " ".join(f"w{rng.randrange(60)}" for _ in range(count))

    return [
        {
            "question": some(rng.randint(3, 9)),
            "choices": [some(1 + i % 3) for i in range(4)],
            "gold": rng.randrange(4),
        }
        for _ in range(n)
    ]


@pytest.fixture(scope="module")
def task_folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A folder with tasks of ``arithmetic`` or of ``words``; what needs it is skipped without lm_eval."""
    pytest.importorskip("lm_eval", reason="needs lm-eval, of the extra [tasks]")
    made: dict[str, Path] = {}

    def folder(kind: str) -> Path:
        if kind not in made:
            made[kind] = where = tmp_path_factory.mktemp(kind)
            make = {"arithmetic": arithmetic, "words": words}[kind]
            (where / "train.json").write_text(json.dumps(make(6, 1)))
            (where / "test.json").write_text(json.dumps(make(12, 2)))
            write_task(where, kind)
            write_task(where, f"{kind}_mutual", metrics=("acc", "acc_mutual_info"))
            write_task(
                where, f"{kind}_last_word", output_type="loglikelihood", metrics=("acc", "perplexity"),
                target='" {{choices[gold]}}"', more="",
            )  # fmt: skip
            write_task(
                where, f"{kind}_written", output_type="generate_until", metrics=("exact_match",),
                target='"{{choices[gold]}}"', more='generation_kwargs: {until: ["."]}',
            )  # fmt: skip
            write_task(
                where, f"{kind}_text", output_type="loglikelihood_rolling", metrics=("word_perplexity",),
                target='"{{question}}"', more="",
            )  # fmt: skip
            for name, splits in SAME_DOCUMENTS.items():
                write_task(where, f"{kind}_{name}", splits=splits)
            lost = write_task(where, f"{kind}_lost")
            lost.write_text(lost.read_text().replace("test.json", "lost.json"))
        return made[kind]

    return folder


@pytest.fixture(scope="module")
def stock() -> Callable[..., Any]:
    """lm_eval's own Hugging Face model."""
    pytest.importorskip("lm_eval", reason="needs lm-eval, of the extra [tasks]")
    from lm_eval.models.huggingface import HFLM

    def made(folder: Path, **options: Any) -> Any:
        fixed: dict[str, Any] = {"device": "cpu", "dtype": "float32", "batch_size": 4}
        model_class: Any = HFLM  # its decorator hides its parameters
        return model_class(str(folder), **fixed, **options)

    return made


def evaluated(lm: Any, folder: Path, task: str, **options: Any) -> Any:
    """What lm_eval's command would do."""
    import lm_eval
    from lm_eval.tasks import TaskManager

    manager = TaskManager(include_path=str(folder), include_defaults=False)
    options |= {"tasks": [task], "task_manager": manager, "bootstrap_iters": 0}
    return lm_eval.simple_evaluate(lm, **options)


def requests(pairs: list[tuple[str, ...]], kind: str = "loglikelihood") -> list[Any]:
    from lm_eval.api.instance import Instance

    return [Instance(request_type=kind, doc={}, arguments=pair, idx=0) for pair in pairs]  # type: ignore[arg-type]


def answers_of(evaluation: Any, task: str) -> list[list[float]]:
    return [[r[0][0] for r in sample["resps"]] for sample in evaluation["samples"][task]]


@pytest.mark.parametrize("num_fewshot", [0, 2])
@pytest.mark.parametrize("backend", BACKENDS)
def test_the_last_depth_equals_lm_evals_own_model(
    task_folder: Any, stock: Any, backend: Any, num_fewshot: int
) -> None:
    folder = task_folder("arithmetic")
    model = mcr.load_model("tiny", backend=backend)
    data = multiple_choice(
        model, "arithmetic", include_path=folder, num_fewshot=num_fewshot, progress=False
    ).data
    expected = evaluated(stock(weights_folder()), folder, "arithmetic", num_fewshot=num_fewshot)
    samples = expected["samples"]["arithmetic"]
    last = data.isel(depth=-1)
    assert data.sizes == {"document": 12, "depth": 11, "choice": 4}
    np.testing.assert_allclose(last.log_likelihood, answers_of(expected, "arithmetic"), rtol=1e-4, atol=1e-4)
    for metric in ("acc", "acc_norm"):
        assert last[metric].values.tolist() == [sample[metric] for sample in samples]
        aggregate = data.attrs["results"]["arithmetic"][f"{metric},none"]
        assert aggregate[-1] == expected["results"]["arithmetic"][f"{metric},none"]
        np.testing.assert_allclose(aggregate, data[metric].mean("document"))
    assert data.attrs["tasks"]["arithmetic"]["num_fewshot"] == num_fewshot
    assert data.attrs["requests"]["share_with_bos"] == 1.0
    # The choices differ in length, so that the two metrics are two.
    assert (data.acc != data.acc_norm).any()
    assert data.attrs["requests"]["truncated"] == 0


@pytest.mark.parametrize("task", ["words_mutual", "words_last_word"])
def test_requests_without_a_question_and_tasks_without_choices(
    task_folder: Any, stock: Any, llama: Any, llama_folder: Path, task: str
) -> None:
    folder = task_folder("words")
    data = multiple_choice(llama, task, include_path=folder, progress=False).data
    expected = evaluated(stock(llama_folder), folder, task)
    np.testing.assert_allclose(
        data.log_likelihood.isel(depth=-1), answers_of(expected, task), rtol=1e-4, atol=1e-4
    )
    for name, values in data.attrs["results"][task].items():
        np.testing.assert_allclose(values[-1], expected["results"][task][name], rtol=1e-4)
    assert "acc" in data


def test_chance_is_that_of_the_choices_whatever_else_is_asked(task_folder: Any, llama: Any) -> None:
    """With mutual information every choice is asked for twice; a last word has no choices."""
    names = ["words", "words_mutual", "words_last_word"]
    data = multiple_choice(llama, names, include_path=task_folder("words"), progress=False).data
    assert data.sizes["choice"] == 8
    assert data.n_choices.values.tolist() == [4] * 24 + [0] * 12
    words, mutual, last = ChoiceResult(data).uses()
    assert (words.chance, mutual.chance) == (0.25, 0.25) and np.isnan(last.chance)
    assert ChoiceResult(data).uses("acc_mutual_info")[0].chance == 0.25
    with pytest.raises(InputError, match="'perplexity' of task 'words_last_word' is no accuracy"):
        ChoiceResult(data).uses("perplexity")
    assert data.attrs["tasks"]["words_mutual"]["higher_is_better"] == {"acc": True, "acc_mutual_info": True}
    assert data.attrs["tasks"]["words"]["several_right"] is False


def without_bos(folder: Path) -> Path:
    """The same model with a tokenizer that knows a BOS and does not put it anywhere."""
    path = folder / "tokenizer.json"
    tokenizer = json.loads(path.read_text())
    tokenizer["post_processor"] = None
    path.write_text(json.dumps(tokenizer))
    return folder


ODD_PAIRS = [
    ("w1 w2 w3", " w4"),
    ("w1 w2 w3", " w5"),
    ("w1 w2 w3 ", "w4 w6"),
    ("w1 w2", " w3 w4"),
    ("", "w7 w8"),
    ("", "w9"),
    ("<bos> w1 w2", " w3"),
    (" ".join(f"w{i % 61}" for i in range(300)), " w4 w5"),
    (" ".join(f"w{i % 61}" for i in range(254)), " w4 w5"),
    ("w1 w2 w3", " w4"),
]


@pytest.mark.parametrize("saved_bos", [True, False])
@pytest.mark.parametrize("add_bos_token", [None, False, True])
def test_odd_requests_are_cut_and_prefixed_as_by_lm_eval(
    tmp_path: Path, stock: Any, saved_bos: bool, add_bos_token: bool | None
) -> None:
    folder = tiny_folder("llama", tmp_path)
    folder = folder if saved_bos else without_bos(folder)
    lm = LensLanguageModel(mcr.load_model(folder), add_bos_token=add_bos_token, progress=False)
    # Its cache takes the wrong rows where the same tokens are split differently, as in two of these pairs.
    reference = stock(folder, add_bos_token=add_bos_token, logits_cache=False)
    found = lm.loglikelihood(requests(ODD_PAIRS))
    expected = reference.loglikelihood(requests(ODD_PAIRS), disable_tqdm=True)
    np.testing.assert_allclose([f[0] for f in found], [e[0] for e in expected], rtol=1e-4, atol=1e-4)
    assert [f[1] for f in found] == [e[1] for e in expected]
    begins = lm.tok_encode("w1 w2")[0] == 1
    assert begins is (saved_bos if add_bos_token is None else add_bos_token)
    assert lm.tok_encode("<bos> w1") == [1, 4]
    assert lm.truncated >= 1


def test_greedy_answers_are_seen(llama: Any, llama_folder: Path, stock: Any) -> None:
    tokenizer = AutoTokenizer.from_pretrained(llama_folder)
    context = "w1 w2 w3 w4"
    ids = tokenizer.encode(context)
    reference = eager(llama_folder)
    for _ in range(3):
        with torch.no_grad():
            ids.append(int(reference(torch.tensor([ids])).logits[0, -1].argmax()))
    likeliest = " " + tokenizer.decode(ids[5:])
    pairs = [(context, likeliest), (context, " w9 w10 w11")]
    found = LensLanguageModel(llama, progress=False).loglikelihood(requests(pairs))
    assert [greedy for _, greedy in found] == [True, False]
    expected = stock(llama_folder).loglikelihood(requests(pairs), disable_tqdm=True)
    assert [greedy for _, greedy in expected] == [True, False]


def test_whole_texts_are_windowed_as_by_lm_eval(llama: Any, llama_folder: Path, stock: Any) -> None:
    texts = [(" ".join(f"w{(7 * i) % 61}" for i in range(n)),) for n in (5, 30, 31, 70)]
    lm = LensLanguageModel(llama, max_length=16, progress=False)
    found = lm.loglikelihood_rolling(requests(texts, "loglikelihood_rolling"))
    reference = stock(llama_folder, max_length=16)
    expected = reference.loglikelihood_rolling(requests(texts, "loglikelihood_rolling"), disable_tqdm=True)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("tuned", [False, True])
def test_every_depth_equals_numpy(task_folder: Any, llama_folder: Path, backend: Any, tuned: bool) -> None:
    model, reference = mcr.load_model(llama_folder, backend=backend), eager(llama_folder).double()
    generator = torch.Generator().manual_seed(0)
    weights = 0.2 * torch.randn(3, 32, 32, generator=generator)
    biases = 0.2 * torch.randn(3, 32, generator=generator)
    lens = mcr.hooks.Translators(weights, biases) if tuned else None
    folder = task_folder("words")
    data = multiple_choice(model, "words", translators=lens, include_path=folder, progress=False).data
    head = reference.lm_head.weight.detach().numpy()
    gain, eps = reference.model.norm.weight.detach().numpy(), reference.config.rms_norm_eps
    right = np.zeros((12, 4))
    for i, document in enumerate(words(12, 2)):
        n_context = len(document["question"].split()) + 1
        for choice, text in enumerate(document["choices"]):
            ids = [1, *(int(word[1:]) + 3 for word in f"{document['question']} {text}".split())]
            with torch.no_grad():
                states = reference(torch.tensor([ids]), output_hidden_states=True).hidden_states
            answer = np.array(ids[n_context:])
            for depth in range(3):  # the last of the states is behind the final norm
                x = states[depth][0].numpy()[n_context - 1 : -1]
                if tuned:
                    x = x + x @ weights[depth].double().numpy().T + biases[depth].double().numpy()
                logits = (x / np.sqrt((x**2).mean(-1, keepdims=True) + eps) * gain) @ head.T
                log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
                expected = log_p[np.arange(len(answer)), answer].sum()
                found = data.log_likelihood.sel(document=i, depth=depth, choice=choice)
                np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
        best = data.log_likelihood.values[i].argmax(-1)
        right[i] = best == document["gold"]
    np.testing.assert_array_equal(data.acc, right)


def test_the_model_runs_once_for_all_depths(
    task_folder: Any, llama: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs: list[int] = []
    measure = lens_language_model.measure

    def counted(model: Any, prompts: Any, *args: Any, **options: Any) -> Any:
        runs.append(len(prompts))
        return measure(model, prompts, *args, **options)

    monkeypatch.setattr(lens_language_model, "measure", counted)
    options: dict[str, Any] = {"include_path": task_folder("words"), "num_fewshot": 2, "progress": False}
    multiple_choice(llama, ["words", "words_mutual"], **options)
    assert len(runs) == 1
    # Two of a question's four choices are one word long and share a sequence; those of the other task
    # are the same again, and then each choice on its own.
    assert runs[0] <= 12 * 3 + 12 * 4


def test_batches_order_and_chosen_depths_change_nothing(task_folder: Any, llama: Any) -> None:
    options: dict[str, Any] = {"include_path": task_folder("words"), "progress": False}
    whole = multiple_choice(llama, ["words", "words_last_word"], **options).data
    single = multiple_choice(llama, ["words", "words_last_word"], batch_size=1, **options).data
    np.testing.assert_allclose(single.log_likelihood, whole.log_likelihood, rtol=1e-5, atol=1e-5)
    turned = multiple_choice(llama, ["words_last_word", "words"], **options).data
    for task in ("words", "words_last_word"):
        np.testing.assert_allclose(
            turned.log_likelihood[turned.task.values == task],
            whole.log_likelihood[whole.task.values == task],
            rtol=1e-5, atol=1e-5,
        )  # fmt: skip
    chosen = multiple_choice(llama, "words", depths=[2, 0], **options).data
    assert chosen.depth.values.tolist() == [0, 2]
    np.testing.assert_allclose(
        chosen.acc, whole.acc.sel(depth=[0, 2]).where(whole.task == "words", drop=True)
    )
    # What one task has and the other lacks is missing, not zero.
    assert whole.acc_norm.isnull().any("depth").values.tolist() == [False] * 12 + [True] * 12
    assert multiple_choice(llama, "words", limit=5, **options).data.sizes["document"] == 5


def test_a_task_may_be_a_file_or_a_configuration(task_folder: Any, llama: Any) -> None:
    from lm_eval.tasks._yaml_loader import load_yaml

    file = task_folder("words") / "words.yaml"
    by_name = multiple_choice(llama, "words", include_path=file.parent, progress=False).data
    by_file = multiple_choice(llama, file, progress=False).data
    np.testing.assert_array_equal(by_file.log_likelihood, by_name.log_likelihood)
    configuration = {**load_yaml(file), "task": "other"}
    by_content = multiple_choice(llama, configuration, include_path=file.parent, progress=False).data
    np.testing.assert_array_equal(by_content.log_likelihood, by_name.log_likelihood)
    assert set(by_content.task.values) == {"other"}


def test_the_seed_draws_the_examples_and_leaves_the_callers_alone(task_folder: Any, llama: Any) -> None:
    options: dict[str, Any] = {"include_path": task_folder("words"), "num_fewshot": 2, "progress": False}
    random.seed(5)
    expected = random.Random(5).random()
    first, again, other = (multiple_choice(llama, "words", seed=seed, **options).data for seed in (3, 3, 4))
    assert random.random() == expected
    np.testing.assert_array_equal(first.log_likelihood, again.log_likelihood)
    assert not np.allclose(first.log_likelihood, other.log_likelihood)


def test_examples_never_come_from_the_test_documents(task_folder: Any, llama: Any) -> None:
    folder = task_folder("words")
    lm = LensLanguageModel(llama, progress=False)
    evaluation = evaluated(lm, folder, "words", num_fewshot=2)
    examples = [document["question"] for document in words(6, 1)]
    tests = [document["question"] for document in words(12, 2)]
    for i, sample in enumerate(evaluation["samples"]["words"]):
        context = sample["arguments"][0][0]
        assert context.endswith(tests[i])
        assert sum(example in context for example in examples) == 2
        assert not any(test in context for j, test in enumerate(tests) if j != i)


@pytest.mark.parametrize("kind", SAME_DOCUMENTS)
def test_a_question_is_never_its_own_example(task_folder: Any, llama: Any, kind: str) -> None:
    options: dict[str, Any] = {"include_path": task_folder("words"), "depths": [0], "progress": False}
    assert multiple_choice(llama, f"words_{kind}", **options).data.sizes["document"] == 12
    if kind == "others":
        multiple_choice(llama, f"words_{kind}", num_fewshot=2, **options)
    else:
        with pytest.raises(InputError, match="no documents for examples"):
            multiple_choice(llama, f"words_{kind}", num_fewshot=2, **options)


def test_interventions_reach_the_depths_above_them(task_folder: Any, llama: Any) -> None:
    options: dict[str, Any] = {"include_path": task_folder("words"), "progress": False}
    plain = multiple_choice(llama, "words", **options).data
    edited = multiple_choice(llama, "words", interventions=mcr.ablate_mlp_write([1]), **options).data
    changed = np.abs(edited.log_likelihood - plain.log_likelihood).max(["document", "choice"]).values
    # What is taken from the first token at layer 1 reaches the others through the attention of layer 2.
    assert (changed[:3] < 1e-6).all()
    assert changed[3] > 1e-3
    assert edited.attrs["interventions"]


def test_the_summary_has_intervals_over_documents(task_folder: Any, llama: Any) -> None:
    data = multiple_choice(llama, ["words", "words_last_word"], include_path=task_folder("words")).data
    table = ChoiceResult(data).summary("acc", n_resamples=999)
    assert table.loc["words"].n.tolist() == [12] * 4
    np.testing.assert_allclose(table.loc["words"]["mean"], data.attrs["results"]["words"]["acc,none"])
    varies = table[(table["mean"] > 0) & (table["mean"] < 1)]
    assert len(varies) and ((varies.low < varies["mean"]) & (varies["mean"] < varies.high)).all()
    assert list(ChoiceResult(data).summary("acc_norm", n_resamples=99).loc["words"].index) == [0, 1, 2, 3]
    with pytest.raises(InputError, match="these results have acc, acc_norm"):
        ChoiceResult(data).summary("f1")


def test_only_the_rows_that_are_asked_for_are_read_out(llama: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from mcr_lens.hooks.lenses import continuation

    seen: list[int] = []
    read_out = continuation.read_out

    def counted(model: Any, residual: torch.Tensor) -> torch.Tensor:
        seen.append(residual.shape[1])
        return read_out(model, residual)

    monkeypatch.setattr(continuation, "read_out", counted)
    prompts = mcr.Prompts.from_tokens([[1, *range(3, 40)], [1, *range(3, 30)]])
    answers = [Answer(0, 36, (8, 9)), Answer(0, 37, (8,)), Answer(1, 27, (5,)), Answer(0, 37, (9,))]
    lens = AnswerLens(llama, 2, answers, range(4))
    whole = mcr.measure(llama, prompts, [lens], progress=False)
    assert sum(seen) == 3 * 4
    chunked = mcr.measure(llama, prompts, [lens], chunk=5, batch_size=1, progress=False)
    np.testing.assert_allclose(chunked.log_likelihood, whole.log_likelihood, rtol=1e-5)
    monkeypatch.setattr(continuation, "rows_at_a_time", lambda model: 1)
    single = mcr.measure(llama, prompts, [lens], progress=False)
    np.testing.assert_allclose(single.log_likelihood, whole.log_likelihood, rtol=1e-5)


def test_results_can_be_saved(task_folder: Any, llama: Any, tmp_path: Path) -> None:
    from mcr_lens.results import load_dataset, save_dataset

    data = multiple_choice(llama, "words", include_path=task_folder("words"), progress=False).data
    assert load_dataset(save_dataset(data, tmp_path / "choices.nc")).identical(data)


@pytest.mark.parametrize(
    ("tasks", "options", "message"),
    [
        ("words_written", {}, "output_type generate_until"),
        ("words_text", {}, "lens_perplexity"),
        ("words_lost", {}, "words_lost: cannot be loaded"),
        pytest.param("nonesuch", {}, "nonesuch: cannot be loaded", marks=pytest.mark.slow),
        ([], {}, "no tasks"),
        ("words", {"depths": [4]}, "one or several of 0..3"),
        ("words", {"depths": []}, "one or several of 0..3"),
        ("words", {"limit": 0}, "limit 0"),
        ("words", {"num_fewshot": -1}, "num_fewshot -1"),
        ("words", {"num_fewshot": 7}, "num_fewshot 7: task 'words' has 6 documents"),
        ("words", {"include_path": "/nowhere"}, "no such folder"),
        (
            "words",
            {"translators": mcr.hooks.Translators(torch.zeros(2, 32, 32), torch.zeros(2, 32))},
            "2 layers",
        ),
    ],
)
def test_bad_input_is_told_in_one_line(
    task_folder: Any, llama: Any, tasks: Any, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message) as raised:
        multiple_choice(llama, tasks, **{"include_path": task_folder("words"), "progress": False, **options})
    assert "\n" not in str(raised.value)


def test_text_is_not_generated(task_folder: Any, llama: Any) -> None:
    lm = LensLanguageModel(llama, depths=[1], progress=False)
    with pytest.raises(InputError, match="likelihood requests only"):
        lm.generate_until([])
    with pytest.raises(InputError, match="0 tokens"):
        lm.loglikelihood(requests([("w1", "")]))
    lm.loglikelihood(requests([("w1", " w2")]))
    lm.depth = 3
    with pytest.raises(InputError, match="depth 3 is not measured"):
        lm.loglikelihood(requests([("w1", " w2")]))


def test_without_lm_eval_the_way_to_install_it_is_told(llama: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    with pytest.raises(InputError, match=r'pip install "mcr-lens\[tasks\]"'):
        multiple_choice(llama, "arc_easy")
    with pytest.raises(InputError, match=r'pip install "mcr-lens\[tasks\]"'):
        LensLanguageModel(llama)

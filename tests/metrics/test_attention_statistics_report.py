"""Statistics as a record: table, JSON, Parquet, plot, refusals."""

import json
import math
from dataclasses import FrozenInstanceError, fields
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.helpers.errors import raises
from tests.helpers.statistics import dense, measured
from vitscope import errors
from vitscope.errors import ImageError, MethodError, MissingDependencyError, ResultError, UnknownNameError, UsageError
from vitscope.metrics.attention_statistics import SHARES, LayerStatistics


@pytest.fixture(scope="module")
def one(tiny_scope, photo):
    return tiny_scope.statistics(photo, importance=True)


def test_the_record_is_frozen_and_says_where_it_is_from(one, photo):
    with pytest.raises(FrozenInstanceError):
        one.score = 1
    assert one.provenance["source"] == str(photo)
    assert one.provenance["seed"] == 0
    assert set(one.provenance["versions"]) == {"vitscope", "python", "torch", "transformers", "numpy"}
    assert not {"target", "caveat", "gradient", "options"} & set(one.provenance)
    assert one.region.size == (451, 300)
    assert {why.code for why in one.unavailable.values()} == {"metrics.no-object-apart"}
    assert set(one.unavailable) == {"object_ratio", "own_ratio"}


def test_every_figure_is_repeatable_to_the_digit(tiny_scope, photo, one):
    again = tiny_scope.statistics(photo, importance=True)
    assert json.dumps(again.to_dict()) == json.dumps(one.to_dict())


def test_the_table_has_a_row_for_each_head(one):
    rows = one.rows()
    assert [(row["layer"], row["head"]) for row in rows] == [(layer, head) for layer in range(3) for head in range(2)]
    for row in rows:
        layer = one.layers[row["layer"]]
        assert row["module"] == layer.name
        assert row["distance"] == layer.distance[row["head"]]
        assert row["importance"] == layer.importance[row["head"]]
        assert row["share_other_patches"] == layer.shares["other patches"][row["head"]]
        assert row["effective_rank"] == layer.effective_rank
    assert len({tuple(row) for row in rows}) == 1


def test_json_holds_everything(one, tmp_path):
    path = one.save(tmp_path / "new" / "dog.json")
    kept = json.loads(path.read_text("utf-8"))
    assert kept == json.loads(json.dumps(one.to_dict()))
    assert kept["schema"] == 1
    assert kept["layers"][1]["entropy"] == one.layers[1].entropy.tolist()
    assert kept["layers"][1]["received"] == one.layers[1].received.tolist()
    assert kept["layout"]["grid"] == [4, 4]
    assert [p.name for p in path.parent.iterdir()] == ["dog.json"]


def test_a_file_that_is_there_is_not_replaced(one, tmp_path):
    path = one.save(tmp_path / "a.json")
    path.write_text("mine")
    with raises(ResultError, "files.already-there"):
        one.save(path)
    assert path.read_text() == "mine"
    one.save(path, force=True)
    assert json.loads(path.read_text())["kind"] == "attention statistics"
    (tmp_path / "folder.json").mkdir()
    with raises(ResultError, "files.already-there"):
        one.save(tmp_path / "folder.json", force=True)
    with raises(ResultError, "files.file-in-the-way"):
        one.save(path / "below.json")


def test_other_endings_are_refused(one, tmp_path):
    with raises(UsageError, "metrics.table-ending"):
        one.save(tmp_path / "a.csv")


def test_parquet_without_pyarrow_names_the_extra(one, tmp_path, monkeypatch):
    monkeypatch.setattr(errors, "find_spec", lambda name: None)
    with pytest.raises(MissingDependencyError, match=r"vitscope\[batch\]"):
        one.save(tmp_path / "a.parquet")
    assert list(tmp_path.iterdir()) == []


def test_parquet_holds_the_table(one, tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    table = parquet.read_table(one.save(tmp_path / "a.parquet"))
    assert table.to_pylist() == one.rows()
    about = json.loads(table.schema.metadata[b"vitscope"])
    assert about["provenance"]["model"] == one.provenance["model"]


def test_numbers_by_name(one):
    assert [list(values) for values in one.by_head("entropy")] == [list(layer.entropy) for layer in one.layers]
    assert [list(values) for values in one.by_head("self")] == [list(layer.shares["self"]) for layer in one.layers]
    with raises(UsageError, "metrics.no-such-statistic"):
        one.by_head("norms")


def test_what_was_not_asked_for_is_said(tiny_scope, photo):
    found = tiny_scope.statistics(photo)
    assert (found.target, found.score) == (None, None)
    assert found.unavailable["importance"].code == "metrics.not-requested"
    with raises(UsageError, "metrics.unavailable"):
        found.by_head("importance")
    assert {row["importance"] for row in found.rows()} == {None}


@pytest.mark.parametrize(
    ("options", "error", "code"),
    [
        ({"target": "tabby"}, UsageError, "engine.target-without-importance"),
        ({"target": "cat", "importance": True}, UnknownNameError, "errors.unknown-name"),
        ({"target": ["tabby", 2], "importance": True}, UsageError, "engine.one-target"),
        ({"size": 3}, UsageError, "engine.size"),
        ({"batch_size": 0}, UsageError, "engine.batch-size"),
    ],
)
@pytest.mark.usefixtures("as_shipped")
def test_wrong_usage(tiny_scope, photo, options, error, code):
    with raises(error, code):
        tiny_scope.statistics(photo, **options)


def test_a_picture_that_is_not_there(tiny_scope):
    with pytest.raises(ImageError):
        tiny_scope.statistics("nowhere.png")


def test_attention_that_is_not_finite_is_refused():
    a = torch.full((1, 5, 5), float("nan"))
    with raises(MethodError, "metrics.attention-not-finite"):
        measured(dense(a))


def test_model_and_map_stay_as_they_were(tiny_folder, photo):
    import vitscope

    scope = vitscope.load(tiny_folder)
    scope.model.train()
    list(scope.model.parameters())[3].requires_grad_(False)

    def state():
        return {
            name: (
                module.training,
                *(len(getattr(module, hooks)) for hooks in sorted(vars(module)) if "hooks" in hooks),
                tuple((p.requires_grad, p.grad is None, p._version) for p in module.parameters(recurse=False)),
            )
            for name, module in scope.model.named_modules()
        }

    explained = scope.explain(photo, method="rollout")
    before, weights = state(), {k: v.clone() for k, v in scope.model.state_dict().items()}
    scope.statistics(photo, importance=True)
    assert state() == before
    assert all(torch.equal(v, weights[k]) for k, v in scope.model.state_dict().items())
    assert scope.explain(photo, method="rollout").map.tobytes() == explained.map.tobytes()
    assert torch._C._len_torch_function_stack() == 0


def test_the_plot_draws_what_is_known(one, tiny_scope, photo, monkeypatch):
    assert np.asarray(one.plot()).std() > 10
    monkeypatch.setattr("vitscope.render.plots.by_depth", lambda panels, title: panels)
    drawn = one.plot()
    assert [panel.title for panel in drawn] == [
        "mean attention distance",
        "entropy of attention rows",
        "importance of heads",
        "effective rank of rollout",
    ]
    assert drawn[2].unit == f"score drop ({one.target})"
    assert [list(values) for values in drawn[0].values] == [list(layer.distance) for layer in one.layers]
    assert drawn[1].limits == [math.log(17)] * 3
    assert len(tiny_scope.statistics(photo).plot()) == 3


def test_every_number_is_in_the_document():
    page = (Path(__file__).parents[2] / "docs" / "statistics.md").read_text("utf-8")
    names = {field.name for field in fields(LayerStatistics)} - {"name", "queries", "keys", "shares"}
    for name in names | {f'shares["{share}"]' for share in SHARES}:
        assert f"\n| `{name}` |" in page, name

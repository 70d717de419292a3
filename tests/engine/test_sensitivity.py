"""The analysis of a model: rows, files, and going on where it stopped."""

from __future__ import annotations

import copy
import csv
from dataclasses import replace

import pytest

from psaq_mm.analysis.budget import Budget
from psaq_mm.analysis.sensitivity import Sensitivity
from psaq_mm.engine.analysis import measure as measure_module
from psaq_mm.engine.analysis.mixed import mixed_recipe, save_recipe
from psaq_mm.engine.analysis.sensitivity import SensitivityRun
from psaq_mm.engine.analysis.table import SensitivityTable
from psaq_mm.engine.preparation import open_config
from psaq_mm.engine.runner import DFQRunner
from psaq_mm.errors import PSAQError, UsageError
from psaq_mm.quantization import quantizers
from tests.conftest import named

COUNT = 2


def analysis(recipe, folder, widths=(8, 4), **options) -> SensitivityRun:
    return SensitivityRun(recipe(options.pop("options", None)), widths, folder, images=COUNT, **options)


@pytest.fixture(scope="module")
def measured(tiny_recipe, tiny_checkpoint, tmp_path_factory):
    """A finished analysis of the shrunken detector."""
    folder = tmp_path_factory.mktemp("analysis")
    cfg = named(copy.deepcopy(tiny_recipe), folder)
    run = SensitivityRun(cfg, (8, 4), folder, images=COUNT)
    return cfg, run, run.run()


def test_every_quantized_tensor_has_a_row_at_every_width(measured):
    cfg, run, table = measured
    found = {(*row.key, row.bits) for row in table.rows}
    assert len(found) == len(table.rows)
    names = {name for name, _ in quantizers(run.network(8))}
    assert found == {
        (name.rpartition(".")[0], name.rpartition(".")[2].removesuffix("_quantizer"), bits)
        for name in names
        for bits in (8, 4)
    }
    assert all(row.logits > 0 and row.features > 0 for row in table.rows if row.bits == 4)


def test_fewer_bits_move_the_outputs_more(measured):
    rows = {(*row.key, row.bits): row.features for row in measured[2].rows}
    pairs = [(rows[layer, tensor, 4], value) for (layer, tensor, bits), value in rows.items() if bits == 8]
    # a single tensor may move a small network less by chance
    assert sum(four > eight for four, eight in pairs) > 0.95 * len(pairs)


def test_rows_are_saved_in_the_order_of_execution(measured):
    _, run, table = measured
    loaded = SensitivityTable.load(run.path)
    assert loaded == table
    layers = list(dict.fromkeys(row.layer for row in loaded.rows))
    assert layers == list(loaded.operations)
    assert layers[0] == "backbone.patch_embed.projection" and all(count > 0 for count in loaded.operations.values())


def test_a_csv_file_holds_the_same_rows(measured):
    _, run, table = measured
    with (run.folder / "sensitivity.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(table.rows)
    for found, row in zip(rows, table.rows, strict=True):
        assert [found[key] for key in ("layer", "tensor")] == [row.layer, row.tensor]
        assert [int(found[key]) for key in ("bits", "parameters", "operations")] == [
            row.bits,
            row.parameters,
            table.operations[row.layer],
        ]
        # every digit is written
        assert [float(found[key]) for key in ("features", "logits", "seconds")] == [
            row.features,
            row.logits,
            row.seconds,
        ]
        assert found["scores_seconds"] == ""


def test_a_csv_file_has_a_column_for_each_score_and_empty_cells_for_what_is_missing(tmp_path):
    rows = [
        Sensitivity("b", "left", 4, 0, 0.5, None),
        Sensitivity("a, 1", "weight", 4, 12, 0.25, None, {"mine": 2.0}, seconds=0.125, scores_seconds=0.5),
    ]
    table = SensitivityTable("c.py", "", "generated", 1, (4, 4), 0, (4, 8), operations={"a, 1": 48}, rows=rows)
    table.to_csv(str(tmp_path / "table.csv"))
    assert (tmp_path / "table.csv").read_text().splitlines() == [
        "layer,tensor,bits,parameters,operations,features,logits,mine,seconds,scores_seconds",
        '"a, 1",weight,4,12,48,0.25,,2.0,0.125,0.5',
        "b,left,4,0,,0.5,,,,",
    ]
    assert [path.name for path in tmp_path.iterdir()] == ["table.csv"]
    with pytest.raises(PSAQError, match="cannot write"):
        table.to_csv(tmp_path / "none" / "table.csv")


def test_the_first_layer_is_measured_at_all_widths_and_has_its_own_bits_in_the_recipe(recipe, tmp_path):
    run = analysis(recipe, tmp_path, widths=(4,), tensors="weights", options={"dfq.quantization.first_layer": 8})
    table = run.run()
    first = [row for row in table.rows if "patch_embed" in row.layer]
    assert [(row.tensor, row.bits) for row in first] == [("weight", 4)]
    assert table.recipe_bits[first[0].layer] == {"weight": 8, "input": 8}
    assert {row.tensor for row in table.rows} == {"weight"}


def test_an_interrupted_analysis_goes_on_with_the_missing_rows(measured, recipe, tmp_path, monkeypatch):
    _, _, whole = measured
    real, quick = measure_module.sensitivities, {"widths": (4,), "tensors": "weights"}

    def stops(probe, reference, tensors):
        for count, row in enumerate(real(probe, reference, tensors)):
            if count == 7:
                raise KeyboardInterrupt
            yield row

    monkeypatch.setattr(measure_module, "sensitivities", stops)
    with pytest.raises(KeyboardInterrupt):
        analysis(recipe, tmp_path, **quick).run()
    assert len(SensitivityTable.load(tmp_path / "sensitivity.json").rows) == 7
    seen = []

    def counts(probe, reference, tensors):
        seen.extend(tensors)
        return real(probe, reference, tensors)

    monkeypatch.setattr(measure_module, "sensitivities", counts)
    generated = next((tmp_path / "analysis").glob("images_*.pth")).stat().st_mtime_ns
    table = analysis(recipe, tmp_path, **quick).run()
    expected = [row for row in whole.rows if row.tensor == "weight" and row.bits == 4]
    assert len(seen) == len(expected) - 7
    assert table.rows == expected, "the same machine gives the same figures"
    assert next((tmp_path / "analysis").glob("images_*.pth")).stat().st_mtime_ns == generated, (
        "images are generated once"
    )


def test_another_recipe_in_the_same_folder_is_refused(measured, recipe):
    _, run, _ = measured
    other = analysis(recipe, run.folder, options={"dfq.quantization.weight_observer": "minmax", "randomness.seed": 1})
    with pytest.raises(UsageError, match="belongs to another analysis: delete it"):
        other.run()


@pytest.mark.parametrize("name", ["results.json", "sensitivity.json"])
def test_a_folder_of_another_config_is_refused_before_any_work(measured, recipe, tmp_path, name):
    (tmp_path / name).write_text(measured[1].path.read_text().replace("mask_rcnn_swin_nano_w8a8.py", "other.py"))
    with pytest.raises(UsageError, match=r"has results of .*other.py: choose another --work-dir"):
        analysis(recipe, tmp_path)


def test_other_settings_of_the_images_generate_others(measured, recipe, tmp_path):
    quick = {"widths": (4,), "tensors": "weights"}
    first = analysis(recipe, tmp_path, **quick)
    other = analysis(recipe, tmp_path, **quick, options={"dfq.generate.steps": 7})
    names = [one.runner.options.generate.samples for one in (first, other, analysis(recipe, tmp_path, **quick))]
    assert names[0] != names[1] and names[0] == names[2]


def test_rows_are_measured_again_for_scores_that_they_lack(recipe, tmp_path):
    quick = {"widths": (4,), "tensors": "weights"}
    both = analysis(recipe, tmp_path, widths=(8, 4), tensors="weights").run()
    first = replace(both, rows=[row for row in both.rows if row.bits == 4])
    again = analysis(recipe, tmp_path, **quick, scores=("gauss_newton",)).run()
    assert {row.bits for row in again.rows} == {8, 4}  # rows of a width that is not measured now are kept
    second = replace(again, rows=[row for row in again.rows if row.bits == 4])
    assert [row.features for row in first.rows] == [row.features for row in second.rows]
    assert all(not one.scores and other.scores["gauss_newton"] > 0 for one, other in zip(first.rows, second.rows))
    assert second.logits == "error"
    assert all(row.seconds > 0 and row.scores_seconds is None for row in first.rows)
    # all tensors share the passes of the scores
    assert len({row.scores_seconds for row in second.rows}) == 1 and second.rows[0].scores_seconds > 0
    chosen = second.allocate("size=0.3", "gauss_newton", widths=[4])
    assert set(chosen.bits.values()) == {4}


@pytest.mark.parametrize("text", ["", "{", "[]", '{"schema": 2}', '{"schema": 1, "rows": [{}]}'])
def test_a_file_that_cannot_be_read_is_named(tmp_path, text):
    path = tmp_path / "sensitivity.json"
    path.write_text(text)
    with pytest.raises(PSAQError, match=r"sensitivity.json cannot be read: delete it"):
        SensitivityTable.load(path)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        pytest.param({"widths": ()}, r"widths \[\] are not valid", id="no-width"),
        pytest.param({"widths": (8, 1)}, "give bits from 2 to 8", id="one-bit"),
        pytest.param({"widths": (16,)}, "give bits from 2 to 8", id="sixteen-bits"),
        pytest.param({"source": "imagenet"}, "source 'imagenet' is unknown", id="source"),
        pytest.param({"tensors": "biases"}, "tensors 'biases' are unknown", id="tensors"),
        pytest.param({"batch_size": 0}, "must be at least 1", id="batch-size"),
        pytest.param({"source": "real", "options": {"real_images": None}}, "needs real_images", id="real"),
    ],
)
def test_wrong_arguments_are_usage_errors(recipe, tmp_path, arguments, message):
    with pytest.raises(UsageError, match=message):
        analysis(recipe, tmp_path, **arguments)


def test_real_images_of_the_training_set_are_a_source(recipe, tmp_path):
    dataset = recipe().test_dataloader.dataset.to_dict()
    table = analysis(recipe, tmp_path, (4,), source="real", tensors="weights", options={"real_images": dataset}).run()
    assert table.source == "real" and all(row.features > 0 for row in table.rows)


def test_a_mixed_recipe_gives_each_layer_the_chosen_bits(measured, tmp_path):
    cfg, _, table = measured
    chosen = table.allocate(Budget("size", 0.18))
    assert 0.17 < chosen.share <= 0.18 and chosen.gap == 0
    save_recipe(mixed_recipe(cfg, chosen.overrides(table.recipe_bits)), tmp_path / "mixed.py")
    loaded = named(open_config(tmp_path / "mixed.py", {}, tmp_path, None), tmp_path)
    runner = DFQRunner.from_cfg(loaded)
    runner.prepare()
    bits = {name.removesuffix(".weight_quantizer"): one.spec.bits for name, one in quantizers(runner.student)}
    assert {layer: bits[layer] for layer, tensor in chosen.bits} == {key[0]: b for key, b in chosen.bits.items()}
    assert set(chosen.bits.values()) == {4, 8}


def test_layers_have_the_names_that_patterns_of_a_policy_match(measured):
    assert all(row.layer.startswith("backbone.") for row in measured[2].rows)
    assert all((row.parameters > 0) == (row.tensor == "weight") for row in measured[2].rows)


def test_tensors_that_no_score_sees_keep_the_bits_of_the_recipe(measured):
    _, _, table = measured
    unseen = "backbone.patch_embed.projection"
    rows = [replace(row, features=0.0, logits=0.0) if row.layer == unseen else row for row in table.rows]
    chosen = replace(table, rows=rows).allocate("size=0.14")
    assert not any(layer == unseen for layer, _ in chosen.bits)
    assert any(layer == unseen for layer, _ in table.allocate("size=0.14").bits)


@pytest.mark.parametrize("budget", [0.125, None, "0.125"], ids=repr)
def test_a_budget_without_its_kind_is_refused(measured, budget):
    with pytest.raises(UsageError, match=r"is not valid: write size=0.125"):
        measured[2].allocate(budget)

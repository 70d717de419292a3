"""What hosts say while they build a part of a config: one line of ours."""

from __future__ import annotations

import pytest
from mmengine.config import Config
from mmengine.registry import MODELS, Registry

from psaq_mm.errors import PSAQError, UsageError
from psaq_mm.models import host_class, host_imports, without_downloads
from psaq_mm.models.hosts.types import buildable, knows

UNKNOWN = "'{} is not in the mmengine::{} registry. Please check whether the value is correct'"


@pytest.mark.parametrize(
    ("error", "kind", "said"),
    [
        pytest.param(KeyError(UNKNOWN.format("ImageClassifier", "model")), UsageError, "'mmpretrain'", id="classifier"),
        pytest.param(KeyError(UNKNOWN.format("EncoderDecoder", "model")), UsageError, "'mmseg'", id="segmentor"),
        pytest.param(KeyError(UNKNOWN.format("CocoMetric", "metric")), UsageError, "'mmdet'", id="metric"),
        pytest.param(KeyError(UNKNOWN.format("Nothing", "model")), UsageError, "custom_imports", id="nobody's"),
        pytest.param(AssertionError("`mean` should have 1 or 3 values"), UsageError, "1 or 3 values", id="assertion"),
        pytest.param(AssertionError(), UsageError, "AssertionError", id="silent"),
        pytest.param(ImportError("panopticapi is not installed"), PSAQError, "panopticapi", id="import"),
        pytest.param(RuntimeError("transformers is not installed"), PSAQError, "transformers", id="package"),
        pytest.param(NotImplementedError("please install fairscale"), PSAQError, "fairscale", id="not-implemented"),
        pytest.param(PSAQError("ours"), PSAQError, "^ours$", id="ours"),
        pytest.param(FileNotFoundError("val.json"), FileNotFoundError, "val.json", id="file"),
    ],
)
def test_one_line_says_what_to_do(error, kind, said):
    with pytest.raises(kind, match=said) as raised, buildable(Config({}), "model"):
        raise error
    assert type(raised.value) is kind and len(str(raised.value).splitlines()) == 1


def test_a_scope_that_is_another_librarys():
    error = KeyError("'FPN is not in the mmpretrain::model registry.'")
    said = r"default_scope of the config is 'mmpretrain': write mmdet\.FPN"
    with pytest.raises(UsageError, match=said), buildable(Config({"default_scope": "mmpretrain"}), "model"):
        raise error


def test_libraries_know_their_own():
    assert knows("mmdet", "MaskRCNN") and not knows("mmseg", "MaskRCNN") and not knows("no_such_library", "MaskRCNN")


def test_checkpointing_is_off_everywhere_in_a_models_config():
    """As in mmdet's Grounding DINO, whose encoder would ask for fairscale."""
    model = Config(
        {
            "type": "GroundingDINO",
            "backbone": {"type": "SwinTransformer", "with_cp": True},
            "encoder": {"num_layers": 6, "num_cp": 6},
            "heads": [{"use_checkpoint": True}],
        }
    )
    off = without_downloads(model._cfg_dict)
    assert (off.backbone.with_cp, off.encoder.num_cp, off.heads[0].use_checkpoint) == (False, -1, False)
    assert model.backbone.with_cp is True


@pytest.fixture
def broken_host(tmp_path, monkeypatch):
    """A library whose dependency fails on import, as mmpretrain with a transformers that it does not know."""
    (tmp_path / "broken_host.py").write_text("import broken_dependency\n")
    (tmp_path / "broken_dependency.py").write_text("def f(): raise TypeError('no such\\nargument')\nf()\n")
    monkeypatch.syspath_prepend(tmp_path)


BROKEN = r"^broken_host cannot be imported \(TypeError in broken_dependency: no such argument\): install versions of"


def imported():
    with host_imports():
        import broken_host  # noqa: F401


def built():
    with buildable(Config({}), "model"):
        import broken_host  # noqa: F401


def looked_up():
    registry = Registry("model", parent=MODELS, scope="broken_host", locations=["broken_host"])
    try:
        host_class("broken_host.Model")
    finally:
        MODELS.children.pop(registry.scope)


@pytest.mark.parametrize("use", [imported, built, looked_up])
def test_a_library_that_fails_on_import_is_named_with_the_cause(broken_host, use):
    with pytest.raises(PSAQError, match=BROKEN) as raised:
        use()
    assert type(raised.value) is PSAQError and len(str(raised.value).splitlines()) == 1


def test_errors_of_another_origin_pass():
    with pytest.raises(KeyError, match="key"), host_imports():
        raise KeyError("key")
    with pytest.raises(UsageError, match="^ours$"), host_imports():
        raise UsageError("ours")

"""The table of backbones: where classes are declared, and how many configs use them."""

from __future__ import annotations

import types

import pytest

from dev import backbone_table
from dev.zoo.record import ZooRecord

ROWS = [
    {"library": "mmdet", "backbone": "mmdet.SwinTransformer", "covers": ["a", "b"]},
    {"library": "mmdet", "backbone": "mmdet.SwinTransformer", "covers": ["c"]},
    {"library": "mmdet", "backbone": "mmpretrain.TNT", "covers": ["d"]},
    {"library": "mmpretrain", "backbone": "mmpretrain.ResNet", "covers": ["e"]},
]
SOURCE = """
PLACE = "mmdet.models"
Adapter(backbones=(f"{PLACE}.One",), attentions={"mmdet.Attention": None})
Adapter(backbones=tuple(f"{PLACE}.{name}" for name in ("Two", "Three")), classifiers=("mmdet.models.Four",))
"""


@pytest.fixture
def few(monkeypatch):
    known = {"mmpretrain.TNT": "plain/tnt.py", "mmdet.SwinTransformer": "windows/swin.py"}
    monkeypatch.setattr(backbone_table, "declared", lambda: known)
    recipes = [("mask_rcnn", "mmdet.SwinTransformer", "detection"), ("upernet_tnt", "mmpretrain.TNT", "segmentation")]
    monkeypatch.setattr(backbone_table, "all_recipes", lambda: recipes)


def cells(record):
    lines = backbone_table.backbone_table(record).splitlines()[2:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_a_class_is_a_row_with_its_tasks_recipes_and_configs(few):
    assert cells(ZooRecord(ROWS)) == [
        ["`mmdet.SwinTransformer`", "`windows/swin.py`", "detection (3)", "`mask_rcnn`", "[results](results.md)"],
        ["`mmpretrain.TNT`", "`plain/tnt.py`", "detection (1), segmentation, classification", "`upernet_tnt`", "-"],
    ]


def test_without_a_record_configs_are_not_counted(few):
    assert [row[2] for row in cells(ZooRecord())] == ["detection", "segmentation, classification"]


def test_declarations_are_read_from_the_source(monkeypatch):
    module = types.ModuleType("of_the_test")
    module.Adapter = dict
    exec(SOURCE, vars(module))
    monkeypatch.setattr(backbone_table.inspect, "getsource", lambda one: SOURCE)
    names = ["One", "Two", "Three", "Four"]
    assert list(backbone_table.declared_in(module)) == [f"mmdet.models.{name}" for name in names]

"""The Swin authors' checkpoints load into the hosts' models completely and compute the same."""

from __future__ import annotations

import copy

import pytest
import torch
from mmdet.models.backbones import SwinTransformer as DetectionSwin
from mmdet.registry import MODELS as MMDET_MODELS
from mmdet.structures import DetDataSample
from mmengine.config import Config, ConfigDict
from mmengine.registry import init_default_scope
from mmengine.structures import InstanceData
from mmseg.models.backbones import SwinTransformer as SegmentationSwin
from mmseg.registry import MODELS as MMSEG_MODELS
from timm.models.swin_transformer import SwinTransformer as TimmSwin
from torch import Tensor, nn

from psaq_mm.engine.arms import real_dataset
from psaq_mm.errors import PSAQError
from psaq_mm.models import QuantSwinTransformer, artifact_model, convert_authors_swin, has_authors_names, policy_of
from psaq_mm.models.checkpoint import load_weights
from psaq_mm.quantization import calibrating, coverage, freeze
from tests.conftest import ROOT, random_weights
from tests.models.converters.authors import authors_order, authors_state

# 224 = 4 * 2**3 * 7: no stage pads, which timm does otherwise. Its third stage has a shifted block.
SIZE = 224
SHAPE = {"depths": (1, 1, 2, 1), "num_heads": (1, 2, 4, 8), "window_size": 7}
WIDTHS = (16, 32, 64, 128)
HOSTS = {"mmdet": DetectionSwin, "mmseg": SegmentationSwin}


def authors_swin() -> tuple[TimmSwin, nn.ModuleList, dict[str, Tensor]]:
    """timm's Swin, which merges patches as the authors do; output norms, which theirs has for detection; their state.

    timm merges patches at the start of a stage, the authors at the end of the one before.
    """
    swin = TimmSwin(img_size=SIZE, embed_dim=WIDTHS[0], num_classes=0, **SHAPE)
    norms = nn.ModuleList(nn.LayerNorm(width) for width in WIDTHS)
    random_weights(swin, seed=1)
    for seed, norm in enumerate(norms):
        norm.weight.data = torch.rand(norm.weight.shape, generator=torch.Generator().manual_seed(seed)) + 0.5
        norm.bias.data = torch.randn(norm.bias.shape, generator=torch.Generator().manual_seed(seed + 4))
    state = {}
    for key, value in swin.state_dict().items():
        first, _, rest = key.partition(".")
        if first == "layers":
            stage, _, rest = rest.partition(".")
            state[f"backbone.layers.{int(stage) - rest.startswith('downsample')}.{rest}"] = value
        elif first != "norm":  # the classifier's
            state[f"backbone.{key}"] = value
    for i, stage in enumerate(swin.layers):
        for j, block in enumerate(stage.blocks):
            prefix = f"backbone.layers.{i}.blocks.{j}"
            state[f"{prefix}.attn.relative_position_index"] = block.attn.relative_position_index
            if j == 1:  # the authors' classification code keeps its masks, that for detection computes them
                state[f"{prefix}.attn_mask"] = torch.zeros(4, 49, 49)
        state.update({f"backbone.norm{i}.{key}": value for key, value in norms[i].state_dict().items()})
    return swin, norms, state


def host_swin(host: str, state: dict[str, Tensor]) -> nn.Module:
    """The host's Swin with the weights loaded; nothing may be left over on either side."""
    model = HOSTS[host](embed_dims=WIDTHS[0], patch_norm=True, **SHAPE)
    index = {key: value.clone() for key, value in model.state_dict().items() if key.endswith("relative_position_index")}
    own = {key.removeprefix("backbone."): value for key, value in state.items()}
    model.load_state_dict(own, strict=True)
    # the buffer that both code bases compute is the same, too
    assert index and all(torch.equal(model.state_dict()[key], value) for key, value in index.items())
    model.eval()
    return model


@pytest.mark.parametrize("host", HOSTS)
@torch.no_grad()
def test_every_stage_computes_what_the_authors_does(host):
    swin, norms, state = authors_swin()
    converted = convert_authors_swin(state, "a.pth")
    images = torch.randn(2, 3, SIZE, SIZE)
    stages = swin.forward_intermediates(images, intermediates_only=True)
    expected = [norm(x.movedim(1, -1)).movedim(-1, 1) for norm, x in zip(norms, stages, strict=True)]
    got = host_swin(host, converted)(images)
    for one, other in zip(got, expected, strict=True):
        # float32 on numbers about 1, sums in another order: hundreds of roundings
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)

    renamed = dict(converted)
    for key, value in state.items():
        if ".downsample." in key:
            renamed[key.replace("layers.", "stages.")] = value
    got = host_swin(host, renamed)(images)
    torch.testing.assert_close(got[0], expected[0], rtol=1e-5, atol=1e-5)
    for one, other in zip(got[1:], expected[1:], strict=True):
        assert (one - other).abs().mean() > 0.1


def test_the_tests_own_order_of_patches():
    """Named by row, column and channel: what ``nn.Unfold`` lays out, and what the authors do."""
    unfolded = torch.tensor([[100 * h + 10 * w + c for c in (1, 2) for h in (0, 1) for w in (0, 1)]])
    stacked = [[100 * h + 10 * w + c for w in (0, 1) for h in (0, 1) for c in (1, 2)]]
    assert authors_order(unfolded).tolist() == stacked == [[1, 2, 101, 102, 11, 12, 111, 112]]
    image = torch.arange(8.0).reshape(1, 2, 2, 2)  # (1, c, h, w)
    laid_out = nn.functional.unfold(image, 2, stride=2)[..., 0]
    places = image.permute(0, 2, 3, 1)
    expected = torch.cat([places[:, h::2, w::2] for w in (0, 1) for h in (0, 1)], -1).flatten(1)
    assert torch.equal(authors_order(laid_out), expected)


def cascade(name: str = "cascade_mask_rcnn_swin_t_w8a8") -> Config:
    cfg = Config.fromfile(ROOT / "configs" / f"{name}.py")
    cfg.model.backbone.init_cfg = None
    return cfg


def tiny_cascade() -> Config:
    """The authors' detector with a small backbone and thin heads."""
    cfg = cascade()
    model = cfg.model
    model.backbone.merge({"embed_dims": 16, "depths": (1, 1, 2, 1), "num_heads": (1, 2, 4, 8)})
    model.neck.merge({"in_channels": list(WIDTHS), "out_channels": 32})
    model.rpn_head.merge({"in_channels": 32, "feat_channels": 32})
    for head in model.roi_head.bbox_head:
        head.merge({"in_channels": 32, "conv_out_channels": 32, "fc_out_channels": 32, "num_classes": 5})
    model.roi_head.mask_head.merge({"in_channels": 32, "conv_out_channels": 32, "num_classes": 5})
    for extractor in (model.roi_head.bbox_roi_extractor, model.roi_head.mask_roi_extractor):
        extractor.out_channels = 32
    model.test_cfg.rcnn.merge({"score_thr": 0.0, "max_per_img": 10})
    return cfg


def built(model: ConfigDict, seed: int) -> nn.Module:
    init_default_scope("mmdet")
    return random_weights(MMDET_MODELS.build(copy.deepcopy(model)), seed)


def comes_back(float_state: dict[str, Tensor], model: nn.Module) -> None:
    """The authors' form of a state dict, converted, is that state dict again, and loads completely."""
    old = authors_state(float_state)
    assert has_authors_names(old) and not any("stages" in key or "w_msa" in key or "ffn" in key for key in old)
    before = {key: value.clone() for key, value in old.items()}
    converted = convert_authors_swin({f"module.{key}": value for key, value in old.items()}, "a.pth")
    assert all(torch.equal(old[key], value) for key, value in before.items())
    load_weights(model, converted, "a.pth")
    for key, value in model.state_dict().items():
        assert torch.equal(value, float_state[key]), key


# Names that mmdet 2.11 gave, which the authors' detection code stands on.
OLD_NAMES = {
    "backbone.patch_embed.proj.weight",
    "backbone.patch_embed.norm.bias",
    "backbone.layers.2.blocks.1.attn.relative_position_bias_table",
    "backbone.layers.2.blocks.1.attn.relative_position_index",
    "backbone.layers.0.blocks.0.attn.qkv.bias",
    "backbone.layers.0.blocks.0.mlp.fc1.weight",
    "backbone.layers.0.blocks.0.mlp.fc2.bias",
    "backbone.layers.0.downsample.reduction.weight",
    "backbone.layers.2.downsample.norm.weight",
    "backbone.norm3.weight",
    "neck.lateral_convs.0.conv.weight",
    "neck.fpn_convs.3.conv.bias",
    "rpn_head.rpn_conv.weight",
    "rpn_head.rpn_cls.weight",
    "rpn_head.rpn_reg.bias",
    "roi_head.bbox_head.0.shared_convs.0.conv.weight",
    "roi_head.bbox_head.2.shared_convs.3.bn.running_mean",
    "roi_head.bbox_head.2.shared_convs.3.bn.num_batches_tracked",
    "roi_head.bbox_head.1.shared_fcs.0.weight",
    "roi_head.bbox_head.1.fc_cls.weight",
    "roi_head.bbox_head.1.fc_reg.bias",
    "roi_head.mask_head.0.convs.3.conv.weight",
    "roi_head.mask_head.2.upsample.weight",
    "roi_head.mask_head.2.conv_logits.bias",
}


def test_a_whole_detector_loads():
    cfg = tiny_cascade()
    state = built(cfg.model, seed=1).state_dict()
    assert authors_state(state).keys() >= OLD_NAMES
    comes_back(state, built(cfg.model, seed=2))


def test_a_whole_segmentor_loads():
    model = ConfigDict(
        type="EncoderDecoder",
        backbone=dict(type="SwinTransformer", embed_dims=16, patch_norm=True, **SHAPE),
        decode_head=dict(
            type="UPerHead",
            in_channels=list(WIDTHS),
            in_index=[0, 1, 2, 3],
            channels=16,
            num_classes=3,
            norm_cfg=dict(type="SyncBN"),
        ),
        auxiliary_head=dict(
            type="FCNHead",
            in_channels=64,
            in_index=2,
            channels=16,
            num_convs=1,
            concat_input=False,
            num_classes=3,
            norm_cfg=dict(type="SyncBN"),
        ),
    )
    init_default_scope("mmseg")
    models = [random_weights(MMSEG_MODELS.build(copy.deepcopy(model)), seed) for seed in (1, 2)]
    comes_back(models[0].state_dict(), models[1])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda state: convert_authors_swin(state, "a.pth"), "has the names of mmdet and mmseg already: use it as it"),
        (
            lambda state: {key.removeprefix("backbone."): value for key, value in state.items()},
            "holds a backbone alone, which mmdet and mmseg convert by themselves",
        ),
        (lambda state: {key.replace("blocks", "parts"): v for key, v in state.items()}, "has not the Swin authors'"),
        (
            lambda state: {key: v for key, v in state.items() if "bias_table" not in key} | {"x": torch.ones(1)},
            "has not the Swin authors' names",
        ),
        (lambda state: {}, "has not the Swin authors' names"),
    ],
    ids=["converted", "imagenet", "others", "swin-v2", "empty"],
)
def test_other_names_are_refused(change, said):
    state = change(authors_swin()[2])
    assert not has_authors_names(state)
    with pytest.raises(PSAQError, match=f"the checkpoint a.pth {said}") as error:
        convert_authors_swin(state, "a.pth")
    assert "\n" not in str(error.value)


@torch.no_grad()
def test_the_recipe_runs_on_a_cpu_float_and_quantized():
    """Synchronised batch norms and all: in eval mode they ask for no GPU and no processes."""
    cfg = tiny_cascade()
    assert any(isinstance(module, nn.SyncBatchNorm) for module in built(cfg.model, seed=1).modules())
    student = built(artifact_model(cfg.model, cfg.dfq.quantization), seed=1)
    images = torch.randn(1, 3, 64, 96)
    with calibrating(student):
        student.backbone(images)
    freeze(student)
    for model in (built(cfg.model, seed=1), student):
        shape = {"img_shape": (64, 96), "ori_shape": (64, 96), "scale_factor": (1.0, 1.0), "pad_shape": (64, 96)}
        (found,) = model.predict(images, [DetDataSample(metainfo=shape)])
        assert isinstance(found.pred_instances, InstanceData) and len(found.pred_instances) == 10


@pytest.mark.parametrize(("size", "blocks", "parameters"), [("t", 12, 86e6), ("s", 24, 107e6)])
def test_the_recipes_build_what_the_authors_trained(size, blocks, parameters):
    """Their table gives the parameters in millions: other heads would not come out at them."""
    cfg = cascade(f"cascade_mask_rcnn_swin_{size}_w4a8")
    assert cfg.test_evaluator.type == "CocoMetric" and real_dataset(cfg)["ann_file"].endswith("train2017.json")
    assert cfg.load_from.endswith("_converted.pth")
    assert cfg.load_from.replace("_converted", "").rpartition("/")[2] == cfg.checkpoint_url.rpartition("/")[2]
    assert (ROOT / cfg.checkpoint_converter).is_file()
    init_default_scope("mmdet")
    model = MMDET_MODELS.build(artifact_model(cfg.model, cfg.dfq.quantization))
    assert type(model.backbone) is QuantSwinTransformer
    quantizers = sum(p.numel() for name, p in model.named_parameters() if "quantizer." in name)
    assert abs(sum(p.numel() for p in model.parameters()) - quantizers - parameters) < 0.5e6
    report = coverage(model.backbone, policy_of(cfg.dfq.quantization)[0], prefix="backbone")
    # In each block 12, the patch embedding's weight and input, weight and input of three patch mergings.
    assert report.quantized == blocks * 12 + 2 + 3 * 2

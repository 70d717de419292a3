"""Tiny detectors that take text, and the BERT of two layers that they read it with, in a folder of the test's own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.models.test_detectors import DENOISING, MAPPER, SWIN

WORDS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", ".", "?", "disc", "ring", "square", "triangle", "object")


def write_bert(folder: Path, width: int = 32) -> str:
    """Write config, vocabulary and random weights of a BERT in the form of Hugging Face; return its folder's name."""
    transformers = pytest.importorskip("transformers", reason="the extra [language] is not installed")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.txt").write_text("\n".join(WORDS))
    transformers.BertTokenizerFast(str(folder / "vocab.txt")).save_pretrained(folder)
    sizes = {"hidden_size": width, "intermediate_size": 2 * width, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = transformers.BertConfig(vocab_size=len(WORDS), max_position_embeddings=256, **sizes)
    transformers.BertModel(config).save_pretrained(folder)
    return str(folder)


def grounding_dino(bert: str) -> dict[str, Any]:
    """As in the zoo's configs, with activation checkpointing on as in those of MM Grounding DINO.

    It is as wide as theirs, since the positions of the text have this width in mmdet's code.
    """
    wide = 256
    ffn = {"embed_dims": wide, "feedforward_channels": 32, "num_fcs": 2}
    heads = {"embed_dims": wide, "num_heads": 4, "dropout": 0.0}
    return {
        "type": "GroundingDINO",
        "num_queries": 10,
        "with_box_refine": True,
        "as_two_stage": True,
        "language_model": {
            "type": "BertModel",
            "name": bert,
            "pad_to_max": False,
            "use_sub_sentence_represent": True,
            "special_tokens_list": ["[CLS]", "[SEP]", ".", "?"],
            "add_pooling_layer": True,
        },
        "backbone": {**SWIN, "with_cp": True},
        "neck": {**MAPPER, "bias": True, "out_channels": wide},
        "encoder": {
            "num_layers": 1,
            "num_cp": 1,
            "layer_cfg": {"self_attn_cfg": {"embed_dims": wide, "num_levels": 4}, "ffn_cfg": ffn},
            "text_layer_cfg": {"self_attn_cfg": heads, "ffn_cfg": ffn},
            "fusion_layer_cfg": {"v_dim": wide, "l_dim": wide, "embed_dim": 32, "num_heads": 2},
        },
        "decoder": {
            "num_layers": 2,
            "return_intermediate": True,
            "layer_cfg": {
                "self_attn_cfg": heads,
                "cross_attn_text_cfg": heads,
                "cross_attn_cfg": heads,
                "ffn_cfg": ffn,
            },
            "post_norm_cfg": None,
        },
        "positional_encoding": {"num_feats": wide // 2, "normalize": True},
        "bbox_head": {
            "type": "GroundingDINOHead",
            "num_classes": 3,
            "contrastive_cfg": {"max_text_len": 256, "log_scale": "auto", "bias": True},
            "loss_cls": {"type": "FocalLoss", "use_sigmoid": True},
        },
        "dn_cfg": DENOISING,
        "test_cfg": {"max_per_img": 5},
    }


def glip(bert: str) -> dict[str, Any]:
    """As in the zoo's configs of GLIP-T (A), which fuse no text into the maps."""
    return {
        "type": "GLIP",
        "backbone": SWIN,
        "neck": {
            "type": "FPN",
            "in_channels": [32, 64, 128],
            "out_channels": 32,
            "relu_before_extra_convs": True,
            "add_extra_convs": "on_output",
            "num_outs": 5,
        },
        "bbox_head": {
            "type": "ATSSVLFusionHead",
            "lang_model_name": bert,
            "num_classes": 3,
            "in_channels": 32,
            "feat_channels": 32,
            "num_dyhead_blocks": 1,
            "anchor_generator": {
                "type": "AnchorGenerator",
                "ratios": [1.0],
                "octave_base_scale": 8,
                "scales_per_octave": 1,
                "strides": [8, 16, 32, 64, 128],
                "center_offset": 0.5,
            },
            "bbox_coder": {"type": "DeltaXYWHBBoxCoderForGLIP", "target_stds": [0.1, 0.1, 0.2, 0.2]},
        },
        "language_model": {"type": "BertModel", "name": bert},
        "test_cfg": {
            "nms_pre": 50,
            "min_bbox_size": 0,
            "score_thr": 0.0,
            "nms": {"type": "nms", "iou_threshold": 0.6},
            "max_per_img": 5,
        },
    }


DETECTORS = {"grounding-dino": grounding_dino, "glip": glip}

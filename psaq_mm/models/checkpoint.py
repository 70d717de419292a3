"""Loading checkpoints safely and completely, and writing the quantized one with its config.

mmengine's loader falls back to unsafe unpickling and only logs keys that do not fit. The functions here raise errors.
"""

from __future__ import annotations

import copy
import importlib
import pickle
import shlex
from collections import OrderedDict
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from torch import nn

from ..compat import safe_globals
from ..errors import PSAQError, UsageError
from ..quantization import QuantizationError, fold_state
from ..utils.atomic_files import save_tensors, save_with
from ..utils.config_lookup import find_file
from .converters.swin import has_authors_names
from .hosts.types import types_as_names
from .load_hooks import constant_keys

SHOWN_KEYS = 3
CURL = ("curl", "-L", "--create-dirs", "-o")
TRAINING_KEYS = (
    "train_dataloader",
    "train_cfg",
    "optim_wrapper",
    "param_scheduler",
    "auto_scale_lr",
    "train_pipeline",
    "max_iters",
    "max_epochs",
    "load_from",
    "resume",
    "randomness",
    "checkpoint_url",
    "checkpoint_converter",
    "checkpoint_training",
    "real_images",
)


def _history_method(owner: type, name: str) -> Any:
    """``getattr`` as far as a checkpoint of mmengine's training needs it: the statistics of a ``HistoryBuffer``.

    The method is only looked up; torch refuses to call functions that are not in the list of known globals.

    Raises:
        pickle.UnpicklingError: Anything else is asked for.
    """
    from mmengine.logging import HistoryBuffer

    if owner is not HistoryBuffer or name.startswith("_"):
        raise pickle.UnpicklingError("Unsupported global: GLOBAL getattr")
    return getattr(owner, name)


def _known_globals() -> list[Any]:
    """The classes of what mmengine writes into a checkpoint's log; rebuilding them runs no code of the file."""
    import numpy as np
    from mmengine.logging import HistoryBuffer

    multiarray = importlib.import_module("numpy._core.multiarray" if hasattr(np, "_core") else "numpy.core.multiarray")
    kinds = {type(np.dtype(name)) for name in ("float64", "float32", "int64", "int32")}
    reconstruct = multiarray._reconstruct
    # Checkpoints contain the module's name in the numpy version that wrote them.
    old = [(reconstruct, "numpy.core.multiarray._reconstruct"), (multiarray.scalar, "numpy.core.multiarray.scalar")]
    old.append((_history_method, "builtins.getattr"))
    return [HistoryBuffer, np.ndarray, np.dtype, reconstruct, multiarray.scalar, *old, *kinds]


def how_to_get(path: Path, cfg: Config | dict[str, Any]) -> str:
    """What to do about a missing checkpoint, for messages.

    Args:
        path: Its expected path.
        cfg: The recipe, with ``checkpoint_url`` (its address; ``checkpoint_converter`` is then the tool that converts
            the fetched file, if that is necessary), or with ``checkpoint_training`` (the config that trains it, for a
            checkpoint that nobody has published), or with neither.
    """
    url, converter, training = (cfg.get(f"checkpoint_{key}") for key in ("url", "converter", "training"))
    if training:
        command = shlex.join(["python", "tools/train.py", str(find_file(training)), "--work-dir", str(path.parent)])
        return f"there is no public one of this model, train it with: {command}, or give another with --checkpoint"
    if not url:
        return "give its path with --checkpoint"
    fetched = path.with_name(url.rpartition("/")[2])
    if not converter or fetched == path:
        return f"fetch it with: {shlex.join([*CURL, str(path), url])}"
    fetch = shlex.join([*CURL, str(fetched), url])
    return f"fetch and convert it with: {fetch} && {shlex.join(['python', converter, str(fetched), str(path)])}"


def read_checkpoint(path: str | Path, hint: str = "give its path with --checkpoint") -> dict[str, Any]:
    """Read a checkpoint with torch's ``weights_only=True``, never falling back.

    Args:
        path: The file.
        hint: What to do if there is no such file, for the message.

    Returns:
        ``{"state_dict": …, "meta": …}``; a bare state dict is wrapped.

    Raises:
        PSAQError: It is missing, truncated, or holds pickled objects that ``weights_only`` refuses.
    """
    if "://" in str(path):
        file = str(path).rpartition("/")[2].partition("?")[0]
        raise PSAQError(
            f"the checkpoint {path} is an address, and nothing is fetched here: fetch it with: "
            f"curl -L --create-dirs -o checkpoints/{shlex.quote(file)} {shlex.quote(str(path))}, then give "
            f"--checkpoint checkpoints/{file}"
        )
    path = Path(path)
    if not path.is_file():
        raise PSAQError(f"there is no checkpoint at {path}: {hint}")
    try:
        with safe_globals(_known_globals()):
            loaded = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        with open(path, "rb") as opened:
            head = opened.read(2)
        if head != b"PK" and head[:1] != pickle.PROTO:
            # For example the web page of a failed download: the advice to load it unsafely would be wrong.
            raise PSAQError(f"the checkpoint {path} is truncated or no checkpoint at all: fetch it again") from None
        what = str(error).partition("GLOBAL ")[2].split(" ")[0] or "Python objects"
        raise PSAQError(
            f"the checkpoint {path} holds pickled {what}, which torch refuses to load safely: if you trust its origin, "
            "keep only the tensors with: python -c \"import torch; c = torch.load('IN', weights_only=False); "
            "torch.save({'state_dict': c.get('state_dict', c)}, 'OUT')\""
        ) from None
    except (RuntimeError, EOFError, OSError, KeyError, ValueError):
        raise PSAQError(f"the checkpoint {path} is truncated or no checkpoint at all: fetch it again") from None
    if not isinstance(loaded, dict):
        raise PSAQError(f"the checkpoint {path} holds a {type(loaded).__name__}, not a state dict: give another")
    state = loaded.get("state_dict", loaded.get("model", loaded))
    meta = loaded.get("meta", {}) if "state_dict" in loaded else {}
    return {"state_dict": state, "meta": meta if isinstance(meta, dict) else {}}


def is_quantizer_key(key: str) -> bool:
    """Whether a key of a state dict is one of calibration: a quantizer's, or a ratio or center of a product.

    Their shapes are those of the checkpoint.
    """
    owner, _, name = key.rpartition(".")
    return owner.endswith("quantizer") or (name in ("ratio", "center") and owner.endswith(".qk"))


def load_weights(model: nn.Module, state: dict[str, Any], name: str) -> None:
    """Load a state dict completely.

    Args:
        model: A float or a quantized model.
        state: Its state dict; keys of data preprocessors may be absent.
        name: How messages refer to it.

    Raises:
        PSAQError: Keys are missing, unexpected or of other shapes (the first are listed), the bit widths differ, one
            of model and checkpoint is quantized and the other float, the names are those of the Swin authors, or a
            value is NaN or infinite.
    """
    constants = constant_keys(model)
    state = OrderedDict((key.removeprefix("module."), value) for key, value in state.items())
    state = OrderedDict((key, value) for key, value in fold_state(model, state).items() if key not in constants)
    own = {key: value for key, value in model.state_dict().items() if key not in constants}
    is_quantizer = {key for key in {*own, *state} if is_quantizer_key(key)}
    shapes = [
        f"{key} {tuple(state[key].shape)} instead of {tuple(own[key].shape)}"
        for key in own.keys() & state.keys() - is_quantizer
        if tuple(own[key].shape) != tuple(state[key].shape)
    ]
    missing, unexpected = sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys())
    if (missing or unexpected) and not shapes and not is_quantizer:
        # mmpretrain's models rename keys of older versions while they load. A copy tries it, so that the model stays
        # unchanged where that fails.
        with suppress(RuntimeError):
            copy.deepcopy(model).load_state_dict(state)
            missing, unexpected = [], []
    if missing and has_authors_names(state) and not has_authors_names(own):
        raise PSAQError(
            f"the checkpoint {name} has the Swin authors' names and order of patches: convert it with "
            f"{shlex.join(['python', 'tools/convert_swin.py', name])} OUT, then give OUT"
        )
    differing = {*missing, *unexpected}
    if differing and differing <= is_quantizer and not shapes:
        if not is_quantizer & state.keys():
            raise PSAQError(
                f"the checkpoint {name} is a float model's, the config a quantized one's: quantize it with "
                "tools/dfq.py, which writes the checkpoint that belongs to the config"
            )
        if not is_quantizer & own.keys():
            raise PSAQError(
                f"the checkpoint {name} is a quantized model's, the config a float one's: give a float checkpoint, or "
                "the quantized.py that lies beside this one"
            )
    if shapes and not missing and not unexpected:
        check_class_count(own, state, name)
    for what, keys in (("lacks", missing), ("has unexpected", unexpected), ("has other shapes:", sorted(shapes))):
        if keys:
            more = f" and {len(keys) - SHOWN_KEYS} more" if len(keys) > SHOWN_KEYS else ""
            hint = "of another architecture, or quantized otherwise" if any(k in is_quantizer for k in keys) else ""
            raise PSAQError(
                f"the checkpoint {name} is {hint or 'of another architecture'}: it {what} "
                f"{', '.join(keys[:SHOWN_KEYS])}{more}; give the checkpoint that belongs to the config"
            )
    check_finite(state, name)
    try:
        # Strict, except for buffers that the model does not load.
        lost = set(model.load_state_dict(state, strict=not constants).missing_keys) - constants
    except QuantizationError as error:
        raise PSAQError(f"the checkpoint {name} does not fit: {error}") from None
    if lost:
        raise PSAQError(f"the checkpoint {name} does not fit: {sorted(lost)[:SHOWN_KEYS]} were not loaded")


def check_finite(state: dict[str, Any], name: str) -> None:
    """Make sure that a checkpoint's values are finite.

    Infinity is allowed in tensors that are not named as weights or biases, since masks contain it, and NaN as an SQNR
    that is not known.

    Raises:
        PSAQError: A tensor holds NaN, or a weight or bias infinity; the message names the first and how many there are.
    """
    broken = []
    for key, value in state.items():
        if not (isinstance(value, torch.Tensor) and value.is_floating_point()) or key.endswith(".sqnr_db"):
            continue
        finite = torch.isfinite(value)
        if not finite.all() and (key.endswith(("weight", "bias")) or torch.isnan(value).any()):
            broken.append(f"{key} ({int((~finite).sum())} of {value.numel()} values)")
    if broken:
        more = f" and {len(broken) - 1} more tensors" if len(broken) > 1 else ""
        raise PSAQError(
            f"the checkpoint {name} is broken: NaN or infinity in {broken[0]}{more}; give another one, such as an "
            "earlier one of its training"
        )


def check_class_count(own: dict[str, Any], state: dict[str, Any], name: str) -> None:
    """Report a checkpoint that differs from the model in the number of classes alone.

    Args:
        own: The model's state dict.
        state: The checkpoint's, with the same keys.
        name: How messages refer to it.

    Raises:
        PSAQError: Only heads differ, in nothing but the length of dimension 0, and all in the same way.
    """
    keys = [key for key in own if tuple(own[key].shape) != tuple(state[key].shape)]
    pairs = [(own[key], state[key]) for key in keys]
    lengths = {(len(ours), len(theirs)) for ours, theirs in pairs if ours.dim() and theirs.dim()}
    of_heads = all("head" in key for key in keys)
    if of_heads and len(lengths) == 1 and all(ours.shape[1:] == theirs.shape[1:] for ours, theirs in pairs):
        ours, theirs = lengths.pop()
        raise PSAQError(
            f"the checkpoint {name} was trained for {theirs} classes, the config's model has {ours}: set num_classes "
            f"to {theirs}, or give the checkpoint that belongs to the config"
        )


def class_names(meta: dict[str, Any]) -> dict[str, Any]:
    """The class names in a checkpoint's ``meta``, under the keys of the version that wrote it; mmseg reads both."""
    keys = ("dataset_meta",) if "dataset_meta" in meta else ("CLASSES", "PALETTE")
    return {key: meta[key] for key in keys if key in meta}


def artifact_config(cfg: Config, model: dict[str, Any]) -> Config:
    """The config that opens the quantized checkpoint in the host's own tools: no recipe, no training.

    Args:
        cfg: The recipe.
        model: The quantized model's config.
    """
    plain = types_as_names(cfg.to_dict())
    for key in (*TRAINING_KEYS, "dfq", "runner_type", "work_dir", "launcher", "custom_hooks"):
        plain.pop(key, None)
    plain["model"] = types_as_names(model)
    # The recipe's own imports too: they may register a float part of the model.
    imports = (plain.get("custom_imports") or {}).get("imports") or []
    imports = dict.fromkeys([*([imports] if isinstance(imports, str) else imports), "psaq_mm"])
    plain["custom_imports"] = {"imports": list(imports), "allow_failed_imports": False}
    return Config(plain)


def save_artifact(folder: Path, cfg: Config, model: nn.Module, meta: dict[str, Any]) -> tuple[Path, Path]:
    """Write ``quantized.py`` and ``quantized.pth``.

    Args:
        folder: The work dir.
        cfg: The artifact config.
        model: The frozen quantized model.
        meta: Plain values for the checkpoint's ``meta``.

    Returns:
        The paths of config and checkpoint.

    Raises:
        UsageError: The config cannot be written as a file.
    """
    config, checkpoint = folder / "quantized.py", folder / "quantized.pth"
    try:
        save_with(lambda path: cfg.dump(path), config)
    except (TypeError, ValueError) as error:
        raise UsageError(f"the artifact config cannot be written: {error}") from None
    state = {key: value.detach().cpu() for key, value in model.state_dict().items()}
    save_tensors({"meta": meta, "state_dict": state}, checkpoint)
    return config, checkpoint

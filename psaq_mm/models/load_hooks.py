"""The hosts' load hooks: which keys they get, and which buffers they drop."""

from __future__ import annotations

from typing import Any

from torch import nn

from .adapters.declaration import CONSTANTS, HIDDEN_KEYS

# Buffers that Hugging Face no longer keeps, but checkpoints of mmdet's language models contain.
CONSTANTS.add(("transformers.models.bert.modeling_bert.BertEmbeddings",), ("position_ids", "token_type_ids"))


class PartialLoadHook:
    """A host's load hook that is called without some of the keys.

    Args:
        hook: Called with the state dict and torch's other arguments.
        hidden: It does not get keys that contain one of these.
    """

    def __init__(self, hook: Any, hidden: tuple[str, ...]) -> None:
        self.hook, self.hidden = hook, hidden

    def __call__(self, state_dict: dict[str, Any], *args: Any) -> None:
        """Run the hook on the other keys."""
        kept = {key: state_dict.pop(key) for key in list(state_dict) if any(part in key for part in self.hidden)}
        self.hook(state_dict, *args)
        state_dict.update(kept)


def restrict_load_hooks(model: nn.Module) -> None:
    """Wrap the load hooks of a quantized model's modules as their adapters declare it."""
    for module in model.modules():
        hidden = HIDDEN_KEYS.of(type(module))
        if hidden is not None:
            hooks = module._load_state_dict_pre_hooks
            for key, hook in hooks.items():
                if not isinstance(hook, PartialLoadHook):
                    hooks[key] = PartialLoadHook(hook, hidden)


def constant_keys(model: nn.Module) -> set[str]:
    """The keys of buffers that the host computes anew instead of loading them, as adapters declare."""
    return {
        f"{name}.{key}" if name else key
        for name, module in model.named_modules()
        for key in CONSTANTS.of(type(module)) or ()
    }

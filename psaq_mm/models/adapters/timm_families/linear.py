"""timm's CoaT and EfficientViT (of MIT): linear attention, ``phi(q) (phi(k)^T v)``, which multiplies k and v first.

CoaT (Xu et al., *Co-Scale Conv-Attentional Image Transformers*, ICCV 2021): ``q (softmax(k)^T v) / sqrt(d)``, the
softmax taken over tokens. EfficientViT (Cai et al., ICCV 2023): ReLU for phi, and division by ``phi(q) sum(phi(k))``, a
further column of the second product. Neither product has a softmax output on its left for which a grid from 0 to 1 is
made.
"""

from __future__ import annotations

from torch import Tensor

from ..conversion import NormOrder
from ..declaration import Adapter, register_adapter
from ..intercepted import intercepted
from ..product_taps import heads_first, tap_products

COAT = "timm.models.coat."
LITE = "timm.models.efficientvit_mit.LiteMLA"
CALLS = ("kv", "q_kv")


def normalised_tokens(merged: Tensor) -> Tensor:
    """The numerators, divided by the last column, as the module itself does behind the product."""
    return heads_first(merged[..., :-1] / (merged[..., -1:] + 1e-5))


register_adapter(
    Adapter(
        attentions={
            f"{COAT}FactorAttnConvRelPosEnc": intercepted("qkv", calls=CALLS, normalised=True, softmax=False),
            LITE: intercepted("qkv", calls=CALLS, normalised=True, softmax=False),
        },
        taps={
            f"{COAT}FactorAttnConvRelPosEnc": tap_products(),
            LITE: tap_products(tokens=normalised_tokens, prefixed=False),
        },
        # Norms and MLPs of several scales are not registered in the order in which they run.
        blocks=(f"{COAT}SerialBlock",),
        norm_order=NormOrder.POST,
    )
)

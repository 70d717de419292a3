"""Child registries of mmengine's registries: ``type='psaq_mm.X'`` works in any OpenMMLab config.

mmengine imports the ``locations`` of a registry at the first look-up, so a config only needs
``custom_imports=['psaq_mm']``.
"""

from mmengine.registry import DATASETS as MMENGINE_DATASETS
from mmengine.registry import HOOKS as MMENGINE_HOOKS
from mmengine.registry import LOOPS as MMENGINE_LOOPS
from mmengine.registry import MODELS as MMENGINE_MODELS
from mmengine.registry import RUNNERS as MMENGINE_RUNNERS
from mmengine.registry import TRANSFORMS as MMENGINE_TRANSFORMS
from mmengine.registry import Registry

from .compat import name_mmseg_configs

name_mmseg_configs()

RUNNERS = Registry("runner", parent=MMENGINE_RUNNERS, scope="psaq_mm", locations=["psaq_mm.engine"])
LOOPS = Registry("loop", parent=MMENGINE_LOOPS, scope="psaq_mm", locations=["psaq_mm.engine"])
HOOKS = Registry("hook", parent=MMENGINE_HOOKS, scope="psaq_mm", locations=["psaq_mm.engine"])
MODELS = Registry("model", parent=MMENGINE_MODELS, scope="psaq_mm", locations=["psaq_mm.models", "psaq_mm.deployment"])
DATASETS = Registry("dataset", parent=MMENGINE_DATASETS, scope="psaq_mm", locations=["psaq_mm.datasets"])
TRANSFORMS = Registry("transform", parent=MMENGINE_TRANSFORMS, scope="psaq_mm", locations=["psaq_mm.datasets"])

"""The paper's table: its rows, the check of what they need, an estimate of the time, the runs and the files."""

from .inputs import Inputs, check_inputs
from .plan import Model, chosen_models
from .runs import PaperTable

__all__ = ["Inputs", "Model", "PaperTable", "check_inputs", "chosen_models"]

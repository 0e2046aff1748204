"""What a checkpoint holds of a model: the weights that are trained, and nothing else.

The rest is the student's, which the mark of the training vouches for. So the adapters of a large model take megabytes,
and every student is resumed the same way, however it would be loaded.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from gecko.errors import GeckoError
from gecko.recipe import TrainOptions
from gecko.train.adapt import plain_weights
from gecko.train.soup import merge_weights

_FILE = "trained.safetensors"


def save_trained(module: nn.Module, checkpoint: Path) -> None:
    """Write the weights that are trained, tied ones once."""
    checkpoint.mkdir(parents=True, exist_ok=True)
    save_file({name: value.detach().contiguous() for name, value in _trained(module).items()}, checkpoint / _FILE)


def load_trained(module: nn.Module, checkpoint: Path) -> None:
    """Read them back into the module they came from.

    Raises:
        GeckoError: They are another module's.
    """
    saved, trained = load_file(checkpoint / _FILE), _trained(module)
    if saved.keys() != trained.keys():
        raise GeckoError(f"{checkpoint} holds other weights than are trained", "delete it and run again")
    with torch.no_grad():
        for name, value in trained.items():
            value.copy_(saved[name])


def soup_of(loss: Any, checkpoints: Sequence[Path], options: TrainOptions) -> dict[str, Tensor]:  # noqa: ANN401
    """Merge the models of a training's checkpoints; the loss's own model is left at the last one.

    Adapters are merged into the weights first: the mean of two products is not the product of the means.

    Args:
        loss: The module that was trained; its ``model`` is the student.
        checkpoints: Their folders.
        options: How to merge, and whether there are adapters.

    Returns:
        A state for the student without adapters.
    """

    def state(checkpoint: Path) -> Mapping[str, Tensor]:
        load_trained(loss, checkpoint)
        model = plain_weights(copy.deepcopy(loss.model)) if options.backbone.lora.rank else loss.model
        return dict(model.state_dict())

    return merge_weights(map(state, checkpoints), [1.0] * len(checkpoints), options.soup.method)


def _trained(module: nn.Module) -> dict[str, nn.Parameter]:
    return {name: value for name, value in module.named_parameters() if value.requires_grad}

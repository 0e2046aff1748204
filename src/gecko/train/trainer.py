"""The Sentence-Transformers trainer, with checkpoints of what is trained and one exchange of gradients a step."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sentence_transformers import SentenceTransformerTrainer
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from gecko.train.processes import average_gradients
from gecko.train.rehearsal import Rehearsal
from gecko.train.weights import load_trained, save_trained


class StudentTrainer(SentenceTransformerTrainer):  # type: ignore[misc]
    """Trains a student alone or in several processes, each of which then has the mean of all their gradients."""

    loss: Any  # a module, of which the student is a part
    rehearsal: Rehearsal | None = None

    def override_model_in_loss(self, loss: nn.Module, model: Any) -> nn.Module:  # noqa: ANN401
        """Leave the bare model in the loss: the wrapper would exchange gradients in every backward pass."""
        return loss if isinstance(model, DistributedDataParallel) else super().override_model_in_loss(loss, model)

    def compute_loss(self, model: Any, inputs: Any, *args: Any, **options: Any) -> Any:  # noqa: ANN401
        """Add the rehearsal's share to the loss; an evaluation, which wants the outputs too, goes without it."""
        found = super().compute_loss(model, inputs, *args, **options)
        if self.rehearsal is None or isinstance(found, tuple):
            return found
        return found + self.rehearsal(self.loss.model, self.state.global_step)

    def training_step(self, *args: Any, **options: Any) -> Tensor:  # noqa: ANN401
        """Run a step forward and backward, and average its gradients over the processes."""
        loss: Tensor = super().training_step(*args, **options)
        average_gradients(self.loss.parameters())
        return loss

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:  # noqa: ANN401
        if self.args.should_save:
            save_trained(self.loss, Path(str(output_dir or self.args.output_dir)))

    def _load_from_checkpoint(self, checkpoint_path: str, model: Any = None) -> None:  # noqa: ANN401
        load_trained(self.loss, Path(checkpoint_path))

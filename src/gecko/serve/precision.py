"""What a server may compute with."""

from __future__ import annotations

from enum import StrEnum


class Precision(StrEnum):
    """Of the numbers in a forward pass; ``auto`` is int8 on a CPU with ONNX Runtime, else bfloat16."""

    auto = "auto"
    int8 = "int8"
    float32 = "float32"
    bfloat16 = "bfloat16"

    @property
    def bf16(self) -> bool | None:
        """As an Embedder takes it, where the model itself is served."""
        return {"float32": False, "bfloat16": True}.get(self.value)

"""The settings that two processes must share for the same calculation to give the same bits."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True)
class Numerics:
    """PyTorch's settings of one process: read in one process, applied in another.

    deterministic: for an operation that is not: 0 nothing, 1 a warning, 2 an error.
    """

    threads: int
    deterministic: int
    fill_memory: bool
    matmul: str
    cudnn_tf32: bool
    cublas_workspace: str | None

    @classmethod
    def here(cls) -> Numerics:
        """Read the settings of this process."""
        memory: Any = torch.utils.deterministic
        return cls(
            threads=torch.get_num_threads(),
            deterministic=torch.get_deterministic_debug_mode(),
            fill_memory=memory.fill_uninitialized_memory,
            matmul=torch.get_float32_matmul_precision(),
            cudnn_tf32=torch.backends.cudnn.allow_tf32,
            cublas_workspace=os.environ.get("CUBLAS_WORKSPACE_CONFIG"),
        )

    def apply(self) -> None:
        """Apply the settings to this process."""
        if self.cublas_workspace is not None:
            os.environ["CUBLAS_WORKSPACE_CONFIG"] = self.cublas_workspace
        memory: Any = torch.utils.deterministic
        memory.fill_uninitialized_memory = self.fill_memory
        torch.set_deterministic_debug_mode(self.deterministic)
        torch.set_float32_matmul_precision(self.matmul)
        torch.backends.cudnn.allow_tf32 = self.cudnn_tf32
        torch.set_num_threads(self.threads)

"""How and where a run executes: the `run` block of every configuration."""

from typing import Literal

from pydantic import Field

from islr.config import Config


class RunConfig(Config):
    """How and where a run executes; none of it changes what is computed, except `seed` and `precision`."""

    out: str = Field(description="run folder; a second launch in the same folder continues it")
    seed: int = Field(0, ge=0, lt=2**63)
    device: Literal["auto", "cpu", "cuda"] = "auto"
    precision: Literal["fp32", "bf16"] = "fp32"
    threads: int = Field(1, ge=1, le=1024, description="CPU threads; results are bit-identical for a fixed count")
    compile: bool = Field(False, description="torch.compile the training module")
    sync_batch_norm: bool = Field(
        False, description="batch norms use the batches of all ranks; otherwise each rank its own, as DDP does"
    )
    log_every: int = Field(10, ge=1, description="steps between rows of metrics.jsonl")
    checkpoint_every: int | None = Field(None, ge=1, description="steps between checkpoints; none = every epoch")
    timeout_s: float = Field(600.0, gt=0, description="seconds that ranks of a run wait for one that is late")
    wandb: Literal["offline", "online", "disabled"] = "offline"

"""The options that say where clips come from and how they are read."""

from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from islr.config import Config


class DataConfig(Config):
    """Where clips come from and how they are read."""

    manifest: tuple[str, ...] = Field(min_length=1, description="one manifest.csv, or several for a mixed corpus")
    balance: float = Field(
        0.0,
        ge=0,
        le=1,
        description="share of each manifest in training: 0 = by corpus size, 1 = equal",
    )
    backend: Literal["pyav", "decord", "torchcodec"] = "pyav"
    workers: int = Field(0, ge=0, le=1024, description="worker processes, one thread each; 0 = none, and no deadline")
    deadline_s: float = Field(60.0, gt=0, description="seconds to decode one clip; then its worker is killed")
    short_side: int | None = Field(None, ge=16, description="shrink frames to this shorter side, in pixels")
    cache: Literal["none", "memory"] = Field("none", description="memory = decode every clip once, at the start")
    max_bad: float = Field(0.01, ge=0, le=1, description="share of unreadable clips above which a run stops")

    @field_validator("manifest", mode="before")
    @classmethod
    def _one_or_many(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value

    @model_validator(mode="after")
    def _something_to_balance(self) -> "DataConfig":
        if self.balance and len(self.manifest) == 1:
            raise ValueError("balance acts on several manifests and data.manifest names one; leave balance out")
        return self
